"""Upstreams that fall silent for `limits.idle`: who has had nothing of an answer gets one, all else breaks off."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_tls import Http2
from tests.support import certificates, live
from tests.support.certificates import Pair
from tests.support.live import Answer, Live, LogWatch, eventually, read_all, read_answer
from tests.support.shapes import chat_error, openai_error

KEY = "sk-test-silent-0123456789"
AUTH = f"Authorization: Bearer {KEY}\r\n"
GET = f"GET /v1/%s HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n"
IDLE = 1.0
SSE = [("content-type", "text/event-stream")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificates.self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def impatient(upstream: Upstream, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    folder = tmp_path_factory.mktemp("impatient")
    limits = {"idle": f"{IDLE:g}s"}
    with live.relay(folder, upstream.url, listen={"tls": tls}, limits=limits) as running:
        assert running.ask("GET", "/healthz").status == 200  # while it starts it may be slow
        yield running


@pytest.fixture(autouse=True)
def watch(impatient: Live, upstream: Upstream) -> Iterator[None]:
    upstream.clear()
    upstream.script("/v1/silent", Behaviour(never=True), Behaviour(never=True))
    watched = LogWatch(impatient)
    yield
    watched.check()


def test_a_client_is_answered_each_time_and_stays(impatient: Live) -> None:
    with impatient.connect() as connection:
        for _ in range(2):
            begun = time.monotonic()
            connection.sendall((GET % "silent").encode())
            error = openai_error(read_answer(connection), 504)
            assert IDLE * 0.9 < time.monotonic() - begun < IDLE + 1.5
            assert error["code"] == "upstream_timeout" and "上游" in error["message"] and "too long" in error["message"]
        connection.sendall((GET % "models").encode())
        assert read_answer(connection).status == 200


def test_chat_hears_of_it_in_its_envelope(impatient: Live, upstream: Upstream) -> None:
    upstream.script("/v1/chat/completions", Behaviour(never=True))
    answer = impatient.ask("POST", "/chat", {"apiKey": KEY, "sessionId": "s", "content": "hello"})
    chat_error(answer, 408)


def test_an_answer_that_has_begun_breaks_off(impatient: Live, upstream: Upstream) -> None:
    upstream.script("/v1/stops", Behaviour(headers=SSE, chunks=[(b"data: 1\n\n", 10), (b"data: 2\n\n", 0)]))
    with impatient.connect() as connection:
        begun = time.monotonic()
        connection.sendall((GET % "stops").encode())
        told = read_all(connection)
        assert IDLE * 0.9 < time.monotonic() - begun < IDLE + 1.5
    assert b"data: 1\n\n" in told and not told.endswith(b"0\r\n\r\n")


def test_a_stream_of_http2_is_answered_while_others_go_on(impatient: Live, upstream: Upstream, pair: Pair) -> None:
    ticks = [(b"data: %d\n\n" % number, 0.2) for number in range(10)]
    upstream.script("/v1/ticks", Behaviour(headers=SSE, chunks=ticks))
    with Http2(impatient, pair) as client:
        ticking, silent = client.send("GET", "/v1/ticks"), client.send("GET", "/v1/silent")
        begun = time.monotonic()
        while not (silent.ended and ticking.ended):
            client.receive()
        assert IDLE * 0.9 < silent.begun - begun < IDLE + 0.8
        error = openai_error(Answer(silent.status, dict(silent.fields), bytes(silent.body)), 504)
        assert error["code"] == "upstream_timeout"
        assert not ticking.reset and ticking.body.count(b"data: ") == 10
        alone = client.ask("GET", "/v1/silent")
        assert alone.status == 504


def test_an_upload_that_upstream_does_not_take_is_answered(impatient: Live, upstream: Upstream) -> None:
    upstream.script("/v1/stuck", Behaviour(delay_read=20))
    with impatient.connect() as connection:
        head = f"POST /v1/stuck HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: {1 << 26}\r\n\r\n"
        sending = threading.Thread(target=_send_all, args=(connection, head.encode() + bytes(1 << 26)), daemon=True)
        sending.start()
        openai_error(read_answer(connection), 504)


def _send_all(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def test_who_waits_for_a_turn_is_not_silent(impatient: Live, upstream: Upstream) -> None:
    said = json.dumps({"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]})
    slow = Behaviour(body=said.encode(), headers=[("content-type", "application/json")], delay_headers=0.4 * IDLE)
    upstream.script("/v1/chat/completions", *[slow] * 4)
    codes: list[int] = []
    asking = [
        threading.Thread(target=lambda: codes.append(impatient.chat("x", key=KEY, session="turns")["code"]))
        for _ in range(4)
    ]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert codes == [200] * 4


def test_a_client_that_stops_in_the_midst_of_an_upload_is_let_go(impatient: Live) -> None:
    with impatient.connect(10) as connection:
        connection.sendall(f"POST /v1/echo HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 6\r\n\r\nx".encode())
        begun = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - begun < 3 * IDLE
    assert eventually(lambda: impatient.process.poll() is None)
