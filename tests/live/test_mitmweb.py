"""relay in mitmweb, in a real browser: a person selects a flow and reads it, finds a conversation, and sees no key.

Before that, without a browser: mitmweb keeps the newest flows, and bodies are cut in the record alone.
"""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import browser
from tests.support import web as pages
from tests.support.browser import Browser
from tests.support.live import Live, eventually

KEY = "sk-test-mitmweb-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}


def completion(content: str, **more: Any) -> dict[str, Any]:
    """A completion request."""
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": content}]
    return {"model": "gpt-4o-mini", "messages": messages, **more}


def traffic(web: pages.Web) -> None:
    """Some of everything."""
    ask = web.live.ask
    web.live.chat("我叫小明", key=KEY, session="1")
    ask("POST", "/v1/chat/completions", completion("Hello, who are you?", stream=True, temperature=0.2), AUTH)
    web.live.chat("hello", key=KEY, session="2")
    ask("POST", "/v1/embeddings", {"model": "text-embedding-3-small", "input": ["你好", "hello"]}, AUTH)
    ask("POST", "/v1/chat/completions", completion("Hello?"), {"Authorization": "Bearer sk-bad-0123456789"})
    ask("GET", f"/pro/balance?apiKey={KEY}")
    ask("GET", "/v2/models", headers=AUTH)
    web.live.chat("我叫什么名字?", key=KEY, session="1")
    web.wait(8)


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Web]:
    with pages.mitmweb(tmp_path_factory.mktemp("web"), upstream.url) as running:
        traffic(running)
        yield running


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.running() as running:
        yield running


@pytest.fixture
def page(window: Browser, web: pages.Web) -> Browser:
    """mitmweb's page, opened by its address with the token."""
    window.window(1400, 760)
    window.open(web.url)
    window.until(lambda: len(rows(window)) >= len(web.flows()))
    return window


def rows(page: Browser) -> list[str]:
    """The lines of the flow list."""
    found: list[str] = page.run(
        "return [...document.querySelectorAll('.flow-table tbody tr')].map(each => each.innerText)"
    )
    return [row for row in found if row.strip()]


def select(page: Browser, text: str, tab: str) -> None:
    """Click the flow whose line holds `text`, then a tab of it."""
    rows = "[...document.querySelectorAll('.flow-table tbody tr')]"
    page.run(f"{rows}.find(each => each.innerText.includes(arguments[0])).click()", text)
    page.until(lambda: page.run("return !!document.querySelector('.flow-detail')"))
    page.run(
        "[...document.querySelectorAll('.flow-detail nav a')].find(each => each.innerText === arguments[0]).click()",
        tab,
    )


def search(page: Browser, text: str) -> None:
    """Type a filter into the field for it."""
    page.run(
        "const field = document.querySelector('input[placeholder=Search]');"
        "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, arguments[0]);"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        text,
    )


def shown(page: Browser) -> str:
    """What is read in the body of the open flow, once it is there."""
    page.until(lambda: page.text(".flow-detail .contentview pre"))
    return page.text(".flow-detail .contentview pre")


def everything(page: Browser) -> str:
    """The whole page as text and as markup."""
    return str(page.run("return document.documentElement.outerHTML + document.body.innerText"))


def session(web: pages.Web) -> str:
    """The short hash of the conversation of two messages."""
    return str(next(line for line in web.command("relay.sessions") if "2 flows" in line))[:8]


def test_a_streamed_answer_is_read_as_a_conversation(page: Browser) -> None:
    select(page, "gpt-4o-mini · ", "Request")
    page.until_text(".flow-detail .contentview pre", "user: |")
    asked = shown(page)
    assert "model: gpt-4o-mini" in asked and "temperature: 0.2" in asked
    assert "system: |" in asked and "Hello, who are you?" in asked
    select(page, "gpt-4o-mini · ", "Response")
    page.until_text(".flow-detail .contentview pre", "assistant: |")
    answered = shown(page)
    assert "I am an AI assistant, happy to help." in answered
    assert "finish_reason: stop" in answered and "to the first byte" in answered
    assert "data:" not in answered
    assert KEY not in everything(page) and "0123456789" not in everything(page)


def test_a_message_shows_what_relay_has_added(page: Browser) -> None:
    select(page, "32→", "Request")
    page.until_text(".flow-detail .contentview pre", "sent by the app")
    asked = shown(page)
    assert asked.index("我叫什么名字?") < asked.index("added by relay from the session: 1 earlier turn")
    assert "我叫小明" in asked


def test_the_list_says_what_each_exchange_was_about(page: Browser, web: pages.Web) -> None:
    listed = "\n".join(rows(page))
    assert f"gpt-3.5-turbo · session {session(web)} · 10→9 tok · " in listed
    assert re.search(r"session \w+ · \d+→\d+ tok · \$0\.0000\d+ · first byte \d+ ms · \d+ ms", listed), (
        "what it has cost"
    )
    assert re.search(r"gpt-4o-mini · #\w{8} · first byte \d+ ms · \d+ ms · 401 invalid_api_key", listed)
    assert "404 unknown_path: Unknown path: /v2/models." in listed
    assert sum("⚠" in row for row in rows(page)) == 2
    wide = page.run("return document.querySelector('td.col-comment').getBoundingClientRect().width")
    assert wide > 500
    assert KEY not in everything(page)


@pytest.mark.parametrize(
    ("filtered", "count"),
    [
        ("~comment {session}", 2),
        ("~marked", 2),
        ("~comment gpt-4o-mini", 2),
        ("~comment 404", 1),
        ("sk-test", 0),
    ],
)
def test_a_filter_finds(page: Browser, web: pages.Web, filtered: str, count: int) -> None:
    search(page, filtered.format(session=session(web)))
    try:
        page.until(lambda: len(rows(page)) == count)
        if "session" in filtered:
            assert all(session(web) in row for row in rows(page))
    finally:
        search(page, "")
        page.until(lambda: len(rows(page)) >= 8)


def test_the_page_is_closed_to_who_has_no_token(window: Browser, web: pages.Web) -> None:
    window.devtools("Network.clearBrowserCookies")
    window.open(f"http://127.0.0.1:{web.port}/")
    assert "gpt-4o" not in everything(window)
    assert "password" in everything(window).lower()


def test_only_the_newest_flows_stay(upstream: Upstream, tmp_path: Path) -> None:
    with pages.mitmweb(tmp_path, upstream.url, inspect={"keep_flows": 5}) as web:
        web.live.ask("GET", "/v2/failed")
        for number in range(12):
            assert web.live.ask("GET", f"/v1/echo?number={number}").status == 200
        web.wait(5)
        assert [flow["request"]["path"] for flow in web.flows()] == [f"/v1/echo?number={n}" for n in range(7, 12)]
        web.command("flow.mark", "~u number=8", ":red_circle:")
        for number in range(12, 20):
            web.live.ask("GET", f"/v1/echo?number={number}")
        assert [flow["request"]["path"][-2:] for flow in web.flows()] == ["=8", "15", "16", "17", "18", "19"]


def test_the_event_log_says_nothing_that_is_always_so(upstream: Upstream, tmp_path: Path) -> None:
    with pages.mitmweb(tmp_path, upstream.url) as web:
        for number in range(6):
            web.live.ask("GET", f"/v1/echo?number={number}")
        web.wait(6)
        events = web.events()
    assert not any("Streaming re" in each for each in events), events
    assert sum("server connect" in each for each in events) == 1, events
    assert sum("client connect" in each for each in events) >= 6


def test_under_load_records_are_finished_behind_their_exchanges(upstream: Upstream, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def ask(relay: Live, client: int) -> None:
        for number in range(25):
            content = completion(f"{client}/{number}, my password is {KEY}")
            assert relay.ask("POST", "/v1/chat/completions", content, AUTH).status == 200

    with pages.mitmweb(tmp_path, upstream.url, inspect={"keep_flows": 100}) as web, ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, web.live, client) for client in range(8)]
        while not all(each.done() for each in asking):
            answered = [flow for flow in web.flows() if flow.get("response")]  # until then it is being sent
            seen.append(json.dumps(answered).encode())
            time.sleep(0.05)
        for each in asking:
            each.result()
        assert eventually(lambda: len(web.flows()) == 100 and all(map(pages.ended, web.flows())), 60)
        for flow in web.flows():
            assert "tok" in flow["comment"] and "#" in flow["comment"] and flow["response"]["contentLength"]
        newest = web.flows()[-1]["id"]
        seen += [
            web.get("/flows"),
            *(web.get(f"/flows/{newest}/{side}/content.data") for side in ("request", "response")),
        ]
        assert b"my password is" in seen[-2]
    assert len(seen) > 5 and not any(KEY.encode() in each for each in seen)


def test_long_bodies_are_cut_in_the_record_and_nowhere_else(upstream: Upstream, tmp_path: Path) -> None:
    body = json.dumps({"input": "x" * 50_000, "model": "text-embedding-3-small"})
    with pages.mitmweb(tmp_path, upstream.url, inspect={"max_body": 2000}) as web:
        answer = web.live.ask("POST", "/v1/chat/completions", completion("y" * 30_000), AUTH)
        assert upstream.seen[-1].length > 30_000
        assert len(answer.body) > 30_000  # the look-alike quotes
        assert web.live.ask("POST", "/v1/embeddings", body, AUTH).status == 200
        assert upstream.seen[-1].length == len(body)
        for flow in web.wait(2):
            assert flow["request"]["contentLength"] == 2000
            assert flow["response"]["contentLength"] <= 2000
        name = web.flows()[0]["id"]
        for side in ("request", "response"):
            text = json.loads(web.get(f"/flows/{name}/{side}/content/auto.json"))["text"]
            assert text.startswith("# cut in the record: the body had "), text[:200]


def test_a_picture_for_the_readme(page: Browser, tmp_path: Path) -> None:
    page.window(1400, 620)
    select(page, "32→", "Request")
    page.until_text(".flow-detail .contentview pre", "sent by the app")
    picture = page.picture()
    (tmp_path / "mitmweb.png").write_bytes(picture)
    assert len(picture) < 200_000
