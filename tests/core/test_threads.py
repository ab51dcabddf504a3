"""Threads and causes, against runs of agents whose truth is known (tests/support/agent_runs, which is frozen), and by
hand where these have nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.slices import at_once
from addons.core.threads.call import Call, Outcome, Placed
from addons.core.threads.difference import member, shown
from addons.core.threads.prompt import dialect_of, is_unique
from addons.core.threads.registry import Threads
from addons.core.threads.sessions import sessions_of
from tests.support.agent_judge import Judge, call_of
from tests.support.agent_runs import CI_CALLS, CI_SEED, agent_runs
from tests.support.any_json import fuzz, values

# Runs whose truth is known


@pytest.fixture(scope="module")
def judge() -> Judge:
    found = Judge(Threads(1 << 30))
    for call in agent_runs(CI_SEED, CI_CALLS):
        found.hear(call)
    return found


def test_threads_paths_and_values_are_right_in_every_call(judge: Judge) -> None:
    assert judge.calls == CI_CALLS
    assert judge.wrong("thread", "previous", "path", "before", "after") == []


def test_reasons_are_right_where_nobody_could_disagree(judge: Judge) -> None:
    wrong = judge.wrong("reason", "part")
    assert len(wrong) <= judge.calls * 0.02, wrong
    assert wrong == []  # as it is today; what stands above is what was promised


def test_tokens_and_cost_are_those_of_the_cache(judge: Judge) -> None:
    assert judge.wrong("tokens", "cost") == []


def test_a_subagent_knows_who_has_sent_it(judge: Judge) -> None:
    """But for side calls that neither quote a call of a tool nor name a session."""
    missing = [each for each in judge.orphans if each.scenario != "with_title"]
    assert missing == []


def test_memory_is_bounded() -> None:
    threads = Threads(2_000_000)
    for call in agent_runs(3, 400):
        at_once(threads.placing(call_of(call)))
        assert threads.size <= 2_000_000
    assert 1 < len(threads) < 200
    index = threads._index
    kept = len(threads)
    assert len({id(each) for found in index._by_name.values() for each in found}) <= kept
    assert all(index._by_opening.values()) and all(index._by_session.values())


# By hand


def chat(messages: Sequence[Any], **more: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": messages, **more}).encode()


def answered(text: str, prompt: int = 10, cached: int = 0) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": cached}}
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message}], "usage": usage}).encode()


USER, HI = {"role": "user", "content": "Which way is north?"}, {"role": "user", "content": "hi"}
LONG = "North is where the needle of a compass points to, and the pole star stands there at night, too."
CALL = Call("1", 0.0, "/v1/chat/completions", (), chat([USER]), answered(LONG), False, Outcome.ANSWERED, "one", "k")


def place(threads: Threads, *calls: Call) -> list[Placed]:
    found = [at_once(threads.placing(each)) for each in calls]
    return [each for each in found if each is not None]


def test_a_conversation_goes_on() -> None:
    history = [USER, {"role": "assistant", "content": LONG}, {"role": "user", "content": "And south?"}]
    one, two = place(Threads(1 << 20), CALL, replace(CALL, id="2", at=5.0, body=chat(history)))
    assert one.thread == two.thread and two.cause.reason == "new_turn"
    assert (two.cause.path, two.cause.before, two.cause.previous) == ("messages[1]", None, "1")
    assert two.known == 2


def test_the_same_short_answer_joins_no_conversations() -> None:
    """Every model greets alike."""
    hello = replace(CALL, body=chat([HI]), answer=answered("Hello!"))
    other = replace(hello, id="2", body=chat([{"role": "user", "content": "hey"}]))
    goes_on = replace(
        hello, id="3", body=chat([HI, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye."}])
    )
    one, two, three = place(Threads(1 << 20), hello, other, goes_on)
    assert one.thread == three.thread != two.thread


def test_few_shots_are_no_history() -> None:
    shots = [HI, {"role": "assistant", "content": "An example of an answer, written by whoever has made this app."}]
    calls = [replace(CALL, id=str(at), body=chat([*shots, {"role": "user", "content": f"{at}?"}])) for at in range(3)]
    assert len({each.thread for each in place(Threads(1 << 20), *calls)}) == 3


def test_a_clock_in_the_system_prompt_is_found() -> None:
    def at(clock: str, *more: Any) -> bytes:
        return chat([{"role": "system", "content": f"You help. It is {clock}."}, USER, *more])

    said = {"role": "assistant", "content": LONG}
    first = replace(CALL, body=at("12:00:01"), answer=answered(LONG, 2048))
    later = replace(CALL, id="2", body=at("12:00:09", said, HI), answer=answered("Yes.", 2300))
    cause = place(Threads(1 << 20), first, later)[1].cause
    assert (cause.reason, cause.part, cause.path) == ("prefix_changed", "system", "messages[0].content")
    assert (cause.before, cause.after) == ("… help. It is 12:00:01.", "… help. It is 12:00:09.")
    assert cause.tokens == 2048


def test_an_unknown_usage_is_no_zero() -> None:
    history = [USER, {"role": "assistant", "content": LONG}, HI]
    silent = replace(CALL, id="2", body=chat(history), answer=b'{"choices": []}')
    assert place(Threads(1 << 20), CALL, silent)[1].cause.tokens is None


def test_a_cache_that_still_serves_after_hours_has_not_expired() -> None:
    history = [USER, {"role": "assistant", "content": LONG}, HI]
    first = replace(CALL, answer=answered(LONG, 2048))
    late = replace(CALL, id="2", at=4000.0, body=chat(history))
    served, gone = (replace(late, answer=answered("Yes.", 2100, cached)) for cached in (2048, 0))
    assert place(Threads(1 << 20), first, served)[1].cause.reason == "new_turn"
    assert place(Threads(1 << 20), first, gone)[1].cause.reason == "cache_expired"


def test_gemini() -> None:
    path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
    ask = {"role": "user", "parts": [{"text": "Which way is north?"}]}
    said = {"candidates": [{"content": {"role": "model", "parts": [{"text": LONG}]}}]}
    counts = {"promptTokenCount": 9, "totalTokenCount": 12, "candidatesTokenCount": 3}
    answer = b"data: " + json.dumps({**said, "usageMetadata": counts}).encode() + b"\r\n\r\n"
    more = [ask, {"role": "model", "parts": [{"text": LONG}]}, {"role": "user", "parts": [{"text": "South?"}]}]
    first = replace(CALL, path=path, body=json.dumps({"contents": [ask]}).encode(), answer=answer, stream=True)
    second = replace(first, id="2", body=json.dumps({"contents": more}).encode())
    one, two = place(Threads(1 << 20), first, second)
    assert one.thread == two.thread and one.model == "gemini-2.5-pro"
    assert (two.cause.reason, two.cause.path) == ("new_turn", "contents[1]")
    assert two.cause.tokens is None  # its cache promises nothing


def test_a_call_of_a_tool_without_an_id_is_known_by_what_it_was_given() -> None:
    path = "/v1beta/models/gemini-2.5-pro:generateContent"
    ask = {"role": "user", "parts": [{"text": "Which way is north?"}]}
    thought = {"text": "They want to know where north is.", "thought": True}
    asked = {"functionCall": {"name": "compass", "args": {"at": "Oslo"}}}
    answer = {"candidates": [{"content": {"role": "model", "parts": [thought, asked]}}]}
    told = {"functionResponse": {"name": "compass", "response": {"north": "up"}}}
    history = [ask, {"role": "model", "parts": [thought, asked]}, {"role": "user", "parts": [told]}]
    first = replace(CALL, path=path, body=json.dumps({"contents": [ask]}).encode(), answer=json.dumps(answer).encode())
    one, two = place(Threads(1 << 20), first, replace(first, id="2", body=json.dumps({"contents": history}).encode()))
    assert one.thread == two.thread and two.cause.reason == "new_turn" and two.known == 2


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "chat"),
        ("/openai/deployments/x/chat/completions?api-version=1", "chat"),
        ("/v1/responses", "responses"),
        ("/v1/messages?beta=true", "messages"),
        ("/v1/messages/count_tokens", None),
        ("/v1/threads/x/messages", None),
        ("/v1beta/models/gemini-2.5-pro:countTokens", None),
        ("/v1/embeddings", None),
    ],
)
def test_what_asks_a_model(path: str, dialect: str | None) -> None:
    assert dialect_of(path) == dialect


def test_names_of_sessions() -> None:
    asked = {"metadata": {"user_id": "user_" + "ab" * 32 + "_account__session_5f0c8ab1"}}
    assert sessions_of([("Session_Id", "session1"), ("x-other", "session2")], asked) == {"session1", "5f0c8ab1"}
    assert not sessions_of([("session_id", "1"), ("x-session-id", "test")], {"conversation": "main"})
    told = {"prompt_cache_key": "support-desk-v3", "metadata": {"user_id": '{"session_id": "session3"}'}}
    assert sessions_of([], told) == {"session3"}
    assert sessions_of([], {"prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53"}) != set()
    assert not is_unique("call_0") and is_unique("call_9aB3kQ0z8sd7f6gh")


def test_paths_and_values() -> None:
    assert member("tools[0]", "name") == "tools[0].name"
    assert member("a", "-n") == 'a["-n"]' and member("", 'a"b') == '["a\\"b"]'
    assert shown("x" * 100 + "one", "x" * 100 + "two") == ("…" + "x" * 20 + "one", "…" + "x" * 20 + "two")
    assert shown({"a": "é"}, None) == ('{"a":"é"}', "null")


# Whatever comes

PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/x/models/a:generateContent"]


@fuzz
@given(values, values, st.sampled_from(PATHS))
def test_nothing_raises(body: Any, answer: Any, path: str) -> None:
    threads = Threads(1 << 20)
    wrapped = {"model": "m", "messages": body, "input": body, "contents": body, "tools": body, "system": body}
    for at, each in enumerate((body, wrapped, {**wrapped, "temperature": 1}, wrapped)):
        call = replace(CALL, id=str(at), path=path, body=json.dumps(each).encode(), answer=json.dumps(answer).encode())
        at_once(threads.placing(call))
        stream = f"data: {json.dumps(answer)}\n\n".encode()
        at_once(threads.placing(replace(call, id=f"{at} again", answer=stream, stream=True)))


# Whose conversation it is

GREETING = (
    "Hello! I am an assistant that greets everybody in these very words, which are more than sixty-four characters."
)


def greeted(key: str, owner: str, *more: Any) -> Call:
    body = chat([HI, *([{"role": "assistant", "content": GREETING}, *more] if more else [])])
    return replace(CALL, id=f"{key} {more}", key=key, owner=owner, body=body, answer=answered(GREETING))


@pytest.mark.parametrize("owners", [("alice", "bob"), ("", "")], ids=["relay keys", "keys of their own"])
def test_what_one_person_says_is_in_no_thread_of_another_s(owners: tuple[str, str]) -> None:
    (alice, bob), said = owners, {"role": "user", "content": "My diagnosis."}
    calls = [greeted("a", alice), greeted("b", bob), greeted("a", alice, said)]
    one, two, three = place(Threads(1 << 20), *calls)
    assert one.thread == three.thread != two.thread and three.cause.reason == "new_turn"


def test_a_failed_call_of_one_is_no_retry_of_another_s() -> None:
    refused = replace(greeted("a", ""), outcome=Outcome.REFUSED)
    one, two, three = place(Threads(1 << 20), refused, greeted("b", ""), replace(greeted("a", ""), id="again"))
    assert one.thread == three.thread != two.thread
    assert (two.cause.reason, three.cause.reason) == ("first_turn", "retry")


def test_examples_in_a_prompt_join_nothing_though_a_model_has_said_the_same() -> None:
    shots = [HI, {"role": "assistant", "content": "positive"}, USER, {"role": "assistant", "content": "negative"}]
    calls = [
        replace(CALL, id=str(at), body=chat([*shots, {"role": "user", "content": f"{at}!"}]), answer=answered(said))
        for at, said in enumerate(("positive", "negative", "positive"))
    ]
    assert len({each.thread for each in place(Threads(1 << 20), *calls)}) == 3


def test_an_answer_is_gone_on_from_under_the_same_relay_key_alone() -> None:
    answer = json.dumps({"id": "resp_1", "object": "response", "output": []}).encode()
    first = replace(CALL, path="/v1/responses", body=b'{"input": "hi"}', answer=answer, owner="alice")
    later = replace(first, id="2", body=b'{"input": "and?", "previous_response_id": "resp_1"}')
    one, two, three = place(Threads(1 << 20), first, later, replace(later, id="3", owner="bob"))
    assert one.thread == two.thread != three.thread
