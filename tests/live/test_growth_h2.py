"""The same over TLS, and of many connections: the frames of HTTP/2 and of websockets that cost most for their size."""

import contextlib
import json
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.certificates import Pair, self_signed
from tests.support.lateness import LATE, PATIENCE, Send, late_by
from tests.support.live import Live
from tests.support.raw import chunk, request
from tests.support.talking import COMPLETIONS, KEY

pytestmark = pytest.mark.alone

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
UPGRADE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ("Authorization", f"Bearer {KEY}"),
]
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def head(method: str, path: str, *fields: tuple[str, str]) -> bytes:
    """The header block of a request; it refers to nothing that was sent before."""
    pseudo = [(":method", method), (":scheme", "https"), (":authority", "relay.test"), (":path", path)]
    never = [hpack.NeverIndexedHeaderTuple(*each) for each in (*pseudo, ("authorization", f"Bearer {KEY}"), *fields)]
    return hpack.Encoder().encode(never)


def resets() -> bytes:
    """Requests that are taken back at once."""
    block = head("GET", "/v1/models")
    pairs = (
        frame(HEADERS, END_STREAM | END_HEADERS, number, block) + frame(RESET, 0, number, struct.pack("!I", 8))
        for number in range(1, 6000, 2)
    )
    return b"".join(pairs)


def empty_data() -> bytes:
    """A body of very many pieces without a byte."""
    return frame(HEADERS, END_HEADERS, 1, head("POST", "/v1/files")) + frame(DATA, 0, 1) * 60_000


def messages() -> bytes:
    """Many short requests to /chat."""
    block = head("POST", "/chat", ("content-type", "application/json"))
    body = json.dumps({"apiKey": KEY, "sessionId": "many", "content": "hello"}).encode()
    return b"".join(
        frame(HEADERS, END_HEADERS, number, block) + frame(DATA, END_STREAM, number, body)
        for number in range(1, 190, 2)
    )


def trust(pair: Pair, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pair.cert))
    context.set_alpn_protocols(list(protocols))
    return context


def says_in_h2(data: Callable[[], bytes]) -> Callable[[Pair], Send]:
    """A client of HTTP/2 that says this, and reads until relay has been silent for a while."""

    def for_pair(pair: Pair) -> Send:
        def send(relay: Live, upstream: Upstream) -> None:
            upstream.script(COMPLETIONS, *[Behaviour(status=400, body=b"{}")] * 100)
            with (
                contextlib.suppress(OSError),
                trust(pair, "h2").wrap_socket(relay.connect(PATIENCE), server_hostname="localhost") as connection,
            ):
                connection.sendall(PREFACE + frame(SETTINGS) + data())
                connection.settimeout(0.5)
                while connection.recv(1 << 16):
                    pass

        return send

    return for_pair


def websocket_over_tls(data: bytes) -> Callable[[Pair], Send]:
    """A client that says this once its websocket is open."""

    def for_pair(pair: Pair) -> Send:
        def send(relay: Live, _: Upstream) -> None:
            with (
                contextlib.suppress(OSError),
                trust(pair).wrap_socket(relay.connect(PATIENCE), server_hostname="localhost") as connection,
            ):
                connection.sendall(request("GET", "/v1/realtime", UPGRADE))
                assert b"101" in connection.recv(1 << 16)
                connection.sendall(data)
                connection.settimeout(0.5)
                while connection.recv(1 << 16):
                    pass

        return send

    return for_pair


def packed_websocket(data: bytes) -> Callable[[Pair], Send]:
    """An upstream that says this, and a client that reads it."""

    def for_pair(_: Pair) -> Send:
        def send(relay: Live, upstream: Upstream) -> None:
            upstream.script("/v1/realtime", Behaviour(garbage=ACCEPTED + data))
            with contextlib.suppress(OSError), relay.connect(PATIENCE) as connection:
                connection.sendall(request("GET", "/v1/realtime", [*UPGRADE, DEFLATE]))
                while connection.recv(1 << 16):
                    pass

        return send

    return for_pair


def masked(first: int, payload: bytes) -> bytes:
    """A client's short frame of a websocket; its mask is zero."""
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


def fragments(count: int) -> bytes:
    """One message in so many fragments."""
    return masked(0x01, b"a") + masked(0x00, b"a") * (count - 2) + masked(0x80, b"a")


def bomb(size: int, number: int = 1) -> bytes:
    """So many messages of an upstream that are `size` bytes each when they are unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(bytes(size)) + packer.flush(zlib.Z_FULL_FLUSH))[:-4]
    return (struct.pack("!BBQ", 0xC2, 127, len(packed)) + packed) * number


def small_chunks(pair: Pair) -> Send:
    """A body in chunks of one byte, in records of TLS as large as they may be."""

    def send(relay: Live, _: Upstream) -> None:
        head = request("POST", "/v1/x", [("Authorization", "Bearer x"), ("Transfer-Encoding", "chunked")])
        with (
            contextlib.suppress(OSError),
            trust(pair).wrap_socket(relay.connect(PATIENCE), server_hostname="localhost") as connection,
        ):
            connection.sendall(head + chunk(b"a") * 40_000 + b"0\r\n\r\n")
            connection.settimeout(0.5)
            while connection.recv(1 << 16):
                pass

    return send


def wide_from_many(_: Pair) -> Send:
    """Forty clients with a body each that is long to read."""
    body = b'{"a":[' + b"[]," * 20_000 + b"1]}"
    message = request("POST", "/chat", [("Content-Type", "application/json"), ("Connection", "close")], body)

    def send(relay: Live, upstream: Upstream) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(relay.connect(PATIENCE)) for _ in range(40)]
            for client in clients:
                client.sendall(message[:-1])
            for client in clients:
                client.sendall(message[-1:])
            readers = [threading.Thread(target=_drain, args=(client,)) for client in clients]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()

    return send


def _drain(client: object) -> None:
    with contextlib.suppress(OSError):
        while client.recv(1 << 16):  # type: ignore[attr-defined]
            pass


DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")
ROWS: dict[str, Callable[[Pair], Send]] = {
    "requests taken back": says_in_h2(resets),
    "empty pieces of a body": says_in_h2(empty_data),
    "settings": says_in_h2(lambda: frame(SETTINGS) * 60_000),
    "pings": says_in_h2(lambda: frame(PING, 0, 0, bytes(8)) * 40_000),
    "headers without end": says_in_h2(
        lambda: frame(HEADERS, 0, 1, head("GET", "/v1/x")) + frame(CONTINUATION, 0, 1) * 20_000
    ),
    "many messages": says_in_h2(messages),
    "small chunks": small_chunks,
    "fragments of a message": websocket_over_tls(fragments(60_000)),
    "small messages": websocket_over_tls(masked(0x81, b"a") * 20_000),
    "pings of a websocket": websocket_over_tls(masked(0x89, b"") * 20_000),
    "a packed message": packed_websocket(bomb(64 << 20)),
    "packed messages": packed_websocket(bomb(1 << 20, 30)),
    "wide bodies of forty": wide_from_many,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.running() as running:
        yield running


@pytest.fixture(scope="module")
def relay(pair: Pair, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One with TLS, which takes plain HTTP at the same port, as /healthz is asked for here."""
    folder: Path = tmp_path_factory.mktemp("growth-tls")
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    with live.relay(folder, upstream.url, listen={"tls": tls}) as running:
        running.ask("GET", "/healthz")
        yield running


@pytest.mark.parametrize("name", ROWS)
def test_others_are_served_meanwhile(name: str, relay: Live, upstream: Upstream, pair: Pair) -> None:
    late = late_by(relay, upstream, ROWS[name](pair))
    assert late <= LATE, f"/healthz came {late * 1000:.0f} ms late"


def test_relay_is_still_well(relay: Live) -> None:
    assert relay.ask("GET", "/healthz").status == 200
    assert relay.memory() < 500 << 20
