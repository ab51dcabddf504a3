"""Who said what: the messages of a request, in any of the four dialects, as turns of blocks.

Shapes: chat completions, responses, messages, and Gemini's contents. What is not understood is shown as its JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from addons.core.reading.page import without_base64
from addons.core.threads.prompt import Dialect


class Kind(StrEnum):
    """Of a block."""

    TEXT = "text"
    THINKING = "thinking"
    CALL = "call"
    RESULT = "result"
    MEDIA = "media"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of what was said."""

    kind: Kind
    text: str
    name: str = ""
    """Of the tool."""
    id: str = ""
    """That a call and its result share."""

    def __post_init__(self) -> None:
        """What is encoded in base64 is told by its size, wherever it stands."""
        object.__setattr__(self, "text", without_base64(self.text))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    role: str
    """`user`, `assistant`, `system`, `tool`, or what the body says."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """One that the model is offered."""

    name: str
    text: str
    """Its definition, as JSON."""
    size: int
    """Bytes of that."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    system: tuple[str, ...]
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    """All but the leading system messages."""
    new: tuple[Turn, ...]
    """Those of them that are news."""


_LISTS = {
    Dialect.CHAT: "messages",
    Dialect.MESSAGES: "messages",
    Dialect.RESPONSES: "input",
    Dialect.GEMINI: "contents",
}
_LEADING = ("system", "developer")
_ROLES = {"model": "assistant", "developer": "system", "function": "tool"}
_LONGEST_NAME = 200


def asked(dialect: Dialect, body: Mapping[str, Any], known: int | None = None) -> Asked:
    """Read a request. `known`: leading elements of its list that are no news. Never raises."""
    listed = body.get(_LISTS[dialect])
    items = listed if isinstance(listed, list) else [] if listed is None else [listed]
    lead = next((at for at, each in enumerate(items) if not _leads(each)), len(items))
    system = [*_system(dialect, body), *("\n".join(_texts(each)) for each in items[:lead])]
    each_turn = [list(turns_of(each)) for each in items]
    turns = tuple(turn for some in each_turn[lead:] for turn in some)
    new = tuple(turn for some in each_turn[max(lead, known or 0) :] for turn in some)
    return Asked(tuple(text for text in system if text), tuple(offered(body)), turns, new)


def _system(dialect: Dialect, body: Mapping[str, Any]) -> list[str]:
    if dialect is Dialect.MESSAGES:
        found = body.get("system")
        return ["\n".join(_texts(each)) for each in (found if isinstance(found, list) else [found])]
    if dialect is Dialect.RESPONSES:
        return ["\n".join(_texts(body.get("instructions")))]
    if dialect is Dialect.GEMINI:
        return ["\n".join(_texts(body.get("systemInstruction", body.get("system_instruction"))))]
    return []


def _leads(item: object) -> bool:
    return isinstance(item, Mapping) and item.get("role") in _LEADING


def offered(body: Mapping[str, Any]) -> Iterator[Tool]:
    """The tools of a request, as they stand there."""
    tools = body.get("tools")
    for each in tools if isinstance(tools, list) else ():
        yield from _tool(each)


def _tool(value: object, space: str = "") -> Iterator[Tool]:
    """A tool; of those that stand in a namespace, or in one declaration, each by itself."""
    if not isinstance(value, Mapping):
        return
    inner = next((found for name in _NESTED if isinstance(found := value.get(name), list)), None)
    name = _name(value)
    if inner is not None:
        for each in inner:
            yield from _tool(each, f"{name}." if value.get("type") == "namespace" and name else "")
        return
    function = value.get("function", value.get("custom"))
    named = _name(function) if isinstance(function, Mapping) else name
    text = written(value)
    shown = f"{space}{named}" or str(value.get("type") or "?")[:_LONGEST_NAME]
    yield Tool(shown, text, len(text.encode("utf-8", "replace")))


_NESTED = ("functionDeclarations", "function_declarations", "tools")


def _name(value: Mapping[str, Any]) -> str:
    found = value.get("name")
    return found[:_LONGEST_NAME] if isinstance(found, str) else ""


def written(value: object) -> str:
    """A value as JSON for people."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=2)


def turns_of(item: object) -> Iterator[Turn]:
    """A message or an item."""
    if isinstance(item, str):
        yield Turn("user", (Block(Kind.TEXT, item),))
        return
    if not isinstance(item, Mapping):
        return
    role = item.get("role")
    if not isinstance(role, str) and "parts" not in item and "content" not in item:
        yield from _item(item)
        return
    shown = _ROLES.get(str(role), str(role)[:40] if role else "user")
    if shown == "tool" and item.get("type") in (None, "message") and "parts" not in item:
        named = item.get("tool_call_id")
        block = Block(Kind.RESULT, "\n".join(_texts(item.get("content"))), _name(item), _text(named))
        yield Turn("tool", (block,))
        return
    blocks = tuple(_message(item))
    results = tuple(each for each in blocks if each.kind is Kind.RESULT)
    rest = tuple(each for each in blocks if each.kind is not Kind.RESULT)
    if results:
        yield Turn("tool", results)
    if rest:
        yield Turn(shown, rest)


def _message(item: Mapping[str, Any]) -> Iterator[Block]:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thought := item.get(name), str) and thought:
            yield Block(Kind.THINKING, thought)
            break
    content = item.get("content", item.get("parts"))
    for part in content if isinstance(content, list) else [content]:
        yield from _part(part)
    if isinstance(refusal := item.get("refusal"), str) and refusal:
        yield Block(Kind.TEXT, refusal)
    calls = item.get("tool_calls")
    old = item.get("function_call")
    for call in [*(calls if isinstance(calls, list) else ()), *([{"function": old}] if old else ())]:
        if isinstance(call, Mapping):
            inner = call.get("function", call.get("custom"))
            told = inner if isinstance(inner, Mapping) else {}
            given = told.get("arguments", told.get("input"))
            yield Block(Kind.CALL, _arguments(given), _name(told), _text(call.get("id")))


def _part(part: object) -> Iterator[Block]:
    """A part of a message's content."""
    if isinstance(part, str):
        if part:
            yield Block(Kind.TEXT, part)
        return
    if not isinstance(part, Mapping):
        return
    kind = str(part.get("type") or "")
    if "functionCall" in part or "functionResponse" in part:
        yield from _of_gemini(part)
    elif kind in ("thinking", "redacted_thinking"):
        yield Block(Kind.THINKING, _text(part.get("thinking")) or "(not told)")
    elif kind.endswith("tool_use"):
        yield Block(Kind.CALL, _arguments(part.get("input")), _name(part), _text(part.get("id")))
    elif kind.endswith("tool_result"):
        text = "\n".join(_texts(part.get("content")))
        yield Block(Kind.RESULT, text, "", _text(part.get("tool_use_id")))
    elif isinstance(text := part.get("text", part.get("refusal")), str):
        if text:
            yield Block(Kind.THINKING if part.get("thought") else Kind.TEXT, text)
    else:
        yield Block(Kind.MEDIA, media(part))


def _of_gemini(part: Mapping[str, Any]) -> Iterator[Block]:
    call, answer = part.get("functionCall"), part.get("functionResponse")
    if isinstance(call, Mapping):
        yield Block(Kind.CALL, _arguments(call.get("args")), _name(call), _text(call.get("id")))
    if isinstance(answer, Mapping):
        yield Block(Kind.RESULT, _arguments(answer.get("response")), _name(answer), _text(answer.get("id")))


def _item(item: Mapping[str, Any]) -> Iterator[Turn]:
    """An item of the Responses API that has no role."""
    kind = str(item.get("type") or "")
    named = _text(item.get("call_id") or item.get("id"))
    if kind.endswith("_output"):
        text = "\n".join(_texts(item.get("output")))
        yield Turn("tool", (Block(Kind.RESULT, text, _name(item), named),))
    elif kind == "reasoning":
        text = "\n".join((*_texts(item.get("summary")), *_texts(item.get("content"))))
        yield Turn("assistant", (Block(Kind.THINKING, text or "(not told)"),))
    elif kind.endswith("_call"):
        given = next((item[name] for name in _GIVEN if item.get(name) is not None), None)
        given = _rest(item) if given is None else given
        yield Turn("assistant", (Block(Kind.CALL, _arguments(given), _name(item) or kind, named),))
    elif item:
        yield Turn("assistant", (Block(Kind.MEDIA, media(item)),))


_GIVEN = ("arguments", "input", "action")


def _rest(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("type", "id", "call_id", "status")}


def _arguments(value: object) -> str:
    """What a tool was given: JSON that is told as a text is read, so that it can be laid out."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return written(json.loads(value))
        except (ValueError, RecursionError):
            return value
    return "" if value is None else written(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object, depth: int = 8) -> list[str]:
    """All texts of a content: what is none is told by its kind and size."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        return [text for each in value for text in _texts(each, depth - 1)] if depth else []
    if not isinstance(value, Mapping):
        return []
    for name in ("text", "content", "parts", "output"):
        if name in value and depth:
            return _texts(value[name], depth - 1)
    return [media(value)]


def media(part: Mapping[str, Any]) -> str:
    """What stands for sound, pictures, files, and whatever is not known: its kind, where it is, or its size.

    >>> media({"type": "input_image", "image_url": "https://example.org/cat.png"})
    'input_image: https://example.org/cat.png'
    """
    kind = str(part.get("type") or next(iter(part), "?"))[:60]
    address = _address(part)
    if address is not None:
        return f"{kind}: {address[:400]}"
    text = written(part)
    return f"{kind}, {len(text):,} characters" if len(text) > 400 else f"{kind}: {text}"


def _address(part: Mapping[str, Any]) -> str | None:
    for name in ("image_url", "url", "file_url", "file_id", "fileUri", "source", "fileData"):
        found = part.get(name)
        if isinstance(found, Mapping):
            found = _address(found)
        if isinstance(found, str) and not found.startswith("data:"):
            return found
    return None
