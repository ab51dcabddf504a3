"""The page at `/`: its head, its policy, what settings may do to it. On the wire: live/test_page.py; in a browser:
live/test_page_browser.py."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http

from addons.config.settings import Settings
from addons.endpoints.page import Page, facts, inert, render
from addons.exchange import Kind
from tests.support import flows
from tests.support.config_text import mistakes, read
from tests.support.live import ROOT

STATIC = ROOT / "addons" / "endpoints" / "static"
VENDOR = STATIC / "vendor"
EVIL = "</script><script>alert(1)</script><!--\u2028'\"&"


def asked(method: str, path: str = "/", headers: Mapping[str, str] | None = None, **sections: Any) -> http.HTTPFlow:
    """A flow that Routing and Page have seen."""
    flow = flows.opened(method, path, headers or {}, **sections)
    Page(flows.settings(**sections)).requestheaders(flow)
    return flow


def page_of(settings: Settings) -> str:
    return render(settings)[0].decode()


def told(page: str) -> Any:
    """The settings in a page, as a browser would read them."""
    found = re.search(r'<script type="application/json" id="settings">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("path", ["/", "//", "/?lang=en"])
def test_a_browser_gets_the_page(path: str) -> None:
    answer = flows.answer_of(asked("GET", path, {"Accept": "text/html"}))
    assert answer.status_code == 200
    assert (answer.raw_content or b"").startswith(b"<!doctype html>")
    shown = {name.lower(): value for name, value in answer.headers.items()}
    del shown["content-length"], shown["content-security-policy"], shown["etag"]
    assert shown == {
        "content-type": "text/html; charset=utf-8",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def test_nothing_but_the_page_s_own_script_and_style_may_run() -> None:
    body, policy = render(flows.settings())
    sources = dict(part.split(" ", 1) for part in policy.split("; "))
    for element, directive, count in (("style", "style-src", 1), ("script", "script-src", 3)):
        inline = re.findall(rf"<{element}>(.*?)</{element}>", body.decode(), re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline]
        assert sources.pop(directive).split(" ") == [f"'sha256-{digest}'" for digest in digests]
        assert len(digests) == count
    assert sources == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }


def test_nothing_comes_from_elsewhere_and_nothing_is_stored_but_which_conversation_it_is() -> None:
    names = ("page.html", "page.css", "page.js", "markdown.js")
    text = "".join((STATIC / name).read_text(encoding="utf-8") for name in names)
    assert set(re.findall(r"\w+://[\w.]+", text)) == {"https://api.openai.com"}  # what the page tells to replace
    assert not re.search(r"@import|url\(|(src|href)=\"(?!data:,)|\son\w+=|\sstyle=", text)
    assert not re.search(r"localStorage|indexedDB|cookie|(inner|outer|insertAdjacent)HTML|trustedTypes|\beval\b", text)
    assert re.findall(r"sessionStorage\.setItem\(.*?\)", text) == ["sessionStorage.setItem(PLACE, id)"]


def test_the_library_is_the_one_that_was_written_down() -> None:
    vendored = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))
    assert {path.name for path in VENDOR.iterdir()} == {"vendor.json", "LICENSES.txt", *vendored}
    for name, source in vendored.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == source["sha256"], name
        assert re.fullmatch(r"sha512-[\w+/]{86}==", source["integrity"])
        assert f"{source['package']} {source['version']}" in (VENDOR / "LICENSES.txt").read_text(encoding="utf-8")


def test_the_library_can_stand_in_a_page() -> None:
    library = (VENDOR / "markdown-it.min.js").read_text(encoding="utf-8")
    assert not re.search(r"</?script", library, re.IGNORECASE)  # `<!--` alone does no harm
    assert "sourceMappingURL" not in page_of(flows.settings())


def test_the_elements_that_the_script_looks_for_are_there() -> None:
    script, page = ((STATIC / name).read_text(encoding="utf-8") for name in ("page.js", "page.html"))
    ids = re.findall(r' id="([\w-]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\bat\("([\w-]+)"\)', script)) <= set(ids)
    named = re.findall(r'(?:for|data-copy|aria-labelledby|aria-describedby)="([\w-]+)"', page)
    assert set(named) <= set(ids)


def test_both_languages_stand_side_by_side() -> None:
    page = (STATIC / "page.html").read_text(encoding="utf-8")
    assert page.count('<span lang="zh-CN">') == page.count('<span lang="en">') > 20


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused_as_json(method: str) -> None:
    flow = asked(method)
    answer = flows.answer_of(flow)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert flows.json_of(flow)["error"]["code"] == "method_not_allowed"


def test_a_page_that_is_known_is_not_sent_again() -> None:
    etag = flows.answer_of(asked("GET")).headers["ETag"]
    answer = flows.answer_of(asked("GET", headers={"If-None-Match": f'W/"x", {etag}'}))
    assert (answer.status_code, answer.raw_content, answer.headers["ETag"]) == (304, b"", etag)
    assert "Content-Length" not in answer.headers
    assert flows.answer_of(asked("GET", headers={"If-None-Match": '"other"'})).status_code == 200
    assert flows.answer_of(asked("GET", chat={"max_content": 7})).headers["ETag"] != etag


def test_under_a_route_the_path_is_the_upstream_s() -> None:
    flow = asked("GET", "/other/")
    assert flow.response is None
    assert flows.exchange(flow).kind is Kind.PASS


def test_switched_off_the_path_is_unknown() -> None:
    flow = asked("GET", page={"enabled": False})
    assert flows.answer_of(flow).status_code == 404
    assert flows.json_of(flow)["error"]["code"] == "unknown_path"


def test_relay_s_other_paths_are_left_alone() -> None:
    assert asked("GET", "/healthz").response is None


def test_relay_yaml_switches_it(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    assert read(file, "").page.enabled
    assert not read(file, "page: {enabled: false}").page.enabled
    assert mistakes(file, "page: {enabled: off}") == ["page.enabled: 'off' -- expected true or false"]


@pytest.mark.parametrize(
    "text",
    ["chat: {paths: [/]}", "balance: {paths: [/]}", "routes: [{path: /, upstream: openai}]"],
    ids=["chat", "balance", "a route"],
)
def test_no_other_path_can_be_the_page_s(text: str, tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path / "relay.yaml", text)
    assert "'/' -- expected a path such as /chat" in mistake


def test_what_the_page_tells_is_what_is_in_force() -> None:
    settings = flows.settings(
        chat={"paths": ["/talk"], "model": "m", "max_content": 5, "session_ttl": "90s", "context": {"max_turns": 3}},
        balance={"paths": ["/left"], "window_days": 60},
        limits={"body": "1m", "idle": "5m"},
    )
    assert told(page_of(settings)) == {
        "model": "m",
        "max_body": 1024**2,
        "idle": 300,
        "chat": {
            "path": "/talk",
            "max_content": 5,
            "max_body": 65536,
            "session_ttl": 90,
            "timeout": 300,
            "max_turns": 3,
            "max_tokens": 3000,
            "chooses": True,
        },
        "balance": {"path": "/left", "window_days": 60},
    }


def test_where_messages_may_not_name_a_model_there_is_none_to_choose() -> None:
    assert told(page_of(flows.settings(chat={"allow": ["system"]})))["chat"]["chooses"] is False


def test_what_nobody_answers_is_left_out() -> None:
    without = facts(flows.settings(chat={"paths": []}, balance={"paths": []}))
    assert (without["chat"], without["balance"]) == (None, None)
    silent = flows.settings(upstreams=[flows.UPSTREAM | {"balance": None, "model": "own"}, flows.OTHER])
    assert (facts(silent)["balance"], facts(silent)["model"]) == (None, "own")


def test_no_address_and_no_secret_is_told() -> None:
    upstream = flows.UPSTREAM | {"proxy": "http://me:hidden-word@proxy.test:1"}
    page = page_of(flows.settings(upstreams=[upstream, flows.OTHER], chat={"system": "be brief"}))
    for word in ("api.test", "other.test", "proxy.test", "hidden-word", "be brief", "/other"):
        assert word not in page


def test_settings_cannot_become_markup() -> None:
    page = page_of(flows.settings(chat={"model": EVIL}))
    assert told(page)["model"] == EVIL
    assert page.count("</script>") == 4
    assert "alert(1)<" not in page
    assert page_of(flows.settings(chat={"model": "{{script}}"})).count('"use strict"') == 2


def test_json_in_a_script_is_inert() -> None:
    said = inert({"a": EVIL, "b": "\ud800"})
    assert said.isascii()
    assert not set(said) & set("<>&")
    assert json.loads(said) == {"a": EVIL, "b": "\ud800"}
