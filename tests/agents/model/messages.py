"""Anthropic's Messages."""

import json
from collections.abc import Iterator
from typing import Any

from tests.agents.model.chat import text_of
from tests.agents.model.plan import Asked, Heard, Said, pieces
from tests.agents.model.usage import output_tokens
from tests.support.agent_runs.cache import Served

type Block = dict[str, Any]


def read(body: dict[str, Any]) -> Asked:
    heard = [each for message in body["messages"] for each in _heard(message)]
    tools = frozenset(str(each.get("name")) for each in body.get("tools") or ())
    schema = (((body.get("output_config") or {}).get("format") or body.get("output_format")) or {}).get("schema")
    thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    return Asked("messages", body["model"], heard, tools, body, bool(body.get("stream")), schema, thinks)


def _heard(message: Block) -> Iterator[Heard]:
    """A message with results of tools may have the user's words behind them."""
    content = message["content"]
    role = {"assistant": "model", "user": "user"}.get(message["role"], "system")
    if role == "user" and isinstance(content, list) and any(each.get("type") == "tool_result" for each in content):
        yield Heard("tool")
    yield Heard(role, text_of(content))


def _blocks(said: Said, number: int) -> list[Block]:
    blocks: list[Block] = []
    if said.thought:
        blocks.append(
            {"type": "thinking", "thinking": said.thought, "signature": f"EpYplayed{number:06}" + "QUJD" * 16}
        )
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    for at, call in enumerate(said.calls):
        blocks.append({"type": "tool_use", "id": f"toolu_{number:06}{at}", "name": call.name, "input": call.arguments})
    return blocks


def usage(served: Served, said: Said) -> dict[str, Any]:
    written = {"ephemeral_5m_input_tokens": served.written_5m, "ephemeral_1h_input_tokens": served.written_1h}
    total = served.written_5m + served.written_1h
    return {
        "input_tokens": served.input - served.cached - total,
        "cache_creation_input_tokens": total,
        "cache_read_input_tokens": served.cached,
        "cache_creation": written,
        "output_tokens": output_tokens(said),
        "service_tier": "standard",
    }


def whole(asked: Asked, said: Said, served: Served, number: int) -> dict[str, Any]:
    return {
        "model": asked.model,
        "id": f"msg_{number:06}",
        "type": "message",
        "role": "assistant",
        "content": _blocks(said, number),
        "stop_reason": "tool_use" if said.calls else "end_turn",
        "stop_sequence": None,
        "usage": usage(served, said),
    }


def stream(asked: Asked, said: Said, served: Served, number: int) -> Iterator[bytes]:
    message = whole(asked, said, served, number)
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield _event({"type": "message_start", "message": begun})
    yield _event({"type": "ping"})
    for at, block in enumerate(message["content"]):
        yield from _told(at, block)
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": end, "usage": message["usage"]})
    yield _event({"type": "message_stop"})


def _told(at: int, block: Block) -> Iterator[bytes]:
    kind = block["type"]
    name = {"text": "text", "thinking": "thinking", "tool_use": "input"}[kind]
    begun = {**block, name: {} if kind == "tool_use" else ""}
    if kind == "thinking":
        begun["signature"] = ""
    yield _event({"type": "content_block_start", "index": at, "content_block": begun})
    delta, field = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}.get(
        kind, ("input_json_delta", "partial_json")
    )
    for piece in pieces(json.dumps(dict(block["input"])) if kind == "tool_use" else block[name]):
        yield _event({"type": "content_block_delta", "index": at, "delta": {"type": delta, field: piece}})
    if kind == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        yield _event({"type": "content_block_delta", "index": at, "delta": signed})
    yield _event({"type": "content_block_stop", "index": at})


def _event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()


def refused(status: int) -> dict[str, Any]:
    kind = "overloaded_error" if status == 529 else "api_error"
    return {"type": "error", "error": {"type": kind, "message": "Internal server error"}}
