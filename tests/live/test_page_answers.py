"""Answers on the page at `/`, in a real browser: Markdown as it comes and as it stays, that nothing of it runs,
stopping, scrolling, models, and the conversation after a reload."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import browser
from tests.support.browser import Browser
from tests.support.live import Live

KEY = "sk-test-page-0123456789"
COMPLETIONS = "/v1/chat/completions"
SSE = [("content-type", "text/event-stream")]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.running() as running:
        yield running


@pytest.fixture
def page(window: Browser, relay: Live) -> Iterator[Browser]:
    """The page in a new tab, with a key; neither it nor its policy may complain of anything."""
    window.window(1280, 900)
    window.languages("zh-CN")
    window.open_afresh(f"{relay.url}/")
    window.type("#key", KEY)
    yield window
    assert window.console() == []


def event(**fields: Any) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, 'finish_reason': None} | fields]})}\n\n".encode()


def told(*pieces: str, pause: float = 0.0, last: float = 0.0) -> Behaviour:
    """A stream of these pieces, so many seconds apart, and `last` seconds before its end."""
    deltas = [event(delta={"content": piece}) for piece in pieces]
    chunks = [(each, pause) for each in deltas[:-1]] + [(deltas[-1], last)]
    return Behaviour(headers=SSE, chunks=[*chunks, (event(delta={}, finish_reason="stop") + b"data: [DONE]\n\n", 0)])


def say(page: Browser, content: str) -> None:
    page.type("#content", content)
    page.click("#send")


def answered(page: Browser, upstream: Upstream, text: str) -> None:
    """One message, and this answer to it, whole."""
    upstream.script(COMPLETIONS, told(text))
    say(page, "?")
    page.until(lambda: page.run("return !asking && document.querySelector('.assistant') !== null"))


def html(page: Browser, css: str = ".assistant") -> str:
    return str(page.run("return document.querySelector(arguments[0]).innerHTML", css))


def count(page: Browser, css: str) -> int:
    return int(page.run("return document.querySelectorAll(arguments[0]).length", css))


def scrolled(page: Browser) -> Sequence[int]:
    """Where the log stands, and how far that is from its end."""
    found: Sequence[int] = page.run(
        "const log = document.getElementById('log');"
        "return [log.scrollTop, log.scrollHeight - log.scrollTop - log.clientHeight].map(Math.round)"
    )
    return found


# Markdown


TEXT = """# Title

Some **bold**, *soft*, ~~gone~~ and `code` words
on two lines, see [the docs](https://docs.test/a?b=1&c=2) or https://bare.test/x.

1. one
2. two
   - inner

5) five

> quoted

| a | b |
|---|--:|
| 1 | <b>2</b> |

```python
print("<i>hi</i>")
```

![a picture](https://pictures.test/x.png)

see [the end][1]

[1]: https://end.test/
"""


def test_an_answer_shows_its_markdown(page: Browser, upstream: Upstream) -> None:
    answered(page, upstream, TEXT)
    assert page.text(".assistant h4.level1") == "Title"
    words = {tag: page.text(f".assistant p {tag}") for tag in ("strong", "em", "s", "code")}
    assert words == {"strong": "bold", "em": "soft", "s": "gone", "code": "code"}
    assert page.text(".assistant ol > li:nth-child(2) li") == "inner"
    assert page.run("return [...document.querySelectorAll('.assistant ol')].map((each) => each.start)") == [1, 5]
    assert page.text(".assistant blockquote") == "quoted"
    cell = ".assistant td:last-child"
    assert page.text(cell) == "<b>2</b>"
    assert page.run("return getComputedStyle(document.querySelector(arguments[0])).textAlign", cell) == "right"
    assert page.text(".assistant pre code") == 'print("<i>hi</i>")'
    assert page.text(".code-bar span") == "python"
    links = page.run("return [...document.querySelectorAll('.assistant a')].map((a) => [a.href, a.textContent])")
    assert links == [
        ["https://docs.test/a?b=1&c=2", "the docs"],
        ["https://bare.test/x", "https://bare.test/x"],
        ["https://pictures.test/x.png", "a picture"],
        ["https://end.test/", "the end"],
    ]
    rels = page.run("return [...document.querySelectorAll('.assistant a')].map((a) => a.rel + ' ' + a.target)")
    assert set(rels) == {"noopener noreferrer nofollow _blank"}
    assert "Title" in page.run("return document.getElementById('said').textContent"), "who hears the page is told"


def test_a_block_of_code_can_be_copied(page: Browser, upstream: Upstream) -> None:
    answered(page, upstream, "first\n\n```js\nlet a = '<b>';\n\n  b();\n```\n\n    indented\n")
    assert count(page, ".code-bar .copy") == 2
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.click(".code-bar .copy")
    assert page.until(lambda: page.run("return window.copied")) == "let a = '<b>';\n\n  b();\n"
    assert "已复制" in page.text(".code-bar .copy")


EVIL = [
    "<img src=x onerror=boom()>",
    "<script>boom()</script>",
    "<svg onload=boom()><script>boom()</script></svg>",
    "<!-- --!><img src=x onerror=boom()> -->",
    "<a href='javascript:boom()'>here</a>",
    "[here](javascript:boom())",
    "[here](JaVaScRiPt&colon;boom())",
    "[here](java&#x0a;script:boom())",
    "[here](<java\tscript:boom()>)",
    "[here](data:text/html,<script>boom()</script>)",
    "[here](vbscript:boom()) [here](file:///etc/passwd) [here](blob:https://x/y)",
    "[here](view-source:x) [here](//x.test)",
    "[here](/chat) [here](?a=b) [here](#x) ![here](/v1/models) ![here](data:image/png;base64,iVBORw0KGgo=)",
    "<javascript:boom()>",
    "![x](javascript:boom()) ![x](data:image/svg+xml,<svg/onload=boom()>)",
    "[x]: javascript:boom()\n\n[x]",
    "```html onload=boom()\n<img src=x onerror=boom()>\n```",
    "| <img src=x onerror=boom()> |\n|--|\n| [x](javascript:boom()) |",
    "<iframe srcdoc='<script>parent.boom()</script>'></iframe><style>* { display: none }</style>",
    "<form action=javascript:boom()><button id=send name=asking>x</button></form>",
    "\u0000<\u0000img src=x onerror=boom()>",
]


def test_nothing_of_an_answer_runs(page: Browser, upstream: Upstream) -> None:
    page.run("window.ran = 0; window.boom = () => { window.ran += 1; }")
    answered(page, upstream, "\n\n".join(EVIL))
    found = page.run(
        "return [...document.querySelectorAll('.assistant, .assistant *')].map((each) => [each.localName,"
        " ...each.getAttributeNames()].join(' '))"
    )
    allowed = {"class", "tabindex", "style", "type", "lang", "href", "target", "rel"}
    names = {each.split(" ")[0] for each in found}
    assert names <= {"div", "p", "br", "code", "pre", "span", "button", "table", "thead", "tbody", "tr", "th", "td"}
    assert {attribute for each in found for attribute in each.split(" ")[1:]} <= allowed
    assert count(page, ".assistant a") == 0
    page.run("for (const each of document.querySelectorAll('.assistant *')) each.dispatchEvent(new Event('click'))")
    time.sleep(0.1)
    assert page.run("return [window.ran, location.pathname]") == [0, "/"]


WIDE = f"""{"x" * 300}

```
{"y" * 300}
```

|{" column |" * 20}
|{"---|" * 20}
|{" cell |" * 20}

[{"z" * 300}](https://a.test/{"z" * 300}) and `{"w" * 300}`

> - {"v" * 300}
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_sticks_out_of_a_small_window(page: Browser, upstream: Upstream, dark: bool) -> None:
    page.window(360, 640, phone=True, dark=dark)
    answered(page, upstream, WIDE)
    assert page.run("return document.documentElement.scrollWidth") == 360
    assert page.run("const log = document.getElementById('log'); return log.scrollWidth - log.clientWidth") <= 0
    for area in (".assistant pre", ".assistant .table"):
        scrolls = "const area = document.querySelector(arguments[0]); return area.scrollWidth > area.clientWidth"
        assert page.run(scrolls, area) and page.run("return document.querySelector(arguments[0]).tabIndex", area) == 0


def test_a_half_fence_is_code_while_it_comes_and_what_follows_is_none(page: Browser, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, told("Look:\n\n``", "`py\nx = <b>\n", "y = *a*\n``", "`\n\nand *so* on.", pause=0.3))
    say(page, "?")
    page.until(lambda: "y = *a*" in page.text(".assistant pre code"))
    assert count(page, ".assistant em, .assistant b") == 0
    page.until_text(".assistant em", "so")
    page.until(lambda: count(page, ".code-bar .copy") == 1)
    assert page.text(".assistant pre code") == "x = <b>\ny = *a*"


BLOCKS = (
    "a\n\n- b\n\n- c\n\n  d\n\n10. e\n\n11. f\n\n| g |\n|---|\n| h |\n\ni\r\n===\r\n\r\n> j\n\n```\nk\n\nl\n```\n\n"
)


@pytest.mark.parametrize("text", [BLOCKS, BLOCKS + "[m][n]\n\n[n]: https://a.test\n"], ids=["blocks", "a definition"])
def test_the_same_comes_of_a_text_wherever_it_was_looked_at(page: Browser, text: str) -> None:
    other = page.run(
        """
        const text = arguments[0] + arguments[0];
        const made = () => {
          const box = document.createElement("div");
          return [box, new Markdown(box, copyButton, (change) => change())];
        };
        const [whole, all] = made();
        return (async () => {
          await all.finish(text);
          const cuts = await Promise.all([...text].map(async (_, cut) => {
            const [box, markdown] = made();
            markdown.push(text.slice(0, cut));
            await new Promise((next) => setTimeout(next, 150));
            await markdown.finish(text);
            return box.innerHTML === whole.innerHTML ? "" : text.slice(0, cut);
          }));
          return cuts.filter(Boolean);
        })();
        """,
        text,
    )
    assert other == []


LONG = {
    "paragraphs": "Some **words** and `more` of [them](https://a.test).\n\n" * 4000,
    "one block of code": "```\n" + "x = 1\n" * 33000,
    "one list": "- an item\n" * 10000,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_answer_does_not_freeze_the_page(page: Browser, upstream: Upstream, kind: str) -> None:
    text = LONG[kind]
    page.run(
        "window.longest = 0; let before = performance.now(); setInterval(() => {"
        " window.longest = Math.max(longest, performance.now() - before); before = performance.now(); }, 10)"
    )
    upstream.script(COMPLETIONS, told(*(text[at : at + 4000] for at in range(0, len(text), 4000)), pause=0.005))
    say(page, "?")
    page.until(lambda: page.run("return !asking && document.querySelector('.assistant') !== null"), timeout=30)
    assert page.run("return longest") < 4000, "ms; 0.5 s on a machine with nothing else to do"
    shown = page.run("return document.querySelector('.assistant').textContent")
    assert sum(shown.count(word) for word in ("words", "x = 1", "an item")) == sum(
        text.count(word) for word in ("words", "x = 1", "an item")
    )


# While it comes


def test_a_stopped_answer_stays_and_the_next_message_works(page: Browser, upstream: Upstream) -> None:
    upstream.clear()
    upstream.script(COMPLETIONS, told("So **much** came.\n\n", "```\nhalf", last=20))
    say(page, "你好")
    page.until_text(".assistant pre", "half")
    assert upstream.seen[-1].closed_at is None
    page.click("#stop")
    page.until_text("#log .aside", "已停止")
    assert upstream.wait(lambda seen: seen[-1].closed_at or seen[-2].closed_at), "nobody waits for the rest of it"
    assert page.text(".assistant.partial strong") == "much"
    assert page.run("return document.getElementById('stop').hidden")
    say(page, "")
    page.until_text(".assistant:last-of-type", "你说的是「你好」。在此之前我看到 0 条消息。")


def test_who_reads_the_end_follows_and_who_has_scrolled_up_stays(page: Browser, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, told(*(f"line {number}\n\n" for number in range(60)), pause=0.04))
    say(page, "?")
    page.until(lambda: scrolled(page)[0] > 50)
    assert scrolled(page)[1] <= 1
    page.run("document.getElementById('log').scrollTop = 20")
    height = "return document.getElementById('log').scrollHeight"
    before = page.run(height)
    page.until(lambda: page.run(height) > before + 100)
    assert scrolled(page)[0] == 20
    page.run("document.getElementById('log').scrollTop = 1e6")
    page.until(lambda: page.run("return !asking"))
    page.until_text(".assistant", "line 59")
    assert scrolled(page)[1] <= 1


# Models


def test_the_model_can_be_chosen(page: Browser, upstream: Upstream) -> None:
    page.press(browser.TAB)
    page.until(lambda: count(page, "#model option") > 2)
    options = page.run("return [...document.querySelectorAll('#model option')].map((each) => each.textContent)")
    assert options[0] == "gpt-3.5-turbo" and "gpt-4o" in options[1:]
    assert options[1:] == sorted(set(options[1:]))
    answered(page, upstream, "a")
    assert upstream.seen[-1].json()["model"] == "gpt-3.5-turbo"
    page.run("document.getElementById('model').value = 'gpt-4o'")
    upstream.script(COMPLETIONS, told("second"))
    say(page, "?")
    page.until_text("#log > :last-child", "second")
    assert upstream.seen[-1].json()["model"] == "gpt-4o"


def test_without_a_list_of_models_one_can_talk(window: Browser, relay: Live, upstream: Upstream) -> None:
    window.open_afresh(f"{relay.url}/")
    upstream.script("/v1/models", Behaviour(status=404, body=b"<html>nothing here</html>"))
    window.type("#key", KEY + browser.TAB)
    window.until_text("#model-hint", "无法列出模型：收到无法识别的回答（HTTP 404）。")
    answered(window, upstream, "still **here**")
    assert window.text(".assistant strong") == "here"
    window.console()


# After a reload


def test_a_reload_finds_the_conversation_again(page: Browser, relay: Live, upstream: Upstream) -> None:
    say(page, "我叫小明")
    page.until_text("#memory", "1 轮")
    answered(page, upstream, "- **one**\n- two")
    page.open(f"{relay.url}/")
    assert page.run("return document.getElementById('key').value") == ""
    assert "填写密钥后显示" in page.text("#log")
    page.type("#key", KEY + browser.TAB)
    page.until_text("#log", "你好，小明！我记住了。")
    page.until_text("#memory", "2 轮")
    assert page.text(".assistant li strong") == "one"
    assert [count(page, ".user"), count(page, ".assistant"), count(page, ".empty")] == [2, 2, 0]
    say(page, "我叫什么名字？")
    page.until_text("#log > :last-child", "你叫小明。")
    page.click("#new")
    page.open(f"{relay.url}/")
    assert "中转会保留" in page.text("#log"), "a new conversation has nothing to be found"


def test_a_message_right_after_a_reload_comes_behind_the_others(page: Browser, relay: Live) -> None:
    say(page, "我叫小明")
    page.until_text("#memory", "1 轮")
    page.open(f"{relay.url}/")
    page.type("#content", "我叫什么名字？")
    page.type("#key", KEY)
    page.click("#send")
    page.until_text("#log > :last-child", "你叫小明。")
    assert [count(page, ".user"), count(page, ".assistant")] == [2, 2]


def test_under_another_key_there_is_no_conversation_from_before(page: Browser, relay: Live) -> None:
    say(page, "我叫小明")
    page.until_text("#memory", "1 轮")
    page.open(f"{relay.url}/")
    page.type("#key", f"{KEY}-other{browser.TAB}")
    page.until_text("#log", "这个密钥下没有刷新前的对话")
    page.run("document.getElementById('key').value = ''")
    page.type("#key", KEY + browser.TAB)
    page.until_text("#log", "你好，小明！我记住了。")
