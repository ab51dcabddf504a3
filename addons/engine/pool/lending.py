"""How mitmproxy's clients come by connections to upstreams, and give them back.

1. An HTTP layer asks for a connection (`_get_connection`). The one that this client had last serves if it rests.
2. Else mitmproxy opens one (`_open_connection`, `connect`): from the pool, or a fresh one.
3. With the end of an exchange it rests (`_mark_done`), if nothing speaks against it. From then on others may take it.
4. When a client leaves, what rests with it rests with nobody (`end`).
"""

import asyncio
import types
from contextvars import ContextVar
from typing import Any

from mitmproxy import ctx
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.http import Request, Response
from mitmproxy.proxy import commands, events, server
from mitmproxy.proxy.layers.http import GetHttpConnectionCompleted, HttpClient, HttpLayer, HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Client, should_make_pipe

from addons.config.settings import Settings, Upstream
from addons.core.headers import seconds_kept
from addons.engine.corrections import attempts, chatter
from addons.engine.pool import dialing, repeats, tls
from addons.engine.pool.idle import Pool
from addons.engine.pool.places import Place, Places, place_of
from addons.engine.pool.upstream_connection import Seat, UpstreamConnection, seat_of
from addons.engine.wrapping import Commands, replace_all, wrap, wrap_inner
from addons.exchange import aimed_at, of

pool = Pool()
places = Places()

_LAST = "relay_last"
"""On an HTTP layer: the connection that rested there last."""
_ENDED = "relay_ended"
"""On an HTTP layer: connections that have ended, and are not forgotten yet."""
_wanted: ContextVar[Seat | None] = ContextVar("wanted", default=None)


def install(settings: Settings) -> None:
    """Make the changes of this room."""
    warm: dict[Place, int] = {}
    for upstream in settings.upstreams:
        place = places.learn(upstream)
        warm[place] = max(upstream.warm, warm.get(place, 0))
    pool.adopt(settings.limits.upstream_idle, settings.limits.connect, warm, _dial)
    wrap(HttpLayer, "get_connection", _get_connection)
    wrap(server.ConnectionHandler, "open_connection", _open_connection)
    wrap_inner(HttpStream, "state_wait_for_response_headers", _note_head)
    wrap(Http1Client, "mark_done", _mark_done)
    replace_all([(server, "asyncio", _asyncio)])


async def _dial(place: Place) -> UpstreamConnection:
    return await dialing.dial(place, tls.TlsOptions.of(ctx.options))


# Asking for one


def _get_connection(_stock: Any, layer: HttpLayer, event: Any, *, reuse: bool = True) -> Commands:
    """mitmproxy 12.2.3 gives a client the connections that it has opened before and no others, keeps the error of a
    failed connect, and takes a connection that upstream has closed for a good one until the end has been read; so every
    new client pays for TCP and TLS, a keep-alive client hears of a first failure for as long as its own connection
    lives, and a request fails that comes too late. Remove when connections to servers are shared by clients.
    """
    stream: Any = layer.command_sources[event]
    repeated = repeats.is_repeated(stream.flow)
    place = _place(stream.flow, event)
    last: UpstreamConnection | None = vars(layer).get(_LAST)
    if last is not None and not repeated and _is_own(last, layer, place) and pool.keep_own(last):
        assert last.seat is not None
        del layer.command_sources[event]
        yield from layer.event_to_child(stream, GetHttpConnectionCompleted(event, (last.seat.server, None)))
        return
    _sweep(layer, vars(layer).setdefault(_ENDED, []))
    made = Server(address=event.address, transport_protocol=event.transport_protocol)
    made.tls, made.via = event.tls, event.via
    if event.tls:
        made.sni = event.address[0]
    Seat(place, made, layer, fresh=repeated)
    context = layer.context.fork()
    context.server = made
    child = HttpClient(context)
    if type(layer.connections) is not _Connections:
        layer.connections = _Connections(layer.connections)
    layer.connections[made] = child
    layer.waiting_for_establishment[made].append(event)
    yield from layer.event_to_child(child, events.Start())


class _Gone:
    """In the place of a connection that a layer has no more: what is still said to it is dropped."""

    def handle_event(self, _event: Any) -> tuple[commands.Command, ...]:
        """Nothing comes of it."""
        return ()


class _Connections(dict[Connection, Any]):
    """mitmproxy 12.2.3 never forgets a connection, and looks up whom it has something to say to; so a last word to one
    that somebody else has by now would be a crash. Remove when connections to servers are shared by clients.
    """

    def __missing__(self, _connection: Connection) -> _Gone:
        return _GONE


_GONE = _Gone()


def _place(flow: Any, event: Any) -> Place:
    upstream = _upstream(flow)
    host, port = event.address
    if upstream is not None:
        place = place_of(upstream)
        if (place.host, place.port, place.secure, place.way) == (host, port, event.tls, event.via):
            return place
    return places.find(host, port, event.tls, event.via)


def _upstream(flow: Any) -> Upstream | None:
    exchange = of(flow)
    return aimed_at(flow) or (exchange.upstream if exchange is not None else None)


def _is_own(connection: UpstreamConnection, layer: HttpLayer, place: Place) -> bool:
    return connection.place == place and connection.seat is not None and connection.seat.layer is layer


# Opening one


async def _open_connection(stock: Any, handler: Any, command: commands.OpenConnection) -> None:
    """mitmproxy 12.2.3 connects to a server itself; so it would have no part in the pool. As stock, and what is wanted
    is known where the connection is made. Remove when connections to servers are shared by clients.
    """
    seat = seat_of(command.connection)
    _wanted.set(seat)
    try:
        await stock(handler, command)
    finally:
        if seat is not None:
            _clear(handler, seat)


def _clear(handler: Any, seat: Seat) -> None:
    """Leave nothing of an attempt: what has failed, or was given up between the connect and the first read."""
    io = handler.transports.get(seat.server)
    if io is not None and io.handler is asyncio.current_task():
        del handler.transports[seat.server]
    _leave(seat)


def _leave(seat: Seat) -> None:
    connection, layer = seat.connection, seat.layer
    if layer is None:
        return  # it has been left before
    seat.end()
    _forget(layer, seat.server)
    if connection is not None:
        connection.discard("relay: nobody reads it any more")  # it is closed already, but where its task was ended


def _forget(layer: HttpLayer, server: Connection) -> None:
    """Let go of the layers of a connection that has ended, as soon as nothing is under way there.

    mitmproxy 12.2.3 keeps them as long as the client stays; so one that stays long takes more and more. Remove when
    HttpLayer drops connections that have ended.
    """
    ended = vars(layer).setdefault(_ENDED, [])
    ended.append(server)
    _sweep(layer, ended)


def _sweep(layer: HttpLayer, ended: list[Connection]) -> None:
    for each in list(ended):
        peer: Any = layer.connections.get(each)
        below = getattr(vars(peer).get("_handle_event"), "__self__", None) if peer is not None else None
        if getattr(below, "stream_id", None) not in layer.streams:  # else it may still have something to say there
            layer.connections.pop(each, None)
            ended.remove(each)


async def connect(host: str, port: int, **more: Any) -> tuple[Any, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, for what is wanted in this task. Raises OSError, and nothing else."""
    seat = _wanted.get()
    if seat is None:
        return await asyncio.open_connection(host, port, **more)
    await asyncio.sleep(0)  # tasks start eagerly, and mitmproxy enters this one among its transports behind that
    found = None if seat.fresh else pool.take(seat.place)
    if found is not None:
        chatter.lent.set(True)
    else:
        found = await _dial(seat.place)
    return found.lend(seat), found.writer


def begin(handler: Any, connection: Connection) -> None:
    """A connection is about to be read."""
    seat = seat_of(connection)
    if seat is not None and isinstance(connection, Server):
        seat.handler = handler
        if seat.connection is not None:
            connection.timestamp_tcp_setup = seat.connection.connected_at


def end(handler: Any, connection: Connection) -> None:
    """A connection is not read any more. What rests with a client that has left rests with nobody.

    mitmproxy 12.2.3 closes a client's connections to servers with the client; so every new client needs new ones.
    Remove when connections to servers are shared by clients.
    """
    if not isinstance(connection, Client):
        if (seat := seat_of(connection)) is not None:
            _leave(seat)
        return
    for peer in [each for each in handler.transports if each is not connection]:
        seat = seat_of(peer)
        if seat is not None and seat.connection is not None:
            pool.orphan(seat.connection)


# Giving it back


def _mark_done(stock: Any, client: Http1Client, *, request: bool = False, response: bool = False) -> Commands:
    """mitmproxy 12.2.3 keeps a connection for the client that opened it, and closes that of an HTTP/2 client after each
    request; so nobody else can have it. Here it rests. Remove when connections to servers are shared by clients.
    """
    seat = seat_of(client.conn)
    connection = seat.connection if seat is not None else None
    if connection is None:
        yield from stock(client, request=request, response=response)
        return
    if response and not (client.request_done or request):
        connection.spoilt = True  # an answer before the request's end: who knows how upstream takes the rest
    client.request_done = client.request_done or request
    client.response_done = client.response_done or response
    if not (client.request_done and client.response_done):
        return
    assert client.request is not None and client.response is not None
    if should_make_pipe(client.request, client.response):
        yield from client.make_pipe()
        return
    keeps = connection.keeps
    closing = client.conn.state is not ConnectionState.OPEN  # an answer that was refused, for one
    if keeps == 0 or closing or client.buf or not connection.may_rest():
        yield commands.CloseConnection(client.conn)
        client.state = client.done
        return
    client.request_done = client.response_done = False
    client.request = client.response = client.stream_id = None
    client.state = client.read_headers
    _rest(connection, keeps)


def _note_head(stock: Any, stream: HttpStream, event: Any) -> Any:
    """mitmproxy 12.2.3 looks whether a connection is kept when an answer is over, and by what hooks have left of its
    head, where relay has dropped `Connection` and `Keep-Alive`; so one that upstream closes is kept. Here upstream's
    own words count. Remove when Http1Client reads them as they come.
    """
    seat = seat_of(stream.flow.server_conn)
    if seat is not None and seat.connection is not None:
        seat.connection.keeps = _seconds_kept(stream.flow.request, event.response)
    return attempts.judge_head(stock, stream, event)  # who may read it first


def _seconds_kept(asked: Request, answer: Response) -> float | None:
    """How long upstream keeps the connection; 0 where it ends with this answer, None where it does not say.

    An answer that the end of its connection ends needs no look: nothing is left of that.
    """
    if asked.data.http_version == b"HTTP/1.0":
        return 0
    return seconds_kept(answer.data.headers.fields, answer.data.http_version)


def _rest(connection: UpstreamConnection, keeps: float | None) -> None:
    seat = connection.seat
    assert seat is not None
    seat.request = None
    setattr(seat.layer, _LAST, connection)
    pool.rest(connection, keeps=keeps)
    handler = seat.handler
    lasting = isinstance(handler, server.LiveConnectionHandler) and handler.client.state is ConnectionState.OPEN
    if not lasting:
        pool.orphan(connection)


class _Asyncio(types.ModuleType):
    """mitmproxy 12.2.3 calls `asyncio.open_connection` in the midst of what it does for a connection: names are looked
    up in the threads that all share, each address is waited for until the kernel gives up, and a connection is made for
    one client; so one resolver, or one address that leads nowhere, stops many. This is what its server takes for
    asyncio: the same, but for that function. Remove when open_connection is a method that can be replaced.
    """


_asyncio = _Asyncio("asyncio")
vars(_asyncio).update(vars(asyncio), open_connection=connect)
