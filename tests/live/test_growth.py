"""Nothing that one client or upstream sends may stop the others: /healthz answers while each of these is handled.

Two real relays: one as mitmdump is run, and one that records (`-w`), where everything is redacted as well. The time
that /healthz takes beside a hostile input is held against its own median in the same run.
"""

import contextlib
import gzip
import json
import os
import signal
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.lateness import LATE, PATIENCE, Send, late_by
from tests.support.live import Live
from tests.support.raw import chunk, request
from tests.support.talking import COMPLETIONS, KEY, SSE

pytestmark = pytest.mark.alone

AUTH = ("Authorization", f"Bearer {KEY}")
JSON = ("Content-Type", "application/json")
GZIP = ("Content-Encoding", "gzip")


def says(*data: bytes) -> Send:
    """A client that says this and waits until relay has answered, or closed."""

    def send(relay: Live, _: Upstream) -> None:
        with relay.connect(PATIENCE) as connection, contextlib.suppress(OSError):
            for piece in data:
                connection.sendall(piece)
            while connection.recv(1 << 16):
                connection.settimeout(0.3)

    return send


def asks(method: str, target: str, body: bytes | None = None, *headers: tuple[str, str]) -> Send:
    """A client with this request."""
    return says(request(method, target, [*headers, ("Connection", "close")], body))


def chats(behaviour: Callable[[], Behaviour], stream: bool = False) -> Send:
    """An upstream that answers so to a message to /chat."""

    def send(relay: Live, upstream: Upstream) -> None:
        upstream.script(COMPLETIONS, behaviour(), times=3)
        body = {"apiKey": KEY, "sessionId": os.urandom(4).hex(), "content": "hello", "stream": stream}
        asks("POST", "/chat", json.dumps(body).encode(), JSON)(relay, upstream)

    return send


def passes(behaviour: Callable[[], Behaviour]) -> Send:
    """An upstream that answers so to a request that passes."""

    def send(relay: Live, upstream: Upstream) -> None:
        upstream.script("/v1/x", behaviour())
        asks("GET", "/v1/x", None, AUTH)(relay, upstream)

    return send


def balances(behaviour: Callable[[], Behaviour]) -> Send:
    """An upstream that answers so when it is asked for a balance."""

    def send(relay: Live, upstream: Upstream) -> None:
        upstream.script("*", behaviour(), times=4)
        asks("GET", f"/pro/balance?apiKey={KEY}")(relay, upstream)

    return send


def answer(body: bytes, kind: str = "application/json", status: int = 200, encoding: str = "") -> Behaviour:
    """An answer's body."""
    fields = [("Content-Type", kind)] + ([("Content-Encoding", encoding)] if encoding else [])
    return Behaviour(status=status, headers=fields, body=body)


@cache
def bomb(size: int, unit: bytes = b"a") -> bytes:
    """That many times `unit`, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = unit * (1 << 16)
    return b"".join([*(packer.compress(block) for _ in range(size >> 16)), packer.flush()])


def frame(data: bytes) -> bytes:
    """A websocket's message as a client sends it."""
    return struct.pack("!BB4s", 0x81, 0x80 | len(data), b"\0\0\0\0") + data


def websocket(relay: Live, _: Upstream) -> None:
    """A client that says very much in very small messages."""
    with relay.connect(PATIENCE) as connection:
        head = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"), AUTH]
        connection.sendall(request("GET", "/v1/realtime", [*head, ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]))
        assert b"101" in connection.recv(1 << 16)
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.sendall(frame(b"a") * 3000)
            while connection.recv(1 << 16):
                pass


def talkative(relay: Live, upstream: Upstream) -> None:
    """An upstream that does so."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    accept = b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
    upstream.script("/v1/realtime", Behaviour(garbage=head + accept + b"\x81\x01a" * 10_000))
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"), AUTH]
    says(request("GET", "/v1/realtime", [*upgrade, ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]))(relay, upstream)


def heads(*lines: bytes) -> bytes:
    """A request with these header lines."""
    return b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + b"".join(lines) + b"\r\n"


class Row(NamedTuple):
    """What is sent, and by whom."""

    name: str
    send: Send


def numbered(pattern: str, count: int) -> str:
    """Many that differ."""
    return "".join(pattern.replace("#", f"{number:05d}") for number in range(count))


def chat_body(body: str) -> Send:
    """A body to /chat."""
    return asks("POST", "/chat", body.encode(), JSON)


KEYS = "key=x&" + numbered("key=%41b#&", 4200)
WIDE, DEEP = b'{"a":[' + b"[]," * (4 << 20 >> 2) + b"1]}", b"[" * (1 << 20)
DELTA = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
EMPTY = b"data: {}\n\n"

ROWS = (
    # What redaction reads.
    Row("keys in a query of /healthz", asks("GET", f"/healthz?{KEYS}")),
    Row("keys in a query that passes", asks("GET", f"/v1/models?{KEYS}")),
    Row("cookies", says(heads(numbered("Cookie: a=secretvalue#\r\n", 2000).encode()))),
    Row("cookies in one header", says(heads(b"Cookie: ", numbered("a=secretvalue#;", 3000).encode(), b"\r\n"))),
    Row(
        "subprotocols",
        says(heads(*[b"Sec-WebSocket-Protocol: openai-insecure-api-key.a%05d\r\n" % n for n in range(1100)])),
    ),
    Row("apikey= in a message", chat_body(numbered("apikey=a#;", 4000))),
    Row("apikey: and blanks in a message", chat_body("apikey:" + " " * 30_000 + ",")),
    Row("apikey and line ends in a message", chat_body("apikey\n" * 9300)),
    Row("blanks in any body", asks("POST", "/v1/embeddings", b"apikey:" + b" " * 16_000, JSON, AUTH)),
    Row("escapes in any body", asks("POST", "/v1/embeddings", b'"apikey":"' + b"\\u0041" * 100_000, JSON, AUTH)),
    Row("a long key that is echoed", passes(lambda: answer(b'{"access_token":"' + b"a" * (1 << 20) + b'"}'))),
    Row("apikey: and blanks in an answer", passes(lambda: answer(b"apikey:" + b" " * (1 << 20)))),
    Row("keys in an answer", passes(lambda: answer(numbered('"apiKey":"secret#",', 40_000).encode()))),
    Row("pieces in a stream", passes(lambda: answer(b'data: {"content":"\\"}' * 40_000, SSE))),
    Row("deltas in a stream", passes(lambda: answer(DELTA * 20_000, SSE))),
    # What clients send.
    Row("brackets in a message", chat_body("[" * 60_000)),
    Row("a wide message", chat_body('{"a":[' + "[]," * 20_000 + "1]}")),
    Row("a wide body", asks("POST", "/v1/embeddings", WIDE[: 1 << 20], JSON, AUTH)),
    Row("a packed message", lambda relay, upstream: asks("POST", "/chat", bomb(32 << 20), JSON, GZIP)(relay, upstream)),
    Row("a message packed often", asks("POST", "/chat", gzip.compress(b"{}"), ("Content-Encoding", "gzip," * 10_000))),
    Row("one header many times", says(heads(b"a:\r\n" * 15_000))),
    Row("many headers", says(heads(numbered("a#:\r\n", 6000).encode()))),
    Row("a folded header", says(heads(b"a: b\r\n", b" c\r\n" * 12_000))),
    Row("a path", asks("GET", "/v1/v1" * 10_000)),
    Row("dots in a path", asks("GET", "/v1/" + "%2e/" * 15_000)),
    Row("many requests at once", says(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 1500)),
    Row(
        "small chunks",
        says(request("POST", "/v1/x", [AUTH, ("Transfer-Encoding", "chunked")]), chunk(b"a") * 12_000 + b"0\r\n\r\n"),
    ),
    Row("small websocket messages", websocket),
    # What upstreams answer.
    Row("small websocket messages of an upstream", talkative),
    Row("a bomb", chats(lambda: answer(bomb(256 << 20), encoding="gzip"))),
    Row("a bomb in a stream", chats(lambda: answer(bomb(8 << 20, EMPTY), SSE, encoding="gzip"), stream=True)),
    Row("a bomb of wide JSON", chats(lambda: answer(gzip.compress(WIDE), encoding="gzip"))),
    Row("a bomb that refuses", chats(lambda: answer(bomb(64 << 20), status=400, encoding="gzip"))),
    Row("a bomb for the balance", balances(lambda: answer(bomb(64 << 20), encoding="gzip"))),
    Row("wide JSON", chats(lambda: answer(WIDE))),
    Row("deep JSON", chats(lambda: answer(DEEP))),
    Row("wide JSON for the balance", balances(lambda: answer(WIDE[: 1 << 20]))),
    Row(
        "a refusal of many words",
        chats(lambda: answer(json.dumps({"error": {"message": "sk-0123456789ab " * 60_000}}).encode(), status=400)),
    ),
    Row("a wide refusal", chats(lambda: answer(WIDE[: 1 << 20], status=429))),
    Row("empty events", chats(lambda: answer(EMPTY * 60_000, SSE), stream=True)),
    Row("events of one line end", chats(lambda: answer(b"data:\n" * 150_000, SSE), stream=True)),
    Row("a wide event", chats(lambda: answer(b"data: " + WIDE[: 1 << 20] + b"\n\n", SSE), stream=True)),
    Row(
        "small pieces",
        passes(lambda: Behaviour(status=200, headers=[("Content-Type", SSE)], chunks=[(b"a", 0)] * 8000)),
    ),
    Row("interim answers", passes(lambda: Behaviour(garbage=b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000))),
    Row("many headers of an answer", passes(lambda: Behaviour(status=200, headers=[("a", "b")] * 9000, body=b"{}"))),
)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.running() as running:
        yield running


@pytest.fixture(scope="module", params=["unwatched", "recorded"])
def relay(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("growth")
    arguments = ["-w", str(folder / "flows")] if request.param == "recorded" else []
    with live.relay(folder, upstream.url, arguments) as running:
        running.ask("GET", "/healthz")
        yield running


@pytest.mark.parametrize("row", [pytest.param(each, id=each.name) for each in ROWS])
def test_others_are_served_meanwhile(row: Row, relay: Live, upstream: Upstream) -> None:
    late = late_by(relay, upstream, row.send)
    assert late <= LATE, f"/healthz came {late * 1000:.0f} ms late"


def test_what_blocks_is_seen(relay: Live, upstream: Upstream) -> None:
    """The measure itself: a relay that is stopped for a moment."""

    def stop(live: Live, _: Upstream) -> None:
        live.process.send_signal(signal.SIGSTOP)
        time.sleep(0.25)
        live.process.send_signal(signal.SIGCONT)

    assert late_by(relay, upstream, stop) > LATE


def test_relay_is_still_well(relay: Live, upstream: Upstream) -> None:
    upstream.clear()
    assert relay.ask("GET", "/v1/models", headers=dict([AUTH])).status == 200
    assert relay.memory() < 500 << 20
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5):
        pass
