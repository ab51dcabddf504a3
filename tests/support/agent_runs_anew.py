"""Calls of made-up agent runs read anew, by other code than that which made them: what a test holds their truth
against.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.agent_runs import Call

Leaf = tuple[str, object]
LISTS = {"chat": "messages", "messages": "messages", "responses": "input"}
SETTINGS = (
    *("temperature", "top_p", "reasoning_effort", "reasoning", "verbosity", "text", "response_format", "tool_choice"),
    *("parallel_tool_calls", "thinking", "service_tier"),
)


def size_of(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def events_of(call: Call) -> list[dict[str, Any]]:
    """The datas of a stream's events, but for `[DONE]`."""
    assert call.answer_type == "text/event-stream"
    datas = [line[6:] for line in call.answer.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(each) for each in datas if each != "[DONE]"]


def told(call: Call) -> dict[str, Any]:
    """The usage in a whole answer, in its dialect's form; a stream's as its last events tell it."""
    if call.answer_type == "application/json":
        return dict(json.loads(call.answer)["usage"])
    events = events_of(call)
    if call.dialect == "chat":
        return dict(next(each["usage"] for each in reversed(events) if each["usage"]))
    if call.dialect == "responses":
        return dict(events[-1]["response"]["usage"])
    return {**events[0]["message"]["usage"], **events[-2]["usage"]}


def billed(call: Call) -> tuple[int, int, int, int]:
    """Input, cached, written and output tokens, from the answer alone."""
    usage = told(call)
    if call.dialect == "chat":
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], 0, usage["completion_tokens"]
    if call.dialect == "responses":
        return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], 0, usage["output_tokens"]
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return usage["input_tokens"] + read + written, read, written, usage["output_tokens"]


def said(call: Call) -> list[dict[str, Any]]:
    """What a whole answer would put into the history: a message's parts, or items; from its events if it is a
    stream.
    """
    stream = call.answer_type == "text/event-stream"
    if call.dialect == "responses":
        response = events_of(call)[-1]["response"] if stream else json.loads(call.answer)
        return [_as_sent(each) for each in response["output"]]
    if not stream:
        whole = json.loads(call.answer)
        return list(whole["content"]) if call.dialect == "messages" else [_plain(whole["choices"][0]["message"])]
    return _said_in_blocks(call) if call.dialect == "messages" else [_said_in_chunks(call)]


def _as_sent(item: dict[str, Any]) -> dict[str, Any]:
    kept = {name: each for name, each in item.items() if name not in ("id", "status")}
    if item["type"] == "message":
        kept["content"] = [{"type": each["type"], "text": each["text"]} for each in item["content"]]
    return kept


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in message.items() if name != "refusal"}


def _said_in_chunks(call: Call) -> dict[str, Any]:
    text, calls = "", list[dict[str, Any]]()
    for delta in (choice["delta"] for each in events_of(call) for choice in each["choices"]):
        text += delta.get("content") or ""
        for piece in delta.get("tool_calls", ()):
            if piece["index"] == len(calls):
                calls.append(
                    {
                        "id": piece["id"],
                        "type": "function",
                        "function": {"name": piece["function"]["name"], "arguments": ""},
                    }
                )
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    return {**message, "tool_calls": calls} if calls else message


def _said_in_blocks(call: Call) -> list[dict[str, Any]]:
    blocks = list[dict[str, Any]]()
    given = ""
    for event in events_of(call):
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            given = ""
        elif event["type"] == "content_block_delta":
            name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                event["delta"]["type"]
            )
            if name is None:
                given += event["delta"]["partial_json"]
            else:
                blocks[-1][name] += event["delta"][name]
        elif event["type"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            blocks[-1]["input"] = json.loads(given)
    return blocks


def answer_id(call: Call) -> str:
    found = re.search(rb'"id":"((?:chatcmpl-|resp_|msg_01)[0-9a-f]{22})"', call.answer)
    assert found is not None
    return found[1].decode()


class Reader:
    """Reads calls in their order, and knows of chains what the upstream keeps."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self._whole: dict[str, list[dict[str, Any]]] = {}
        """Per answered response: its history, the answer included."""
        self.kept: list[list[dict[str, Any]]] = [self._kept(each) for each in calls]

    def _kept(self, call: Call) -> list[dict[str, Any]]:
        if call.dialect != "responses":
            return []
        before = call.request.get("previous_response_id")
        kept = self._whole[before] if before is not None else []
        if call.outcome == "answered":
            self._whole[answer_id(call)] = [*kept, *call.request["input"], *said(call)]
        return kept

    def first_leaf(self, one: Call, other: Call) -> str | None:
        """The path of the first leaf in which two requests of a dialect differ, in the second one's body, or in the
        first one's where the second has nothing. Every leaf's way down is walked in the order of the definitions."""
        common = min(len(self._items(one)), len(self._items(other)))
        old, new = (list(self._leaves(each, common)) for each in (one, other))
        for left, right in zip(old, new, strict=False):
            if left != right:
                gone = left[0] not in {path for path, _ in new}
                return self._in_body(*((one, left) if gone else (other, right)))
        longer, shorter, whose = (new, old, other) if len(new) > len(old) else (old, new, one)
        # What the upstream keeps of a chain's answer is new, but in no body.
        rest = [self._in_body(whose, each) for each in longer[len(shorter) :]]
        return next((each for each in rest if "[-" not in each), None)

    def _in_body(self, call: Call, leaf: Leaf) -> str:
        """The leaf's path in the body: a chain's items are counted from the first one that it sends."""
        path, kept = leaf[0], len(self.kept[call.index])
        return re.sub(r"^input\[(\d+)\]", lambda found: f"input[{int(found[1]) - kept}]", path)

    def _items(self, call: Call) -> list[Any]:
        return [*self.kept[call.index], *call.request[LISTS[call.dialect]]]

    def _leaves(self, call: Call, common: int) -> Iterator[Leaf]:
        body = call.request
        yield "model", body["model"]
        if call.dialect == "responses":
            yield "instructions", body.get("instructions")
        yield from _under("tools", body.get("tools", []))
        if call.dialect == "messages":
            yield from _under("system", body.get("system"))
            for name in ("tool_choice", "thinking"):
                yield from _under(name, body.get(name))
        items = self._items(call)
        paths = [f"{LISTS[call.dialect]}[{at}]" for at in range(len(items))]
        for path, item in zip(paths[:common], items[:common], strict=True):
            yield from _under(path, _in_blocks(item) if call.dialect == "messages" else item)
        for name in SETTINGS:
            yield from _under(name, body.get(name))
        for path, item in zip(paths[common:], items[common:], strict=True):
            yield from _under(path, item)


def _in_blocks(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _under(path: str, value: Any) -> Iterator[Leaf]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name != "cache_control":
                yield from _under(f"{path}.{name}" if name.isidentifier() else f'{path}["{name}"]', each)
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _under(f"{path}[{at}]", each)
    else:
        yield path, value


def at_path(body: Any, path: str) -> Any:
    """What stands at a path; KeyError or IndexError where nothing does."""
    value = body
    for name, number, quoted in re.findall(r'([A-Za-z_]\w*)|\[(\d+)\]|\["([^"]*)"\]', path):
        value = value[int(number)] if number else value[name or quoted]
    return value
