"""What the flow list says of an exchange, and what it marks."""

import json
import re
from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import view
from mitmproxy.test import taddons

from addons import errors
from addons.core.summary import FAILED
from addons.exchange import Kind
from addons.flow.answers import refuse
from addons.inspection.flow_summary import FlowSummary
from tests.support import dialects, flows


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """Somebody looks."""
    with taddons.context(view.View()):
        yield


def noted(flow: http.HTTPFlow, hook: str = "response") -> str:
    """The comment without its times."""
    getattr(FlowSummary(), hook)(flow)
    return " · ".join(part for part in flow.comment.split(" · ") if not re.fullmatch(r"(first byte )?\d+ ms", part))


def test_a_completion() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.request.content = b'{"model": "gpt-4o"}'
    flows.respond(flow, 200, {"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert noted(flow) == "gpt-4o · 3→4 tok"
    assert flow.metadata["relay.model"] == "gpt-4o"
    assert flow.marked == ""


@pytest.mark.parametrize(
    ("path", "asked", "answer", "line"),
    [
        (
            dialects.MESSAGES,
            dialects.messages_request(),
            dialects.messages_answer(),
            "claude-sonnet-4-5-20250929 · 18,259 (18,000 cached)→87 tok",
        ),
        (
            f"/gemini{dialects.GEMINI}?alt=sse",
            dialects.gemini_request(),
            dialects.gemini_pieces()[-1],
            "gemini-2.5-pro · 12,000 (9,000 cached)→100 tok",
        ),
        (
            dialects.RESPONSES,
            dialects.responses_request(),
            dialects.responses_events()[-1],
            "gpt-5-codex · 12,000 (11,000 cached)→90 tok",
        ),
    ],
)
def test_tokens_of_other_dialects(path: str, asked: object, answer: object, line: str) -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.request.path = path
    flow.request.content = json.dumps(asked).encode()
    flows.respond(flow, 200, answer)
    assert noted(flow) == line


def test_an_upstream_s_refusal() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flows.respond(flow, 429, {"error": {"code": "insufficient_quota"}})
    assert noted(flow) == "429 insufficient_quota"
    assert flow.marked == FAILED


def test_what_it_met_at_upstreams() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.request.content = b'{"model": "gpt-4o"}'
    flow.metadata["relay.attempts"] = [{"upstream": "two", "status": 200}]
    flow.metadata["relay.passed_over"] = ["one rate limited"]
    flows.respond(flow, 200, {"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert noted(flow) == "gpt-4o · 3→4 tok · one rate limited → two"


@pytest.mark.parametrize(
    ("kind", "status"), [(Kind.PASS, 413), (Kind.CHAT, 413), (Kind.BALANCE, 413)], ids=lambda value: str(value)
)
def test_why_relay_refused(kind: Kind, status: int) -> None:
    flow, exchange = flows.attached(kind)
    refuse(flow, exchange, errors.TooLarge("请求体过大。", "The body is over 5 bytes."))
    assert noted(flow) == f"{status} request_too_large: The body is over 5 bytes."
    assert flow.marked == FAILED


@pytest.mark.parametrize("body", ["{}", 'data: {{"delta": "你"}}\n\ndata: {}\n\n'], ids=["an envelope", "a stream"])
def test_why_a_message_failed_after_it_went_upstream(body: str) -> None:
    flow, _ = flows.attached(Kind.CHAT)
    told = errors.RateLimited("请求过于频繁,请稍后再试。", "Rate limited: slow down.").envelope().decode()
    flows.respond(flow, 200, body.format(told).encode())
    assert noted(flow) == "429: Rate limited: slow down."
    assert flow.marked == FAILED


def test_the_time_is_that_of_the_exchange_and_not_of_its_record() -> None:
    flow, exchange = flows.attached(Kind.PASS)
    flows.respond(flow, 200, {})
    exchange.record.ended_at = exchange.started + 1.5
    FlowSummary().response(flow)
    assert flow.comment == "first byte 1.5 s · 1.5 s"


def test_who_asked_in_which_session_or_thread() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.metadata |= {"relay.key": "alice", "relay.thread": "4f1c2a9e", "relay.cause": {"reason": "retry"}}
    flows.respond(flow, 200, {})
    assert noted(flow) == "alice · #4f1c2a9e · retry"
    flow.metadata["relay.session"] = "ab" * 32
    assert noted(flow) == "alice · session abababab · retry"


def test_what_broke() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flows.fail(flow, "peer closed connection")
    assert noted(flow, "error") == "peer closed connection"
    assert flow.marked == FAILED


def test_a_person_s_mark_stays() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.marked = ":red_circle:"
    flows.respond(flow, 500)
    noted(flow)
    assert flow.marked == ":red_circle:"
