"""What an export is told of a flow: relay's notes where there are any, the record itself where there are none."""

from decimal import Decimal
from typing import Any

import pytest
from mitmproxy import flow, http
from mitmproxy.test import tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from addons.core.export.record import Exported
from addons.core.metered import Metered
from addons.flow.exported import exported
from tests.support.agent_flows import flows, hash_of, id_of
from tests.support.agent_runs import CI_SEED, agent_runs
from tests.support.recordings import made, settings

UPSTREAMS = settings().upstreams


def told(each: flow.Flow) -> Exported:
    found = exported(each, UPSTREAMS)
    assert found is not None
    return found


def test_agents_runs_are_told_with_relays_notes() -> None:
    calls = list(agent_runs(CI_SEED, 60))
    for call, each in zip(calls, flows(calls), strict=True):
        found = told(each)
        assert (found.id, found.model, found.status) == (id_of(call.index), call.model, call.status)
        assert found.thread == hash_of(call.truth.thread)
        assert found.cause is not None and found.cause.reason == call.truth.reason
        assert found.cause.cost == (None if call.truth.cost is None else Decimal(call.truth.cost) / 10**9)
        assert (found.cost is None) == (found.tokens is None) == (call.usage is None)


def test_without_notes_the_answer_tells_what_was_used() -> None:
    calls = list(agent_runs(CI_SEED, 60))
    for call, each in zip(calls, flows(calls, noted=False), strict=True):
        found = told(each)
        assert found.model == call.model and found.thread is None and found.cause is None and found.cost is None
        assert found.duration_ms == pytest.approx(call.took * 1000, abs=1)
        if call.usage is not None:
            assert found.tokens is not None
            used = (found.tokens.input, found.tokens.cached, found.tokens.output)
            assert used == (call.usage.input, call.usage.cached, call.usage.output)


@pytest.mark.parametrize(
    ("notes", "field", "value"),
    [
        ({"relay.cost": "~0.012"}, "cost", Decimal("0.012")),
        ({"relay.cost": "~0.012"}, "estimated", True),
        ({"relay.cost": "much"}, "cost", None),
        ({"relay.tokens": {"input": 5, "cached": 2}}, "tokens", Metered(input=5, cached=2)),
        ({"relay.tokens": {"input": 5, "else": 2}}, "tokens", None),
        ({"relay.tokens": [1]}, "tokens", None),
        ({"relay.usage": {"prompt_tokens": 3, "completion_tokens": 1}}, "tokens", Metered(input=3, output=1)),
        ({"relay.chat": {"session": "4f1c2a9e"}}, "session", "4f1c2a9e"),
        ({"relay.session": "4f1c2a9e00", "relay.chat": {"session": "4f1c2a9e"}}, "session", "4f1c2a9e00"),
        ({"relay.thread": 7}, "thread", None),
        ({"relay.known": True}, "known", None),
        ({"relay.known": -1}, "known", None),
        ({"relay.upstream": "two"}, "upstream", "two"),
        ({}, "upstream", "one"),
        ({"relay.upstream_path": "/v1/x"}, "upstream_path", "/v1/x"),
        (
            {"relay.attempts": [{"upstream": "one", "ms": 3.5, "else": [1]}, 4]},
            "attempts",
            ({"upstream": "one", "ms": 3.5},),
        ),
        ({"relay.attempts": "x"}, "attempts", ()),
        ({"relay.cause": {"reason": "retry", "tokens": "x", "cost": 3}}, "cause", None),
    ],
)
def test_notes_are_read_where_they_are_what_they_should_be(notes: dict[str, Any], field: str, value: object) -> None:
    found = getattr(told(made(meta=notes)), field)
    if field == "cause":
        assert (found.reason, found.tokens, found.cost) == ("retry", None, None)
    else:
        assert found == value


def test_bodies_are_decoded_and_cut_ones_say_so() -> None:
    each = made(meta={"relay.answer_bytes": 9_000_000})
    assert each.response is not None
    each.response.headers["content-encoding"] = "gzip"
    each.response.content = b'{"a": 1}'
    found = told(each).response
    assert found is not None and (found.body, found.size) == (b'{"a": 1}', 9_000_000)


def test_what_relay_answered_has_no_upstream() -> None:
    each = made()
    each.request.host = "relay.invalid"
    assert told(each).upstream is None
    each.request.host = "elsewhere.test"
    assert told(each).upstream == "elsewhere.test"


def test_messages_of_a_websocket_are_told() -> None:
    each = tflow.twebsocketflow()
    assert each.websocket is not None
    each.websocket.messages = [
        WebSocketMessage(Opcode.TEXT, True, b"hi", 1.0),
        WebSocketMessage(Opcode.BINARY, False, b"\xff", 2.0),
    ]
    socket = told(each).socket
    assert socket is not None and [(one.from_client, one.text, one.size) for one in socket] == [
        (True, "hi", 2),
        (False, None, 1),
    ]


@pytest.mark.parametrize("each", [tflow.ttcpflow(), tflow.tdnsflow(), tflow.tflow()])
def test_what_is_no_exchange_that_is_over_is_left_out(each: flow.Flow) -> None:
    assert exported(each, UPSTREAMS) is None


def test_one_that_broke_off_says_so() -> None:
    each: http.HTTPFlow = tflow.tflow(err=True)
    found = told(each)
    assert found.error == "error" and found.status is None
