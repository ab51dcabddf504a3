import logging

import pytest

from addons import errors
from addons.exchange import FailureState, Kind
from addons.proxy.failures import Failures
from tests.support import flows


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("[Errno 111] Connect call failed ('10.1.2.3', 443)", 502, 502),
        ("[Errno 110] Connect call failed ('10.1.2.3', 443)", 504, 408),
        ("Certificate verify failed: self-signed", 502, 502),
        ("server closed connection", 502, 502),
        ("nobody knows", 502, 502),
        ("HTTP request has no host header, destination unknown.", 400, 400),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("kind", [Kind.PASS, Kind.CHAT, Kind.BALANCE], ids=lambda kind: kind.value)
def test_a_failure_is_told_in_the_caller_s_shape(kind: Kind, message: str, status: int, code: int) -> None:
    flow, exchange = flows.attached(kind, origin=True)
    flows.fail(flow, message)
    Failures().error(flow)
    answer = exchange.failure.substitute
    assert answer is not None
    assert flow.response is None
    assert answer.status_code == (status if kind is Kind.PASS else 200)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["x-relay-request-id"] == exchange.id
    body = answer.json()
    assert (
        list(body)
        == {
            Kind.PASS: ["error"],
            Kind.CHAT: ["code", "message", "data"],
            Kind.BALANCE: ["code", "message"],
        }[kind]
    )
    assert kind is Kind.PASS or body["code"] == code
    assert b"10.1.2.3" not in (answer.raw_content or b"")


def test_relay_s_own_reason_comes_first() -> None:
    flow, exchange = flows.attached(Kind.PASS)
    exchange.failure.fault = errors.TooLarge("过大。", "Too large.")
    flows.fail(flow, "Connection killed.")
    Failures().error(flow)
    assert exchange.failure.substitute is not None
    assert exchange.failure.substitute.status_code == 413


@pytest.mark.parametrize(
    ("message", "status"),
    [("connection closed", 504), ("nobody knows", 504), ("[Errno 111] refused", 502), ("bad certificate", 502)],
)
def test_a_connect_that_was_given_up_says_so_only_where_nothing_better_is_known(message: str, status: int) -> None:
    flow, exchange = flows.attached(Kind.PASS, failure=FailureState(connect_timed_out=True))
    flows.fail(flow, message)
    Failures().error(flow)
    assert exchange.failure.substitute is not None
    assert exchange.failure.substitute.status_code == status


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"committed": True}, id="an answer is on its way"),
        pytest.param({}, id="the client has left"),
    ],
)
def test_nothing_is_left_where_nobody_can_read_it(state: dict[str, bool]) -> None:
    flow, exchange = flows.attached(Kind.PASS, **state)
    flows.fail(flow, "server closed connection" if state else "Client disconnected.")
    Failures().error(flow)
    assert exchange.failure.substitute is None


def test_what_is_not_ours_is_left_alone() -> None:
    flow = flows.request("GET", "/v1/models")
    flows.fail(flow, "server closed connection")
    Failures().error(flow)
    assert flow.response is None


def test_a_failure_costs_one_log_line_without_a_query(caplog: pytest.LogCaptureFixture) -> None:
    flow = flows.opened("GET", "/v1/models?token=hidden")
    flows.fail(flow, "server closed connection")
    with caplog.at_level(logging.INFO):
        Failures().error(flow)
    assert len(caplog.records) == 1
    assert "GET /v1/models: 502" in caplog.text
    assert "hidden" not in caplog.text
