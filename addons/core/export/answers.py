"""What a model answered, whole or as a stream, as turns of blocks (talk.py).

A stream is put together into what the same answer is without one, and read as that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from addons.core.export.record import Message, loaded
from addons.core.export.talk import Block, Kind, Turn, turns_of
from addons.core.sse import Parser

_MOST = 1 << 14
"""Choices, items, blocks and calls of one answer that are kept apart."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer."""

    turns: tuple[Turn, ...] = ()
    finish: str | None = None
    """Why the model ended, in the upstream's word."""
    error: str | None = None
    """What the upstream says went wrong."""


def answered(message: Message | None) -> Answered:
    """Read an answer. Never raises."""
    if message is None or not message.body:
        return Answered()
    gathered = _Gathered()
    if message.stream:
        parser = Parser()
        for event in [*parser.feed(message.body), *parser.close()]:
            gathered.add(loaded(event.data.encode("utf-8", "replace")))
    else:
        gathered.add(message.json())
    return gathered.told()


class _Gathered:
    """An answer so far."""

    def __init__(self) -> None:
        self.choices: dict[object, dict[str, Any]] = {}
        self.items: dict[object, dict[str, Any]] = {}
        self.blocks: dict[object, dict[str, Any]] = {}
        self.parts: list[dict[str, Any]] = []
        self.pieces: list[str] = []
        self.text = ""
        self.output: list[Any] | None = None
        self.finish: str | None = None
        self.error: str | None = None

    def add(self, value: Any) -> None:
        """Take a body, or an event's data."""
        if isinstance(value, list):  # Gemini's streams without SSE
            for each in value:
                self.add(each)
        if not isinstance(value, dict):
            return
        self._failed(value)
        self._chat(value)
        self._response(value)
        self._message(value)
        self._gemini(value)
        if "code" in value and isinstance(text := value.get("data"), str):  # of /chat's envelope
            self.text = text
        elif "type" not in value and isinstance(text := value.get("delta"), str):  # of its stream
            self.pieces.append(text)

    def _failed(self, value: Mapping[str, Any]) -> None:
        found = value.get("error")
        if isinstance(inner := value.get("response"), Mapping):
            found = found or inner.get("error")
        if isinstance(found, Mapping):
            found = found.get("message") or found.get("code") or found.get("type")
        if isinstance(found, str) and found:
            self.error = found
        code = value.get("code")
        if type(code) is int and code != 200 and isinstance(said := value.get("message"), str):
            self.error = f"{code}: {said}"

    # Chat completions

    def _chat(self, value: Mapping[str, Any]) -> None:
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            told = choice.get("message", choice.get("delta")) if isinstance(choice, dict) else None
            if isinstance(choice, dict) and isinstance(reason := choice.get("finish_reason"), str):
                self.finish = reason
            if not isinstance(told, dict):
                continue
            so_far = _kept(self.choices, choice.get("index", 0), {"role": "assistant"})
            for name in ("reasoning_content", "reasoning", "refusal"):
                _append(so_far, name, told.get(name))
            if isinstance(content := told.get("content"), list):
                so_far["content"] = content
            else:
                _append(so_far, "content", content)
            calls = told.get("tool_calls")
            for at, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    _add_call(so_far, call.get("index", at), call)

    # Responses

    def _response(self, value: Mapping[str, Any]) -> None:
        kind, place = str(value.get("type") or ""), value.get("output_index")
        inner = value.get("response")
        for each in (value, inner):
            if isinstance(each, dict) and isinstance(output := each.get("output"), list) and output:
                self.output = output
        if isinstance(inner, dict) and isinstance(status := inner.get("status"), str):
            self.finish = status
        if kind in ("response.output_item.added", "response.output_item.done"):
            if isinstance(item := value.get("item"), dict):
                _kept(self.items, place, {}).update(item)
        elif kind == "response.output_text.delta":
            _append(_kept(self.items, place, {"role": "assistant"}), "spelt", value.get("delta"))
        elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            _append(_kept(self.items, place, {"type": "function_call"}), "spelt", value.get("delta"))

    # Messages

    def _message(self, value: Mapping[str, Any]) -> None:
        kind, place, delta = value.get("type"), value.get("index"), value.get("delta")
        if kind == "message" and isinstance(content := value.get("content"), list):
            self.blocks.update((at, block) for at, block in enumerate(content) if isinstance(block, dict))
        elif kind == "content_block_start" and isinstance(block := value.get("content_block"), dict):
            _kept(self.blocks, place, {}).update(block)
        elif kind == "content_block_delta" and isinstance(delta, dict):
            block = _kept(self.blocks, place, {"type": "text"})
            _append(block, "text", delta.get("text"))
            _append(block, "thinking", delta.get("thinking"))
            _append(block, "spelt", delta.get("partial_json"))
        for told in (value, delta):
            if isinstance(told, dict) and isinstance(reason := told.get("stop_reason"), str):
                self.finish = reason

    # Gemini

    def _gemini(self, value: Mapping[str, Any]) -> None:
        candidates = value.get("candidates")
        for each in candidates if isinstance(candidates, list) else ():
            if not isinstance(each, dict):
                continue
            if isinstance(reason := each.get("finishReason"), str):
                self.finish = reason
            content = each.get("content")
            parts = content.get("parts") if isinstance(content, dict) else None
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict):
                    self._add_part(part)

    def _add_part(self, part: dict[str, Any]) -> None:
        last = self.parts[-1] if self.parts else {}
        text = part.get("text")
        if isinstance(text, str) and "spelt" in last and bool(last.get("thought")) == bool(part.get("thought")):
            last["spelt"].append(text)
        elif isinstance(text, str):
            self.parts.append({"thought": part.get("thought"), "spelt": [text]})
        else:
            self.parts.append(part)

    def told(self) -> Answered:
        """All of it."""
        turns = [turn for choice in self.choices.values() for turn in turns_of(_joined(choice))]
        items = self.output if self.output is not None else [_item(each) for each in self.items.values()]
        turns += [turn for item in items for turn in turns_of(item)]
        if self.blocks:
            turns += turns_of({"role": "assistant", "content": [_block(each) for each in self.blocks.values()]})
        if self.parts:
            parts = [_joined(each) for each in self.parts]
            turns += turns_of({"role": "model", "parts": [_spelt(each, "text") for each in parts]})
        if text := self.text or "".join(self.pieces):
            turns.append(Turn("assistant", (Block(Kind.TEXT, text),)))
        return Answered(tuple(turns), self.finish, self.error)


def _kept(kept: dict[object, dict[str, Any]], place: object, empty: dict[str, Any]) -> dict[str, Any]:
    """What is gathered at a place: its number, or whatever the stream says that is no list and no object."""
    name = place if isinstance(place, int | str | None) else None
    if name not in kept and len(kept) >= _MOST:
        return empty
    return kept.setdefault(name, empty)


def _append(so_far: dict[str, Any], name: str, text: object) -> None:
    """Pieces are gathered in a list: a text that grew piece by piece would be copied each time."""
    if isinstance(text, str) and text:
        before = so_far.get(name)
        if isinstance(before, list):
            before.append(text)
        else:
            so_far[name] = [before, text] if isinstance(before, str) and before else [text]


def _add_call(so_far: dict[str, Any], place: object, told: dict[str, Any]) -> None:
    calls = so_far.setdefault("calls", {})
    call = _kept(calls, place, {})
    if isinstance(found := told.get("id"), str):
        call.setdefault("id", found)
    inner = told.get("function", told.get("custom"))
    if isinstance(inner, dict):
        if isinstance(found := inner.get("name"), str) and found:
            call.setdefault("name", found)
        _append(call, "arguments", inner.get("arguments", inner.get("input")))


def _joined(value: dict[str, Any]) -> dict[str, Any]:
    """What was gathered, with texts in place of their pieces."""
    found = dict(value)
    for name in ("content", "reasoning_content", "reasoning", "refusal", "spelt", "text", "thinking", "arguments"):
        pieces = found.get(name)
        if isinstance(pieces, list) and all(isinstance(each, str) for each in pieces):
            found[name] = "".join(pieces)
    if isinstance(calls := found.pop("calls", None), dict):
        found["tool_calls"] = [
            {"id": call.get("id"), "function": {**call, "arguments": "".join(call.get("arguments", ()))}}
            for call in calls.values()
        ]
    return found


def _spelt(found: dict[str, Any], name: str) -> dict[str, Any]:
    spelt = found.pop("spelt", None)
    return found if spelt is None or found.get(name) else {**found, name: spelt}


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """An item that broke off before it was whole has what its pieces have spelt."""
    found = _joined(item)
    if found.get("role") is not None:
        return _spelt(found, "content")
    return _spelt(found, "input" if found.get("type") == "custom_tool_call" else "arguments")


def _block(block: dict[str, Any]) -> dict[str, Any]:
    return _spelt(_joined(block), "input")
