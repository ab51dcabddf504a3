"""What is never delivered is not held: buffers that a peer fills without end, and answers to HEAD."""

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Live

MEGABYTE = 1 << 20
SENT = 64 * MEGABYTE
AUTH = b"Authorization: Bearer sk-test-0123456789\r\n"


def flood(relay: Live, start: bytes, filler: bytes = b"x" * MEGABYTE) -> bytes:
    """Send `start` and then filler, as much as relay takes; what it answers."""
    with relay.connect() as connection, contextlib.suppress(OSError):
        connection.sendall(start)
        for _ in range(SENT // len(filler)):
            connection.sendall(filler)
        connection.shutdown(socket.SHUT_WR)
        return live.read_all(connection)
    return b""


def memory_at_rest(relay: Live) -> int:
    """What relay takes once its start is over: the list of prices, 20 MB, is read behind it."""
    taken = 0
    while (now := relay.memory()) != taken:
        taken = now
        time.sleep(0.5)
    return taken


def answers_to(relay: Live, data: bytes) -> bytes:
    """Send this, and read until relay closes."""
    with relay.connect() as connection:
        connection.sendall(data)
        return live.read_all(connection)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /v1/models HTTP/1.1\r\nX: ",
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n1;a=",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a=",
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["a head", "the length of a chunk", "the length of a chunk to /chat", "trailers"],
)
def test_what_a_client_sends_without_end_is_not_held(relay: Live, start: bytes) -> None:
    before = memory_at_rest(relay)
    flood(relay, start)
    assert relay.memory() - before < 24 * MEGABYTE
    assert relay.ask("GET", "/healthz").status == 200


def test_a_next_request_without_end_is_not_held_while_one_is_answered(relay: Live, upstream: Upstream) -> None:
    upstream.script("/v1/late", Behaviour(delay_headers=3.0, status=200, body=b"{}"))
    before = relay.memory()
    flood(relay, b"GET /v1/late HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n")
    assert relay.memory() - before < 24 * MEGABYTE
    upstream.clear()


def test_a_head_of_upstreams_without_end_is_502(relay: Live, upstream: Upstream) -> None:
    upstream.script("/v1/endless", Behaviour(garbage=b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * MEGABYTE)))
    before = relay.memory()
    answer = relay.ask("GET", "/v1/endless", headers={"Authorization": "Bearer sk-test-0123456789"})
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    assert relay.memory() - before < 24 * MEGABYTE


@pytest.mark.parametrize(("lines", "status"), [(990, 200), (1100, 400)])
def test_a_head_of_many_lines(relay: Live, lines: int, status: int) -> None:
    start = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = answers_to(relay, start + b"a:\r\n" * lines + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"headers_too_large" in answer) == (status == 400)


def test_short_requests_after_one_another_are_no_long_head(relay: Live) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = answers_to(relay, request * 600 + request.replace(b"Host", b"Connection: close\r\nHost"))
    assert answers.count(b"HTTP/1.1 200 ") == 601


@pytest.mark.parametrize(("lines", "status"), [(990, 200), (1100, 502)])
def test_a_head_of_upstreams_of_many_lines(relay: Live, upstream: Upstream, lines: int, status: int) -> None:
    upstream.script("/v1/wide", Behaviour(status=200, headers=[("a", "b")] * lines, body=b"{}"))
    start = b"GET /v1/wide HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n"
    assert answers_to(relay, start).startswith(b"HTTP/1.1 %d " % status)


@pytest.fixture
def kept(relay: Live) -> Iterator[http.client.HTTPConnection]:
    """One connection for several requests: a body too much would be read as the next answer."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=10)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/readyz", "/chat", "/nothing", "/pro/balance?apiKey=sk-test-0123456789", "/chat/s", "/v1/models"],
)
def test_an_answer_to_head_has_no_body(kept: http.client.HTTPConnection, path: str) -> None:
    for method in ("HEAD", "GET", "HEAD", "GET"):
        kept.request(method, path, headers={"Authorization": "Bearer sk-test-0123456789"})
        response = kept.getresponse()
        body = response.read()
        assert bool(body) == (method == "GET"), (method, body)
