"""Browsers: preflights are answered, every answer to a page may be read by it, and no header comes twice."""

import json

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from addons.cli.fake_openai.wire import Headers
from tests.support.live import Live, free_port
from tests.support.live import relay as start_relay
from tests.support.raw import Client, Reply

AUTH = ("Authorization", "Bearer sk-test-0123456789")
PATH = "/v1/chat/completions"
ORIGINS = ["https://chat.example.com", "http://localhost:3000", "tauri://localhost", "chrome-extension://abc", "null"]
CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
SESSION = json.dumps({"apiKey": "sk-test-0123456789", "sessionId": "cors", "content": "hi"}).encode()


def ask(relay: Live, method: str, path: str, headers: Headers, body: bytes | None = None) -> tuple[Reply, bytes]:
    """One request on a connection of its own."""
    with Client(relay.port) as client:
        return client.ask(method, path, headers, body)


def preflight(relay: Live, path: str, *more: tuple[str, str]) -> Reply:
    """What a browser asks before it sends anything out of the ordinary."""
    headers = [("Origin", ORIGINS[0]), ("Access-Control-Request-Method", "POST"), *more]
    reply, body = ask(relay, "OPTIONS", path, headers)
    assert body == b""
    return reply


def assert_readable(reply: Reply) -> None:
    """A page may read this answer and all of its headers."""
    assert reply.all("access-control-allow-origin") == ["*"]
    assert reply.all("access-control-expose-headers") == ["*"]


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/dashboard/billing/usage", "/chat", "/pro/balance?apiKey=x"])
def test_a_preflight_is_answered_by_relay(relay: Live, upstream: Upstream, path: str) -> None:
    before = len(upstream.seen)
    reply = preflight(relay, path, ("Access-Control-Request-Headers", "authorization,content-type"))
    assert reply.status == 204
    assert reply.all("access-control-allow-origin") == ["*"]
    assert reply.all("access-control-allow-methods") == ["POST"]
    assert reply.all("access-control-allow-headers") == ["authorization,content-type"]
    assert reply.all("access-control-max-age") == ["600"]
    assert len(upstream.seen) == before


def test_a_preflight_without_headers_to_allow_allows_none(relay: Live) -> None:
    assert preflight(relay, PATH).all("access-control-allow-headers") == []


def test_the_connection_goes_on_after_a_preflight(relay: Live) -> None:
    with Client(relay.port) as client:
        headers = [("Origin", "null"), ("Access-Control-Request-Method", "POST")]
        assert client.ask("OPTIONS", PATH, headers)[0].status == 204
        reply, body = client.ask("POST", PATH, [AUTH, ("Origin", "null")], CHAT)
    assert (reply.status, json.loads(body)["object"]) == (200, "chat.completion")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="neither"),
        pytest.param([("Origin", "https://a.example")], id="an origin only"),
        pytest.param([("Access-Control-Request-Method", "POST")], id="a method only"),
    ],
)
def test_any_other_options_passes(relay: Live, upstream: Upstream, headers: Headers) -> None:
    before = len(upstream.seen)
    assert ask(relay, "OPTIONS", "/v1/echo/options", [AUTH, *headers])[0].status == 200
    assert [seen.method for seen in upstream.seen[before:]] == ["OPTIONS"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_answer_to_a_page_may_be_read(relay: Live, upstream: Upstream, origin: str) -> None:
    reply, _ = ask(relay, "POST", PATH, [AUTH, ("Origin", origin)], CHAT)
    assert reply.status == 200
    assert_readable(reply)
    assert upstream.seen[-1].header("origin") == origin


def test_a_stream_to_a_page_may_be_read(relay: Live) -> None:
    reply, body = ask(relay, "POST", PATH, [AUTH, ("Origin", "null")], CHAT[:-1] + b',"stream":true}')
    assert body.endswith(b"data: [DONE]\n\n")
    assert_readable(reply)


def test_who_is_no_page_gets_no_such_headers(relay: Live) -> None:
    reply, _ = ask(relay, "POST", PATH, [AUTH], CHAT)
    assert reply.get("access-control-allow-origin") is None
    assert reply.get("access-control-expose-headers") == "X-Request-ID"  # upstream's own passes


def test_relays_headers_stand_in_place_of_upstreams(relay: Live, upstream: Upstream) -> None:
    own = [
        ("Access-Control-Allow-Origin", "https://chat.openai.com"),
        ("access-control-allow-origin", "https://second.example"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Request-ID, CF-Ray"),
        ("vary", "Origin"),
    ]
    upstream.script(PATH, Behaviour(headers=own, body=b"{}"))
    reply, _ = ask(relay, "POST", PATH, [AUTH, ("Origin", ORIGINS[0])], CHAT)
    assert_readable(reply)
    assert reply.get("access-control-allow-credentials") is None  # with "*" a browser would refuse the answer
    assert reply.get("vary") == "Origin"


@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 502])
def test_upstreams_errors_may_be_read(relay: Live, upstream: Upstream, status: int) -> None:
    upstream.script(PATH, Behaviour(status=status, headers=[("retry-after", "3")], body=b'{"error":{}}'))
    reply, body = ask(relay, "POST", PATH, [AUTH, ("Origin", ORIGINS[0])], CHAT)
    assert (reply.status, reply.get("retry-after"), body) == (status, "3", b'{"error":{}}')
    assert_readable(reply)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        pytest.param("GET", "/unknown", [], None, 404, id="an unknown path"),
        pytest.param("GET", "/chat", [], None, 405, id="a wrong method"),
        pytest.param("POST", "/chat", [], b"{", 200, id="a message that cannot be read"),
        pytest.param("POST", "/chat", [], SESSION, 200, id="a message"),
        pytest.param("GET", "/pro/balance", [], None, 200, id="a balance without a key"),
        pytest.param("GET", "/pro/balance?apiKey=sk-test-0123456789", [], None, 200, id="a balance"),
        pytest.param("POST", PATH, [("Content-Length", "600000000")], None, 413, id="a length over the limit"),
        pytest.param("GET", "/v1/models", [("X-Long", "x" * 70000)], None, 400, id="headers over the limit"),
    ],
)
def test_relays_own_answers_may_be_read(
    relay: Live, method: str, path: str, headers: Headers, body: bytes | None, status: int
) -> None:
    reply, _ = ask(relay, method, path, [("Origin", ORIGINS[0]), *headers], body)
    assert reply.status == status
    assert_readable(reply)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(Behaviour(close_without_answer=True), id="closes"),
        pytest.param(Behaviour(close_without_answer=True, reset=True), id="resets"),
        pytest.param(Behaviour(garbage=b"SSH-2.0-x\r\n\r\n"), id="talks nonsense"),
    ],
)
def test_an_upstream_that_fails_is_an_error_a_page_may_read(
    relay: Live, upstream: Upstream, behaviour: Behaviour
) -> None:
    upstream.script(PATH, behaviour)
    reply, body = ask(relay, "POST", PATH, [AUTH, ("Origin", ORIGINS[0])], CHAT)
    assert (reply.status, json.loads(body)["error"]["type"]) == (502, "upstream_error")
    assert_readable(reply)


def test_an_upstream_that_is_down_is_an_error_a_page_may_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    with start_relay(tmp_path_factory.mktemp("down"), f"http://127.0.0.1:{port}") as relay:
        reply, body = ask(relay, "POST", PATH, [AUTH, ("Origin", ORIGINS[0])], CHAT)
    assert (reply.status, json.loads(body)["error"]["type"]) == (502, "upstream_error")
    assert str(port).encode() not in body
    assert_readable(reply)
