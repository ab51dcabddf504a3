"""Requests and answers of all dialects as turns: what was said, what tools were called with, what they gave."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.export.answers import answered
from addons.core.export.record import Message
from addons.core.export.talk import Block, Kind, Tool, Turn, asked, turns_of
from addons.core.threads.prompt import Dialect
from tests.support.agent_runs import agent_runs
from tests.support.any_json import fuzz, values

JSON, EVENTS = (("content-type", "application/json"),), (("Content-Type", "text/event-stream; charset=utf-8"),)


ENCODED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 3


def turn(role: str, kind: Kind, text: str, name: str = "", named: str = "") -> Turn:
    return Turn(role, (Block(kind, text, name, named),))


CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Read it"},
                {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "function": {"name": "read", "arguments": '{"path":"a"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "the file"},
    ],
    "tools": [{"type": "function", "function": {"name": "read", "parameters": {}}}],
}
MESSAGES = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Read it"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "the file"}]},
                {"type": "text", "text": "go on"},
            ],
        },
    ],
    "tools": [{"name": "read", "input_schema": {}}],
}
RESPONSES = {
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Read it"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"path":"a"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "the file"},
    ],
    "tools": [{"type": "namespace", "name": "fs", "tools": [{"type": "function", "name": "read"}]}],
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Read it"}]},
        {
            "role": "model",
            "parts": [{"text": "hm", "thought": True}, {"functionCall": {"name": "read", "args": {"path": "a"}}}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "read", "response": {"text": "the file"}}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "read"}]}],
}
GIVEN = '{\n  "path": "a"\n}'


@pytest.mark.parametrize(
    ("dialect", "body", "tool"),
    [
        (Dialect.CHAT, CHAT, "read"),
        (Dialect.MESSAGES, MESSAGES, "read"),
        (Dialect.RESPONSES, RESPONSES, "fs.read"),
        (Dialect.GEMINI, GEMINI, "read"),
    ],
)
def test_a_request_is_read(dialect: Dialect, body: dict[str, Any], tool: str) -> None:
    read = asked(dialect, body)
    assert read.system == ("Be brief.",)
    assert [each.name for each in read.tools] == [tool]
    assert read.turns == read.new
    blocks = [block for each in read.turns for block in each.blocks]
    assert [each.kind for each in blocks if each.kind is not Kind.MEDIA][:4] == [
        Kind.TEXT,
        Kind.THINKING,
        Kind.CALL,
        Kind.RESULT,
    ]
    call = next(each for each in blocks if each.kind is Kind.CALL)
    assert (call.name, call.text) == ("read", GIVEN)
    result = next(each for each in blocks if each.kind is Kind.RESULT)
    assert "the file" in result.text and result.id in ("c1", "")


def test_what_is_known_is_no_news() -> None:
    assert [each.role for each in asked(Dialect.CHAT, CHAT, 3).new] == ["tool"]
    assert asked(Dialect.CHAT, CHAT, 4).new == ()
    assert asked(Dialect.MESSAGES, MESSAGES, 2).new == (
        turn("tool", Kind.RESULT, "the file", "", "c1"),
        turn("user", Kind.TEXT, "go on"),
    )


def test_the_size_of_a_tool_is_that_of_its_definition() -> None:
    [tool] = asked(Dialect.CHAT, {"messages": [], "tools": [{"name": "é"}]}).tools
    assert tool == Tool("é", '{\n  "name": "é"\n}', 18)


def events(*values: dict[str, Any]) -> Message:
    return Message(
        EVENTS, b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in values) + b"data: [DONE]\n\n"
    )


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


STREAMS = {
    "chat": events(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="h"),
        chunk(reasoning_content="m"),
        chunk(content="Let me"),
        chunk(content=" see"),
        chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "read", "arguments": ""}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"path"'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": ':"a"}'}}]),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ),
    "messages": events(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Let me"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": " see"}},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "c1", "name": "read", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"path"'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ':"a"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_calls"}},
    ),
    "responses": events(
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "summary": []}},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        },
        {
            "type": "response.output_item.added",
            "output_index": 1,
            "item": {"type": "message", "role": "assistant", "content": []},
        },
        {"type": "response.output_text.delta", "output_index": 1, "delta": "Let me"},
        {"type": "response.output_text.delta", "output_index": 1, "delta": " see"},
        {
            "type": "response.output_item.added",
            "output_index": 2,
            "item": {"type": "function_call", "call_id": "c1", "name": "read", "arguments": ""},
        },
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"path":"a"}'},
        {"type": "response.in_progress", "response": {"status": "tool_calls"}},
    ),
    "gemini": events(
        {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "Let me"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": " see"}]}}]},
        {
            "candidates": [
                {
                    "content": {"parts": [{"functionCall": {"id": "c1", "name": "read", "args": {"path": "a"}}}]},
                    "finishReason": "tool_calls",
                }
            ]
        },
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_put_together(name: str) -> None:
    read = answered(STREAMS[name])
    blocks = [block for each in read.turns for block in each.blocks]
    assert {each.role for each in read.turns} == {"assistant"}
    assert blocks == [
        Block(Kind.THINKING, "hm"),
        Block(Kind.TEXT, "Let me see"),
        Block(Kind.CALL, GIVEN, "read", "c1"),
    ]
    assert read.finish == "tool_calls" and read.error is None


def test_whole_answers_are_read() -> None:
    told = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    assert answered(Message(JSON, json.dumps(told).encode())).turns == (turn("assistant", Kind.TEXT, "Hi"),)
    envelope = {"code": 200, "message": "执行成功", "data": "你好"}
    assert answered(Message(JSON, json.dumps(envelope).encode())).turns == (turn("assistant", Kind.TEXT, "你好"),)
    spoken = events({"delta": "你"}, {"delta": "好"}, envelope)
    assert answered(spoken).turns == (turn("assistant", Kind.TEXT, "你好"),)
    assert answered(events({"delta": "你"})).turns == (turn("assistant", Kind.TEXT, "你"),), "it broke off"


def test_an_error_is_told() -> None:
    refused = {"error": {"message": "Over quota.", "code": "insufficient_quota"}}
    assert answered(Message(JSON, json.dumps(refused).encode())).error == "Over quota."
    assert (
        answered(events(chunk(content="Hi"), {"type": "error", "error": {"type": "overloaded_error"}})).error
        == "overloaded_error"
    )
    said = {"code": 429, "message": "too many", "data": None}
    assert answered(Message(JSON, json.dumps(said).encode())).error == "429: too many"


@fuzz
@given(values, st.booleans())
def test_whatever_comes_is_read(value: Any, stream: bool) -> None:
    for dialect in Dialect:
        body = (
            value if isinstance(value, dict) else {"messages": value, "input": value, "contents": value, "tools": value}
        )
        asked(dialect, body)
    for told in (
        value,
        {"choices": value},
        {"choices": [{"delta": value}]},
        {"output": value},
        {"candidates": [value]},
    ):
        whole = Message(JSON, json.dumps(told).encode())
        answered(events(told) if stream and isinstance(told, dict) else whole)


def test_agents_runs_are_read_whole() -> None:
    for call in agent_runs(18, 120):
        headers = (("content-type", call.answer_type),)
        read = answered(Message(headers, call.answer))
        if call.outcome == "answered":
            assert read.turns and read.error is None, call.index
        elif call.outcome == "refused":
            assert read.error, call.index


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call_output", "call_id": "c", "output": f"See data:image/png;base64,{ENCODED} there."},
        {"role": "tool", "tool_call_id": "c", "content": ENCODED * 4},
        {"type": "image_generation_call", "id": "i", "result": ENCODED * 4},
        {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"png": ENCODED * 4}}}]},
    ],
    ids=["a data URL", "a result", "a picture", "Gemini's"],
)
def test_what_is_encoded_is_told_by_its_size(item: dict[str, Any]) -> None:
    told = " ".join(block.text for each in turns_of(item) for block in each.blocks)
    assert ENCODED not in told and ("bytes]" in told or "kB]" in told or "characters" in told), told
