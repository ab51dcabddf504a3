"""/chat is given anything at all over the wire: always an envelope with code 400 or 413, in bounded time and memory."""

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.any_json import fuzz, values
from tests.support.live import Live, LogWatch, answer_in
from tests.support.shapes import chat_error
from tests.support.talking import completions, message, post, succeeded

MB = 1 << 20


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
