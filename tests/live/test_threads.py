"""Threads and causes, through a real relay: runs of agents whose truth is known go through it and are read back from
what `-w` has saved; and what mitmweb says of them.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy import io as mio

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import agent_runs, live
from tests.support import web as page
from tests.support.agent_runs.prices import PRICES

KEY = "sk-test-threads-0123456789abcdef"
_NUMBER = "x-test-number"
"""Tells which call it was: clocks may be set back meanwhile."""
_CALLS = 260
"""Of the frozen runs, those are taken in which nothing breaks off and no hours pass."""


def taken() -> list[agent_runs.Call]:
    calls = list(agent_runs.agent_runs(agent_runs.CI_SEED, _CALLS))
    slow = {"left", "timed_out"}
    unfit = {of_run(each) for each in calls if each.outcome in slow or each.truth.reason == "cache_expired"}
    return [each for each in calls if of_run(each) not in unfit]


def of_run(call: agent_runs.Call) -> str:
    return call.truth.thread.partition(".")[0]


def in_dollars(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(nano).scaleb(-9)


def prices() -> dict[str, dict[str, float]]:
    """The stub's list, as relay.yaml has it: dollars a million tokens."""
    return {
        model: {
            "input": price.input / 1000,
            "cached": price.cached / 1000,
            "cache_write": price.written_5m / 1000,
            "cache_write_1h": price.written_1h / 1000,
            "output": price.output / 1000,
        }
        for model, price in PRICES.items()
    }


def script(upstream: Upstream, call: agent_runs.Call) -> None:
    path = call.path.partition("?")[0].removeprefix(f"/{call.upstream}")
    headers = [("content-type", call.answer_type)]
    upstream.script(path, Behaviour(status=call.status, body=call.answer, headers=headers))


def send(relay: live.Live, call: agent_runs.Call) -> None:
    answer = relay.ask(call.method, call.path, call.body, {**dict(call.headers), _NUMBER: str(call.index)})
    assert (answer.status, answer.body) == (call.status, call.answer)


@pytest.fixture(scope="module")
def records(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[agent_runs.Call, http.HTTPFlow]]:
    folder: Path = tmp_path_factory.mktemp("threads")
    names = ["openai", *(f"{each}-spare" for each in ("openai", "anthropic"))]
    upstreams = [{"name": name, "url": upstream.url} for name in names]
    routes = [{"path": f"/{name}", "upstream": name} for name in names[1:]]
    calls = taken()
    with live.relay(folder, upstreams, ["-w", str(folder / "flows")], routes=routes, prices=prices()) as relay:
        for call in calls:
            script(upstream, call)
            send(relay, call)
        # On a busy machine records are cleaned long after clients have their answers.
        assert live.eventually(lambda: relay.log.count(" << ") >= len(calls), 120)
    with (folder / "flows").open("rb") as file:
        flows = [each for each in mio.FlowReader(file).stream() if isinstance(each, http.HTTPFlow)]
    assert len(flows) == len(calls), [each.request.path for each in flows]
    flows.sort(key=lambda each: int(each.request.headers[_NUMBER]))
    return list(zip(calls, flows, strict=True))


def test_there_is_enough_to_judge(records: list[tuple[agent_runs.Call, http.HTTPFlow]]) -> None:
    told = {(call.dialect, call.truth.reason) for call, _ in records}
    assert len(records) > 100 and {dialect for dialect, _ in told} == set(agent_runs.DIALECTS)
    assert {reason for _, reason in told} >= {"first_turn", "new_turn", "prefix_changed", "retry", "settings_changed"}


def test_a_record_tells_its_thread_and_its_cause(records: list[tuple[agent_runs.Call, http.HTTPFlow]]) -> None:
    threads: dict[str, str] = {}
    ids = {call.index: flow.id for call, flow in records}
    for call, flow in records:
        truth, cause = call.truth, flow.metadata["relay.cause"]
        label = flow.metadata["relay.thread"]
        assert threads.setdefault(truth.thread, label) == label, (call.index, call.scenario, flow.error, cause)
        previous = None if truth.previous is None else ids[truth.previous]
        assert (cause["path"], cause["previous"]) == (truth.path, previous)
        if not truth.ambiguous:
            assert (cause["reason"], cause["part"]) == (truth.reason, truth.part), call.index
        assert cause["tokens"] == truth.tokens
        assert (None if cause["cost"] is None else Decimal(cause["cost"])) == in_dollars(truth.cost)
        assert label in flow.comment
    assert len(set(threads.values())) == len(threads)


def test_no_key_is_in_what_is_saved(records: list[tuple[agent_runs.Call, http.HTTPFlow]]) -> None:
    keys = {call.key for call, _ in records}
    for _, flow in records:
        assert not any(key in repr(flow.metadata) or key in repr(flow.get_state()) for key in keys)


def test_who_goes_on_at_the_last_event_is_compared_with_that_call(upstream: Upstream, tmp_path: Path) -> None:
    """SDKs leave a stream at `[DONE]`; upstream may end it a while later, when the next call is over."""
    said = b'data: {"choices":[{"index":0,"delta":{"content":"Up."},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
    slow = Behaviour(
        headers=[("content-type", "text/event-stream")],
        status=200,
        chunks=[(said, 0.0), (usage, 0.0), (b"data: [DONE]\n\n", 0.5)],
    )
    talk = [{"role": "user", "content": "Which way is north?"}]
    with live.relay(tmp_path, upstream.url, ["-w", str(tmp_path / "flows")]) as relay:
        upstream.script("/v1/chat/completions", slow)
        body = json.dumps({"model": "gpt-4o-mini", "messages": talk, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        with relay.connect() as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            told = b""
            while b"[DONE]" not in told:
                told += client.recv(65536)
        talk += [{"role": "assistant", "content": "Up."}, {"role": "user", "content": "And south?"}]
        asked = {"model": "gpt-4o-mini", "messages": talk}
        relay.ask("POST", "/v1/chat/completions", asked, {"Authorization": f"Bearer {KEY}"})
    with (tmp_path / "flows").open("rb") as file:
        flows = [each for each in mio.FlowReader(file).stream() if isinstance(each, http.HTTPFlow)]
    first, second = sorted(flows, key=lambda each: each.request.timestamp_start)
    assert second.metadata["relay.thread"] == first.metadata["relay.thread"]
    assert first.metadata["relay.cause"]["reason"] == "first_turn"
    assert second.metadata["relay.cause"] == {
        "reason": "new_turn",
        "part": None,
        "path": "messages[1]",
        "before": None,
        "after": '{"role":"assistant","content":"Up."}',
        "tokens": 0,
        "cost": "0",
        "previous": first.id,
    }


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[page.Web]:
    with page.mitmweb(tmp_path_factory.mktemp("web"), upstream.url, inspect={"max_body": "64k"}) as running:
        for session, content in (("1", "I am Ada."), ("2", "hello"), ("1", "Who am I?")):
            running.live.chat(content, key=KEY, session=session)
        for clock in ("12:00:01", "12:00:09"):
            ask(running, clock)
        ask(running, "12:00:09", "x" * 100_000)
        running.wait(6)
        yield running


def ask(web: page.Web, clock: str, text: str = "Which way is north?") -> None:
    system = {"role": "system", "content": f"You help. It is {clock}."}
    said = {"role": "assistant", "content": "", "tool_calls": [{"id": "call_9aB3kQ0z8sd7f6gh", "type": "function"}]}
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    talk = [system, {"role": "user", "content": text}, said]
    web.live.ask(
        "POST",
        "/v1/chat/completions",
        {"model": "gpt-4o-mini", "messages": talk, "tools": [tool], "prompt_cache_key": "0199a213-81c0-7800-8aa1"},
        {"Authorization": f"Bearer {KEY}"},
    )


def test_threads_are_listed(web: page.Web) -> None:
    lines = web.command("relay.threads")
    assert len(lines) == 3, lines
    assert "1 × prefix changed" in lines[0] and "2 calls" in lines[0]
    assert sorted(line.split("  ")[1] for line in lines[1:]) == ["1 call", "2 calls"]  # of /chat


def test_why_it_cost_so_much(web: page.Web) -> None:
    told: Any = "\n".join(web.command("relay.why", "~comment 'prefix changed'"))
    assert "prefix changed: the system prompt is another one" in told
    assert "it looks like a time or an id" in told
    assert "messages[0].content" in told and "It is 12:00:09." in told
    assert "tools by bytes: 1 tool" in told and "look" in told


def test_a_thread_is_shown_alone(web: page.Web) -> None:
    web.command("relay.thread", "~comment 'prefix changed'")
    try:
        assert len(web.flows()) == 2
    finally:
        web.command("set", "view_filter", "")


def test_what_has_no_thread_is_said_to_have_none(web: page.Web) -> None:
    """Of the long one the record has the start alone."""
    with pytest.raises(RuntimeError, match="No call of a model"):
        web.command("relay.why", "~u nothing")
    assert sum("#" in flow["comment"] for flow in web.flows()) == 2  # beside those of a session
