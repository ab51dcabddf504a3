"""Exports of flows: no key is in any of them, nothing is written over, and what is wrong is said in a sentence."""

import asyncio
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from addons.core.slices import Sliced, at_once
from addons.exchange import Exchange, Kind, attach
from addons.inspection import exporting
from addons.inspection.exporting import Unfit, export, format_of, refuse_existing, write
from addons.inspection.redaction import Redaction
from addons.logs import known_secrets
from addons.meter.prices import PriceList, Prices
from tests.support.agent_flows import flows
from tests.support.agent_runs import CI_SEED, agent_runs
from tests.support.recordings import made, settings

SECRET = b"s" * 32
PRICES = Prices(settings(), PriceList())
KEY, COOKIE = "sk-marked-0123456789abcdefghij", "cookie-marked-9876543210"


def exports(each: list[http.HTTPFlow], form: str) -> str:
    return asyncio.run(export(each, settings(inspect={"redact": False}), SECRET, form, PRICES))[0]


def marked() -> http.HTTPFlow:
    """A flow that was saved with `inspect.redact: false`: a key and a cookie in every place."""
    body = {"messages": [{"role": "user", "content": f"my key is {KEY}"}], "api_key": KEY, "model": KEY}
    each = made(f"/v1/chat/completions?api_key={KEY}", json.dumps({"choices": [], "echo": KEY}).encode())
    each.live = False
    each.request.method = "POST"
    each.request.text = json.dumps(body)
    each.request.headers["Authorization"] = f"Bearer {KEY}"
    each.request.headers["Cookie"] = f"session={COOKIE}"
    assert each.response is not None
    each.response.headers["Set-Cookie"] = f"session={COOKIE}; HttpOnly"
    each.comment = f"of {KEY}"
    each.metadata |= {
        "relay.thread": "aaaaaaaa",
        "relay.cause": {"reason": "prefix_changed", "path": "x", "before": KEY, "after": f"Bearer {KEY}"},
        "relay.attempts": [{"upstream": "one", "error": f"refused {KEY}"}],
        "relay.model": KEY,
    }
    return each


def socket() -> http.HTTPFlow:
    each = tflow.twebsocketflow()
    assert each.websocket is not None
    each.live = False
    each.request.headers["Authorization"] = f"Bearer {KEY}"
    each.websocket.messages = [WebSocketMessage(Opcode.TEXT, True, json.dumps({"key": KEY}).encode(), 1.0)]
    each.websocket.close_reason = KEY
    return each


@pytest.mark.parametrize("form", exporting.FORMATS)
def test_no_key_is_in_any_export(form: str) -> None:
    for each in (marked(), socket()):
        before = each.get_state()
        text = exports([each], form)
        for secret in (KEY, COOKIE, KEY[3:], KEY[8:24]):
            assert secret not in text
        assert "***" in text or form != "jsonl"
        assert each.get_state() == before, "the record itself stays as it is"
        assert each.id not in known_secrets


def pieces(*values: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in values)


def cut(text: str) -> list[str]:
    return [text[at : at + 5] for at in range(0, len(text), 5)]


SAID = f"I read {KEY} and {COOKIE}."
CALL = {"id": "c", "function": {"name": "f", "arguments": json.dumps({"k": KEY})}}
DIALECTS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": f"key {KEY}"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": f'{{"k":"{KEY}"}}'}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": SAID},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "description": SAID}}],
        },
        pieces(*({"choices": [{"index": 0, "delta": {"content": each}}]} for each in cut(SAID))),
    ),
    "messages": (
        "/v1/messages",
        {
            "system": [{"type": "text", "text": SAID}],
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": SAID}]}],
        },
        pieces(
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": each}}
                for each in cut(SAID)
            )
        ),
    ),
    "responses": (
        "/v1/responses",
        {"instructions": SAID, "input": [{"type": "function_call_output", "call_id": "c", "output": SAID}]},
        pieces(*({"type": "response.output_text.delta", "output_index": 0, "delta": each} for each in cut(SAID))),
    ),
    "gemini": (
        f"/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse&key={KEY}",
        {"systemInstruction": {"parts": [{"text": SAID}]}, "contents": [{"role": "user", "parts": [{"text": SAID}]}]},
        pieces(*({"candidates": [{"content": {"parts": [{"text": each}]}}]} for each in cut(SAID))),
    ),
}


@pytest.mark.parametrize("form", exporting.FORMATS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-goog-api-key"])
def test_no_key_of_any_dialect_is_in_any_export(dialect: str, form: str, header: str) -> None:
    path, body, answer = DIALECTS[dialect]
    each = made(path, answer, {"content-type": "text/event-stream", "set-cookie": f"session={COOKIE}"})
    each.live = False
    each.request.method = "POST"
    each.request.text = json.dumps(body)
    each.request.headers[header] = f"Bearer {KEY}" if header == "authorization" else KEY
    each.request.headers["cookie"] = f"session={COOKIE}"
    text = exports([each], form)
    assert "I read" in text.replace("\\", "") or form == "jsonl"
    for secret in (KEY, COOKIE, KEY[3:], COOKIE[7:]):
        assert secret not in text


@pytest.mark.parametrize("form", exporting.FORMATS)
def test_the_keys_of_agents_are_in_no_export(form: str) -> None:
    calls = list(agent_runs(CI_SEED, 60))
    text = exports(flows(calls), form)
    assert not re.search(r"sk-made-up-[a-z]+-[0-9a-f]{8}", text)


@pytest.mark.parametrize(
    ("redact", "watched", "edited", "again"),
    [(True, True, False, False), (False, True, False, True), (True, False, False, True), (True, True, True, True)],
)
def test_what_this_relay_has_cleaned_is_not_cleaned_again(
    redact: bool, watched: bool, edited: bool, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = marked()
    in_force = settings(inspect={"redact": redact})
    exchange = attach(each, Exchange(in_force, in_force.upstreams[0], Kind.PASS, "/v1/chat/completions"))
    exchange.record.watched = watched
    if edited:
        each.backup()
        each.request.text = json.dumps({"messages": [], "edited": KEY})
    cleaned = []

    def cleaning(_: Redaction, copy: http.HTTPFlow) -> Sliced[None]:
        cleaned.append(copy)
        yield

    monkeypatch.setattr(Redaction, "cleaning_record", cleaning)
    exports([each], "jsonl")
    assert bool(cleaned) is again


def test_to_clean_twice_changes_nothing() -> None:
    each = marked()
    once = exports([each], "jsonl")
    at_once(exporting.always_redacting(settings(), SECRET).cleaning_record(each))
    assert KEY not in str(each.get_state())
    assert once == exports([each], "jsonl") and "relay: not kept" not in once


def test_one_key_has_one_hash_in_an_export() -> None:
    told = json.loads(exports([marked()], "jsonl"))
    shown = dict(told["request"]["headers"])["Authorization"].removeprefix("Bearer ")
    assert re.fullmatch(r"sk-\*\*\*[0-9a-f]{8}", shown) and shown in told["path"]
    assert told["relay.cause"]["before"] == shown


def test_exchanges_under_way_are_left_out() -> None:
    live = marked()
    live.live = True
    text, count = asyncio.run(export([live, marked(), tflow.ttcpflow()], settings(), SECRET, "jsonl", PRICES))
    assert count == 1 and text.count("\n") == 1


def test_what_cant_be_cleaned_is_left_empty(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("addons.inspection.redaction._note_query", fail)
    told = json.loads(exports([marked()], "jsonl"))
    assert told["request"]["headers"] == [] and told["request"]["body"] is None and told["relay.cause"] is None
    assert KEY not in json.dumps(told) and "left empty" in caplog.text


@pytest.mark.parametrize(
    ("name", "named", "form"),
    [("a.jsonl", "", "jsonl"), ("a.HTML", "", "html"), ("a.json", "", "otlp"), ("a.txt", "otlp", "otlp")],
)
def test_a_files_ending_tells_the_format(name: str, named: str, form: str) -> None:
    assert format_of(Path(name), named) == form


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"no format pdf: take one of jsonl, html, otlp\."):
        format_of(Path("a.jsonl"), "pdf")
    with pytest.raises(Unfit, match=r"a\.txt tells no format: let its name end in"):
        format_of(Path("a.txt"))
    with pytest.raises(Unfit, match="is a folder"):
        refuse_existing(tmp_path, "")
    there = tmp_path / "there"
    there.write_text("mine")
    with pytest.raises(Unfit, match=r"is there already: name another file\."):
        refuse_existing(there, "name another file")
    with pytest.raises(Unfit, match="can't be written: File exists"):
        write(there, "other")
    with pytest.raises(Unfit, match="can't be written: No such file or directory"):
        write(tmp_path / "no" / "a.html", "other")
    assert there.read_text() == "mine"
    write(there, "other", overwrite=True)
    assert there.read_text() == "other"


def test_calls_without_a_thread_are_placed() -> None:
    calls = list(agent_runs(CI_SEED, 120))
    told = [json.loads(line) for line in exports(flows(calls, noted=False), "jsonl").splitlines()]
    thread_of: dict[str, str] = {}
    right = 0
    for call, each in zip(calls, told, strict=True):
        assert thread_of.setdefault(call.truth.thread, each["relay.thread"]) == each["relay.thread"]
        right += each["relay.cause"]["reason"] == call.truth.reason
        lost = each["relay.cause"]
        if lost["cost"] is not None and call.truth.cost is not None and lost["tokens"] == call.truth.tokens:
            assert abs(Decimal(lost["cost"]) - Decimal(call.truth.cost) / 10**9) < Decimal("0.005")
    assert right >= 0.95 * len(calls)


def test_notes_that_are_there_stay() -> None:
    calls = list(agent_runs(CI_SEED, 20))
    mixed = flows(calls)
    noted = mixed[0].metadata["relay.thread"]
    for each in mixed[1:]:
        each.metadata.clear()
    told = [json.loads(line) for line in exports(mixed, "jsonl").splitlines()]
    assert told[0]["relay.thread"] == noted and all(each["relay.thread"] for each in told)
