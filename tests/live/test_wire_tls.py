"""TLS on both sides and HTTP/2 to clients: relay's own certificate, streams in any number, upstream verified."""

import concurrent.futures
import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from addons.cli.fake_openai.wire import Headers
from tests.support.certificates import Pair, self_signed
from tests.support.live import Live, eventually
from tests.support.live import relay as start_relay
from tests.support.raw import Client, request

AUTH = ("authorization", "Bearer sk-test-0123456789")
SSE = [("content-type", "text/event-stream")]
CHAT = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
MB = 1 << 20
type Fields = Sequence[tuple[str, str]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate for localhost."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def secure(upstream: Upstream, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay with that certificate, which takes plain HTTP on the same port too."""
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    with start_relay(tmp_path_factory.mktemp("secure"), upstream.url, listen={"tls": tls}) as running:
        yield running


def context(pair: Pair, *protocols: str) -> ssl.SSLContext:
    """A client's TLS, trusting nobody but this certificate."""
    trusting = ssl.create_default_context(cafile=str(pair.cert))
    trusting.set_alpn_protocols(list(protocols))
    return trusting


class Stream:
    """What has come of one HTTP/2 stream."""

    def __init__(self) -> None:
        self.fields: Headers = []
        self.body = bytearray()
        self.begun = 0.0
        self.ended = False
        self.reset = False

    @property
    def status(self) -> int:
        """The answer's status."""
        return int(dict(self.fields)[":status"])


class Http2:
    """A client of HTTP/2 on one connection."""

    def __init__(self, relay: Live, pair: Pair, *, careless: bool = False) -> None:
        self.socket = Client(relay.port, tls=context(pair, "h2", "http/1.1")).socket
        config = h2.config.H2Configuration(header_encoding="utf-8")
        config.validate_outbound_headers = config.normalize_outbound_headers = not careless
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(64 * MB)
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 64 * MB})
        self.streams: dict[int, Stream] = {}
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def begin(self, method: str, path: str, headers: Fields = (), *, whole: bool = False) -> Stream:
        """Open a stream with the head of a request, which may be the whole of it."""
        number = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "relay.test"), (":path", path)]
        self.h2.send_headers(number, [*pseudo, AUTH, *headers], end_stream=whole)
        self._flush()
        stream = self.streams[number] = Stream()
        return stream

    def send(self, method: str, path: str, headers: Fields = (), body: bytes | None = None) -> Stream:
        """Open a stream with a request."""
        stream = self.begin(method, path, headers, whole=body is None)
        if body is not None:
            self._send_body(max(self.streams), body)
        return stream

    def ask(self, method: str, path: str, headers: Fields = (), body: bytes | None = None) -> Stream:
        """One exchange."""
        stream = self.send(method, path, headers, body)
        while not stream.ended:
            self.receive()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Reset a stream, as a client does that has lost interest."""
        number = next(number for number, one in self.streams.items() if one is stream)
        self.h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def receive(self) -> None:
        """Take in what comes next."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("relay closed the connection")
        for event in self.h2.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", None) or 0)
            if stream is None:
                continue
            match event:
                case h2.events.ResponseReceived():
                    stream.fields = [(str(name), str(value)) for name, value in event.headers or []]
                    stream.begun = time.monotonic()
                case h2.events.DataReceived():
                    stream.body += event.data or b""
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                case h2.events.StreamEnded():
                    stream.ended = True
                case h2.events.StreamReset():
                    stream.ended = stream.reset = True
        self._flush()

    def _send_body(self, number: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                self.receive()
                continue
            self.h2.send_data(number, body[at : at + room])
            at += room
            self._flush()
        self.h2.end_stream(number)
        self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())


def seen_at(upstream: Upstream, target: str) -> Seen:
    """The request for this target."""
    return upstream.wait(lambda seen: [one for one in seen if one.target == target and one.complete])[0]


# The certificate


def test_relay_shows_the_certificate_of_relay_yaml(secure: Live, pair: Pair) -> None:
    with Client(secure.port, tls=context(pair)) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        shown = client.socket.getpeercert(binary_form=True)
        assert shown == ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
        reply, _ = client.ask("GET", "/v1/models", [AUTH])
    assert reply.status == 200


@pytest.mark.parametrize("name", [None, "relay.example.com", "127.0.0.1"])
def test_it_is_shown_whatever_name_the_client_asks_for(secure: Live, pair: Pair, name: str | None) -> None:
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=8) as plain,
        careless.wrap_socket(plain, server_hostname=name) as wrapped,
    ):
        assert wrapped.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(pair.cert.read_text())


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_the_protocol_is_negotiated(secure: Live, pair: Pair, offered: list[str], chosen: str) -> None:
    with Client(secure.port, tls=context(pair, *offered)) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == chosen


def test_plain_http_on_the_same_port_is_allowed_unless_refused(secure: Live) -> None:
    assert secure.ask("GET", "/v1/models", headers=dict([AUTH])).status == 200


@pytest.fixture(scope="module")
def strict(upstream: Upstream, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay that refuses plain HTTP."""
    tls = {"cert": str(pair.cert), "key": str(pair.key), "plain": "refuse"}
    with start_relay(tmp_path_factory.mktemp("strict"), upstream.url, listen={"tls": tls}) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/models", "/pro/balance", "/chat", "/"])
def test_plain_http_is_refused_where_relay_yaml_says_so(strict: Live, upstream: Upstream, path: str) -> None:
    before = len(upstream.seen)
    with Client(strict.port) as client:
        reply, body = client.ask("GET", path, [AUTH])
    told = json.loads(body)
    assert "https" in told.get("error", told)["message"].lower()
    assert (400 <= reply.status < 500) or told["code"] != 200
    assert len(upstream.seen) == before


def test_tls_is_served_where_plain_http_is_refused(strict: Live, pair: Pair) -> None:
    with Client(strict.port, tls=context(pair)) as client:
        assert client.ask("GET", "/v1/models", [AUTH])[0].status == 200


# HTTP/2


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_request_in_http_2_goes_up_as_sent(secure: Live, pair: Pair, upstream: Upstream, method: str) -> None:
    target, body = f"/v1/echo/h2%2F{method}?a=//b&c=%20", bytes(range(256)) * 1000
    headers = [("x-twice", "1"), ("x-twice", "2"), ("x-forwarded-for", "1.2.3.4")]
    with Http2(secure, pair) as client:
        stream = client.ask(method, target, headers, None if method == "GET" else body)
    seen = seen_at(upstream, target)
    assert stream.status == 200
    assert (seen.method, seen.version, seen.body) == (method, "HTTP/1.1", b"" if method == "GET" else body)
    assert seen.header("host") == f"127.0.0.1:{upstream.port}"
    assert [value for name, value in seen.headers if name == "x-twice"] == ["1", "2"]
    assert seen.header("x-forwarded-for") is None


def test_a_body_in_http_2_without_a_length_is_no_second_request(secure: Live, pair: Pair, upstream: Upstream) -> None:
    hidden = request("GET", "/v1/echo/smuggled", [AUTH])
    with Http2(secure, pair) as client:
        assert client.ask("POST", "/v1/echo/h2/carrier", [], hidden).status == 200
    assert seen_at(upstream, "/v1/echo/h2/carrier").body == hidden
    assert not [seen for seen in upstream.seen if seen.target == "/v1/echo/smuggled"]


def test_a_body_in_http_2_with_a_length_keeps_it(secure: Live, pair: Pair, upstream: Upstream) -> None:
    with Http2(secure, pair) as client:
        assert client.ask("POST", "/v1/echo/h2/length", [("content-length", "5")], b"hello").status == 200
    seen = seen_at(upstream, "/v1/echo/h2/length")
    assert (seen.body, seen.header("content-length"), seen.header("transfer-encoding")) == (b"hello", "5", None)


def test_an_answer_over_http_2_keeps_bytes_and_headers(secure: Live, pair: Pair, upstream: Upstream) -> None:
    body = bytes(range(256)) * 1000
    headers = [("Content-Type", "audio/mpeg"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("alt-svc", "h3")]
    upstream.script("/v1/h2/answer", Behaviour(headers=[*headers, ("connection", "close")], body=body))
    with Http2(secure, pair) as client:
        stream = client.ask("GET", "/v1/h2/answer")
        assert client.ask("GET", "/v1/models").status == 200
    assert bytes(stream.body) == body
    names = [name for name, _ in stream.fields]
    assert names == [":status", "content-type", "set-cookie", "set-cookie", "content-length", "x-relay-request-id"]


@pytest.mark.parametrize("status", [204, 304, 401, 429, 502])
def test_every_kind_of_answer_passes_over_http_2(secure: Live, pair: Pair, upstream: Upstream, status: int) -> None:
    upstream.script("/v1/h2/status", Behaviour(status=status, body=b"" if status in (204, 304) else b"{}"))
    with Http2(secure, pair) as client:
        assert client.ask("GET", "/v1/h2/status").status == status


def test_eight_streams_run_at_the_same_time_over_http_2(secure: Live, pair: Pair, upstream: Upstream) -> None:
    pieces = [(b"data: %d\n\n" % n, 0.1) for n in range(10)]
    upstream.script("/v1/chat/completions", Behaviour(headers=SSE, chunks=pieces), times=8)
    begin = time.monotonic()
    with Http2(secure, pair) as client:
        streams = [client.send("POST", "/v1/chat/completions", [], CHAT) for _ in range(8)]
        while not all(stream.ended for stream in streams):
            client.receive()
    took = time.monotonic() - begin
    assert all(bytes(stream.body) == b"".join(data for data, _ in pieces) for stream in streams)
    assert all(stream.begun - begin < 0.8 for stream in streams)
    assert took < 1.8  # two turns would take 2 s


def test_a_stream_that_is_cancelled_closes_its_upstream_and_no_other(
    secure: Live, pair: Pair, upstream: Upstream
) -> None:
    endless = Behaviour(headers=SSE, chunks=[(b"data: x\n\n", 0.05)] * 200)
    upstream.script("/v1/h2/cancelled", endless)
    upstream.script("/v1/h2/kept", Behaviour(headers=SSE, chunks=[(b"data: x\n\n", 0.05)] * 20))
    with Http2(secure, pair) as client:
        cancelled, kept = client.send("GET", "/v1/h2/cancelled"), client.send("GET", "/v1/h2/kept")
        while not (cancelled.body and kept.body):
            client.receive()
        client.cancel(cancelled)
        left, seen = time.monotonic(), seen_at(upstream, "/v1/h2/cancelled")
        while not kept.ended:
            client.receive()
    assert bytes(kept.body) == b"data: x\n\n" * 20
    assert seen.closed_at is not None
    assert seen.closed_at - left < 0.5


def test_a_break_from_upstream_resets_the_stream_alone(secure: Live, pair: Pair, upstream: Upstream) -> None:
    chunks = [(b"data: x\n\n", 0.05)] * 3
    upstream.script("/v1/h2/breaks", Behaviour(headers=SSE, chunks=chunks, break_after=12))
    with Http2(secure, pair) as client:
        stream = client.ask("GET", "/v1/h2/breaks")
        assert stream.reset
        assert client.ask("GET", "/v1/models").status == 200


def test_relays_errors_over_http_2_are_json(secure: Live, pair: Pair, upstream: Upstream) -> None:
    upstream.script("/v1/h2/fails", Behaviour(close_without_answer=True))
    with Http2(secure, pair) as client:
        unknown = client.ask("GET", "/unknown")
        failed = client.ask("POST", "/v1/h2/fails", [], b"{}")
        assert client.ask("GET", "/v1/models").status == 200
    assert (unknown.status, failed.status) == (404, 502)
    assert all(json.loads(bytes(stream.body))["error"]["message"] for stream in (unknown, failed))


def test_large_bodies_pass_over_http_2(secure: Live, pair: Pair, upstream: Upstream) -> None:
    body = bytes(range(256)) * 4096 * 8
    with Http2(secure, pair) as client:
        assert client.ask("POST", "/v1/echo/h2/large", [], body).status == 200
        assert len(client.ask("GET", f"/v1/files/file-made-{8 * MB}/content").body) == 8 * MB
    assert seen_at(upstream, "/v1/echo/h2/large").length == len(body)


def test_a_message_to_chat_over_http_2(secure: Live, pair: Pair) -> None:
    given = {"apiKey": "sk-test-0123456789", "sessionId": "h2", "content": "我叫小明"}
    with Http2(secure, pair) as client:
        stream = client.ask("POST", "/chat", [], json.dumps(given).encode())
    assert json.loads(bytes(stream.body))["code"] == 200


def test_a_message_whose_stream_is_reset_waits_for_its_session_no_longer(
    secure: Live, pair: Pair, upstream: Upstream
) -> None:
    upstream.script("/v1/chat/completions", Behaviour(delay_headers=2))
    said = {"apiKey": "sk-test-0123456789", "sessionId": "h2-reset", "content": "hello"}
    with Http2(secure, pair) as client:
        streams = [client.send("POST", "/chat", [], json.dumps(said).encode()) for _ in range(17)]
        time.sleep(0.5)  # one is asked, and sixteen wait
        for each in streams[1:]:
            client.cancel(each)
        time.sleep(0.3)
        assert secure.chat("hello", session="h2-reset")["code"] == 200


def test_clients_over_tls_in_parallel(secure: Live, pair: Pair) -> None:
    def ask(_: int) -> int:
        with Client(secure.port, tls=context(pair)) as client:
            return client.ask("GET", "/v1/models", [AUTH])[0].status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(16))) == {200}


# Upstream's certificate


@pytest.mark.parametrize(
    "doubtful",
    [
        pytest.param({}, id="of an unknown authority"),
        pytest.param({"expired": True}, id="expired"),
        pytest.param({"name": "elsewhere.example"}, id="of another name"),
    ],
)
def test_an_upstream_with_a_doubtful_certificate_gets_no_key(tmp_path: Path, doubtful: dict[str, object]) -> None:
    shown = self_signed(tmp_path, **doubtful)  # type: ignore[arg-type]
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(shown.cert, shown.key)
    # Where its authority is known, the rest still has to be right.
    trusted = ["--set", f"ssl_verify_upstream_trusted_ca={shown.cert}"] if doubtful else []
    with (
        Upstream.running(ssl_context=serving) as upstream,
        start_relay(tmp_path, upstream.url.replace("127.0.0.1", "localhost"), trusted) as relay,
    ):
        answer = relay.ask("POST", "/v1/chat/completions", CHAT, dict([AUTH]))
        assert upstream.seen == []
        assert eventually(lambda: upstream.open == 0)
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (502, "upstream_error")
    assert "TLS" in error["message"]
    assert str(upstream.port) not in error["message"]


def test_an_upstream_of_a_private_authority_that_is_trusted_is_served(tmp_path: Path, pair: Pair) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(pair.cert, pair.key)
    trusted = ["--set", f"ssl_verify_upstream_trusted_ca={pair.cert}"]
    with (
        Upstream.running(ssl_context=serving) as upstream,
        start_relay(tmp_path, upstream.url.replace("127.0.0.1", "localhost"), trusted) as relay,
    ):
        assert relay.ask("POST", "/v1/chat/completions", CHAT, dict([AUTH])).body.endswith(b"data: [DONE]\n\n")
        assert relay.chat("hi")["code"] == 200
        assert upstream.seen[-1].header("host") == f"localhost:{upstream.port}"


def test_nothing_of_all_this_left_a_traceback(secure: Live, strict: Live) -> None:
    assert "Traceback" not in secure.log + strict.log


@pytest.mark.parametrize(
    "path",
    ["/v1/.. /admin", "/v1/.\t./admin", "/v1/a\x0bb", "/v1/a?b=c d", "/v1/a HTTP/1.0", "/v1/\x7f", "/v1/a\x1b"],
    ids=ascii,
)
def test_what_would_end_a_request_line_is_refused(secure: Live, upstream: Upstream, pair: Pair, path: str) -> None:
    upstream.clear()
    with Http2(secure, pair, careless=True) as client:
        stream = client.ask("GET", path)
        assert (stream.status, json.loads(stream.body)["error"]["code"]) == (400, "invalid_path")
        assert client.ask("GET", "/v1/models").status == 200, "the connection goes on"
    assert [each.target for each in upstream.seen] == ["/v1/models"]


def test_a_path_is_mended_as_over_http_1(secure: Live, upstream: Upstream, pair: Pair) -> None:
    upstream.clear()
    with Http2(secure, pair) as client:
        assert [client.ask("GET", path).status for path in ("/models", "/v1//models")] == [200, 200]
        assert client.ask("GET", "/v1/..#/admin").status == 400
        assert client.ask("GET", "/v1/..%23/admin").status == 404
    assert [each.target for each in upstream.seen] == ["/v1/models", "/v1/models"]
