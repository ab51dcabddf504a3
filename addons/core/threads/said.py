"""What an answer said, as far as later requests bring it back: its ids, its text, the arguments of its calls of tools.

Shapes: chat completions, responses, messages and Gemini's, whole or as a stream. What is not understood is passed over.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from addons.core import bounded_json
from addons.core.metered import Metered, metered
from addons.core.slices import Sliced
from addons.core.sse import Parser
from addons.core.threads.prompt import is_unique, quote, texts_of

_PIECE = 1 << 15
_LONGEST = 1 << 20
"""Characters of text, and of arguments, that are kept while an answer is read."""


@dataclass(slots=True)
class Said:
    """One answer."""

    id: str | None = None
    """What a chain names it by."""
    ids: list[str] = field(default_factory=list)
    """Of its items and of its calls of tools."""
    texts: list[str] = field(default_factory=list)
    """What the model said, a text for each choice or item."""
    quotes: list[str] = field(default_factory=list)
    """Its calls of tools that have no ids."""
    arguments: list[str] = field(default_factory=list)
    """Texts among the arguments of its calls."""
    usage: Metered | None = None
    """None where it tells none."""


def hearing(body: bytes, *, stream: bool) -> Sliced[Said]:
    """Read an answer, decoded. Never raises."""
    gathered = _Gathered()
    if stream:
        parser = Parser()
        for at in range(0, len(body), _PIECE):
            for event in parser.feed(body[at : at + _PIECE]):
                gathered.add(_loads(event.data))
            yield
        gathered.add(_loads(parser.remainder if isinstance(parser.remainder, str) else ""))
    else:
        with suppress(ValueError):
            gathered.add((yield from bounded_json.loading(body.decode("utf-8", "replace"))))
    return gathered.said()


def _loads(text: str) -> Any:
    try:
        return bounded_json.loads(text) if text[:1] in "{[" else None
    except ValueError:
        return None


class _Gathered:
    """An answer so far."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._ids: dict[str, None] = {}
        self._texts: dict[Any, list[str]] = {}
        self._arguments: dict[Any, list[str]] = {}
        self._quotes: list[str] = []
        self._usage: dict[str, Any] = {}
        self._whole: list[Any] | None = None
        """The items of a response that its last event repeats."""
        self._size = 0

    def add(self, value: Any) -> None:
        """Take a body, or an event's data."""
        if isinstance(value, list):  # Gemini's streams without SSE
            for each in value:
                self.add(each)
        if not isinstance(value, dict):
            return
        self._head(value)
        inner = value.get("response", value.get("message"))
        if isinstance(inner, dict):
            self._head(inner)
            if isinstance(output := inner.get("output"), list) and output:
                self._whole = output
        if isinstance(text := value.get("data"), str):  # of /chat's envelope, which ends its streams, too
            self._say("envelope", text)
        self._chat(value)
        self._response(value)
        self._message(value)
        self._gemini(value)

    def _head(self, value: Mapping[str, Any]) -> None:
        if isinstance(found := value.get("id"), str) and self._id is None and "choices" not in value:
            self._id = found
        usage = value.get("usage")
        if isinstance(usage, dict):
            self._usage |= {name: each for name, each in usage.items() if each is not None}
        if isinstance(counts := value.get("usageMetadata"), dict):
            self._usage |= counts

    def _note(self, value: object) -> None:
        for name in ("id", "call_id"):
            if isinstance(value, dict) and isinstance(found := value.get(name), str) and is_unique(found):
                self._ids[found] = None

    def _say(self, place: Any, text: object, kept: dict[Any, list[str]] | None = None) -> None:
        if isinstance(text, str) and self._size < _LONGEST:
            self._size += len(text)
            (self._texts if kept is None else kept).setdefault(place, []).append(text)

    def _chat(self, value: Mapping[str, Any]) -> None:
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            told = choice.get("message", choice.get("delta")) if isinstance(choice, dict) else None
            if not isinstance(told, dict):
                continue
            number = choice.get("index", 0)
            for text in texts_of(told.get("content")):
                self._say(("choice", str(number)), text)
            calls = told.get("tool_calls")
            for at, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    self._note(call)
                    function = call.get("function")
                    place = ("call", str(number), str(call.get("index", at)))
                    self._say(place, function.get("arguments") if isinstance(function, dict) else None, self._arguments)

    def _response(self, value: Mapping[str, Any]) -> None:
        if isinstance(output := value.get("output"), list):
            self._whole = output
        kind, place = value.get("type"), str(value.get("output_index"))
        if kind in ("response.output_item.added", "response.output_item.done"):
            self._note(value.get("item"))
        elif kind == "response.output_text.delta":
            self._say(("item", place), value.get("delta"))
        elif kind == "response.function_call_arguments.delta":
            self._say(("item", place), value.get("delta"), self._arguments)

    def _message(self, value: Mapping[str, Any]) -> None:
        place = str(value.get("index"))
        if value.get("type") == "message" and isinstance(content := value.get("content"), list):
            for block in content:
                self._block(block)
        elif value.get("type") == "content_block_start":
            self._block(value.get("content_block"))
        elif value.get("type") == "content_block_delta" and isinstance(delta := value.get("delta"), dict):
            self._say("message", delta.get("text"))
            self._say(("block", place), delta.get("partial_json"), self._arguments)

    def _block(self, block: object) -> None:
        self._note(block)
        if isinstance(block, dict) and block.get("type") == "text":
            self._say("message", block.get("text"))
        elif isinstance(block, dict) and block.get("input"):
            self._say(len(self._arguments), json.dumps(block["input"]), self._arguments)

    def _gemini(self, value: Mapping[str, Any]) -> None:
        candidates = value.get("candidates")
        for number, each in enumerate(candidates if isinstance(candidates, list) else ()):
            content = each.get("content") if isinstance(each, dict) else None
            parts = content.get("parts") if isinstance(content, dict) else None
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and not part.get("thought"):
                    self._say(("candidate", number), part.get("text"))
                    if quoted := quote(part):
                        self._quotes.append(quoted)
                    call = part.get("functionCall")
                    self._note(call)
                    if isinstance(call, dict):
                        self._say(len(self._arguments), json.dumps(call.get("args")), self._arguments)

    def said(self) -> Said:
        """All of it."""
        if self._whole is not None:
            self._items(self._whole)
        texts = [text for pieces in self._texts.values() if (text := "".join(pieces).strip())]
        arguments = [text for pieces in self._arguments.values() for text in _strings("".join(pieces))]
        usage = metered(self._usage) if self._usage else None
        return Said(self._id, list(self._ids), texts, self._quotes, arguments, usage)

    def _items(self, items: list[Any]) -> None:
        """A response's, which say all that its events have said before."""
        self._texts.clear()
        self._arguments.clear()
        for at, item in enumerate(items):
            self._note(item)
            if isinstance(item, dict) and item.get("type") == "message":
                for text in texts_of(item.get("content")):
                    self._say(("item", at), text)
            elif isinstance(item, dict):
                self._say(("item", at), item.get("arguments"), self._arguments)


def _strings(text: str) -> Iterator[str]:
    """The texts within the arguments of a call."""
    value = _loads(text)
    for each in value.values() if isinstance(value, dict) else ():
        if isinstance(each, str):
            yield each
