"""A client's connection through mitmproxy's real layers, between readers and writers in memory.

A case says what comes from the client and from upstream, in which order, and what addons do meanwhile. What its scene
records is comparable: no ids, no times, and what is written by connection, since only that order is promised.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from mitmproxy import http
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client
from mitmproxy.master import Master
from mitmproxy.proxy import layers, mode_specs
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, _http1, _http2
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionHandler
from OpenSSL import SSL
from wsproto import frame_protocol

from addons.engine.corrections import answers, connections, framing
from addons.engine.corrections.chatter import goes_without_saying
from tests.support.side_by_side import engine, play

Step = tuple[Any, ...]
Deed = Callable[["Scene", Any], Awaitable[None] | None]
"""What an addon does in a hook."""

HOOKS = (
    *("client_connected", "client_disconnected"),
    *("server_connect", "server_connected", "server_disconnected", "server_connect_error", "tls_established_server"),
    *("requestheaders", "request", "responseheaders", "response", "error"),
    *("websocket_start", "websocket_message", "websocket_end", "tcp_start", "tcp_message", "tcp_end"),
)
_CHANGED_ON_THE_WIRE: tuple[Any, ...] = (
    HttpLayer, HttpStream, ConnectionHandler, asyncio.StreamReaderProtocol, _http1, _http1.Http1Client,
    _http1.Http1Server, _http2, websocket.WebsocketConnection, websocket.WebsocketLayer,
)  # fmt: skip
_OF_THE_MOMENT = re.compile(r"…[0-9a-f]{6}|0x[0-9a-f]+|'timestamp_\w+': [0-9.]+")
_CLIENT, _UPSTREAM, _LOCAL = ("10.0.0.1", 1111), ("10.0.0.2", 8000), ("10.0.0.3", 2222)


@dataclass(frozen=True)
class Case:
    """What happens to one connection.

    `connects` says how each connect goes, in turn: "" is well, "refused", "later" waits to be let go. `certificate` is
    that of an upstream which speaks TLS.
    """

    steps: tuple[Step, ...]
    hooks: Mapping[str, Deed] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    connects: tuple[str, ...] = ()
    mode: str = "reverse:http://upstream.test:8000"
    alpn: bytes | None = None
    certificate: Any = None


@contextmanager
def wire(changed: bool) -> Iterator[None]:
    """The rooms that change what is said on the wire, installed or not; in the end all is as it was."""
    before = [(owner, dict(vars(owner))) for owner in _CHANGED_ON_THE_WIRE]
    if changed:
        answers.install()
        framing.install(65536, lambda _client: None)
        connections.install()
    try:
        yield
    finally:
        for owner, was in before:
            for name, value in dict(vars(owner)).items():
                if name not in was:
                    delattr(owner, name)
                elif was[name] is not value:
                    setattr(owner, name, was[name])


class Reader(asyncio.StreamReader):
    """One that tells whether anybody has begun to read."""

    begun = False

    async def read(self, n: int = -1) -> bytes:
        self.begun = True
        return await super().read(n)


class Peer:
    """The far end of a connection: reader and writer in one, as the handler sees them."""

    def __init__(self, peername: Any) -> None:
        self.peername = peername
        self.reader = Reader()
        self.said: list[Any] = []  # what was written, as one where nothing else came in between
        self.closing = self.ended = False

    def write(self, data: bytes) -> None:
        if self.ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        self.hear(bytes(data))

    @property
    def heard(self) -> bytes:
        """All that was written."""
        return b"".join(each for each in self.said if isinstance(each, bytes))

    def hear(self, data: bytes) -> None:
        if self.said and isinstance(self.said[-1], bytes):
            self.said[-1] += data
        else:
            self.said.append(data)

    def write_eof(self) -> None:
        self.ended = True
        self.said.append("eof")

    def close(self) -> None:
        self.closing = True
        self.said.append("close")

    def is_closing(self) -> bool:
        return self.closing

    async def drain(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.peername, "sockname": _LOCAL}.get(name, default)

    def say(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def end(self) -> None:
        self.reader.feed_eof()

    def lose(self) -> None:
        self.reader.set_exception(ConnectionResetError("Connection reset by peer"))


class TlsPeer(Peer):
    """One that speaks TLS: what it hears and says is noted as it was meant."""

    def __init__(self, peername: Any, certificate: Any) -> None:
        super().__init__(peername)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.waiting: list[bytes] | None = []

    def hear(self, data: bytes) -> None:
        self.incoming.write(data)
        try:
            if self.waiting is not None:
                self.tls.do_handshake()
                waiting, self.waiting = self.waiting, None
                for each in waiting:
                    self.say(each)
            while plain := self.tls.read(65536):
                super().hear(plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.said.append(error.reason)
        self._flush()

    def say(self, data: bytes) -> None:
        if self.waiting is not None:
            self.waiting.append(data)
            return
        self.tls.write(data)
        self._flush()

    def _flush(self) -> None:
        if sealed := self.outgoing.read():
            self.reader.feed_data(sealed)


class _Masks:
    """In the place of `os`, for the masks of websocket frames."""

    urandom = bytes


class Notes:
    """An addon that notes all hooks, and how things stand in them."""

    def __init__(self, name: str, scene: "Scene") -> None:
        self.name = name
        for hook in HOOKS:
            setattr(self, hook, lambda data, hook=hook: scene.hooks.append((name, hook, _describe(data))))


class Actor:
    """An addon that does what the case says."""

    def __init__(self, scene: "Scene") -> None:
        for hook, deed in scene.case.hooks.items():
            setattr(self, hook, lambda data, deed=deed: deed(scene, data))


class Tls:
    """What mitmproxy's own addon does for TLS, without the checks."""

    def tls_start_server(self, data: Any) -> None:
        data.ssl_conn = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        data.ssl_conn.set_tlsext_host_name(b"upstream.test")
        data.ssl_conn.set_connect_state()


class Scene:
    """A case under way."""

    def __init__(self, master: Master, case: Case) -> None:
        self.case, self.master = case, master
        self.hooks: list[Any] = []
        self.gates: list[asyncio.Event] = []
        self.held: list[http.HTTPFlow] = []
        self.flows: list[http.HTTPFlow] = []
        self.client = Peer(_CLIENT)
        self.upstreams: list[Peer] = []
        self.connects = 0
        self.early: list[Step] = []  # of peers that nobody reads yet
        self.server = Proxyserver()
        master.addons.add(self.server, NextLayer(), Tls(), Notes("first", self), Actor(self), Notes("last", self))
        master.options.update(**{"connection_strategy": "lazy", **case.options})
        peer: Any = self.client
        mode = mode_specs.ProxyMode.parse(case.mode)
        self.handler = ProxyConnectionHandler(master, peer.reader, peer, master.options, mode)
        self.handler.layer = layers.modes.ReverseProxy(self.handler.layer.context)
        self.handler.client.alpn = case.alpn
        self.server.connections[self.handler.client.id] = self.handler

    def upstream(self, number: int) -> Peer:
        """The far end of a connection to upstream, which may not be there yet."""
        while len(self.upstreams) <= number:
            certificate = self.case.certificate
            self.upstreams.append(TlsPeer(_UPSTREAM, certificate) if certificate else Peer(_UPSTREAM))
        return self.upstreams[number]

    async def connect(self, *_address: Any, **_more: Any) -> Any:
        number, self.connects = self.connects, self.connects + 1
        how = self.case.connects[number] if number < len(self.case.connects) else ""
        await (self.gate() if how == "later" else asyncio.sleep(0))  # no connect is done at once
        if how == "refused":
            raise ConnectionRefusedError("Connect call failed")
        return self.upstream(number).reader, self.upstream(number)

    async def gate(self) -> None:
        """Wait to be let go."""
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()

    async def settle(self) -> None:
        """Until nothing moves any more."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def take(self, step: Step) -> None:
        """Take a step, and those that have waited for it.

        What is there before anybody reads comes one by one all the same: how much of it is read together, and what
        else is done in between, depends on how many turns of the loop that takes.
        """
        self._take(step)
        await self.settle()
        while waited := [each for each in self.early if self._peer(each).reader.begun]:
            self.early.remove(waited[0])
            self._take(waited[0])
            await self.settle()

    def _take(self, step: Step) -> None:
        kind, *rest = step
        if kind == "go on":
            self.go_on()
        elif kind == "inject":
            self.server.inject_websocket(self.flows[-1], *rest)
        elif kind == "kill":
            self.flows[-1].kill()
        elif kind != "settle":
            peer = self._peer(step)
            if not peer.reader.begun:
                self.early.append(step)
            elif kind in _ENDS:
                _ENDS[kind](peer)
            else:
                peer.say(rest[0])

    def _peer(self, step: Step) -> Peer:
        if step[0].startswith("client"):
            return self.client
        place = 2 if step[0] == "upstream" else 1
        return self.upstream(step[place] if len(step) > place else 0)

    def go_on(self) -> bool:
        """Let go what has waited longest."""
        if self.gates:
            self.gates.pop(0).set()
        elif self.held:
            self.held.pop(0).resume()
        else:
            return False
        return True

    async def play(self, between: Callable[[], None] = lambda: None) -> list[Any]:
        """Take the steps; then all that waits goes on, and in the end all peers are gone."""
        outcome = []
        with (
            mock.patch.object(asyncio, "open_connection", self.connect),
            mock.patch.object(frame_protocol, "os", _Masks),
        ):
            task = asyncio.create_task(self.handler.handle_client())
            await self.settle()
            for step in self.case.steps:
                await self.take(step)
                between()
                outcome.append(self.standing())
            while self.go_on():
                await self.take(("settle",))
            outcome.append(self.standing())
            for peer in (self.client, *self.upstreams):
                with contextlib.suppress(AssertionError):  # it has ended before
                    peer.end()
                await self.settle()
            while self.go_on():
                await self.settle()
        outcome += [self.standing(), task.done(), *_apart(self.hooks, lambda note: note[1] == "server_disconnected")]
        task.cancel()
        return outcome

    def standing(self) -> Any:
        """How things stand on the wire and in the layers."""
        http_layer = next((each for each in self.handler.layer.context.layers if isinstance(each, HttpLayer)), None)
        kept: Any = None
        if http_layer is not None:
            ends = [vars(each).get("child_layer", each) for each in http_layer.connections.values()]
            held = [len(vars(each).get("buf", ())) for each in ends]
            kept = len(http_layer.streams), len(http_layer.command_sources), held
        watch = self.handler.timeout_watchdog
        return (
            [list(peer.said) for peer in (self.client, *self.upstreams)],
            [(type(peer).__name__, peer.state) for peer in self.handler.transports],
            (kept, watch.blocker, watch.can_timeout.is_set(), len(self.hooks)),
        )


_ENDS: dict[str, Callable[[Peer], None]] = {
    "client ends": Peer.end,
    "client is lost": Peer.lose,
    "upstream ends": Peer.end,
    "upstream is lost": Peer.lose,
}


def _apart(notes: list[Any], floats: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    """What tells of the end of a connection to upstream, in a list before the rest.

    The task of such a connection learns of a close in a later turn of the loop; what else is done by then depends on
    how many turns that takes.
    """
    return [note for note in notes if floats(note)], [note for note in notes if not floats(note)]


def _describe(data: Any) -> Any:
    if isinstance(data, http.HTTPFlow):
        messages = [_describe_message(each) for each in (data.request, data.response)]
        states = [data.client_conn.state, data.server_conn.state, data.server_conn.address]
        spoken = data.websocket and [(str(each), each.from_client, each.injected) for each in data.websocket.messages]
        return messages, data.error and data.error.msg, data.live, data.intercepted, states, spoken
    if isinstance(data, Client):
        return data.state, data.error
    server = getattr(data, "server", None) or getattr(data, "conn", None)
    return server and (server.state, server.error, server.address, server.sni)


def _describe_message(message: Any) -> Any:
    if message is None:
        return None
    first = message.data.status_code if isinstance(message, http.Response) else (message.method, message.url)
    return first, message.http_version, message.headers.fields, message.raw_content, bool(message.stream)


def perform(case: Case, fast: bool, on_the_wire: bool = False) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
    """What a case has recorded, and what was logged."""

    async def scenario(master: Master, record: list[Any]) -> None:
        record += await Scene(master, case).play()

    with wire(on_the_wire):
        record, said = play(scenario, fast)
    lines = [
        (name, level, _OF_THE_MOMENT.sub("*", text))
        for name, level, text, _ in said
        if not goes_without_saying(text, level)
    ]
    return record, _apart(lines, lambda line: line[2].startswith("server disconnect"))


def equal(case: Case, on_the_wire: bool = False) -> list[Any]:
    """What a case has recorded, stock's and the changed methods agreeing; on the wire both are changed, or neither."""
    stock, fast = perform(case, False, on_the_wire), perform(case, True, on_the_wire)
    for ours, theirs in zip(fast[0], stock[0], strict=True):
        assert ours == theirs
    assert fast[1] == stock[1]
    return stock[0]


__all__ = ["Case", "Deed", "Peer", "Scene", "engine", "equal", "perform", "wire"]
