"""Spans, and what they say of what was asked."""

import json
import tomllib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.metered import Metered
from addons.core.metrics import SEMANTIC_CONVENTIONS
from addons.core.observed import Observed, Outcome, Used
from addons.core.span_content import LONGEST, answered, asked
from addons.core.spans import export, parent_of, spans_of
from addons.telemetry.tracing import VERSION

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def ids() -> Iterator[str]:
    return (f"{number:016x}" for number in count(1))


def observed(**more: Any) -> Observed:
    usual: dict[str, Any] = {"id": "req_1", "ended": 1000.0, "seconds": 2.0, "endpoint": "files", "status": 200}
    return Observed(**usual | more)


def said(span: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for each in span["attributes"]:
        [(kind, value)] = each["value"].items()
        found[each["key"]] = int(value) if kind == "intValue" else value
    return found


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
        PARENT[:-1],
    ],
)
def test_what_is_no_parent(header: str) -> None:
    assert parent_of(header) is None


def test_a_parent() -> None:
    assert parent_of(f" {PARENT} ") == (TRACE, SPAN, True)
    assert parent_of(f"00-{TRACE}-{SPAN}-00") == (TRACE, SPAN, False)
    assert parent_of(f"cc-{TRACE}-{SPAN}-03-of.tomorrow") == (TRACE, SPAN, True), "a later version may say more"


@given(st.text(max_size=80))
def test_no_header_breaks_it(header: str) -> None:
    parent_of(header)


def test_an_exchange_and_its_attempts() -> None:
    attempts = [
        {"upstream": "one", "start": 998.5, "ms": 100.0, "status": 429, "reason": "rate limited", "key": "hash"},
        {"upstream": "two", "start": 998.7, "ms": 1200.0, "status": 200},
    ]
    used = Used(model="gpt-4o", usage=Metered(input=9, output=14, cached=4), cost=58500)
    seen = observed(operation="chat", upstream="two", used=used, attempts=attempts, asked_times=2, asked=0.5)
    [span, first, second] = spans_of(seen, ids(), parent_of(PARENT))
    assert (span["traceId"], span["parentSpanId"], span["name"], span["kind"]) == (TRACE, SPAN, "chat gpt-4o", 2)
    assert (span["startTimeUnixNano"], span["endTimeUnixNano"]) == ("998000000000", "1000000000000")
    assert span["status"] == {"code": 0}
    about = said(span)
    assert about["gen_ai.usage.input_tokens"] == 9 and about["gen_ai.usage.cache_read.input_tokens"] == 4
    assert about["relay.cost_nanodollars"] == 58500 and about["relay.request_id"] == "req_1"
    assert "gen_ai.input.messages" not in about and "error.type" not in about
    assert {each["parentSpanId"] for each in (first, second)} == {span["spanId"]}
    assert len({each["spanId"] for each in (span, first, second)}) == 3
    assert first["status"] == {"code": 2, "message": "rate_limited"} and said(first)["error.type"] == "rate_limited"
    assert second["status"] == {"code": 0} and said(second)["http.response.status_code"] == 200
    assert (second["startTimeUnixNano"], second["endTimeUnixNano"]) == ("998700000000", "999900000000")


def test_one_attempt_that_went_well_is_told_too() -> None:
    seen = observed(upstream="one", asked=0.25, upstream_seconds=1.5, asked_times=1)
    [span, attempt] = spans_of(seen, ids(), None)
    assert "parentSpanId" not in span and len(span["traceId"]) == 32
    assert (attempt["startTimeUnixNano"], attempt["endTimeUnixNano"]) == ("998250000000", "999750000000")
    assert "gen_ai.operation.name" not in said(span)


def test_what_failed_says_so() -> None:
    seen = observed(outcome=Outcome.BROKEN, error="cut", asked=0.25, upstream_seconds=1.5, asked_times=1)
    [span, attempt] = spans_of(seen, ids(), None)
    assert span["status"] == {"code": 2, "message": "cut"} and attempt["status"]["code"] == 2
    assert spans_of(observed(status=None, outcome=Outcome.REFUSED, error="x"), ids(), None)[1:] == []


def test_what_is_posted_names_its_conventions() -> None:
    posted = export(spans_of(observed(), ids(), None), VERSION)
    [resource] = posted["resourceSpans"]
    assert resource["scopeSpans"][0]["schemaUrl"].endswith(f"/{SEMANTIC_CONVENTIONS}")
    json.dumps(posted)


def test_the_version_is_the_project_s() -> None:
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"] == VERSION


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
            ["system: s", "user: u"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "x"}]}]},
            ["user: a\n[...]"],
        ),
        ({"input": "hello"}, ["user: hello"]),
        ({"input": ["a", {"role": "user", "content": "b"}, 7]}, ["user: a", "user: b"]),
        ({"prompt": "p"}, ["user: p"]),
        ([1], ["user: [1]"]),
    ],
)
def test_what_was_asked(body: object, expected: list[str]) -> None:
    told = json.loads(asked(json.dumps(body).encode()))
    assert [f"{each['role']}: {each['parts'][0]['content']}" for each in told] == expected


@pytest.mark.parametrize(
    ("body", "stream", "expected"),
    [
        (b'{"choices": [{"message": {"content": "a"}}, {"text": "b"}]}', False, ["a", "b"]),
        (b'{"code": 200, "message": "", "data": "c"}', False, ["c"]),
        (b'{"output": [{"role": "assistant", "content": [{"text": "d"}]}]}', False, ["d"]),
        (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"delta": "b"}\n\ndata: [DONE]\n\n', True, ["ab"]),
        (b'data: {"delta": {"text": "c"}}\n\n', True, ["c"]),
        (b"\xff not JSON", False, ["\ufffd not JSON"]),
    ],
)
def test_what_was_answered(body: bytes, stream: bool, expected: list[str]) -> None:
    told = json.loads(answered(body, stream=stream))
    assert [each["parts"][0]["content"] for each in told] == expected


@given(st.binary(max_size=300), st.booleans())
def test_no_body_breaks_it(body: bytes, stream: bool) -> None:
    json.loads(asked(body))
    json.loads(answered(body, stream=stream))


def test_there_is_an_end_to_it() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 20_000}] * 3}).encode()
    assert len(asked(body)) < LONGEST + 1000
    assert len(asked(b"y" * 10**6)) < LONGEST + 1000
    assert len(asked(b"[" * 60_000)) < LONGEST + 1000
