"""Timeouts: how long each side may take, and how large a request's head may be.

Times are in seconds. A client has `limits.headers` for a request's head once it has begun to send it, and
`limits.keepalive` between two requests; a body that relay reads whole has to come at `BODY_RATE` once `BODY_GRACE` is
over, whatever `limits.idle` is; an upstream has `limits.connect` for name, TCP, proxy and TLS together, and is given up
once it has been silent for `limits.idle` over a request that is all there. What else is silent for so long (a
websocket, a client that stops in the midst of an upload) is mitmproxy's own `tcp_timeout`, set to the same.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from mitmproxy import connection, http
from mitmproxy.proxy import server_hooks

from addons import engine
from addons.config.settings import Settings
from addons.core import headers
from addons.core.failures import ANSWER_TIMEOUT, CONNECT_TIMEOUT
from addons.engine.transports import close_client, cut_upstream, handler_of, moved_at
from addons.errors import BadRequest, TooSlow
from addons.exchange import Exchange, Part, of
from addons.flow.answers import refuse
from addons.flow.upstream import declared_length, gave_up
from addons.proxy.alarm import Alarm

logger = logging.getLogger(__name__)

MAX_UPSTREAMS_PER_CLIENT = 1000
"""At a time; each stream of an HTTP/2 client needs one."""
LINGER = 5.0
"""Seconds that a client may go on writing a body that nobody wants any more."""
FAREWELL = 1.0
"""Seconds in which a client may ask once more while relay drains: its request may be on its way already."""

BODY_GRACE = 20.0
"""Seconds in which a body that relay reads whole may come as slowly as it likes."""
BODY_RATE = 16 * 1024
"""Bytes of it that have to come in each second after that."""

_SOON = 0.1
"""Seconds behind the hook of an answer, by which its end is on the wire."""

_HTTP2 = Part[bool]("timeouts.http2")
_BODY = Part[asyncio.TimerHandle]("timeouts.body")
_LOOK = 0.25  # seconds between two looks at a slow body, at least


class Timeouts:
    """Timers, one a client and one a connecting upstream; each is cancelled when what it waits for has come."""

    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self.draining = False
        self._clients: dict[str, tuple[connection.Client, Alarm]] = {}
        self._heads: set[str] = set()
        self._open: defaultdict[str, dict[Exchange, http.HTTPFlow]] = defaultdict(dict)
        self._connects: dict[str, tuple[connection.Server, str, asyncio.TimerHandle]] = {}
        self._giving_up: set[asyncio.Task[None]] = set()

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings; timers that run keep their time."""
        self.limits = settings.limits

    def drain(self) -> None:
        """Send every client away: with the next answer it gets, or soon where it has nothing under way."""
        self.draining = True
        for exchange in [each for exchanges in self._open.values() for each in exchanges]:
            _say_goodbye(exchange)
        soon = asyncio.get_running_loop().time() + FAREWELL
        for client_id, (client, alarm) in self._clients.items():
            under_way = client_id in self._heads or self._open.get(client_id)
            if not under_way and alarm.due is not None and alarm.due > soon:
                alarm.set(FAREWELL, "relay: draining")
                engine.say_farewell(client)

    # The client's side

    def client_connected(self, client: connection.Client) -> None:
        """A client has `limits.headers` for its first request."""
        if (handler := handler_of(client)) is not None:
            engine.allow_upstreams(handler, MAX_UPSTREAMS_PER_CLIENT)
        self._start(client, FAREWELL if self.draining else self.limits.headers, "relay: no request in time")

    def head_begins(self, client: connection.Client) -> None:
        """The first bytes of a request head are in, the last not yet."""
        if client.id not in self._heads and not self._open.get(client.id):
            self._heads.add(client.id)
            self._start(client, self.limits.headers, "relay: request head too slow")

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """The head is complete: from here on it is upstream that may be too slow."""
        exchange = of(flow)
        if exchange is None:
            return
        client = flow.client_conn
        self._heads.discard(client.id)
        if not self._open[client.id]:
            self._stop(client)
        self._open[client.id][exchange] = flow
        request = flow.request
        if request.is_http2:
            _HTTP2.keep(exchange, True)
        if self.draining:
            _say_goodbye(exchange)
        if not exchange.refused and (error := self._too_large(request)) is not None:
            refuse(flow, exchange, error)
        if not exchange.refused and _has_body(request):
            loop = asyncio.get_running_loop()
            look = partial(self._look_at_body, flow, exchange, loop.time() + BODY_GRACE)
            _BODY.keep(exchange, loop.call_later(BODY_GRACE, look))
        if not exchange.refused and not self._is_timed(client):  # else the alarm looks at this one, too
            self._start(client, exchange.settings.limits.idle, "relay: idle")

    def _too_large(self, request: http.Request) -> BadRequest | None:
        fields = request.headers.fields
        if len(fields) > headers.MOST:
            return BadRequest(
                f"请求头超过 {headers.MOST} 行。",
                f"The request has more than {headers.MOST} headers.",
                code="headers_too_large",
            )
        if headers.size(fields) + len(request.data.path) > self.limits.header_size:
            return BadRequest(
                f"请求头超过 {self.limits.header_size} 字节。",
                f"The request's headers are over {self.limits.header_size} bytes.",
                code="headers_too_large",
            )
        return None

    def _look_at_body(self, flow: http.HTTPFlow, exchange: Exchange, free_until: float) -> None:
        """Give up a body that comes too slowly, or look again when what has come would be too little."""
        handler = handler_of(flow.client_conn)
        held = engine.body_held(handler, flow) if handler is not None else None
        if handler is None or held is None:
            return  # it has come, it is passed on as it comes, or nobody reads it any more
        loop = asyncio.get_running_loop()
        enough_until = free_until + held / BODY_RATE
        if loop.time() < enough_until:
            look = partial(self._look_at_body, flow, exchange, free_until)
            _BODY.keep(exchange, loop.call_at(max(enough_until, loop.time() + _LOOK), look))
            return
        task = loop.create_task(engine.give_up_body(handler, flow, _too_slow()))
        self._giving_up.add(task)
        task.add_done_callback(self._giving_up.discard)

    def response(self, flow: http.HTTPFlow) -> None:
        """The client may keep its connection for a while."""
        self._ended(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """As after an answer: the client may be still there."""
        self._ended(flow)

    def _ended(self, flow: http.HTTPFlow) -> None:
        client = flow.client_conn
        exchange = of(flow)
        if exchange is not None and (timer := _BODY.take(exchange)) is not None:
            timer.cancel()
        if exchange is None or client.id not in self._open:
            return
        self._open[client.id].pop(exchange, None)
        if self._open[client.id]:
            return
        if flow.websocket is not None:
            self._stop(client)
            return
        if flow.request.timestamp_end is None:
            self._start(client, LINGER, "relay: answered already")
        else:
            self._start(client, FAREWELL if self.draining else self.limits.keepalive, "relay: idle")
            if self.draining:
                asyncio.get_running_loop().call_later(_SOON, self._say_farewell, client)

    def _say_farewell(self, client: connection.Client) -> None:
        """Nothing of it may be under way: some clients (those that stand on python-h2) give up all their streams over
        it."""
        if not self._open.get(client.id):
            engine.say_farewell(client)

    def client_disconnected(self, client: connection.Client) -> None:
        """Forget the client."""
        if (known := self._clients.pop(client.id, None)) is not None:
            known[1].cancel()
        self._heads.discard(client.id)
        self._open.pop(client.id, None)

    def _start(self, client: connection.Client, seconds: float, why: str) -> None:
        known = self._clients.get(client.id)
        if known is None:
            known = self._clients[client.id] = client, Alarm(partial(self._ring, client))
        known[1].set(seconds, why)

    def _is_timed(self, client: connection.Client) -> bool:
        known = self._clients.get(client.id)
        return known is not None and known[1].due is not None

    def _stop(self, client: connection.Client) -> None:
        if (known := self._clients.get(client.id)) is not None:
            known[1].put_off()

    def _ring(self, client: connection.Client, why: str) -> None:
        if under_way := self._open.get(client.id):
            self._start(client, self._look_at_answers(under_way), why)
        else:
            close_client(client, why)

    # The upstream's side

    def _look_at_answers(self, under_way: Mapping[Exchange, http.HTTPFlow]) -> float:
        """Give up the upstreams that have been silent for too long; seconds until it may be time for another one."""
        now, soonest = asyncio.get_running_loop().time(), self.limits.idle
        for exchange, flow in list(under_way.items()):
            moved, idle = moved_at(flow), exchange.settings.limits.idle
            left = idle if moved is None else moved + idle - now
            if left > 0:
                soonest = min(soonest, left)
            else:
                exchange.failure.answer_timed_out = True
                cut_upstream(flow, ANSWER_TIMEOUT)
        return soonest

    def sees_to(self, client: connection.Client) -> bool:
        """Whether something of a client waits for upstream, which is given up when that is due: a connect after
        `limits.connect`, all else after `limits.idle`."""
        flows = self._open.get(client.id, {}).values()
        return any(each.request.timestamp_end is not None or moved_at(each) is not None for each in flows)

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """An upstream connection begins. mitmproxy awaits this hook in the very task that will connect."""
        task = asyncio.current_task()
        if task is None:
            return
        timer = asyncio.get_running_loop().call_later(self.limits.connect, self._give_up, data.server, task.cancel)
        self._connects[data.server.id] = (data.server, data.client.id, timer)

    def _give_up(self, server: connection.Server, cancel: Callable[[str], bool]) -> None:
        _, client, _ = self._connects.pop(server.id)
        for exchange in self._open.get(client, ()):
            # A TLS handshake that is cut off is told as "connection closed": the reason has to travel beside it. What
            # an HTTP/2 client has under way besides was sent, and may be worked on.
            if exchange.failure.connecting:
                exchange.failure.connect_timed_out = True
        if (asker := gave_up.get()) is not None:
            asker.append(CONNECT_TIMEOUT)
        cancel(CONNECT_TIMEOUT)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """It is there, by a proxy and with TLS where that is wanted (engine/pool/)."""
        self._connected(data.server)

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        """No connection came about."""
        self._connected(data.server)

    def server_disconnected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """The connection is gone, established or not."""
        self._connected(data.server)

    def _connected(self, server: connection.Server) -> None:
        if (entry := self._connects.pop(server.id, None)) is not None:
            entry[2].cancel()

    def done(self) -> None:
        """No timer outlives the addon."""
        for _, alarm in self._clients.values():
            alarm.cancel()
        for _, _, timer in self._connects.values():
            timer.cancel()


def _has_body(request: http.Request) -> bool:
    """Whether a body may follow. In HTTP/2 the head need not say so."""
    return request.is_http2 or "transfer-encoding" in request.headers or bool(declared_length(request))


def _too_slow() -> TooSlow:
    return TooSlow(
        f"请求体发送过慢：{BODY_GRACE} 秒之后速度不得低于 {BODY_RATE // 1024} KiB/s。请检查网络后重试。",
        f"The request body came too slowly: after {BODY_GRACE:g} s it must come at {BODY_RATE // 1024} KiB/s or more. "
        "Check the network and try again.",
    )


def _say_goodbye(exchange: Exchange) -> None:
    """Have the answer say that it is the connection's last. HTTP/2 has no such header."""
    if not _HTTP2.of(exchange):
        exchange.client_closes = True
