"""What a real relay has recorded, exported by ./run.sh; and in mitmweb the command, and the page of a thread."""

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import browser, live
from tests.support import web as pages
from tests.support.browser import Browser
from tests.support.live import ROOT, environment, eventually

KEY = "sk-test-export-0123456789abcdef"
AUTH = {"Authorization": f"Bearer {KEY}", "Cookie": "session=cookie-marked-9876543210"}
EVIL = "<script>document.title='owned'</script>"


def talk(relay: live.Live) -> None:
    """Two calls of one conversation, a message to /chat, and a list of models."""
    messages = [{"role": "user", "content": f"Hello {EVIL}"}]
    answer = relay.ask("POST", "/v1/chat/completions", {"model": "gpt-4o-mini", "messages": messages}, AUTH).json()
    messages += [answer["choices"][0]["message"], {"role": "user", "content": f"And again, with {KEY}?"}]
    relay.ask("POST", "/v1/chat/completions", {"model": "gpt-4o-mini", "messages": messages, "stream": True}, AUTH)
    relay.chat("我叫小明", key=KEY, session="1")
    relay.ask("GET", "/v1/models", headers=AUTH)


@pytest.fixture(scope="module", params=[True, False], ids=["redacted", "saved with keys"])
def recorded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Path:
    folder = tmp_path_factory.mktemp("export")
    file: Path = folder / "talk.flow"
    with live.relay(folder, upstream.url, ["-w", str(file)], inspect={"redact": request.param}) as relay:
        talk(relay)
    assert (KEY in file.read_bytes().decode("latin-1")) is not request.param
    return file


def run(file: Path, *arguments: str) -> str:
    """What `./run.sh export` prints."""
    command = [str(ROOT / "run.sh"), "export", str(file), *arguments]
    environ = environment(RELAY_CONFIG=str(file.with_name("relay.yaml")), RELAY_VENV=sys.prefix)
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environ, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("form", ["jsonl", "otlp", "html"])
def test_what_was_recorded_is_exported(recorded: Path, form: str) -> None:
    text = run(recorded, "--to", form)
    for secret in (KEY, KEY[8:], "cookie-marked"):
        assert secret not in text
    if form == "jsonl":
        told = [json.loads(line) for line in text.splitlines()]
        assert [each["path"] for each in told] == ["/v1/chat/completions"] * 2 + ["/chat", "/v1/models"]
        assert [each["status"] for each in told] == [200] * 4
        assert told[0]["upstream"] == "test" and told[0]["relay.tokens"]["input"] > 0
        one, then = told[0], told[1]
        assert (
            one["relay.thread"] == then["relay.thread"] != told[2]["relay.thread"] and told[3]["relay.thread"] is None
        )
        assert (one["relay.cause"]["reason"], then["relay.cause"]["reason"]) == ("first_turn", "new_turn")
        assert then["relay.cause"]["previous"] == one["id"] and then["relay.known"] == 2
        assert told[1]["duration_ms"] > 0 and told[1]["response"]["kind"] == "text"
    elif form == "otlp":
        [resource] = json.loads(text)["resourceSpans"]
        assert len(resource["scopeSpans"][0]["spans"]) >= 4
    else:
        assert text.startswith("<!doctype html>") and EVIL not in text
        assert "Hello &lt;script&gt;" in text and "我叫小明" in text


def test_out_is_never_written_over(recorded: Path) -> None:
    out = recorded.with_suffix(".html")
    run(recorded, "--to", "html", "--out", str(out), "--overwrite")
    command = [str(ROOT / "run.sh"), "export", str(recorded), "--to", "html", "--out", str(out)]
    environ = environment(RELAY_CONFIG=str(recorded.with_name("relay.yaml")), RELAY_VENV=sys.prefix)
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environ, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"relay: {out} is there already: add --overwrite to write it anew, or name another file.\n"


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Web]:
    with pages.mitmweb(tmp_path_factory.mktemp("web"), upstream.url) as running:
        talk(running.live)
        running.wait(4)
        yield running


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.running() as running:
        yield running


def asked(web: pages.Web, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, policy and body of a page of mitmweb's."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Security-Policy"], response.read().decode()
    finally:
        connection.close()


def first(web: pages.Web) -> str:
    return next(str(each["id"]) for each in web.flows() if each["request"]["path"] == "/v1/chat/completions")


@pytest.mark.parametrize("ending", ["jsonl", "html", "json"])
def test_the_command_writes_a_file(web: pages.Web, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"talk.{ending}"
    web.command("relay.export", "~u chat/completions", str(file))
    assert eventually(lambda: f"2 exchanges are in {file}" in "\n".join(web.events()))
    text = file.read_text(encoding="utf-8")
    assert KEY not in text and "And again" in text
    with pytest.raises(RuntimeError, match="is there already: name another file"):
        web.command("relay.export", "~all", str(file))
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("flows", "file", "said"),
    [
        ("~all", "a.txt", "tells no format"),
        ("~u nothing-such", "a.html", "No exchange that is over is among these flows"),
    ],
)
def test_the_command_says_what_is_wrong(web: pages.Web, flows: str, file: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=said):
        web.command("relay.export", flows, str(tmp_path / file))
    assert not (tmp_path / file).exists()


def test_a_file_that_cant_be_written_is_told(web: pages.Web, tmp_path: Path) -> None:
    web.command("relay.export", "~all", str(tmp_path / "no" / "a.html"))
    assert eventually(lambda: "can't be written: No such file or directory" in "\n".join(web.events()))


def test_the_page_stands_behind_mitmwebs_token(web: pages.Web) -> None:
    for path in (f"/relay/flows/{first(web)}/thread", "/relay/threads/5f0c21aa", "/relay/thread_link.js"):
        status, _, body = asked(web, path)
        assert status == 403 and "Hello" not in body
        status, _, body = asked(web, path, {"Authorization": "Bearer wrong"})
        assert status == 403 and "Hello" not in body
    status, _, body = asked(web, "/relay/threads/5f0c21aa", {"Authorization": f"Bearer {pages.PASSWORD}"})
    assert (status, body) == (404, "The list has no exchange of thread 5f0c21aa that is over.\n")
    status, _, body = asked(
        web, "/relay/flows/00000000-0000-0000-0000-000000000000/thread", {"Authorization": f"Bearer {pages.PASSWORD}"}
    )
    assert status == 404


def test_the_link_of_a_flow_opens_the_page_of_its_thread(web: pages.Web, window: Browser) -> None:
    window.window(1280, 760)
    window.open(web.url)
    window.until(lambda: window.run("return document.querySelectorAll('.flow-table tbody tr').length") >= 4)
    rows = "[...document.querySelectorAll('.flow-table tbody tr')]"
    window.run(f"{rows}.find(each => each.innerText.includes('completions')).click()")
    window.until_text(".flow-detail nav", "Thread")
    leads = window.run("return document.querySelector('.flow-detail nav a.relay-thread').href")
    assert leads.endswith("/thread") and "/relay/flows/" in leads
    window.console()
    window.open(leads)
    window.until_text("h1", "relay ·")
    read = window.text("body")
    assert re.search(r"/relay/threads/[0-9a-f]{8}$", window.run("return location.href"))
    assert read.count("Hello <script>") == 2, "once asked, once in the answer, which repeats it"
    assert "And again" in read and "new turn only" in read
    assert "我叫小明" not in read and window.run("return document.title").endswith("· relay")
    assert window.console() == [], "its policy allows all that it needs"


@pytest.mark.parametrize(("width", "phone"), [(320, True), (390, True), (1280, False)])
def test_the_page_fits_any_width(recorded: Path, window: Browser, width: int, phone: bool) -> None:
    out = recorded.with_name(f"page-{width}.html")
    run(recorded, "--to", "html", "--out", str(out), "--overwrite")
    window.window(width, 800, phone=phone)
    window.console()
    window.open(out.as_uri())
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.run("return document.title") != "owned" and window.console() == []
    assert window.run("return document.querySelectorAll('svg rect').length") > 0
    style = window.run("return getComputedStyle(document.querySelector('.chart svg')).height")
    assert style == "160px", "the policy lets its own style in"
