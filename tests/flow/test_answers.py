import pytest
from mitmproxy import http

from addons import engine, errors
from addons.exchange import Kind
from addons.flow import answers
from tests.support import flows

ERROR = errors.Unauthorized("密钥无效。", "The key was refused.")


@pytest.mark.parametrize(
    ("kind", "status", "names"),
    [
        pytest.param(Kind.PASS, 401, ["error"], id="OpenAI's own paths get OpenAI's shape"),
        pytest.param(Kind.OWN, 401, ["error"], id="relay's own paths, too"),
        pytest.param(Kind.CHAT, 200, ["code", "message", "data"], id="chat gets an envelope under 200"),
        pytest.param(Kind.BALANCE, 200, ["code", "message"], id="balance gets one without data"),
    ],
)
def test_an_error_has_the_shape_that_its_caller_reads(kind: Kind, status: int, names: list[str]) -> None:
    flow, exchange = flows.attached(kind)
    answers.refuse(flow, exchange, ERROR)
    assert flows.answer_of(flow).status_code == status
    assert flows.answer_of(flow).headers["Content-Type"] == "application/json; charset=utf-8"
    assert list(flows.json_of(flow)) == names
    assert exchange.refused


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_wrong_method_is_405_everywhere(kind: Kind) -> None:
    response = answers.error_response(kind, errors.MethodNotAllowed("PUT", "POST"))
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_every_answer_declares_its_length_in_bytes() -> None:
    assert answers.json_response("你好".encode(), 201).headers["Content-Length"] == "6"
    assert answers.json_response(b"", 201).status_code == 201


@pytest.mark.parametrize("installed", [True, False], ids=["goes out at once", "waits for the body where it must"])
def test_an_answer_in_the_head(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(engine, "installed", lambda: installed)
    flow, exchange = flows.attached(Kind.PASS)
    response = http.Response.make(204)
    answers.answer(flow, response)
    assert flow.response is response
    assert flow.request.stream is installed
    assert exchange.refused
    assert "connection" not in response.headers


def test_a_client_that_waits_for_100_is_closed_after_its_answer() -> None:
    flow, exchange = flows.attached(Kind.PASS)
    flow.request.headers["Expect"] = "100-continue"
    answers.refuse(flow, exchange, ERROR)
    assert flows.answer_of(flow).headers["Connection"] == "close"
    assert "Expect" not in flow.request.headers  # or mitmproxy would answer 100 as well


@pytest.mark.parametrize("origin", [True, False], ids=["to a browser", "to others"])
@pytest.mark.parametrize("closes", [True, False], ids=["who closes", "who stays"])
def test_an_answer_carries_the_common_headers(origin: bool, closes: bool) -> None:
    _, exchange = flows.attached(Kind.PASS, origin=origin, client_closes=closes)
    response = http.Response.make(200, b"x")
    answers.add_common_headers(response, exchange)
    assert response.headers["x-relay-request-id"] == exchange.id
    assert response.headers.get_all("Access-Control-Allow-Origin") == (["*"] if origin else [])
    assert response.headers.get_all("Access-Control-Expose-Headers") == (["*"] if origin else [])
    assert response.headers.get("Connection") == ("close" if closes else None)


def test_ids_are_told_apart() -> None:
    ids = {flows.attached(Kind.PASS)[1].id for _ in range(100)}
    assert len(ids) == 100
    assert all(each.startswith("req_") for each in ids)
