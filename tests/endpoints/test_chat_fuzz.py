"""/chat is given anything at all: always an envelope with code 400 or 413, in bounded time and memory."""

import asyncio
import gzip
import json
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from addons.chain import Chain
from addons.cli.fake_openai.server import Upstream
from addons.endpoints.chat import Chat
from addons.endpoints.chat_sessions import Sessions
from addons.store.embedded import EmbeddedStore
from tests.support import flows, live
from tests.support.live import Live, LogWatch, answer_in
from tests.support.metering import a_meter
from tests.support.shapes import chat_error
from tests.support.talking import completions, message, post, succeeded

MB = 1 << 20
fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
texts = st.text(st.characters(exclude_categories=()), max_size=20)  # with lone surrogates and NUL
numbers = st.integers() | st.floats() | st.integers(0, 700).map(lambda power: 10**power)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("apiKey", "sessionId", "content", "stream", "reset", "model", "system", "temperature", "stop", "messages")
objects = st.dictionaries(st.sampled_from(FIELDS) | texts, values, max_size=8)
GOOD = {"apiKey": "sk-0123456789abcdef", "sessionId": "s", "content": "hi"}


class Hooks:
    """The hooks of /chat, for one message after the other."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.store = EmbeddedStore(folder, 1000, 1000, time.time)
        self.chain = Chain([Chat(self.store, a_meter()), Sessions(self.store, a_meter())])

    def take(self, body: bytes, headers: Any = (), target: str = "/chat", method: str = "POST", **chat: Any) -> Any:
        """The envelope that a request is answered with; None where the message goes up."""
        return self.runner.run(asyncio.wait_for(self._take(body, headers, target, method, chat), 10))

    async def _take(self, body: bytes, headers: Any, target: str, method: str, chat: dict[str, Any]) -> Any:
        flow = flows.opened(method, target, headers, body, chat=chat)
        for name in ("requestheaders", "request"):
            if flow.response is None:
                await self._run(name, flow)
        if flow.response is None:
            flow.request.raw_content = b"" if not flow.request.raw_content else flow.request.raw_content
            went_up = json.loads(flow.request.raw_content)
            assert went_up["messages"]
            flows.fail(flow, "server closed connection")
            await self._run("error", flow)
            assert len(self.store.leases) == 0
            return None
        answer = flows.answer_of(flow)
        raw = answer.raw_content or b""
        assert b"\n" not in raw
        envelope = json.loads(raw.decode("utf-8"))
        assert list(envelope) == ["code", "message", "data"]
        assert answer.status_code == (405 if envelope["code"] == 405 else 200)
        assert len(self.store.leases) == 0
        return envelope

    async def _run(self, name: str, flow: Any) -> None:
        pending: Any = self.chain.run(name, flow)
        if pending is not None:
            await pending


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    """One store for all examples."""
    with tempfile.TemporaryDirectory() as folder:
        made = Hooks(Path(folder))
        yield made
        made.store.close()
        made.runner.close()


def refused(envelope: Any) -> None:
    """An error as it should be."""
    assert envelope is not None, "it went up"
    assert envelope["code"] in (400, 413) and envelope["data"] is None, envelope
    assert len(envelope["message"]) < 1000


def good(fields: dict[str, Any]) -> bool:
    """Whether what is not optional is there; a sessionId may be a number."""
    key, session = fields.get("apiKey"), fields.get("sessionId")
    if isinstance(session, int | float) and not isinstance(session, bool):
        session = str(session)
    return all(isinstance(each, str) and each.strip() for each in (key, session))


# 1. At the hooks


@fuzz
@given(st.binary(max_size=300))
@example(b"")
@example(b"\0")
@example(b"\xff\xfe[\0]\0")
@example(b'{"apiKey":"k","sessionId":"s","content":"\xed\xa0\x80"}')
def test_arbitrary_bytes(hooks: Hooks, body: bytes) -> None:
    refused(hooks.take(body))


@fuzz
@given(values, st.booleans())
def test_json_of_any_shape(hooks: Hooks, value: Any, escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    envelope = hooks.take(body)
    if not isinstance(value, dict) or not good(value):
        refused(envelope)


@fuzz
@given(objects)
@example({"sessionId": 0})
@example({"sessionId": True})
def test_messages_with_any_fields(hooks: Hooks, more: dict[str, Any]) -> None:
    fields = {**GOOD, **more}
    envelope = hooks.take(json.dumps(fields).encode(), allow=list(FIELDS))
    if envelope is not None:
        refused(envelope)
    else:
        assert good(fields)


@fuzz
@given(st.sampled_from(FIELDS[:3]), texts.filter(bool))
def test_any_text_in_any_field(hooks: Hooks, name: str, text: str) -> None:
    envelope = hooks.take(json.dumps({**GOOD, name: text}).encode())
    if envelope is not None:
        refused(envelope)
        assert name in envelope["message"]
        assert name == "apiKey" or not text, "any text is a session's name, and any is a message"


@fuzz
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", "zstd", "x", "gzip, br", "identity", ",,"]))
def test_bodies_that_are_not_compressed_as_they_say(hooks: Hooks, body: bytes, encoding: str) -> None:
    refused(hooks.take(body, {"Content-Encoding": encoding}))


@fuzz
@given(st.binary(max_size=60), st.sampled_from(["GET", "DELETE", "PUT"]), texts)
def test_any_name_of_a_session(hooks: Hooks, name: bytes, method: str, bearer: str) -> None:
    target = "/chat/" + "".join(f"%{byte:02x}" for byte in name or b"x")
    headers = [(b"Authorization", b"Bearer " + bearer.encode("utf-8", "surrogatepass").translate(None, b"\r\n\0"))]
    envelope = hooks.take(b"", headers, target, method)
    assert envelope["code"] in ((405,) if method == "PUT" else (200, 400, 401))


def deep(opening: str, count: int) -> bytes:
    return b'{"apiKey":"k","sessionId":"s","content":"c","x":' + opening.encode() * count


SIZE = 64 * MB
HUGE = [
    pytest.param(lambda: b"[" * SIZE, id="["),
    pytest.param(lambda: b'{"a":' * (SIZE // 5), id="objects"),
    pytest.param(lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2), id="[]"),
    pytest.param(lambda: b'"' * SIZE, id="quotes"),
    pytest.param(lambda: b'"' + b"\\" * SIZE, id="backslashes"),
    pytest.param(lambda: b"9" * SIZE, id="a number"),
    pytest.param(lambda: b"1e" + b"9" * SIZE, id="an exponent"),
    pytest.param(lambda: b" " * SIZE, id="blanks"),
    pytest.param(lambda: b"\0" * SIZE, id="NUL"),
    pytest.param(lambda: deep('{"a":[', SIZE // 6), id="a message, then nesting"),
    pytest.param(lambda: b'{"content":"' + b"\\ud800" * (SIZE // 6) + b'"}', id="lone surrogates"),
]


@pytest.mark.parametrize("body", HUGE)
def test_64_mb_are_judged_in_bounded_time(hooks: Hooks, body: Any) -> None:
    """Even where relay.yaml lets as much through: the usual bound refuses it unread."""
    data = body()
    begun = time.process_time()
    refused(hooks.take(data, max_body=2 * SIZE))
    assert time.process_time() - begun < 10
    refused(hooks.take(data))


def test_what_is_nested_to_the_bound_passes(hooks: Hooks) -> None:
    assert hooks.take(deep("[", 63) + b"]" * 63 + b"}") is None
    refused(hooks.take(deep("[", 64) + b"]" * 64 + b"}"))


# 2. Over the wire


@pytest.fixture(scope="module")
def fuzzed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay that survives all of this with a clean log."""
    with live.relay(tmp_path_factory.mktemp("fuzzed"), upstream.url) as running:
        watch = LogWatch(running)
        yield running
        watch.check()


@pytest.fixture(autouse=True)
def clear(upstream: Upstream) -> None:
    upstream.clear()


@settings(fuzz, max_examples=40)
@given(st.binary(max_size=2000) | values.map(lambda value: json.dumps(value).encode()))
def test_anything_over_the_wire(fuzzed: Live, upstream: Upstream, body: bytes) -> None:
    answer = fuzzed.ask("POST", "/chat", body)
    assert answer.json()["code"] in (400, 413)
    chat_error(answer, answer.json()["code"])
    assert not upstream.seen


def send_huge(relay: Live, chunked: bool, piece: bytes, count: int) -> bytes:
    """A body of `count` pieces, as far as relay takes it, and what came back."""
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (len(piece) * count)
    framed = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    with relay.connect() as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length + b"\r\n\r\n")
        try:
            for _ in range(count):
                connection.sendall(framed)
            connection.sendall(b"0\r\n\r\n" if chunked else b"")
        except OSError:
            pass  # relay has heard enough
        return live.read_all(connection)


@pytest.mark.parametrize("chunked", [True, False], ids=["in chunks", "with a length"])
@pytest.mark.parametrize("piece", [b"[", b'{"a":', b"9", b"\0"], ids=["[", "objects", "digits", "NUL"])
def test_64_mb_over_the_wire(fuzzed: Live, upstream: Upstream, chunked: bool, piece: bytes) -> None:
    succeeded(post(fuzzed, message("warm")))
    upstream.clear()
    before, begun = fuzzed.memory(), time.monotonic()
    raw = send_huge(fuzzed, chunked, piece * (MB // len(piece)), 64)
    assert time.monotonic() - begun < 10
    if raw or not chunked:  # a client that goes on writing may lose the answer to the reset
        chat_error(answer_in(raw), 413)
    assert fuzzed.memory() - before < 24 * MB
    assert not upstream.seen
    succeeded(post(fuzzed, message("after")))


def test_many_at_once_hold_no_more_than_they_may(fuzzed: Live, upstream: Upstream) -> None:
    before = fuzzed.memory()
    body = b'{"apiKey":"' + b"[" * 60_000
    sockets = [fuzzed.connect() for _ in range(50)]
    try:
        for each in sockets:
            each.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + body)
        time.sleep(0.3)
        assert fuzzed.memory() - before < 40 * MB
        succeeded(post(fuzzed, message("beside")))
    finally:
        for each in sockets:
            each.close()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("br", lambda data: brotli.compress(data, quality=5), id="br"),
    pytest.param("zstd", _zstd, id="zstd"),
    pytest.param("gzip, gzip", lambda data: gzip.compress(gzip.compress(data)), id="gzip in gzip"),
    pytest.param("br, zstd", lambda data: _zstd(brotli.compress(data, quality=5)), id="br in zstd"),
]


@pytest.mark.parametrize(("encoding", "pack"), PACKERS)
def test_bombs_are_not_unpacked(fuzzed: Live, upstream: Upstream, encoding: str, pack: Any) -> None:
    bomb = pack(b"[" * (60 * MB if "gzip, " not in encoding else 256 * MB))
    assert len(bomb) < 64 << 10, "it gets past the bound of the body itself"
    succeeded(post(fuzzed, message("warm")))
    upstream.clear()
    before, begun = fuzzed.memory(), time.monotonic()
    for _ in range(3):
        chat_error(fuzzed.ask("POST", "/chat", bomb, {"Content-Encoding": encoding}), 413)
    assert time.monotonic() - begun < 3
    assert fuzzed.memory() - before < 24 * MB
    assert not upstream.seen


def test_encodings_without_end_are_refused(fuzzed: Live, upstream: Upstream) -> None:
    body = json.dumps(message("s")).encode()
    for _ in range(30):
        body = gzip.compress(body)
    answer = fuzzed.ask("POST", "/chat", body, {"Content-Encoding": ", ".join(["gzip"] * 5000)})
    assert answer.json()["code"] == 400
    assert not completions(upstream)


ODD_REQUESTS = [
    pytest.param(b"Content-Length: -1\r\n\r\n{}", id="a negative length"),
    pytest.param(b"Content-Length: 99999999999999999999999\r\n\r\n{}", id="a length beyond numbers"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", id="a chunk size that is none"),
    pytest.param(b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}", id="a chunk beyond numbers"),
    pytest.param(b"\r\n", id="no body at all"),
]


@pytest.mark.parametrize("rest", ODD_REQUESTS)
def test_odd_framing_is_answered(fuzzed: Live, upstream: Upstream, rest: bytes) -> None:
    with fuzzed.connect(10) as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + rest)
        connection.shutdown(1)
        raw = live.read_all(connection)
    if raw:
        body = answer_in(raw).json()
        assert body.get("code") in (400, 413) or body["error"]["code"]
    assert not upstream.seen
    succeeded(post(fuzzed, message("after")))
