import pytest

from addons.core.paths import OWN
from addons.exchange import Kind, of
from addons.proxy.routing import Routing
from tests.support import flows


@pytest.mark.parametrize(
    ("sent", "up"),
    [
        ("/v1/models", "/proxy/v1/models"),
        ("//v1/models?a=%2F", "/proxy/v1/models?a=%2F"),
        ("/v1/v1/dashboard/billing/usage", "/proxy/v1/dashboard/billing/usage"),
        ("/v1//models", "/proxy/v1/models"),
        ("/chat/completions?a", "/proxy/v1/chat/completions?a"),
        ("/images/generations", "/proxy/v1/images/generations"),
        ("/dashboard/billing/subscription", "/proxy/dashboard/billing/subscription"),
        ("/v1/files/a%2Fb?x=//v1/v1", "/proxy/v1/files/a%2Fb?x=//v1/v1"),
    ],
    ids=lambda value: value,
)
def test_an_official_path_goes_to_the_default_upstream(sent: str, up: str) -> None:
    flow = flows.opened("POST", sent, {"Host": "relay.example"})
    request = flow.request
    assert flow.response is None
    assert (request.scheme, request.host, request.port) == ("https", "api.test", 443)
    assert (request.host_header, request.path) == ("api.test", up)
    exchange = flows.exchange(flow)
    assert (exchange.kind, exchange.upstream.name) == (Kind.PASS, "test")


@pytest.mark.parametrize(
    ("sent", "up"),
    [
        ("/v1/models", "/api/paas/v4/models"),
        ("/v1//v1/models?a=/v1/b", "/api/paas/v4/models?a=/v1/b"),
        ("/chat/completions", "/api/paas/v4/chat/completions"),
        ("/v1/dashboard/billing/usage?a", "/api/paas/v4/dashboard/billing/usage?a"),
        ("/dashboard/billing/usage", "/api/paas/v4/dashboard/billing/usage"),
        ("/v1", "/api/paas/v4"),
        ("/glm/v1/models", "/api/paas/v4/models"),
        ("/glm/models", "/api/paas/v4/models"),
        ("/glm/tools/x", "/api/paas/v4/tools/x"),
    ],
)
def test_an_upstream_with_a_version_of_its_own_is_asked_for_that(sent: str, up: str) -> None:
    upstreams = [{"name": "glm", "url": "https://glm.test/api/paas/v4"}]
    flow = flows.opened("GET", sent, upstreams=upstreams, routes=[{"path": "/glm", "upstream": "glm"}])
    assert (flow.response, flow.request.path) == (None, up)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/.. /admin", "/v1/a\x0bb", "/v1/a?x=1 2", "/other/a\tb", "/nowhere\x7f", "/v1/\0"),
        *("/v1/chat/completions#/moderations", "/v1/..#/admin", "/v1/a#?x"),
    ],
)
def test_blanks_control_bytes_and_fragments_are_refused(path: str) -> None:
    flow = flows.opened("GET", path)
    assert flows.answer_of(flow).status_code == 400
    assert flows.json_of(flow)["error"]["code"] == "invalid_path"
    assert flow.request.host == "relay.invalid"


def test_relay_s_own_paths_say_so_in_their_envelopes() -> None:
    for path in ("/chat?x=\x01", "/pro/balance?apiKey=a b"):
        flow = flows.opened("POST", path)
        assert (flows.answer_of(flow).status_code, flows.json_of(flow)["code"]) == (200, 400)


@pytest.mark.parametrize(
    ("alpn", "version", "served"),
    [
        *(
            (None, f"HTTP/{version}", version in ("1.0", "1.1"))
            for version in ("0.9", "1.0", "1.1", "1.2", "2.0", "3.0")
        ),
        *((b"http/1.1", f"HTTP/{version}", version == "1.1") for version in ("1.1", "2.0")),
        *((b"h2", f"HTTP/{version}", version == "2.0") for version in ("1.1", "2.0")),
        *((b"h3", version, version == "HTTP/3") for version in ("HTTP/2.0", "HTTP/3")),
    ],
)
def test_a_request_has_a_version_that_its_connection_can_have(alpn: bytes | None, version: str, served: bool) -> None:
    flow = flows.request("GET", "/v1/models", {"Host": "x"})
    flow.client_conn.alpn = alpn
    flow.request.http_version = version
    Routing(flows.settings()).requestheaders(flow)
    assert (flow.response is None) is served
    if not served:
        assert flows.answer_of(flow).status_code == 400


@pytest.mark.parametrize("path", ["/other/v1/models", "/other/anything?q=1", "/other", "/other/v1/v1/x"])
def test_under_a_route_any_path_goes_to_its_upstream(path: str) -> None:
    flow = flows.opened("GET", path)
    assert flow.response is None
    assert (flow.request.scheme, flow.request.host, flow.request.port) == ("http", "other.test", 8000)
    assert flow.request.host_header == "other.test:8000"
    assert not flow.request.path.startswith("/other")


@pytest.mark.parametrize(
    ("path", "kind", "upstream"),
    [
        ("/chat", Kind.CHAT, "test"),
        ("/pro/chat/completions", Kind.CHAT, "test"),
        ("/pro/balance?apiKey=x", Kind.BALANCE, "test"),
        ("//chat", Kind.CHAT, "test"),
        ("/chat/", Kind.CHAT, "test"),
        ("/chat/7/", Kind.CHAT, "test"),
        ("/pro/balance/?apiKey=x", Kind.BALANCE, "test"),
        ("/other/chat/", Kind.CHAT, "other"),
        ("/other/chat", Kind.CHAT, "other"),
        ("/other/pro/balance", Kind.BALANCE, "other"),
        *((path, Kind.OWN, "test") for path in OWN),
    ],
    ids=str,
)
def test_relay_s_own_paths_stay(path: str, kind: Kind, upstream: str) -> None:
    flow = flows.opened("GET", path)
    exchange = flows.exchange(flow)
    assert (exchange.kind, exchange.upstream.name) == (kind, upstream)
    assert flow.request.host == "relay.invalid"
    assert flow.response is None


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models",
        "/admin",
        "/chatter",
        "/chat/completionsx/y",
        "/v1/..%00/admin",
        "/models/../../admin",
        "/v1beta",
        "/v1/../admin",
        "/v1/%2e%2E/admin",
        "/other/../admin",
        "/other/v1/..",
        "/otherwise/v1",
    ],
)
def test_an_unknown_path_is_refused_and_goes_nowhere(path: str) -> None:
    flow = flows.opened("POST", path, {"Authorization": "Bearer sk-0123456789"})
    assert flows.answer_of(flow).status_code == 404
    assert flows.json_of(flow)["error"]["code"] == "unknown_path"
    assert flow.request.host == "relay.invalid"
    assert flows.exchange(flow).refused


def test_a_refusal_shows_little_of_a_long_path_and_no_key_of_it() -> None:
    flow = flows.opened("GET", "/sk-0123456789abcdef/" + "x" * 5000)
    message = flows.json_of(flow)["error"]["message"]
    assert len(message) < 400
    assert "0123456789" not in message


def test_the_head_goes_up_without_what_is_of_the_hop() -> None:
    sent = [
        (b"Host", b"relay.example"),
        (b"X-B", b"1"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"Accept-Encoding", b"gzip, br"),
        (b"Origin", b"https://page"),
        (b"x-b", b"2"),
    ]
    flow = flows.opened("GET", "/v1/models", sent)
    assert flow.request.headers.fields == (
        (b"Host", b"api.test"),
        (b"X-B", b"1"),
        (b"Accept-Encoding", b"gzip, br"),
        (b"Origin", b"https://page"),
        (b"x-b", b"2"),
    )
    exchange = flows.exchange(flow)
    assert (exchange.origin, exchange.client_closes) == (True, True)


def test_a_websocket_keeps_its_handshake() -> None:
    head = {"Connection": "Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Key": "x"}
    flow = flows.opened("GET", "/v1/realtime?model=x", head)
    assert {name: flow.request.headers[name] for name in head} == head
    flows.respond(flow, 101, b"", {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": "y"})
    Routing(flows.settings()).responseheaders(flow)
    assert set(flows.answer_of(flow).headers) >= {"Connection", "Upgrade", "Sec-WebSocket-Accept"}


def test_an_absolute_target_goes_up_as_a_path() -> None:
    flow = flows.request("GET", "/v1/models")
    flow.request.authority = "elsewhere.example"
    Routing(flows.settings()).requestheaders(flow)
    assert (flow.request.authority, flow.request.host) == ("", "api.test")


def test_the_answer_loses_what_is_of_the_hop_and_gains_an_id() -> None:
    flow = flows.opened("GET", "/v1/models", {"Origin": "https://page"})
    head = {"Alt-Svc": "h3", "Keep-Alive": "5", "Access-Control-Allow-Origin": "https://openai", "X-A": "1"}
    flows.respond(flow, 200, b"", head)
    Routing(flows.settings()).responseheaders(flow)
    headers = flows.answer_of(flow).headers
    assert "Alt-Svc" not in headers and "Keep-Alive" not in headers
    assert headers["X-A"] == "1"
    assert headers.get_all("Access-Control-Allow-Origin") == ["*"]
    assert headers["x-relay-request-id"] == flows.exchange(flow).id


def test_an_answer_of_relay_s_own_keeps_its_headers() -> None:
    flow = flows.opened("PUT", "/nowhere")
    flows.answer_of(flow).headers["Connection"] = "close"
    Routing(flows.settings()).responseheaders(flow)
    assert flows.answer_of(flow).headers["Connection"] == "close"
    assert "x-relay-request-id" in flows.answer_of(flow).headers


@pytest.mark.parametrize("replayed", [True, False], ids=["a sub-request", "a failed flow"])
def test_what_is_not_a_client_s_is_left_alone(replayed: bool) -> None:
    flow = flows.request("GET", "/v1/models", {"Connection": "x"})
    if replayed:
        flow.is_replay = "request"
    else:
        flows.fail(flow, "Client disconnected.")
    Routing(flows.settings()).requestheaders(flow)
    assert of(flow) is None
    assert flow.request.headers["Connection"] == "x"
    flows.respond(flow, 200, b"", {"Alt-Svc": "h3"})
    Routing(flows.settings()).responseheaders(flow)
    assert flows.answer_of(flow).headers["Alt-Svc"] == "h3"


PROXIED = [
    {"name": "far", "url": "https://far.test", "proxy": "http://user:secret@proxy.test:3128"},
    {"name": "near", "url": "https://near.test"},
]


@pytest.mark.parametrize("far", [True, False], ids=["through its proxy", "without one"])
def test_an_upstream_is_reached(far: bool) -> None:
    routes = [{"path": "/near", "upstream": "near"}]
    flow = flows.opened("GET", "/v1/models" if far else "/near/v1/models", upstreams=PROXIED, routes=routes)
    assert flow.server_conn.via == (("http", ("proxy.test", 3128)) if far else None)
