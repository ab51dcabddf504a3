"""OpenAI's Responses."""

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.agents.model.chat import text_of
from tests.agents.model.plan import Asked, Call, Heard, Said, pieces
from tests.agents.model.usage import output_tokens
from tests.support.agent_runs.cache import Served

type Item = dict[str, Any]

_MODELS = ("function_call", "custom_tool_call", "local_shell_call", "reasoning")


def read(body: dict[str, Any]) -> Asked:
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    heard = [_heard(each) for each in items]
    schema = ((body.get("text") or {}).get("format") or {}).get("schema")
    tools = frozenset(_names(body.get("tools") or ()))
    streamed, thinks = bool(body.get("stream")), bool(body.get("reasoning"))
    return Asked("responses", body["model"], heard, tools, body, streamed, schema, thinks)


def _names(tools: Any) -> Iterator[str]:
    for tool in tools:
        if tool.get("type") == "namespace":
            yield from (f"{tool['name']}.{name}" for name in _names(tool.get("tools") or ()))
        else:
            yield str(tool.get("name") or tool.get("type"))


def _heard(item: Item) -> Heard:
    kind = item.get("type", "message")
    if kind == "message":
        role = {"user": "user", "assistant": "model"}.get(item["role"], "system")
        return Heard(role, text_of(item.get("content")))
    return Heard("model" if kind in _MODELS else "tool" if kind.endswith("_output") else "system")


def _items(asked: Asked, said: Said, number: int) -> list[Item]:
    items: list[Item] = []
    if said.thought:
        summary = [{"type": "summary_text", "text": said.thought}]
        item = {"id": f"rs_{number:06}", "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (asked.body.get("include") or ()):
            item["encrypted_content"] = f"gAAAAABplayed{number:06}" + "QUJD" * 16
        items.append(item)
    if said.text:
        content = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        item = {"id": f"msg_{number:06}", "type": "message", "status": "completed"}
        items.append({**item, "role": "assistant", "content": [content]})
    items.extend(_call(asked, call, number, at) for at, call in enumerate(said.calls))
    return items


def _call(asked: Asked, call: Call, number: int, at: int) -> Item:
    namespace, _, name = call.name.rpartition(".")
    ids = {"id": f"fc_{number:06}{at}", "call_id": f"call_{number:06}{at}", "status": "completed"}
    custom = any(
        each.get("type") == "custom" and each.get("name") == call.name for each in asked.body.get("tools") or ()
    )
    if custom:
        return {"type": "custom_tool_call", **ids, "name": name, "input": str(call.arguments["input"])}
    item = {"type": "function_call", **ids, "name": name, "arguments": json.dumps(dict(call.arguments))}
    return {**item, "namespace": namespace} if namespace else item


def usage(served: Served, said: Said) -> dict[str, Any]:
    output = output_tokens(said)
    return {
        "input_tokens": served.input,
        "input_tokens_details": {"cached_tokens": served.cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": len(said.thought.encode()) // 4},
        "total_tokens": served.input + output,
    }


def _response(asked: Asked, number: int, status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"resp_{number:06}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.body.get("instructions"),
        "max_output_tokens": asked.body.get("max_output_tokens"),
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.body.get("parallel_tool_calls", True),
        "previous_response_id": asked.body.get("previous_response_id"),
        "prompt_cache_key": asked.body.get("prompt_cache_key"),
        "reasoning": asked.body.get("reasoning") or {"effort": None, "summary": None},
        "store": asked.body.get("store", True),
        "text": asked.body.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.body.get("tool_choice", "auto"),
        "tools": asked.body.get("tools") or [],
        "usage": None,
        "metadata": {},
        **more,
    }


def whole(asked: Asked, said: Said, served: Served, number: int) -> dict[str, Any]:
    output = _items(asked, said, number)
    return _response(asked, number, "completed", output=output, usage=usage(served, said))


def stream(asked: Asked, said: Said, served: Served, number: int) -> Iterator[bytes]:
    for event in events(asked, said, served, number):
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def events(asked: Asked, said: Said, served: Served, number: int) -> Iterator[dict[str, Any]]:
    told = [("response.created", {"response": _response(asked, number, "in_progress")})]
    told.append(("response.in_progress", {"response": _response(asked, number, "in_progress")}))
    for at, item in enumerate(_items(asked, said, number)):
        told.extend(_told(at, item))
    told.append(("response.completed", {"response": whole(asked, said, served, number)}))
    for sequence, (kind, value) in enumerate(told):
        yield {"type": kind, "sequence_number": sequence, **value}


def _told(at: int, item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    place = {"output_index": at, "item_id": item["id"]}
    empty = {"content": [], "arguments": "", "input": "", "summary": []}
    begun = {name: empty.get(name, value) for name, value in item.items() if name != "encrypted_content"}
    yield "response.output_item.added", {"output_index": at, "item": begun}
    match item["type"]:
        case "message":
            yield from _told_text(place, item["content"][0])
        case "function_call":
            yield from _told_string(place, "response.function_call_arguments", "arguments", item["arguments"])
        case "custom_tool_call":
            yield from _told_string(place, "response.custom_tool_call_input", "input", item["input"])
        case "reasoning":
            yield from _told_summary(place, item["summary"][0])
    yield "response.output_item.done", {"output_index": at, "item": item}


def _told_string(place: Item, event: str, name: str, value: str) -> Iterator[tuple[str, Item]]:
    yield from ((f"{event}.delta", {**place, "delta": piece}) for piece in pieces(value))
    yield f"{event}.done", {**place, name: value}


def _told_text(place: Item, part: Item) -> Iterator[tuple[str, Item]]:
    inside = {**place, "content_index": 0}
    yield "response.content_part.added", {**inside, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield "response.output_text.delta", {**inside, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**inside, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**inside, "part": part}


def _told_summary(place: Item, part: Item) -> Iterator[tuple[str, Item]]:
    inside = {**place, "summary_index": 0}
    yield "response.reasoning_summary_part.added", {**inside, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield "response.reasoning_summary_text.delta", {**inside, "delta": piece}
    yield "response.reasoning_summary_text.done", {**inside, "text": part["text"]}
    yield "response.reasoning_summary_part.done", {**inside, "part": part}
