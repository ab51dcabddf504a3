import pytest

from addons.exchange import Kind
from addons.proxy.cors import Cors
from addons.proxy.routing import Routing
from tests.support import flows

PREFLIGHT = {
    "Origin": "https://page.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat", "/pro/balance", "/other/v1/x", "/other/chat"])
def test_a_preflight_is_answered_by_relay(path: str) -> None:
    flow = flows.opened("OPTIONS", path, PREFLIGHT)
    Cors().requestheaders(flow)
    Routing(flows.settings()).responseheaders(flow)
    answer = flows.answer_of(flow)
    assert (answer.status_code, answer.raw_content) == (204, b"")
    assert answer.headers.get_all("Access-Control-Allow-Origin") == ["*"]
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert answer.headers["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert flows.exchange(flow).refused


def test_headers_that_nobody_asked_for_are_not_allowed() -> None:
    head = {name: value for name, value in PREFLIGHT.items() if not name.endswith("Headers")}
    flow = flows.opened("OPTIONS", "/v1/models", head)
    Cors().requestheaders(flow)
    assert "Access-Control-Allow-Headers" not in flows.answer_of(flow).headers


@pytest.mark.parametrize(
    ("method", "missing"),
    [
        pytest.param("OPTIONS", "Origin", id="an OPTIONS without Origin"),
        pytest.param("OPTIONS", "Access-Control-Request-Method", id="an OPTIONS that is no preflight"),
        pytest.param("POST", "", id="a POST with all its headers"),
    ],
)
def test_anything_else_passes(method: str, missing: str) -> None:
    head = {name: value for name, value in PREFLIGHT.items() if name != missing}
    flow = flows.opened(method, "/v1/models", head)
    Cors().requestheaders(flow)
    assert flow.response is None
    assert not flows.exchange(flow).refused


def test_an_unknown_path_stays_refused() -> None:
    flow = flows.opened("OPTIONS", "/nowhere", PREFLIGHT)
    Cors().requestheaders(flow)
    assert flows.answer_of(flow).status_code == 404


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_sub_request_is_none_of_ours(kind: Kind) -> None:
    flow = flows.request("OPTIONS", "/v1/models", PREFLIGHT)
    Cors().requestheaders(flow)
    assert flow.response is None
