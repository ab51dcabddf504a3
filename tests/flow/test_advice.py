"""What stands in the log for whoever runs relay, and what callers are told instead; in every message there is."""

import ast
import logging
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from addons import errors
from addons.core.failures import Failure
from addons.flow import advice
from addons.flow.upstream_errors import failure_error
from tests.support import flows
from tests.support.live import ROOT

HAN = re.compile(r"[\u3400-\u9fff]")
SETTING = re.compile(r"relay\.yaml|[a-z]+\[\]|\b(chat|balance|limits|keys|prices|store|listen|inspect)\.(\*|[a-z_]+)\b")


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    advice._said.clear()
    yield
    advice._said.clear()


def test_it_is_said_once_in_a_while_for_each_upstream(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    error = errors.UpstreamFailed("坏了。", "Broken.", code="wrong_address", advice="check upstreams[].url")
    for upstream in ("a", "a", "b"):
        advice.advise(upstream, error)
    advice.advise("a", errors.UpstreamFailed("坏了。", "Broken."))
    now[0] += 61
    advice.advise("a", error)
    assert [record.getMessage() for record in caplog.records] == [
        f"upstream {name}: wrong_address: check upstreams[].url" for name in "aba"
    ]


def test_what_is_remembered_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for number in range(3000):
        advice.advise(f"u{number}", errors.UpstreamFailed("坏了。", "Broken.", advice="x"))
    assert len(advice._said) <= 1000


@pytest.mark.parametrize("failure", Failure)
def test_a_failure_sends_callers_to_who_can_mend_it(failure: Failure) -> None:
    error = failure_error(failure)
    assert not SETTING.search(error.message)
    assert ("服务管理员" in error.zh) is ("whoever runs this relay" in error.en)
    assert bool(error.advice) <= ("服务管理员" in error.zh)


def test_an_unknown_path_names_the_routes_there_are() -> None:
    upstreams = [flows.UPSTREAM, flows.OTHER | {"name": "gemini"}]
    flow = flows.opened(
        "POST",
        "/v1beta/models/gemini-pro:generateContent",
        upstreams=upstreams,
        routes=[{"path": "/gemini", "upstream": "gemini"}],
    )
    message = flows.json_of(flow)["error"]["message"]
    assert "可用的路径：/v1/...、/chat、/pro/balance、/gemini/...。" in message
    assert "This relay serves /v1/..., /chat, /pro/balance, /gemini/...." in message


def test_of_many_routes_some_are_named() -> None:
    routes = [{"path": f"/r{number:03}", "upstream": "other"} for number in range(500)]
    message = flows.json_of(flows.opened("GET", "/nowhere", upstreams=[flows.UPSTREAM, flows.OTHER], routes=routes))
    assert len(message["error"]["message"]) < 700 and "/r019/...等。" in message["error"]["message"]


# Every message


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def _pairs() -> Iterator[tuple[str, str, str]]:
    """Where a Chinese text and an English one follow each other, and both."""
    for path in sorted((ROOT / "addons").rglob("*.py")):
        if path.is_relative_to(ROOT / "addons" / "core" / "upstream_error.py"):
            continue  # words of others
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call | ast.Tuple):
                continue
            children = node.args if isinstance(node, ast.Call) else node.elts
            texts = [_text(child) for child in children]
            for zh, en in pairwise(texts):
                if zh and en and HAN.search(zh) and not HAN.search(en):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", zh, en


PAIRS = list(_pairs())


def _chinese() -> Iterator[tuple[str, str]]:
    """Chinese texts of files that people read, without code: (where, text)."""
    yield from ((where, zh) for where, zh, _ in PAIRS)
    for path in (
        Path("README.zh.md"),
        Path("addons/endpoints/static/page.html"),
        Path("addons/endpoints/static/page.js"),
    ):
        text = re.sub(r"```.*?```", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path}:{number}", re.sub(r"`[^`]*`" if path.suffix == ".md" else r"\$\{[^}]*\}", "x", line)


def test_chinese_has_the_punctuation_of_chinese() -> None:
    assert len(PAIRS) > 100
    wrong = re.compile(r"[\u3400-\u9fff][,:;()!?]|[,:;(!?][\u3400-\u9fff]|[\u3400-\u9fff]\s*\.(\s|$)")
    assert [(where, text) for where, text in _chinese() if wrong.search(text)] == []


def test_no_message_tells_callers_to_change_settings() -> None:
    # Whoever runs relay reads these; metrics are asked for by nobody else.
    theirs = re.compile(r"^addons/(cli|config|inspection|workers|telemetry)/")
    assert [
        pair for pair in PAIRS if not theirs.match(pair[0]) and (SETTING.search(pair[1]) or SETTING.search(pair[2]))
    ] == []


def test_both_halves_send_to_the_same() -> None:
    for where, zh, en in PAIRS:
        assert ("服务管理员" in zh) is bool(re.search(r"whoever runs", en)), where
