"""The played model: the same script in each dialect, and what is taken out of a recording."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from addons.core.sse import Parser
from tests.agents.model.plan import Call, Rule
from tests.agents.model.server import Model
from tests.agents.recording import Exchange
from tests.agents.scrub import Scrub

RULES = (Rule("bread", ((Call("look", {"at": "notes.txt"}),), "There is bread."), (500,)),)
PROMPT, RESULT = "Is there bread?", "Bread"
CHAT_TOOL = {"type": "function", "function": {"name": "look"}}
BODIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "m", "tools": [CHAT_TOOL], "messages": [{"role": "user", "content": PROMPT}]},
        {"messages": [{"role": "assistant", "tool_calls": []}, {"role": "tool", "content": RESULT}]},
    ),
    "responses": (
        "/v1/responses",
        {
            "model": "m",
            "tools": [{"type": "function", "name": "look"}],
            "input": [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}],
        },
        {"input": [{"type": "function_call"}, {"type": "function_call_output", "output": RESULT}]},
    ),
    "messages": (
        "/v1/messages?beta=true",
        {"model": "m", "tools": [{"name": "look"}], "messages": [{"role": "user", "content": PROMPT}]},
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use"}]},
                {"role": "user", "content": [{"type": "tool_result", "content": RESULT}]},
            ]
        },
    ),
    "gemini": (
        "/v1beta/models/m:generateContent",
        {
            "tools": [{"functionDeclarations": [{"name": "look"}]}],
            "contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
        },
        {
            "contents": [
                {"role": "model", "parts": [{"functionCall": {}}]},
                {"role": "user", "parts": [{"functionResponse": {"output": RESULT}}]},
            ]
        },
    ),
}


@pytest.fixture(scope="module", params=BODIES)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, Model]]:
    with Model.running(RULES, ("one",)) as model:
        yield request.param, model


def asked(model: Model, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(model.urls["one"]).netloc, timeout=20)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    with connection.getresponse() as response:
        said = response.status, response.read()
    connection.close()
    return said


def test_a_run(case: tuple[str, Model]) -> None:
    dialect, model = case
    path, first, more = BODIES[dialect]
    assert asked(model, path, first)[0] == 500, "the rule fails once"
    status, said = asked(model, path, first)
    assert status == 200 and b"look" in said and b"notes.txt" in said
    second = {**first, **{name: [*first[name], *added] for name, added in more.items()}}
    status, said = asked(model, path, second)
    assert status == 200 and b"There is bread." in said
    without = {name: value for name, value in first.items() if name != "tools"}
    assert b"look" not in asked(model, path, without)[1], "who has no such tool gets words"


def test_a_stream_says_the_same(case: tuple[str, Model]) -> None:
    dialect, model = case
    path, first, _ = BODIES[dialect]
    asked(model, path, first)
    streamed = path.replace("generateContent", "streamGenerateContent?alt=sse")
    _, told = asked(model, streamed, {**first, "stream": True, "stream_options": {"include_usage": True}})
    events = [event.data for event in Parser().feed(told) if event.data != "[DONE]"]
    pieces = "".join(json.dumps(json.loads(each)) for each in events)
    assert "look" in pieces and len(events) >= (1 if dialect == "gemini" else 5)
    assert any(name in pieces for name in ('"prompt_tokens"', '"input_tokens"', '"promptTokenCount"'))


def test_what_nobody_knows_is_remembered(case: tuple[str, Model]) -> None:
    model = case[1]
    assert asked(model, "/v1/telemetry", {})[0] == 404
    assert model.unknown[-1] == "POST /v1/telemetry"


def test_the_machine_is_taken_out() -> None:
    folders = {Path("/tmp/run/project"): "/home/dev/notes", Path("/tmp/run"): "/home"}
    scrub = Scrub(folders, {"127.0.0.1:4321": "one.test"})
    body = b'{"cwd": "/tmp/run/project/a", "dir": "-tmp-run-project", "os": "Linux 5.9.3-x"}'
    headers = (("Host", "127.0.0.1:4321"), ("Content-Length", str(len(body))))
    before = Exchange(0, 0, None, "one", "POST", "/v1", headers, body, 200, (), b"\xff", None)
    after = scrub.exchange(before)
    assert after.json() == {"cwd": "/home/dev/notes/a", "dir": "-home-dev-notes", "os": "Linux 6.1.0"}
    assert after.headers == (("Host", "one.test"), ("Content-Length", str(len(after.body))))
    assert after.answer == b"\xff", "what is no text stays"
