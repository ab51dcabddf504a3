"""relay's commands, in a real mitmweb, as its command bar runs them."""

import json
from collections.abc import Iterator

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import web as page
from tests.support.live import eventually

KEY = "sk-test-commands-0123456789"
OTHER = "sk-unlimited-commands-9876543210"


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[page.Web]:
    folder = tmp_path_factory.mktemp("web")
    with page.mitmweb(folder, upstream.url) as running:
        for session, content in (("1", "我叫小明"), ("2", "hello"), ("1", "我叫什么名字?")):
            running.live.chat(content, key=KEY, session=session)
        running.live.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        running.wait(4)
        yield running


def sessions(web: page.Web) -> dict[str, str]:
    """The short hashes of the sessions, and what is said of each."""
    return {line.split("  ")[0]: line for line in web.command("relay.sessions")}


def of(web: page.Web, words: str) -> str:
    """The short hash of the session whose line holds these words."""
    return next(name for name, line in sessions(web).items() if words in line)


def test_the_conversations_are_listed(web: page.Web) -> None:
    listed = sessions(web)
    assert len(listed) == 2
    assert [line.split("  ")[1] for line in listed.values()] == ["2 flows", "1 flow"]  # the newest first
    assert all("last used 20" in line for line in listed.values())


def test_one_conversation_is_found_by_its_hash(web: page.Web) -> None:
    name = of(web, "2 flows")
    for filtered in (f"~comment {name}", f'~meta "relay.session: {name}"', f"~meta {name}"):
        web.command("set", "view_filter", filtered)
        try:
            assert [name in flow["comment"] for flow in web.flows()] == [True, True], filtered
        finally:
            web.command("set", "view_filter", "")
    assert len(web.flows()) >= 4


def test_one_conversation_is_shown(web: page.Web) -> None:
    name = of(web, "2 flows")
    web.command("relay.session", f"~comment {name}")
    try:
        assert [name in flow["comment"] for flow in web.flows()] == [True, True]
        assert len(sessions(web)) == 2
    finally:
        web.command("set", "view_filter", "")


def test_a_flow_that_is_no_message_has_no_conversation(web: page.Web) -> None:
    with pytest.raises(RuntimeError, match="No message to /chat"):
        web.command("relay.session", "~u /v1/models")


def test_a_session_is_forgotten(web: page.Web) -> None:
    assert "小明" in web.live.chat("我叫什么名字?", key=KEY, session="1")["data"]
    name = next(flow["comment"].split("session ")[1][:8] for flow in web.flows() if "session" in flow["comment"])
    web.command("relay.forget", f"~comment {name}")
    assert eventually(lambda: any(f"session {name} is forgotten" in line for line in web.events()))
    assert "小明" not in web.live.chat("我叫什么名字?", key=KEY, session="1")["data"]


def test_the_balance_is_told_and_the_key_is_not(web: page.Web) -> None:
    web.command("relay.balance", KEY)
    assert eventually(lambda: any('sk-*** at test: {"total": 18.00' in line for line in web.events())), web.events()
    web.command("relay.balance", OTHER, "test")
    assert eventually(lambda: any("no limit" in line for line in web.events()))
    assert not any("0123456789" in line or "9876543210" in line for line in web.events())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "A key is needed"),
        (("$NO_SUCH_VARIABLE",), "The environment has no"),
        (("sk-with a blank",), "characters that no key has"),
        ((KEY, "elsewhere"), "No such upstream: elsewhere. There are: test."),
    ],
)
def test_what_is_wrong_with_a_question_for_the_balance(
    web: page.Web, arguments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        web.command("relay.balance", *arguments)


@pytest.mark.parametrize("found", ["~u /v1/models", "~u /chat & ~bq hello"], ids=["a question", "a message"])
def test_a_request_is_sent_again_with_another_key(web: page.Web, upstream: Upstream, found: str) -> None:
    web.command("set", "view_filter", "")
    selected = f"{found} & !~replayq"
    with pytest.raises(RuntimeError, match="A key is needed"):
        web.command("relay.replay", selected)
    upstream.clear()
    web.command("relay.replay", selected, OTHER)
    seen = upstream.wait(lambda seen: seen[-1:])[0]
    assert seen.header("authorization") == f"Bearer {OTHER}"
    assert eventually(lambda: any(flow["is_replay"] and flow.get("response") for flow in web.flows()))
    assert eventually(lambda: OTHER not in web.get("/flows").decode())
    assert seen.complete


def test_what_relay_answered_is_not_sent_again(web: page.Web) -> None:
    web.live.ask("GET", "/nowhere")
    assert eventually(lambda: any("unknown_path" in flow["comment"] for flow in web.flows()))
    with pytest.raises(RuntimeError, match="Nothing of this flow went upstream"):
        web.command("relay.replay", "~u /nowhere", OTHER)


def test_each_command_says_what_it_takes(web: page.Web) -> None:
    known = json.loads(web.get("/commands"))
    shown = {name: known[name]["signature_help"] for name in known if name.startswith("relay.")}
    assert shown == {
        "relay.sessions": "relay.sessions  -> str[]",
        "relay.export": "relay.export flows file form",
        "relay.session": "relay.session flows",
        "relay.forget": "relay.forget flows",
        "relay.balance": "relay.balance key upstream",
        "relay.replay": "relay.replay flows key",
        "relay.upstreams": "relay.upstreams  -> str[]",
        "relay.threads": "relay.threads  -> str[]",
        "relay.thread": "relay.thread flows",
        "relay.why": "relay.why flows -> str[]",
    }
    assert all(known[name]["help"] for name in shown)
