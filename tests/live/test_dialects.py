"""What a person reads in mitmweb of what agents send and get: Anthropic's, Responses, Gemini's and Realtime's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from wsproto.events import CloseConnection, TextMessage

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_websocket import Socket
from tests.support import browser, dialects
from tests.support import web as pages
from tests.support.dialects import GEMINI, MESSAGES, RESPONSES, WHO
from tests.support.live import eventually

KEY = "sk-test-dialects-0123456789"
SSE = [("Content-Type", "text/event-stream")]
ROUTES = [{"path": "/gemini", "upstream": "test"}]


def traffic(web: pages.Web, upstream: Upstream) -> None:
    """An exchange of each dialect."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **WHO.headers()}
    for path, asked, answered in (
        (MESSAGES, dialects.messages_request(), dialects.sse(dialects.messages_events(), named=True)),
        (RESPONSES, dialects.responses_request(), dialects.sse(dialects.responses_events(), named=True)),
        (f"/gemini{GEMINI}", dialects.gemini_request(), dialects.sse(dialects.gemini_pieces())),
    ):
        upstream.script(path.removeprefix("/gemini"), Behaviour(status=200, body=answered, headers=SSE))
        query = "?alt=sse" if "gemini" in path else ""
        assert web.live.ask("POST", path + query, json.dumps(asked), headers).body == answered
    with Socket(web.live, [(b"Authorization", f"Bearer {KEY}".encode())], target=dialects.REALTIME) as socket:
        for _, event in dialects.realtime_events():
            socket.send(TextMessage(json.dumps(event)))
            socket.message()  # the look-alike says the same
        socket.send(CloseConnection(1000))
        socket.client.rest()
    web.wait(3)


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Web]:
    with pages.mitmweb(tmp_path_factory.mktemp("web"), upstream.url, routes=ROUTES) as running:
        traffic(running, upstream)
        yield running


def flow_of(web: pages.Web, path: str) -> dict[str, Any]:
    return next(flow for flow in web.flows() if path in flow["request"]["path"])


def shown(web: pages.Web, path: str, side: str) -> str:
    """What mitmweb shows of a side by itself."""
    name = flow_of(web, path)["id"]
    told = json.loads(web.get(f"/flows/{name}/{side}/content/auto.json"))
    assert told["view_name"] == "OpenAI"
    return str(told["text"])


@pytest.mark.parametrize(
    ("path", "asked", "answered", "row"),
    [
        (
            MESSAGES,
            [
                "tools: 3 (",
                "system [cached up to here, for 1h]: |",
                "640×480]",
                "tool result of toolu_01A: |",
                "folded",
            ],
            ["usage: 18,259 in (18,000 cached", "assistant thinks: |", '"why": "to count"'],
            "claude-sonnet-4-5-20250929 · 18,259 (18,000 cached)→87 tok",
        ),
        (
            RESPONSES,
            ["previous_response_id: resp_", "multi_agent_v1.spawn_agent(message, agent_type): ", "640×480]", "folded"],
            [
                "usage: 12,000 in (11,000 cached)",
                "calls web search (ws_1): |",
                "multi_agent_v1.spawn_agent (call_1): |",
            ],
            "gpt-5-codex · 12,000 (11,000 cached)→90 tok",
        ),
        (
            GEMINI,
            [
                "model: gemini-2.5-pro",
                "run_shell_command(command): ",
                "640×480]",
                "tool result of run_shell_command: |",
            ],
            [
                "usage: 12,000 in (9,000 cached) · 100 out",
                "model thinks: |\n  Counting is easy.",
                "model calls run_shell",
            ],
            "gemini-2.5-pro · 12,000 (9,000 cached)→100 tok",
        ),
    ],
    ids=["messages", "responses", "gemini"],
)
def test_an_agent_s_exchange_is_read(
    web: pages.Web, path: str, asked: list[str], answered: list[str], row: str
) -> None:
    question, answer = shown(web, path, "request"), shown(web, path, "response")
    assert [each for each in asked if each not in question] == []
    assert [each for each in answered if each not in answer] == []
    assert dialects.PNG[:80] not in question
    assert not answer.startswith("#"), "a client that has read it to its end has not left early"
    model, tokens = row.split(" · ")
    comment = flow_of(web, path)["comment"]
    assert comment.startswith(model) and f" · {tokens} · $0.00" in comment


def test_whose_they_are_is_hidden_under_one_hash_in_each(web: pages.Web) -> None:
    flows = [flow_of(web, path) for path in (MESSAGES, RESPONSES, GEMINI)]
    everything = json.dumps(web.flows()) + "".join(
        shown(web, path, side) for path in (MESSAGES, RESPONSES, GEMINI) for side in ("request", "response")
    )
    for each in WHO.all():
        assert each not in everything
    for name in ("OpenAI-Organization", "chatgpt-account-id", "session_id"):
        values = {value for flow in flows for header, value in flow["request"]["headers"] if header == name}
        assert len(values) == 1 and "***" in values.pop()
    assert dialects.responses_request()["prompt_cache_key"] in everything
    assert dialects.responses_request()["previous_response_id"] in everything


def test_a_realtime_socket_is_a_conversation(web: pages.Web) -> None:
    name = flow_of(web, "/v1/realtime")["id"]

    def messages() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(web.get(f"/flows/{name}/messages/content/auto.json"))
        return found

    assert eventually(lambda: len(messages()) == 2 * len(dialects.realtime_events()))
    first, *others = messages()
    assert {each["view_name"] for each in (first, *others)} == {"OpenAI"}
    assert "user speaks: |\n  [audio: 2.0 s, 93.8 kB]" in first["text"]
    assert "assistant: |\n  There are nine. [audio: 2.0 s, 93.8 kB]" in first["text"]
    assert all(each["text"].count("\n") == 0 for each in others)


@pytest.mark.parametrize("dialect", ["messages", "responses", "gemini"])
def test_what_is_new_in_a_thread_comes_first(web: pages.Web, upstream: Upstream, dialect: str) -> None:
    asked, listed, path, answered = {
        "messages": (dialects.messages_request("ls lib"), "messages", MESSAGES, dialects.messages_answer("ls lib")),
        "responses": (
            dialects.responses_request("ls lib"),
            "input",
            RESPONSES,
            dialects.responses_events()[-1]["response"],
        ),
        "gemini": (dialects.gemini_request("ls lib"), "contents", f"/gemini{GEMINI}", {}),
    }[dialect]
    if dialect == "gemini":
        del asked["contents"][1]["parts"][0]  # Gemini CLI sends no thoughts back
        answered = {"candidates": [{"content": asked["contents"][1], "finishReason": "STOP"}]}
    asked.pop("previous_response_id", None)
    headers = {"Authorization": f"Bearer {KEY}-{dialect}", "Content-Type": "application/json"}
    told = Behaviour(status=200, body=json.dumps(answered).encode(), headers=[("Content-Type", "application/json")])
    first = {**asked, listed: asked[listed][: -1 if dialect == "responses" else 1]}
    for body in (first, asked):
        upstream.script(path.removeprefix("/gemini"), told)
        count = len(web.flows())
        assert web.live.ask("POST", path, json.dumps(body), headers).status == 200
        assert eventually(lambda before=count: len(web.flows()) > before and web.flows()[-1]["comment"])
    name = web.flows()[-1]["id"]

    def text() -> str:
        return str(json.loads(web.get(f"/flows/{name}/request/content/auto.json"))["text"])

    assert eventually(lambda: "# --- new since the previous request of this thread: " in text()), text()
    new, _, rest = text().partition("# --- sent with each request")
    assert "And count them: ls lib" in new and "tools: " not in new
    assert "tools: " in rest and "# --- earlier: " in rest and "What is in src?" in rest


def test_it_is_read_in_a_browser(web: pages.Web) -> None:
    with browser.running() as page:
        page.window(1280, 900)
        page.open(web.url)
        page.until(lambda: "claude-sonnet" in page.text("body"))
        page.run(
            "[...document.querySelectorAll('.flow-table tbody tr')]"
            ".find(each => each.innerText.includes('realtime')).click()"
        )
        page.until(lambda: page.run("return !!document.querySelector('.flow-detail')"))
        page.run(
            "[...document.querySelectorAll('.flow-detail nav a')]"
            ".find(each => each.innerText.toLowerCase() === 'websocket').click()"
        )
        page.until(lambda: "the conversation so far" in page.text(".flow-detail"))
        assert "There are nine. [audio: 2.0 s, 93.8 kB]" in page.text(".flow-detail")
