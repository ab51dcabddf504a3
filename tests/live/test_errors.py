"""What goes wrong on the way, through a real mitmdump: the client gets an error it can read, upstream nothing false.

One relay with a route to each kind of broken upstream, under short limits.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from mitmproxy import certs

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Answer, Live, LogWatch, answer_in, eventually, free_port, read_all, read_answer
from tests.support.shapes import balance_error, chat_error, names_none_of, openai_error

KEY = "sk-test-errors-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
MESSAGE = {"apiKey": KEY, "sessionId": "errors", "content": "hello"}
MEGABYTE = 1 << 20
PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
LATER = free_port()
"""Nothing listens there until a test begins to."""


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def blackhole() -> Iterator[int]:
    """A port whose queue is full: another connect gets no answer at all, as behind a firewall that drops it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        time.sleep(0.1)
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """An upstream whose certificate nobody has signed but itself."""
    folder: Path = tmp_path_factory.mktemp("certificate")
    certs.CertStore.create_store(folder, "nobody", 2048)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "nobody-ca.pem")
    with Upstream.running(ssl_context=context) as running:
        yield running


@pytest.fixture(scope="module")
def strict(
    upstream: Upstream, silent: int, blackhole: int, untrusted: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A relay with short limits; `/NAME/...` asks the upstream of that name."""
    urls = {
        "test": upstream.url,
        "refused": f"http://127.0.0.1:{free_port()}",
        "unknown": "http://nothing.invalid",
        "untrusted": untrusted.url,
        "mute": f"https://127.0.0.1:{silent}",
        "blackhole": f"http://127.0.0.1:{blackhole}",
        "later": f"http://127.0.0.1:{LATER}",
    }
    with live.relay(
        tmp_path_factory.mktemp("strict"),
        [{"name": name, "url": url} for name, url in urls.items()],
        routes=[{"path": f"/{name}", "upstream": name} for name in urls],
        limits={"connect": "1s", "headers": "1s", "keepalive": "1s", "body": "1m"},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def watch(strict: Live, upstream: Upstream) -> Iterator[LogWatch]:
    """Whatever a test does, the log shows neither a traceback nor a key."""
    upstream.clear()
    watched = LogWatch(strict)
    yield watched
    watched.check()
    assert strict.process.poll() is None


def closed(connection: socket.socket, within: float) -> bool:
    """Whether relay closes this connection in time; what it says before is dropped."""
    connection.settimeout(within)
    try:
        read_all(connection)
    except TimeoutError:
        return False
    return True


# 1. No way to the upstream

BROKEN_WAYS = [
    pytest.param("refused", 502, 502, id="nobody listens"),
    pytest.param("unknown", 502, 502, id="the name does not resolve"),
    pytest.param("untrusted", 502, 502, id="the certificate is not trusted"),
    pytest.param("mute", 504, 408, id="TLS is never answered"),
    pytest.param("blackhole", 504, 408, id="the connect is never answered"),
]


def asked(relay: Live, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
    """The answer, which must have come within the limit of 1 s and some slack, and name nobody."""
    begin = time.monotonic()
    answer = relay.ask(method, path, body, AUTH)
    assert time.monotonic() - begin < 4
    names_none_of(answer, "127.0.0.1", "nothing.invalid", "relay.invalid", KEY, "mitmproxy", "Errno")
    return answer


@pytest.mark.parametrize(("name", "status", "_code"), BROKEN_WAYS)
def test_official_paths_tell_it_in_the_shape_of_openai(strict: Live, name: str, status: int, _code: int) -> None:
    error = openai_error(asked(strict, "POST", f"/{name}/v1/chat/completions", {"model": "x"}), status)
    assert error["type"] == "upstream_error"


@pytest.mark.parametrize(("name", "status", "_code"), BROKEN_WAYS)
def test_a_get_without_a_body_is_told_the_same(strict: Live, name: str, status: int, _code: int) -> None:
    openai_error(asked(strict, "GET", f"/{name}/v1/models"), status)


@pytest.mark.parametrize(("name", "_status", "code"), BROKEN_WAYS)
def test_chat_tells_it_in_an_envelope(strict: Live, name: str, _status: int, code: int) -> None:
    chat_error(asked(strict, "POST", f"/{name}/chat", MESSAGE), code)


@pytest.mark.parametrize(("name", "_status", "code"), BROKEN_WAYS)
def test_balance_tells_it_without_data(strict: Live, name: str, _status: int, code: int) -> None:
    balance_error(asked(strict, "GET", f"/{name}/pro/balance?apiKey={KEY}"), code)


def test_a_failed_chat_leaves_its_session_free(strict: Live) -> None:
    for _ in range(3):
        chat_error(asked(strict, "POST", "/refused/chat", MESSAGE), 502)


def test_a_head_request_gets_no_body(strict: Live) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    for _ in range(2):
        connection.request("HEAD", "/refused/v1/models", headers=AUTH)
        response = connection.getresponse()
        assert (response.status, response.read()) == (502, b"")
    connection.close()


def test_errors_can_be_read_by_a_browser(strict: Live) -> None:
    answer = strict.ask("GET", "/refused/v1/models", headers={**AUTH, "Origin": "tauri://localhost"})
    openai_error(answer, 502)
    assert answer.headers["access-control-allow-origin"] == "*"


def test_one_connection_asks_again_when_the_upstream_is_back(strict: Live) -> None:
    with strict.connect() as connection:

        def ask() -> Answer:
            connection.sendall(
                f"GET /later/v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
            )
            return read_answer(connection)

        openai_error(ask(), 502)
        openai_error(ask(), 502)
        with Upstream.running(port=LATER):
            assert ask().status == 200
            assert ask().status == 200
        openai_error(ask(), 502)


WRONG_PORTS = [
    pytest.param(
        "https", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "http://", id="TLS to a plain port"
    ),
    pytest.param("http", b"\x15\x03\x01\x00\x02\x02\x16", "https://", id="plain HTTP to a TLS port"),
]


@pytest.mark.parametrize(("scheme", "said", "better"), WRONG_PORTS)
def test_the_wrong_kind_of_port_is_no_bad_certificate(scheme: str, said: bytes, better: str, tmp_path: Path) -> None:
    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        with live.relay(tmp_path, f"{scheme}://127.0.0.1:{server.getsockname()[1]}") as relay:
            told = chat_error(relay.ask("POST", "/chat", MESSAGE), 502)
            assert eventually(lambda: better in relay.log), relay.log
            assert "upstream test: upstream_failed: its port" in relay.log and "upstreams[].url" in relay.log
        server.shutdown(socket.SHUT_RDWR)
    assert "请联系服务管理员" in told and "ask whoever runs this relay" in told and "upstreams[].url" not in told
    assert "certificate" not in told and "证书" not in told


# 2. Answers that break

NO_ANSWERS = [
    pytest.param(Behaviour(close_without_answer=True), id="closes without an answer"),
    pytest.param(Behaviour(close_without_answer=True, reset=True), id="resets without an answer"),
    pytest.param(Behaviour(garbage=b"SSH-2.0-OpenSSH_9.6\r\n"), id="speaks something else"),
    pytest.param(Behaviour(garbage=b"\x16\x03\x01\x00\x05\x00\xff" * 20), id="speaks in bytes"),
    pytest.param(Behaviour(garbage=b"HTTP/1.1 200 OK\r\nContent-Le"), id="breaks in its head"),
    pytest.param(Behaviour(garbage=b"HTTP/1.1 OK 200\r\n\r\n"), id="has no status"),
    pytest.param(
        Behaviour(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), id="has two lengths"
    ),
    pytest.param(Behaviour(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), id="has a negative length"),
    pytest.param(Behaviour(garbage=b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n"), id="has a blank in a name"),
    pytest.param(
        Behaviour(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        id="has a length and chunks",
    ),
    pytest.param(
        Behaviour(garbage=b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n"), id="has chunks of nothing"
    ),
]


@pytest.mark.parametrize("behaviour", NO_ANSWERS)
def test_an_answer_nobody_can_read_is_502(strict: Live, upstream: Upstream, behaviour: Behaviour) -> None:
    upstream.script("*", behaviour, times=4)
    openai_error(asked(strict, "POST", "/v1/chat/completions", {"model": "x"}), 502)
    chat_error(asked(strict, "POST", "/chat", MESSAGE), 502)
    balance_error(asked(strict, "GET", f"/pro/balance?apiKey={KEY}"), 502)


BREAKS = [
    pytest.param(Behaviour(body=b"x" * 1000, break_after=500), id="in a body of known length"),
    pytest.param(Behaviour(body=b"x" * 1000, break_after=500, reset=True), id="by a reset"),
    pytest.param(Behaviour(body=b"x" * 500, wrong_content_length=1000), id="with a length that is wrong"),
    pytest.param(Behaviour(chunks=[(b"x" * 300, 0.05), (b"x" * 300, 0)], break_after=300), id="between two chunks"),
    pytest.param(Behaviour(chunks=[(b"x" * 300, 0.05), (b"x" * 300, 0)], break_after=400), id="inside a chunk"),
]


@pytest.mark.parametrize("behaviour", BREAKS)
def test_a_broken_body_breaks_for_the_client_too(strict: Live, upstream: Upstream, behaviour: Behaviour) -> None:
    upstream.script("/v1/models", behaviour)
    raw = strict.raw(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"200" in head.splitlines()[0]
    assert b"HTTP/1.1" not in body and b"error" not in body
    assert not body.endswith(b"0\r\n\r\n")
    with pytest.raises(http.client.IncompleteRead):
        answer_in(raw)


@pytest.mark.parametrize("behaviour", BREAKS)
def test_a_broken_body_is_502_where_relay_reads_it(strict: Live, upstream: Upstream, behaviour: Behaviour) -> None:
    upstream.script("*", behaviour, times=3)
    chat_error(asked(strict, "POST", "/chat", MESSAGE), 502)
    balance_error(asked(strict, "GET", f"/pro/balance?apiKey={KEY}"), 502)


REFUSED = b'{"error": {"message": "who are you", "code": "invalid_api_key"}}'
SAID = b'{"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rest", [b"", b"x"], ids=["its connection breaks", "more was announced"])
def test_json_is_whole_with_its_last_bracket(strict: Live, upstream: Upstream, stream: bool, rest: bytes) -> None:
    """However long the connection stays, and whatever becomes of it."""
    for status, body in ((401, REFUSED), (200, SAID)):
        upstream.script("*", Behaviour(status=status, body=body + rest, break_after=len(body)))
        answer = asked(strict, "POST", "/chat", {**MESSAGE, "stream": stream})
        told = json.loads(answer.body.decode().removeprefix("data: "))
        assert told["code"] == status
        assert ("who are you" in told["message"]) if status == 401 else (told["data"] == "whole")


def test_a_status_is_told_though_its_body_breaks(strict: Live, upstream: Upstream) -> None:
    upstream.script("*", Behaviour(status=429, body=b"x" * 1000, break_after=500))
    chat_error(asked(strict, "POST", "/chat", MESSAGE), 429)


EVENTS = [(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number, 0.02) for number in range(5)]


@pytest.mark.parametrize("reset", [False, True], ids=["politely", "by a reset"])
def test_a_stream_that_breaks_has_no_false_end(strict: Live, upstream: Upstream, reset: bool) -> None:
    cut = sum(len(data) for data, _ in EVENTS[:3])
    sse = [("content-type", "text/event-stream")]
    upstream.script("/v1/chat/completions", Behaviour(chunks=EVENTS, headers=sse, break_after=cut, reset=reset))
    body = json.dumps({"model": "gpt-3.5-turbo", "stream": True, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    raw = strict.raw(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert b'"content":"2"' in raw
    assert b"[DONE]" not in raw and b"stop" not in raw and b'"error"' not in raw
    assert not raw.endswith(b"0\r\n\r\n")


def test_bytes_behind_an_answer_are_nobody_elses_answer(strict: Live, upstream: Upstream) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    upstream.script("/v1/models", Behaviour(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil))
    request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    with strict.connect() as connection:
        connection.sendall(request)
        assert read_answer(connection).body == b"ok"
        time.sleep(0.1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sendall(request)
            assert b"evil" not in read_answer(connection).body


@pytest.mark.parametrize(("status", "code"), [(403, 403), (404, 502), (502, 502), (503, 502), (521, 502), (524, 408)])
def test_an_upstreams_own_page_passes_as_it_is(strict: Live, upstream: Upstream, status: int, code: int) -> None:
    upstream.script("*", Behaviour(status=status, headers=[("content-type", "text/html")], body=PAGE), times=3)
    answer = strict.ask("GET", "/v1/models", headers=AUTH)
    assert (answer.status, answer.headers["content-type"], answer.body) == (status, "text/html", PAGE)
    chat_error(strict.ask("POST", "/chat", MESSAGE), code)


def test_an_upstreams_own_error_passes_as_it_is(strict: Live, upstream: Upstream) -> None:
    body = b'{ "error": {"message":"x", "nested": [1] } }'
    headers = [("content-type", "application/json"), ("retry-after", "7"), ("x-ratelimit-reset-requests", "1s")]
    upstream.script("/v1/models", Behaviour(status=429, reason="Slow Down", headers=headers, body=body))
    answer = strict.ask("GET", "/v1/models", headers=AUTH)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (429, body, "application/json")
    assert answer.headers["retry-after"] == "7"


def test_an_upstream_that_answers_before_the_upload_is_done(strict: Live, upstream: Upstream) -> None:
    refusal = b'{"error": {"message": "too large"}}'
    headers = [("content-type", "application/json")]
    upstream.script("/v1/files", Behaviour(status=413, headers=headers, body=refusal, early_answer=True))
    answer = strict.ask("POST", "/v1/files", b"x" * 300_000, AUTH)
    assert (answer.status, answer.body) == (413, refusal)


# 3. Requests that are none

NOT_HTTP = [
    pytest.param(b"HELLO\r\n\r\n", id="a greeting"),
    pytest.param(b"GET\r\n\r\n", id="a method alone"),
    pytest.param(b"GET /v1/models\r\n\r\n", id="no version"),
    pytest.param(b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n", id="a version to come"),
    pytest.param(b"GET /v1/mo dels HTTP/1.1\r\nHost: x\r\n\r\n", id="a blank in the path"),
    pytest.param(b"G\xffT /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", id="a method beyond ASCII"),
    pytest.param(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", id="a header without a colon"),
    pytest.param(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", id="a header without a name"),
    pytest.param(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", id="a blank in a header's name"),
    pytest.param(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", id="a NUL in a header"),
    pytest.param(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", id="a length in words"),
    pytest.param(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
    pytest.param(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", id="a length with a sign"),
    pytest.param(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", id="no chunk"),
]


@pytest.mark.parametrize("request_", NOT_HTTP)
def test_what_is_no_request_is_400_in_json(strict: Live, upstream: Upstream, request_: bytes) -> None:
    raw = strict.raw(request_)
    openai_error(answer_in(raw), 400)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert not [seen for seen in upstream.seen if seen.complete]


def test_a_broken_tls_hello_is_closed_without_a_page(strict: Live) -> None:
    assert b"<html" not in strict.raw(b"\x16\x03\x01\x00\x30" + b"\xff" * 60)


def test_a_method_unheard_of_passes(strict: Live, upstream: Upstream) -> None:
    strict.ask("FROBNICATE", "/v1/echo", headers=AUTH)
    assert upstream.seen[-1].method == "FROBNICATE"


def test_without_a_host_relay_knows_where_to_go(strict: Live, upstream: Upstream) -> None:
    answer = answer_in(strict.raw(b"GET /v1/echo HTTP/1.1\r\nConnection: close\r\n\r\n"))
    if answer.status != 200:  # RFC 9112 asks for a refusal, HTTP/1.0 clients send none
        openai_error(answer, 400)
        return
    assert upstream.seen[-1].header("host") == f"127.0.0.1:{upstream.port}"


SECOND = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = [
    pytest.param(b"Content-Length: 4\r\nContent-Length: 44", b"0\r\n\r\n", id="two lengths"),
    pytest.param(b"Content-Length: 4, 44", b"0\r\n\r\n", id="two lengths in one"),
    pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", id="length and chunks"),
    pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n", id="chunks and length"),
    pytest.param(b"Transfer-Encoding: identity, chunked", b"0\r\n\r\n", id="two encodings"),
    pytest.param(b"Transfer-Encoding: xchunked", b"0\r\n\r\n", id="an unknown encoding"),
    pytest.param(b"Transfer-Encoding : chunked\r\nContent-Length: 5", b"0\r\n\r\n", id="a blank before the colon"),
    pytest.param(b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 5", b"0\r\n\r\n", id="an odd blank in the value"),
    pytest.param(b"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n", id="a folded header"),
    pytest.param(b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n", id="a bare LF"),
    pytest.param(b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n", id="a bare CR"),
    pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n", id="two in two"),
]


@pytest.mark.parametrize(("framing", "body"), SMUGGLED)
def test_nothing_is_smuggled(strict: Live, upstream: Upstream, framing: bytes, body: bytes) -> None:
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
    raw = strict.raw(head + framing + b"\r\n\r\n" + body + SECOND)
    if b" 200 " not in raw.splitlines()[0]:
        openai_error(answer_in(raw), 400)
        assert raw.count(b"HTTP/1.1 ") == 1, "a connection that lost its framing is closed"
        assert not upstream.seen
        return
    # Taken, so upstream and relay must have agreed on where the first request ends.
    first, *rest = upstream.seen
    names = [name.lower() for name, _ in first.headers]
    assert not {"content-length", "transfer-encoding"} <= set(names)
    assert names.count("content-length") + names.count("transfer-encoding") <= 1
    assert not any(letter in value for _, value in first.headers for letter in "\r\n\0\x0b")
    assert first.body in (b"", b"0\r\n\r\n") and len(rest) == raw.count(b"HTTP/1.1 200") - 1


# 4. Heads that are too large or too slow


def test_a_head_over_the_limit_is_refused(strict: Live, upstream: Upstream) -> None:
    openai_error(strict.ask("GET", "/v1/models", headers={**AUTH, "X-Long": "x" * 70_000}), 400)
    assert not upstream.seen


def test_many_small_headers_are_refused_too(strict: Live, upstream: Upstream) -> None:
    openai_error(strict.ask("GET", "/v1/models", headers={**AUTH, **{f"X-{n}": "x" * 50 for n in range(1500)}}), 400)
    assert not upstream.seen


def test_a_head_under_the_limit_passes(strict: Live, upstream: Upstream) -> None:
    assert strict.ask("GET", "/v1/models", headers={**AUTH, "X-Long": "x" * 60_000}).status == 200
    assert len(upstream.seen[-1].header("x-long") or "") == 60_000


@pytest.mark.parametrize("endless", [b"GET /v1/models HTTP/1.1\r\nX: ", b"GET /v1/models?"], ids=["header", "target"])
def test_a_head_without_an_end_is_cut_off(strict: Live, upstream: Upstream, endless: bytes) -> None:
    with strict.connect() as connection:
        connection.sendall(endless)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"x" * 10_000)
        raw = b""
        with contextlib.suppress(OSError):
            raw = read_all(connection)
    if raw:  # a reset may overtake the answer
        openai_error(answer_in(raw), 400)
    assert not upstream.seen


def test_a_trickled_head_is_given_up(strict: Live) -> None:
    with strict.connect() as connection:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for letter in b"GET /v1/models HTTP/1.1\r\nHost: " + b"x" * 100:
                connection.sendall(bytes([letter]))
                time.sleep(0.05)
                assert time.monotonic() - begin < 4
        assert closed(connection, 1)
        assert 0.5 < time.monotonic() - begin < 4


def test_a_trickled_second_head_is_given_up(strict: Live) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection).status == 200
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 4:
                connection.sendall(b"G" if time.monotonic() - begin < 0.01 else b"x")
                time.sleep(0.05)
        assert time.monotonic() - begin < 3


def test_a_client_that_says_nothing_is_given_up(strict: Live) -> None:
    with strict.connect() as connection:
        assert closed(connection, 3)


def test_an_idle_client_is_given_up(strict: Live) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection).status == 200
        begin = time.monotonic()
        assert closed(connection, 3)
        assert time.monotonic() - begin > 0.5


def test_a_client_that_waits_is_not_idle(strict: Live, upstream: Upstream) -> None:
    upstream.script("/v1/models", Behaviour(delay_headers=2.2))
    assert strict.ask("GET", "/v1/models", headers=AUTH).status == 200


def test_a_slow_upload_is_not_idle(strict: Live, upstream: Upstream) -> None:
    with strict.connect() as connection:
        connection.sendall(f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(b"Content-Length: 6\r\n\r\n")
        for _ in range(6):
            time.sleep(0.4)
            connection.sendall(b"x")
        assert read_answer(connection).json()["length"] == 6


# 5. Where requests may go


def test_the_client_does_not_choose_the_host(strict: Live, upstream: Upstream) -> None:
    for target in ("http://evil.invalid/v1/echo", "https://evil.invalid:444/v1/echo", "http://127.0.0.1:1/v1/echo"):
        request = (
            f"GET {target} HTTP/1.1\r\nHost: evil.invalid\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        )
        answer = answer_in(strict.raw(request.encode()))
        if answer.status != 200:
            openai_error(answer, 400)
            continue
        assert upstream.seen[-1].target == "/v1/echo"
        assert upstream.seen[-1].header("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "evil.invalid:443", "x"])
def test_connect_is_refused(strict: Live, upstream: Upstream, where: str) -> None:
    target = where.format(port=upstream.port)
    accepted = upstream.accepted
    raw = strict.raw(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n".encode())
    openai_error(answer_in(raw), 400, 404, 405)
    assert upstream.accepted == accepted


UNKNOWN = ["/v2/models", "/v1x", "/V1/models", "/admin", "/dashboard/", "/v1/../admin", "/v1/./models", "/v1/.."]
UNKNOWN += ["/v1/%2e%2e/admin", "/v1/.%2E/admin", "/v1/..%2fadmin", "/dashboard/billing/../../admin", "/test/../admin"]
UNKNOWN += ["/%76%31/../x", "*"]


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_path_is_404(strict: Live, upstream: Upstream, path: str) -> None:
    error = openai_error(strict.ask("GET", path, headers=AUTH), 404)
    assert "/v1/" in error["message"]
    assert not upstream.seen


def test_an_upload_to_an_unknown_path_is_not_held(strict: Live, upstream: Upstream) -> None:
    before = strict.memory()
    with strict.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (50 * MEGABYTE))
        connection.sendall(b"x" * 1000)
        openai_error(read_answer(connection), 404)  # before the body has come
        with contextlib.suppress(OSError):
            for _ in range(50):
                connection.sendall(b"x" * MEGABYTE)
    assert strict.memory() - before < 20 * MEGABYTE
    assert not upstream.seen


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        pytest.param("/nowhere", 2 * MEGABYTE, 404, id="unknown path"),
        pytest.param("/v1/files", 2 * MEGABYTE, 413, id="over the limit"),
        pytest.param("/chat", 100_000, 200, id="over the limit of /chat"),
    ],
)
def test_a_body_that_nobody_wants_is_not_invited(
    strict: Live, upstream: Upstream, path: str, length: int, status: int
) -> None:
    with strict.connect(2) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100, socket.MSG_PEEK).startswith(f"HTTP/1.1 {status} ".encode())
        answer = read_answer(connection)
    assert answer.headers["connection"] == "close", "nobody could tell what would follow"
    assert not upstream.seen


def test_a_body_that_is_wanted_is_invited(strict: Live, upstream: Upstream) -> None:
    with strict.connect(5) as connection:
        connection.sendall(f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        assert read_answer(connection).json()["length"] == 5


WRONG_METHODS: list[tuple[str, str, str, Callable[[Answer, int, int], object]]] = [
    ("GET", "/chat", "POST", chat_error),
    ("PUT", "/pro/chat/completions", "POST", chat_error),
    ("DELETE", "/test/chat", "POST", chat_error),
    ("POST", "/pro/balance", "GET", balance_error),
    ("PATCH", "/test/pro/balance", "GET", balance_error),
]


@pytest.mark.parametrize(("method", "path", "allow", "shape"), WRONG_METHODS)
def test_a_wrong_method_is_405(
    strict: Live, upstream: Upstream, method: str, path: str, allow: str, shape: Callable[[Answer, int, int], object]
) -> None:
    answer = strict.ask(method, path, None if method == "GET" else b"{}", AUTH)
    shape(answer, 405, 405)
    assert allow in [one.strip() for one in answer.headers["allow"].split(",")]
    assert not upstream.seen


def test_a_wrong_method_on_a_path_of_relays_own_is_405(strict: Live) -> None:
    answer = strict.ask("POST", "/healthz", b"{}")
    openai_error(answer, 405)
    assert "GET" in answer.headers["allow"]


# 6. Bodies over the limit


def test_a_declared_length_over_the_limit_is_413(strict: Live, upstream: Upstream) -> None:
    with strict.connect() as connection:
        connection.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: {MEGABYTE + 1}\r\n\r\n".encode())
        openai_error(read_answer(connection), 413)
    assert not upstream.seen


def test_a_length_beyond_all_numbers_is_refused(strict: Live, upstream: Upstream) -> None:
    raw = strict.raw(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nx", timeout=10)
    openai_error(answer_in(raw), 400, 413)
    assert not [seen for seen in upstream.seen if seen.complete]


def test_a_body_at_the_limit_passes(strict: Live) -> None:
    assert strict.ask("POST", "/v1/echo", b"x" * MEGABYTE, AUTH).json()["length"] == MEGABYTE


def test_chunks_over_the_limit_are_413_and_upstream_sees_no_end(strict: Live, upstream: Upstream) -> None:
    before = strict.memory()
    answers: list[Answer] = []
    with strict.connect() as connection:
        reader = threading.Thread(target=lambda: answers.append(read_answer(connection)))
        reader.start()
        connection.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(64 * 20):
                connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        reader.join(10)
    assert answers, "no answer"
    openai_error(answers[0], 413)
    [seen] = upstream.seen
    assert eventually(lambda: seen.closed_at is not None)
    assert not seen.complete
    assert seen.length <= MEGABYTE
    assert strict.memory() - before < 15 * MEGABYTE


def test_trailers_of_an_upload_do_no_harm(strict: Live, upstream: Upstream) -> None:
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nTrailer: X-Sum\r\n".encode()
    framed = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    answer = answer_in(strict.raw(head + framed, timeout=3))
    if answer.status != 200:
        openai_error(answer, 400)
        return
    assert upstream.seen[-1].body == b"hello"


def test_trailers_of_an_answer_do_no_harm(strict: Live, upstream: Upstream) -> None:
    upstream.script("/v1/models", Behaviour(chunks=[(b"hello", 0)], trailers=[("x-sum", "1")]))
    answer = strict.ask("GET", "/v1/models", headers=AUTH, timeout=3)
    assert (answer.status, answer.body) == (200, b"hello")


def test_a_client_that_leaves_in_its_upload_shows_upstream_no_end(strict: Live, upstream: Upstream) -> None:
    with strict.connect() as connection:
        connection.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n")
        seen = upstream.wait(lambda all_seen: next((one for one in all_seen if one.arrived), None))
    assert seen is not None and eventually(lambda: seen.closed_at is not None)
    assert not seen.complete
