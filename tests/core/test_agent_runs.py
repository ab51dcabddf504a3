"""The generator of agent runs is right by its own definitions. It is FROZEN: tests/support/agent_runs/__init__.py."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest

from tests.support.agent_runs import CI_CALLS, CI_SEED, DIALECTS, REASONS, SCENARIOS, Call, agent_runs
from tests.support.agent_runs.prices import PRICES
from tests.support.agent_runs_anew import SETTINGS, Reader, answer_id, at_path, billed, events_of, said, size_of, told

FROZEN = "adc791ea4ec65cc2a67435646c65bc49bcede8caf324adf789cd97b877ccb1c3"
"""Whoever has to change this: is the generator at fault by its own definitions, or not as real agents and upstreams
are? Only then, and not beside work on the classifier that is judged by it; the commit says what the fault was."""


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    return list(agent_runs(CI_SEED, CI_CALLS))


@pytest.fixture(scope="module")
def reader(calls: list[Call]) -> Reader:
    return Reader(calls)


def digest(calls: list[Call]) -> str:
    """Of all that there is of the calls."""
    running = sha256()
    for call in calls:
        head = (call.index, call.at, call.took, call.scenario, call.program, call.dialect, call.method, call.path)
        rest = (call.headers, call.key, call.upstream, call.model, call.answer_type, call.status, call.outcome)
        running.update(repr((head, rest, call.usage, call.truth)).encode())
        running.update(call.body)
        running.update(call.answer)
    return running.hexdigest()


def of_threads(calls: list[Call]) -> Iterator[list[Call]]:
    for thread in dict.fromkeys(each.truth.thread for each in calls):
        yield [each for each in calls if each.truth.thread == thread]


def test_it_is_frozen(calls: list[Call]) -> None:
    assert digest(calls) == FROZEN, "the generator is frozen: read what stands at FROZEN"


def test_a_seed_gives_the_same_and_fewer_calls_are_the_beginning_of_more() -> None:
    some = list(agent_runs(5, 60))
    assert digest(some) == digest(list(agent_runs(5, 90))[:60])
    assert digest(some) != digest(list(agent_runs(6, 60)))


@pytest.mark.parametrize("seed", [CI_SEED, 1, 2])
def test_all_kinds_occur_in_500_calls(seed: int) -> None:
    calls = list(agent_runs(seed, 500))
    reasons = Counter((each.truth.reason, each.truth.part) for each in calls if not each.truth.ambiguous)
    assert {reason for reason, _ in reasons} == set(REASONS)
    assert {part for reason, part in reasons if reason == "prefix_changed"} == {"tools", "system", "message"}
    assert min(reasons.values()) >= 2
    assert {each.scenario for each in calls} == set(SCENARIOS)
    dialects = Counter(each.dialect for each in calls)
    assert set(dialects) == set(DIALECTS) and min(dialects.values()) > 100
    assert {each.outcome for each in calls} == {"answered", "refused", "timed_out", "left"}
    assert {each.answer_type for each in calls if each.outcome == "answered"} == {
        "application/json",
        "text/event-stream",
    }
    assert 1 <= sum(each.truth.ambiguous for each in calls) <= 8


def test_calls_pass_in_the_order_of_time_and_a_thread_waits_for_its_answers(calls: list[Call]) -> None:
    assert [each.index for each in calls] == list(range(CI_CALLS))
    assert all(one.at <= other.at for one, other in pairwise(calls))
    for thread in of_threads(calls):
        assert all(one.at + one.took <= other.at for one, other in pairwise(thread))


def test_pauses_are_short_or_long_beyond_doubt(calls: list[Call]) -> None:
    """No call stands near the end of a cache's life: one has to know no more of it than what everybody knows."""
    for thread in of_threads(calls):
        for one, other in pairwise(thread):
            gap, body = other.at - one.at, one.body
            lives = 86_400 if b'"24h"' in body else 3_600 if b'"ttl":"1h"' in body else 300
            assert gap < 0.9 * lives or gap > (
                7_200 if b'"ttl":"1h"' in body or other.dialect != "messages" else 2 * lives
            )


def test_a_previous_call_is_the_last_of_the_thread_or_the_one_asked_again(calls: list[Call]) -> None:
    for thread in of_threads(calls):
        assert thread[0].truth.previous is None and thread[0].truth.reason == "first_turn"
        for one, other in pairwise(thread):
            if other.truth.reason == "retry":
                assert other.truth.previous is not None
                again = calls[other.truth.previous]
                assert again.truth.thread == other.truth.thread
                assert again.body == other.body
            else:
                assert other.truth.previous == one.index
                assert other.truth.reason != "first_turn"


def test_each_path_leads_to_the_first_difference(calls: list[Call], reader: Reader) -> None:
    """The first leaf in which both differ, found by other code, lies at or under the path; and the values are there."""
    for call in calls:
        truth = call.truth
        if truth.previous is None:
            assert truth.path is None and truth.before is None and truth.after is None
            continue
        before = calls[truth.previous]
        leaf = reader.first_leaf(before, call)
        if truth.path is None:
            assert leaf is None and truth.reason == "retry"
            continue
        assert leaf is not None and leaf.startswith(truth.path), (call.index, truth, leaf)
        assert (truth.before is None) == (truth.reason == "new_turn" or found(before, call, truth.path, reader) is None)
        if truth.after is not None:
            value = at_path(call.request, truth.path)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            assert truth.after.strip("…") in unmarked(text)


def found(before: Call, call: Call, path: str, reader: Reader) -> Any:
    """What was at the path before; in a chain, whose paths start at what is new, among the items kept."""
    if "previous_response_id" in call.request and path.startswith("input"):
        return None
    try:
        return at_path(before.request, path)
    except (KeyError, IndexError, TypeError):
        return "text alone" if path.endswith("[0].text") and call.dialect == "messages" else None


def unmarked(text: str) -> str:
    for mark in (',"cache_control":{"type":"ephemeral"}', ',"cache_control":{"type":"ephemeral","ttl":"1h"}'):
        text = text.replace(mark, "")
    return text


def test_a_path_that_ends_above_a_leaf_ends_at_another_element_or_at_one_that_was_not_there(calls: list[Call]) -> None:
    names = ("type", "role", "name", "id", "call_id", "tool_call_id", "tool_use_id")
    for call in calls:
        path, previous = call.truth.path, call.truth.previous
        if path is None or previous is None or call.truth.before is None or call.truth.after is None:
            continue
        one, other = call.truth.before, call.truth.after
        if not (one.startswith("{") and other.startswith("{")) or "previous_response_id" in call.request:
            continue
        old, new = at_path(calls[previous].request, path), at_path(call.request, path)
        if isinstance(old, dict) and isinstance(new, dict):
            differ = [old.get(name) != new.get(name) for name in names]
            assert any(differ) or old["function"]["name"] != new["function"]["name"]


def test_reasons_hold(calls: list[Call]) -> None:
    for call in calls:
        truth = call.truth
        assert truth.reason in REASONS
        assert (truth.part is not None) == (truth.reason == "prefix_changed")
        if truth.previous is None:
            continue
        before = calls[truth.previous]
        moved = (before.upstream, before.key) != (call.upstream, call.key)
        root = (truth.path or "").partition(".")[0].partition("[")[0]
        if truth.reason == "other_upstream":
            assert moved
        elif truth.reason == "new_turn":
            assert not moved and truth.before is None and root in ("messages", "input") and call.model == before.model
        elif truth.reason == "settings_changed":
            assert root == "model" or root in SETTINGS
        elif truth.reason == "prefix_changed":
            assert root in {"tools": ("tools",), "system": ("system", "instructions", "messages", "input")}.get(
                truth.part or "", ("messages", "input")
            )
        elif truth.reason == "cache_expired":
            assert (
                call.at - before.at > 600
                and call.usage is not None
                and call.usage.cached < call.usage.input // 2 + 4_000
            )
        assert not moved or truth.reason in ("other_upstream", "retry")


def test_usage_adds_up_and_is_what_the_answer_tells(calls: list[Call], reader: Reader) -> None:
    for call in calls:
        if call.usage is None:
            assert call.outcome != "answered" and call.truth.tokens is None and call.truth.cost is None
            assert b'"completion_tokens":' not in call.answer and b"response.completed" not in call.answer
            continue
        usage = call.usage
        assert (usage.input, usage.cached, usage.written, usage.output) == billed(call)
        assert 0 <= usage.cached <= usage.cached + usage.written <= usage.input
        assert usage.output >= 1
        if call.dialect == "messages":
            split = told(call)["cache_creation"]
            assert split == {
                "ephemeral_5m_input_tokens": usage.written_5m,
                "ephemeral_1h_input_tokens": usage.written_1h,
            }
            continue
        assert told(call)["total_tokens"] == usage.input + usage.output
        assert usage.cached == 0 or (usage.cached >= 1024 and usage.cached % 128 == 0)
        body = call.request
        items = body["messages" if call.dialect == "chat" else "input"]
        parts: list[Any] = [*body.get("tools", ()), *reader.kept[call.index], *items]
        parts += [body["instructions"]] if "instructions" in body else []
        assert usage.input == sum(map(size_of, parts)) // 4


def held(call: Call) -> int:
    """How much of a prompt lies in the cache after its call, from its usage alone."""
    assert call.usage is not None
    if call.dialect == "messages":
        return call.usage.cached + call.usage.written
    return call.usage.input // 128 * 128 if call.usage.input >= 1024 else 0


def test_tokens_and_cost_follow_from_usage_alone(calls: list[Call]) -> None:
    for call in calls:
        truth, usage = call.truth, call.usage
        if usage is None:
            continue
        thread = [
            each
            for each in calls[: -1 if truth.previous is None else truth.previous + 1]
            if each.truth.thread == truth.thread
        ]
        worked_on = [each for each in thread if each.outcome != "refused"]
        if truth.previous is None or truth.reason == "new_turn" or not worked_on:
            assert truth.tokens == 0 and truth.cost == 0, (call.index, truth)
            continue
        if worked_on[-1].usage is None:
            assert truth.tokens == 0 and truth.reason == "retry"
            continue
        tokens = max(0, min(held(worked_on[-1]), held(call)) - usage.cached)
        assert truth.tokens == tokens
        price = PRICES[call.model]
        rate = price.written_1h if usage.written_1h else price.written_5m if usage.written_5m else price.input
        assert truth.cost == tokens * rate


def test_what_costs_no_cached_token_is_told_so(calls: list[Call]) -> None:
    """Each reason that is to lose tokens does lose some, where anything was cached; a changed setting of sampling does
    not.
    """
    lost = Counter[str]()
    for call in calls:
        lost[call.truth.reason] += call.truth.tokens or 0
        if call.truth.reason == "settings_changed" and call.dialect != "messages" and call.truth.path != "model":
            assert call.truth.tokens == 0
    assert {reason for reason, tokens in lost.items() if tokens} >= {
        *("cache_expired", "prefix_changed", "compaction", "settings_changed", "other_upstream"),
    }


def test_costs_are_worth_telling(calls: list[Call]) -> None:
    """Some causes cost several cents, so that "to the cent" says something."""
    assert sum((each.truth.cost or 0) > 10_000_000 for each in calls) >= 20


def test_histories_hold_what_was_answered(calls: list[Call], reader: Reader) -> None:
    """A new turn begins with the answer that the call before it got."""
    for call in calls:
        if call.truth.reason != "new_turn" or call.truth.previous is None:
            continue
        before = calls[call.truth.previous]
        if before.outcome != "answered" or "previous_response_id" in call.request:
            continue
        name = "input" if call.dialect == "responses" else "messages"
        new = call.request[name][len(before.request[name]) :]
        assert (new[0]["content"] if call.dialect == "messages" else new[: len(said(before))]) == said(before)


MARKS = re.compile(r"(?:call_|toolu_01|resp_)[0-9a-f]{22}|\[[0-9a-f]{10}\]")
"""Ids of calls and of answers that requests name, and the ends of texts: what is in no two answers."""


def test_threads_can_be_told(calls: list[Call]) -> None:
    """A later call repeats an earlier request of its thread, or has something that was answered in it.

    It has nothing that was answered in another one, but for what a subagent told its parent.
    """
    answered_in: dict[str, str] = {}
    requests: dict[str, set[bytes]] = {}
    family = {each.truth.thread: each.truth.parent for each in calls}
    for call in calls:
        thread = call.truth.thread
        known = {answered_in[each] for each in MARKS.findall(call.body.decode()) if each in answered_in}
        if call.truth.reason != "first_turn":
            assert call.body in requests[thread] or thread in known, call.index
        assert all(thread in (other, family[other]) or family[thread] == other for other in known), call.index
        requests.setdefault(thread, set()).add(call.body)
        if call.outcome == "answered":
            told_now = MARKS.findall(json.dumps([answer_id(call), *said(call)]))
            assert told_now and not answered_in.keys() & set(told_now)
            answered_in |= dict.fromkeys(told_now, thread)


def test_the_same_request_in_two_threads_can_be_told(calls: list[Call]) -> None:
    """Its first answer was whole, or the sessions' ids differ; and both are the first of their threads."""
    seen: dict[bytes, Call] = {}
    twins = 0
    for call in calls:
        key = call.body
        if key in seen and seen[key].truth.thread != call.truth.thread:
            assert seen[key].outcome == "answered"
            assert call.truth.reason == seen[key].truth.reason == "first_turn"
            twins += 1
        seen.setdefault(key, call)
    assert twins


def test_calls_of_tools_have_their_results(calls: list[Call], reader: Reader) -> None:
    """As upstreams ask for it: each result answers a call before it, each call has one result; in messages at once."""
    for call in calls:
        body = call.request
        if call.dialect == "responses":
            items = [*reader.kept[call.index], *body["input"]]
            asked = [each["call_id"] for each in items if each.get("type") == "function_call"]
            given = [each["call_id"] for each in items if each.get("type") == "function_call_output"]
        elif call.dialect == "chat":
            asked = [each["id"] for message in body["messages"] for each in message.get("tool_calls") or ()]
            given = [each["tool_call_id"] for each in body["messages"] if each["role"] == "tool"]
        else:
            blocks = [
                each
                for message in body["messages"]
                if isinstance(message["content"], list)
                for each in message["content"]
            ]
            asked = [each["id"] for each in blocks if each["type"] == "tool_use"]
            given = [each["tool_use_id"] for each in blocks if each["type"] == "tool_result"]
        assert sorted(asked) == sorted(given)
        assert len(set(asked)) == len(asked)


def test_bodies_are_of_their_dialect(calls: list[Call]) -> None:
    for call in calls:
        body = call.request
        assert json.loads(call.body) == body
        assert body["model"] == call.model in PRICES
        assert call.method == "POST" and call.path.partition("?")[0].endswith(
            {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}[call.dialect]
        )
        if call.dialect == "chat":
            assert {each["role"] for each in body["messages"]} <= {"system", "user", "assistant", "tool"}
            assert all(each["type"] == "function" and each["function"]["name"] for each in body.get("tools", ()))
        elif call.dialect == "responses":
            kinds = {each["type"] for each in body["input"]}
            assert kinds <= {"message", "function_call", "function_call_output", "reasoning"} and body["input"]
        else:
            assert body["max_tokens"] > 0 and body["messages"][0]["role"] == "user"
            assert call.body.count(b'"cache_control"') <= 4
            assert all(set(each) == {"name", "description", "input_schema"} for each in body.get("tools", ()))


SESSIONS = ("session_id", "x-claude-code-session-id", "x-session-affinity")


def test_headers_are_those_of_programs(calls: list[Call]) -> None:
    for call in calls:
        headers = dict(call.headers)
        assert len(headers) == len(call.headers)
        assert call.key in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer "))
        assert headers["user-agent"] and headers["content-type"] == "application/json"
    named = {name: {name in dict(each.headers) for each in calls} for name in SESSIONS}
    assert all(each == {True, False} for each in named.values())
    able = [each for each in calls if each.program in ("Codex", "Claude Code", "opencode")]
    assert {any(name in dict(each.headers) for name in SESSIONS) for each in able} == {True, False}


def test_answers_are_of_their_dialect(calls: list[Call]) -> None:
    for call in calls:
        if call.outcome in ("refused", "timed_out"):
            assert call.status in (429, 500, 503, 504, 529) and json.loads(call.answer)["error"]["message"]
            continue
        assert call.status == 200
        if call.answer_type == "text/event-stream":
            last = {"chat": b"data: [DONE]\n\n", "responses": b"", "messages": b'{"type":"message_stop"}\n\n'}[
                call.dialect
            ]
            assert call.answer.endswith(last) == (call.outcome == "answered" or not last)
            assert events_of(call)
