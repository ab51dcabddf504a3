"""Chat completions."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tests.agents.model.plan import Asked, Heard, Said, pieces
from tests.agents.model.usage import output_tokens
from tests.support.agent_runs.cache import Served

_ROLES = {"user": "user", "assistant": "model", "tool": "tool", "function": "tool"}


def read(body: dict[str, Any]) -> Asked:
    heard = [Heard(_ROLES.get(each["role"], "system"), text_of(each.get("content"))) for each in body["messages"]]
    tools = frozenset(each["function"]["name"] for each in body.get("tools") or () if "function" in each)
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    return Asked("chat", body["model"], heard, tools, body, bool(body.get("stream")), schema)


def text_of(content: object) -> str:
    """The text of a message's content: itself, or its blocks'."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(str(each.get("text", "")) for each in blocks if isinstance(each, dict))


def usage(served: Served, said: Said) -> dict[str, Any]:
    output = output_tokens(said)
    return {
        "prompt_tokens": served.input,
        "completion_tokens": output,
        "total_tokens": served.input + output,
        "prompt_tokens_details": {"cached_tokens": served.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _calls(said: Said, number: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{number:06}{at}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for at, call in enumerate(said.calls)
    ]


def whole(asked: Asked, said: Said, served: Served, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.calls:
        message["tool_calls"] = _calls(said, number)
    reason = "tool_calls" if said.calls else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {**_head(asked, number, "chat.completion"), "choices": [choice], "usage": usage(served, said)}


def _head(asked: Asked, number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number:06}", "object": kind, "created": int(time.time()), "model": asked.model}


def stream(asked: Asked, said: Said, served: Served, number: int) -> Iterator[bytes]:
    head = _head(asked, number, "chat.completion.chunk")

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice]})

    yield chunk({"role": "assistant", "content": "" if said.text else None, "refusal": None})
    for piece in pieces(said.text) if said.text else ():
        yield chunk({"content": piece})
    for at, call in enumerate(_calls(said, number)):
        function = call["function"]
        yield chunk({"tool_calls": [{"index": at, **call, "function": {**function, "arguments": ""}}]})
        for piece in pieces(function["arguments"]):
            yield chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    yield chunk({}, "tool_calls" if said.calls else "stop")
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": usage(served, said)})
    yield b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def refused(status: int) -> dict[str, Any]:
    return {"error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}}
