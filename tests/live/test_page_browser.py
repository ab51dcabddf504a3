"""The page at `/` in a real browser, before the look-alike upstream: what a person does there, and what it shows."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import browser, live
from tests.support.browser import Browser
from tests.support.live import Live, environment

KEY = "sk-test-page-0123456789"
SIZES = {"wide": (1280, 900, False), "phone": (390, 844, True), "small": (360, 640, True)}


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.running() as running:
        yield running


@pytest.fixture
def page(window: Browser, relay: Live) -> Iterator[Browser]:
    """The page, just opened in Chinese on a wide screen. Nothing may be logged: a breach of its policy would be."""
    window.window(*SIZES["wide"][:2])
    window.languages("zh-CN")
    window.open_afresh(f"{relay.url}/")
    yield window
    assert complaints(window) == []


def complaints(page: Browser) -> list[str]:
    """What was logged, but for the browser's own line about a list of models that was refused."""
    return [each for each in page.console() if "/v1/models - Failed to load resource" not in each]


def say(page: Browser, content: str) -> None:
    page.type("#content", content)
    page.click("#send")


def last(page: Browser) -> str:
    return page.text("#log > :last-child")


def bash(command: str) -> str:
    """What a command prints, in an environment that holds a key."""
    run = subprocess.run(
        ["bash", "-c", command], capture_output=True, encoding="utf-8", env=environment(OPENAI_API_KEY=KEY), timeout=20
    )
    return run.stdout


def spill(page: Browser) -> list[str]:
    """Elements that stick out of the window to its right."""
    return list(
        page.run(
            "return [...document.querySelectorAll('body *')].filter((each) => !each.closest('pre, .hidden') &&"
            " each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 80))"
        )
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_two_messages_and_a_balance(page: Browser, relay: Live, size: str, dark: bool) -> None:
    width, height, phone = SIZES[size]
    page.window(width, height, dark=dark, phone=phone)
    page.open_afresh(f"{relay.url}/")
    assert page.text("#base-url") == f"{relay.url}/v1"
    page.type("#key", KEY)
    say(page, "我叫小明")
    page.until(lambda: last(page) == "你好，小明！我记住了。")
    page.until_text("#memory", "1 轮")
    page.type("#content", f"我叫什么名字？{browser.ENTER}")
    page.until(lambda: last(page) == "你叫小明。")
    page.until_text("#memory", "2 轮")
    page.click("#ask-balance")
    page.until_text("#balance", "17.92")
    assert page.text("#balance").split() == ["总额", "$18.00", "已用", "$0.08", "余额", "$17.92"]
    assert spill(page) == []
    colour = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) < 200) is dark


def test_an_answer_comes_piece_by_piece(page: Browser, upstream: Upstream) -> None:
    page.run(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('.assistant')?.textContent))"
        ".observe(document.getElementById('log'), { childList: true, subtree: true, characterData: true })"
    )
    page.type("#key", KEY)
    upstream.delay = 0.12
    try:
        say(page, "我叫小明")
        page.until_text("#memory", "1 轮")
    finally:
        upstream.delay = 0
    whole = last(page)
    pieces = [each for each in dict.fromkeys(page.run("return seen")) if each and each != whole]
    assert len(pieces) > 2
    assert all(whole.startswith(piece) for piece in pieces)


def test_the_key_is_in_no_address_and_in_no_storage(page: Browser, relay: Live, upstream: Upstream) -> None:
    begin = len(relay.log)
    page.type("#key", KEY)
    page.click("#ask-balance")
    page.until_text("#balance", "17.92")
    say(page, "你好")
    page.until_text("#memory", "1 轮")
    session = page.run("return session")
    asked = page.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    paths = {"/pro/balance", "/v1/models", "/chat", f"/chat/{session}"}
    assert set(asked) == {f"{relay.url}{path}" for path in paths}
    assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
    assert page.run("return Object.entries(sessionStorage)") == [["relay.session /", session]]
    page.open(f"{relay.url}/")
    assert page.run("return document.getElementById('key').value") == ""
    assert KEY not in relay.log[begin:]


def test_a_new_conversation_knows_nothing_and_the_old_one_is_forgotten(page: Browser, relay: Live) -> None:
    page.type("#key", KEY)
    say(page, "我叫小明")
    page.until_text("#memory", "1 轮")
    old = page.run("return session")
    history = f"/chat/{old}"
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert len(relay.ask("GET", history, headers=bearer).json()["data"]) == 2
    page.click("#new")
    assert "中转会保留" in page.text("#log")
    assert page.run("return document.activeElement.id") == "content"
    say(page, "我叫什么名字？")
    page.until(lambda: last(page) == "你还没有告诉我你的名字。")
    assert page.run("return session") != old
    page.until(lambda: relay.ask("GET", history, headers=bearer).json()["data"] == [])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "请先填写密钥"),
        ("密钥", "密钥含有无效字符"),
        ("sk-bad-0123456789", "401"),
        ("sk-quota-0123456789", "429"),
    ],
    ids=["no key", "no possible key", "a refused key", "no quota"],
)
def test_a_key_that_is_refused_is_explained(page: Browser, key: str, words: str) -> None:
    page.type("#key", key)
    say(page, "你好")
    page.until_text("#log .error", words)
    assert page.run("return document.getElementById('content').value") == "你好"  # to be sent again
    page.click("#ask-balance")
    page.until_text("#balance .error", words)
    assert len(page.text("#balance .error")) > len(words)


def test_an_answer_can_be_stopped(page: Browser, upstream: Upstream) -> None:
    upstream.script("/v1/chat/completions", Behaviour(delay_headers=20))
    page.type("#key", KEY)
    say(page, "你好")
    page.click("#stop")
    page.until_text("#log", "已停止，这一轮没有保存。")
    say(page, "")
    page.until_text("#log .assistant", "你说的是「你好」")


def test_a_dead_upstream_is_explained(page: Browser, tmp_path: Path) -> None:
    with live.relay(tmp_path, f"http://127.0.0.1:{live.free_port()}", chat={"allow": []}) as lonely:
        page.open(f"{lonely.url}/")
        page.type("#key", KEY)
        assert page.run("return document.getElementById('choice').offsetParent") is None, "there is no model to choose"
        say(page, "你好")
        page.until_text("#log .error", "502")
        page.click("#ask-balance")
        page.until_text("#balance .error", "502")
    say(page, "")  # relay itself is gone, too
    page.until(lambda: "无法连接中转服务" in last(page))
    assert [each for each in complaints(page) if "ERR_CONNECTION_REFUSED" not in each] == []


def test_the_language_is_the_browser_s_and_can_be_switched(page: Browser, relay: Live) -> None:
    assert page.run("return document.documentElement.lang") == "zh-CN"
    assert "试一试" in page.text("main")
    page.languages("en-GB,en")
    page.open(f"{relay.url}/")
    english = page.text("body").replace("中文", "")
    assert "Try it" in english
    assert not re.search(r"[\u3400-\u9fff]", english)
    assert "30 min" in page.text("#limits")
    page.click('[data-language="zh-CN"]')
    assert "试一试" in page.text("main")
    assert "Try it" not in page.text("body")
    assert "30 分钟" in page.text("#limits")
    assert page.run("return document.querySelectorAll('[data-language][aria-pressed=true]').length") == 1


def test_the_keyboard_reaches_everything_and_the_focus_can_be_seen(page: Browser) -> None:
    reached = []
    for _ in range(13):
        page.press(browser.TAB)
        reached.append(
            page.run(
                "const e = document.activeElement; return e.id || e.dataset.language || e.dataset.copy || e.tagName"
            )
        )
        ring = "return getComputedStyle(document.activeElement.matches('[type=radio]') ? "
        ring += "document.activeElement.nextElementSibling : document.activeElement).outlineStyle"
        assert page.run(ring) == "solid", reached[-1]
    # Nothing is written yet, so there is nothing to send.
    assert reached == [
        *("zh-CN", "en", "base-url", "origin-url", "key", "new", "model", "log", "content", "ask-balance"),
        *("tab-curl", "PRE", "code-curl"),
    ]
    page.run("document.getElementById('tab-curl').focus()")
    page.press(browser.RIGHT)
    assert page.text(".panel:nth-of-type(2)").startswith("from openai import OpenAI")


def test_examples_carry_the_address_and_can_be_copied(page: Browser, relay: Live) -> None:
    shown = page.run("return [...document.querySelectorAll('.panel code')].map((each) => each.textContent)")
    curl, python, node, chat = shown
    assert f"curl {relay.url}/v1/chat/completions" in curl
    compile(python, "python", "exec")
    assert f'base_url="{relay.url}/v1"' in python
    assert f'baseURL: "{relay.url}/v1"' in node
    assert f"curl {relay.url}/chat -d" in chat
    page.click('[data-copy="base-url"]')
    page.until_text('[data-copy="base-url"]', "已复制")
    if shutil.which("curl"):
        assert "You said" in bash(curl)
        assert "你叫小明。" in bash(chat)
    assert (
        "You said"
        in subprocess.run(
            [sys.executable, "-c", python], capture_output=True, encoding="utf-8", env=environment(), timeout=30
        ).stdout
    )


def test_under_another_name_without_tls_it_works_and_warns(page: Browser, relay: Live) -> None:
    assert not page.run("return document.getElementById('insecure').offsetParent")
    page.open(f"http://relay.test:{relay.port}/")
    assert page.text("#base-url") == f"http://relay.test:{relay.port}/v1"
    assert "未加密" in page.text("#insecure")
    page.type("#key", KEY)
    say(page, "我叫小明")
    page.until_text("#memory", "1 轮")
    page.run("document.addEventListener('copy', () => { window.copied = String(getSelection()) })")
    page.click("#tab-python + label")
    page.click('[data-copy="code-python"]')
    page.until_text('[data-copy="code-python"]', "已复制")
    assert "relay.test" in page.run("return copied")


def test_the_policy_is_in_force(window: Browser, relay: Live) -> None:
    window.open(f"{relay.url}/")
    window.run(
        "document.body.append(Object.assign(document.createElement('style'), { textContent: 'p { color: red }' }))"
    )
    window.run("fetch('http://elsewhere.test/').catch(() => {})")
    window.until(lambda: window.run("return document.styleSheets.length") == 1)
    said = "".join(window.console())
    assert "style-src" in said
    assert "connect-src" in said


def test_a_message_that_is_too_long_is_not_sent(page: Browser) -> None:
    page.run("document.getElementById('content').value = '😀'.repeat(1000)")
    page.type("#content", " ")
    assert page.text("#count") == "1001 / 1000"
    assert page.run("return document.getElementById('send').disabled") is True


def test_what_is_not_served_is_not_shown(window: Browser, upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url, chat={"paths": []}, balance={"paths": []}) as relay:
        window.open(f"{relay.url}/")
        assert window.text("#base-url") == f"{relay.url}/v1"
        shown = window.run(
            "return [...document.querySelectorAll('section')].filter((each) => each.offsetParent).length"
        )
        assert shown == 3
        assert "/chat" not in window.text(".tabs label:last-of-type")
        assert window.console() == []


def test_what_others_wrote_is_text(page: Browser, upstream: Upstream) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    page.type("#key", KEY)
    say(page, markup)
    page.until_text("#memory", "1 轮")
    assert markup in last(page)
    assert page.run("return document.querySelectorAll('#log img, #log b').length") == 0


# A key that relay has handed out


RELAY_KEY = "rk-page-0123456789abcdefghijklmnop"


def texts(page: Browser, css: str) -> list[str]:
    """What each element says that fits."""
    return list(page.run("return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", css))


@pytest.mark.parametrize("size", SIZES)
def test_a_relay_key_sees_its_own_use(
    window: Browser, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, size: str
) -> None:
    listed = {"name": "page", "key": RELAY_KEY, "budget": {"amount": 2, "per": "month"}}
    upstreams = [{"name": "test", "url": upstream.url, "keys": ["sk-real-0123456789"], "balance": None}]
    folder = tmp_path_factory.mktemp("keys")
    with live.relay(folder, upstreams, keys={"list": [listed]}) as relay:
        for model in ("gpt-4o", "gpt-4o-mini", "gpt-4o"):
            body = {"model": model, "messages": [{"role": "user", "content": "x" * 900}], "max_tokens": 1000}
            bearer = {"Authorization": f"Bearer {RELAY_KEY}"}
            assert relay.ask("POST", "/v1/chat/completions", body, bearer).status == 200
        width, height, phone = SIZES[size]
        window.window(width, height, phone=phone)
        window.languages("zh-CN")
        window.open(f"{relay.url}/")
        window.type("#key", RELAY_KEY)
        window.click("#ask-balance")
        window.until_text("#balance", "本月")
        assert window.text("#balance dl").split()[:2] == ["总额", "$2.00"]
        today, month = texts(window, "#balance dl + dl dd")
        assert today == month and float(today.removeprefix("$")) > 0
        assert texts(window, ".model") == ["gpt-4o", "gpt-4o-mini"], "the dearer one first"
        bars = window.run("return [...document.querySelectorAll('.days span')].map((each) => each.offsetHeight)")
        assert len(bars) == 31 and bars[-1] == max(bars) > 40 and max(bars[:-1]) < 5
        assert "本月" in window.text("#balance") and spill(window) == []
        window.run("document.querySelector('[data-language=en]').click()")
        assert "This month" in window.text("#balance")
        assert window.console() == []


def test_what_an_upstream_does_not_tell_is_said_to_be_unknown(
    window: Browser, upstream: Upstream, tmp_path: Path
) -> None:
    with live.relay(tmp_path, [{"name": "test", "url": upstream.url, "balance": "ledger"}]) as relay:
        window.languages("zh-CN")
        window.open(f"{relay.url}/")
        window.type("#key", KEY)
        window.click("#ask-balance")
        window.until_text("#balance", "未知")
        assert window.text("#balance").split() == ["总额", "未知", "已用", "未知", "余额", "未知"]
        assert window.console() == []
