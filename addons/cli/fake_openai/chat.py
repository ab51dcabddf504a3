"""What the look-alike upstream says in a conversation: deterministic, and so that its memory shows.

A message of n bytes of UTF-8 counts ceil(n / 4) + 4 tokens, a conversation 3 more, an answer ceil(n / 4).
"""

import itertools
import json
import re
import time
from collections.abc import Iterator
from typing import Any

type Json = dict[str, Any]

CONTEXT = {"gpt-3.5-turbo": 16385}
"""Tokens a model takes; all others 128000."""

_ASKS_NAME = re.compile(r"我叫什么|叫什么名字|我的名字[是叫]什么|what(?: is|['\u2019]s) my name", re.IGNORECASE)
_STOP = r"\s,.!?:;\"'\u2019\u201c\u201d\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1a\uff1b"
_TELLS_NAME = re.compile(
    rf"(?:我叫|我的名字[是叫])\s*(?!什么)([^{_STOP}]{{1,20}})|my name(?: is|['\u2019]s)\s+([^{_STOP}]{{1,40}})",
    re.IGNORECASE,
)
_ASKS_SELF = re.compile(r"[我你您]是谁|who are you|who am i", re.IGNORECASE)
_HAN = re.compile(r"[\u3400-\u9fff]")
_ids = itertools.count(1)


def new_id(prefix: str) -> str:
    """An identifier of OpenAI's form that this process has not given before."""
    return f"{prefix}{next(_ids):024x}"


def tokens(text: str) -> int:
    """What an answer of this text counts."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def text_of(content: Any) -> str:
    """The words of a message's content, be it a string or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def prompt_tokens(messages: list[Json]) -> int:
    """What a conversation counts on its way in."""
    return sum(tokens(text_of(message.get("content"))) + 4 for message in messages) + 3


def reply(messages: list[Json]) -> str:
    """The answer to the last message of the user, in its language."""
    users = [text_of(message.get("content")) for message in messages if message.get("role") == "user"]
    last = users[-1] if users else ""
    chinese = _HAN.search(last) is not None
    if _ASKS_NAME.search(last):
        return _recall(users, chinese)
    if name := _name(last):
        return f"你好，{name}！我记住了。" if chinese else f"Hello, {name}! I will remember that."
    if _ASKS_SELF.search(last):
        return "我是一名人工智能助手。" if chinese else "I am an AI assistant, happy to help."
    earlier = max(0, sum(message.get("role") in ("user", "assistant") for message in messages) - 1)
    if chinese:
        return f"你说的是「{last}」。在此之前我看到 {earlier} 条消息。"
    return f'You said: "{last}". Before that I saw {earlier} earlier message{"" if earlier == 1 else "s"}.'


def _name(text: str) -> str | None:
    found = _TELLS_NAME.search(text)
    return (found[1] or found[2]) if found else None


def _recall(users: list[str], chinese: bool) -> str:
    name = next((name for text in reversed(users) if (name := _name(text))), None)
    if name is None:
        return "你还没有告诉我你的名字。" if chinese else "You have not told me your name yet."
    return f"你叫{name}。" if chinese else f"Your name is {name}."


def pieces_of(text: str) -> Iterator[str]:
    """The text a few characters at a time, as a model would produce it."""
    size = 2 if _HAN.search(text) else 5
    return (text[at : at + size] for at in range(0, len(text), size))


def usage(messages: list[Json], answer: str) -> Json:
    """The `usage` of a chat completion."""
    prompt, completion = prompt_tokens(messages), tokens(answer)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def completion(model: str, messages: list[Json]) -> Json:
    """A chat completion, whole."""
    answer = reply(messages)
    message = {"role": "assistant", "content": answer, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_envelope(model, "chat.completion"), "choices": [choice], "usage": usage(messages, answer)}


def _envelope(model: str, kind: str) -> Json:
    return {"id": new_id("chatcmpl-"), "object": kind, "created": int(time.time()), "model": model}


def event(data: Json, name: str | None = None) -> bytes:
    """One server-sent event."""
    line = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode("utf-8", "replace")


def completion_events(model: str, messages: list[Json], include_usage: bool) -> Iterator[bytes]:
    """A chat completion as server-sent events: role, content, finish, usage where asked for, the end mark."""
    answer = reply(messages)
    shell = _envelope(model, "chat.completion.chunk") | ({"usage": None} if include_usage else {})

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**shell, "choices": [choice]})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for piece in pieces_of(answer):
        yield chunk({"content": piece})
    yield chunk({}, "stop")
    if include_usage:
        yield event({**shell, "choices": [], "usage": usage(messages, answer)})
    yield b"data: [DONE]\n\n"


def messages_of(given: Any, instructions: Any = None) -> list[Json]:
    """The conversation that a request to /v1/responses means."""
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
    return ([{"role": "system", "content": instructions}] if instructions else []) + messages


def response(model: str, messages: list[Json]) -> Json:
    """An answer of /v1/responses, whole."""
    answer = reply(messages)
    prompt, said = prompt_tokens(messages), tokens(answer)
    part = {"type": "output_text", "text": answer, "annotations": []}
    item = {"id": new_id("msg_"), "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    spent = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + said,
    }
    shell = {"id": new_id("resp_"), "object": "response", "created_at": int(time.time()), "status": "completed"}
    rest: Json = {"error": None, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "metadata": {}}
    return {**shell, "model": model, "output": [item], "usage": spent, **rest}


def response_events(model: str, messages: list[Json]) -> Iterator[bytes]:
    """An answer of /v1/responses as server-sent events."""
    for number, data in enumerate(_response_steps(response(model, messages))):
        yield event({**data, "sequence_number": number}, data["type"])


def _response_steps(whole: Json) -> Iterator[Json]:
    item = whole["output"][0]
    part = item["content"][0]
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    started = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
    for piece in pieces_of(part["text"]):
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": whole}
