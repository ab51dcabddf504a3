"""A request for a model as the upstream sees it: the parts of which its prompt is built, in their order.

| dialect   | order of the prompt                                                                 |
|-----------|-------------------------------------------------------------------------------------|
| chat      | `tools`, leading system and developer messages, other messages                       |
| messages  | `tools`, `system`, `messages`                                                        |
| responses | `instructions`, `tools`, leading system and developer items of `input`, other items  |
| gemini    | `systemInstruction`, `tools`, `contents`                                             |

What an upstream's cache depends on stands at
https://platform.openai.com/docs/guides/prompt-caching and
https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching. Marks of what is to be cached (`cache_control`)
move with each request and change no prompt; and in messages a text that stands alone is one block of text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from addons.core.generations import GEMINI_GENERATES, gemini_call
from addons.core.slices import Sliced

SETTINGS = (
    *("temperature", "top_p", "top_k", "reasoning_effort", "reasoning", "verbosity", "text", "response_format"),
    *("tool_choice", "parallel_tool_calls", "thinking", "output_config", "service_tier", "generationConfig"),
    *("toolConfig", "safetySettings"),
)
"""Members that say how a model is to answer. All others (`stream`, `metadata`, `max_tokens`, ...) are bookkeeping."""
CACHED_SETTINGS = ("tool_choice", "thinking")
"""Those on which Anthropic's cache of messages depends; what is cached of tools and system does not."""

_LEADING = ("system", "developer")
_PER_SLICE = 50
_DIGEST = 10


class _Unseen:
    """What stands for a value that relay has not seen."""


UNSEEN = _Unseen()


class Dialect(StrEnum):
    """Whose interface it is."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    GEMINI = "gemini"


class Part(StrEnum):
    """What of a prompt it is."""

    TOOLS = "tools"
    SYSTEM = "system"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Element:
    """One tool, block of the system prompt, message or item."""

    path: str
    """Where it stands in its body; empty for what the upstream keeps of a chain."""
    digest: bytes
    value: Any = UNSEEN
    """Without marks. UNSEEN where the upstream keeps it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request."""

    dialect: Dialect
    model: str
    settings: Mapping[str, Any]
    parts: tuple[tuple[Part, tuple[Element, ...]], ...]
    """In the order of the prompt; `system` may stand there twice."""
    lists: Mapping[Part, str]
    """Per part, the list in the body that an element would be added to."""
    hour_long: bool = False
    """It asks for the long cache: an hour in messages, a day in others."""
    sessions: frozenset[str] = frozenset()
    """Names that tell its session, as its program gives them."""

    def in_sessions(self, sessions: frozenset[str]) -> "Prompt":
        """The same with the names of its session."""
        return replace(self, sessions=sessions)

    @property
    def messages(self) -> tuple[Element, ...]:
        """The conversation itself."""
        return self.parts[-1][1]

    def digests(self, part: Part) -> tuple[bytes, ...]:
        """Of all elements of a part."""
        return tuple(each.digest for name, elements in self.parts if name is part for each in elements)

    @property
    def ask(self) -> bytes:
        """Equal for two requests that ask the same."""
        told = [self.model.encode("utf-8", "surrogatepass"), digest_of(self.settings)]
        for name, elements in self.parts:
            told += [name.encode(), *(each.digest for each in elements)]
        return _digest(b"\0".join(told))


@dataclass(frozen=True, slots=True)
class Kept:
    """What an upstream keeps of a chain: the digests of its elements, the leading ones apart."""

    leading: tuple[bytes, ...] = ()
    rest: tuple[bytes, ...] = ()


_ENDS = (
    ("/chat/completions", Dialect.CHAT),
    ("/responses", Dialect.RESPONSES),
    ("/responses/compact", Dialect.RESPONSES),
    ("/messages", Dialect.MESSAGES),
)


def dialect_of(path: str) -> Dialect | None:
    """The dialect of a path; None for what asks no model that talks."""
    path = path.partition("?")[0].rstrip("/")
    if "/threads/" in path:
        return None
    found = next((dialect for end, dialect in _ENDS if path.endswith(end)), None)
    if found is None and (asked := gemini_call(path)) is not None and asked[1] in GEMINI_GENERATES:
        return Dialect.GEMINI
    return found


def reading(dialect: Dialect, body: Any, *, path: str = "", kept: Kept | None = None) -> Sliced[Prompt | None]:
    """The prompt of a body; None where it is none. `kept`: what the upstream keeps of its chain. Never raises."""
    if not isinstance(body, dict):
        return None
    found = yield from _READERS[dialect](body, kept or Kept())
    if found is None:
        return None
    parts, lists = found
    model = body.get("model")
    if dialect is Dialect.GEMINI and (named := gemini_call(path)) is not None:
        model = named[0]
    lives = _lives(body) if dialect is Dialect.MESSAGES else []
    return Prompt(
        dialect,
        model if isinstance(model, str) else "",
        {name: body[name] for name in SETTINGS if body.get(name) is not None},
        parts,
        lists,
        hour_long=lives[-1] if lives else body.get("prompt_cache_retention") == "24h",
    )


_Parts = tuple[tuple[tuple[Part, tuple[Element, ...]], ...], dict[Part, str]]


def _chat(body: Mapping[str, Any], _kept: Kept) -> Sliced[_Parts | None]:
    if not isinstance(body.get("messages"), list):
        return None
    tools = yield from _elements("tools", body.get("tools"))
    lead, rest = _split((yield from _elements("messages", body["messages"])))
    parts = (Part.TOOLS, tools), (Part.SYSTEM, lead), (Part.MESSAGE, rest)
    return parts, {Part.TOOLS: "tools", Part.SYSTEM: "messages", Part.MESSAGE: "messages"}


def _messages(body: Mapping[str, Any], _kept: Kept) -> Sliced[_Parts | None]:
    if not isinstance(body.get("messages"), list):
        return None
    tools = yield from _elements("tools", body.get("tools"))
    system: tuple[Element, ...] = ()
    if isinstance(body.get("system"), str):
        block = {"type": "text", "text": body["system"]}
        system = (Element("system", digest_of(block), body["system"]),)
    else:
        system = yield from _elements("system", body.get("system"))
    talk = yield from _elements("messages", body["messages"], loose=True)
    parts = (Part.TOOLS, tools), (Part.SYSTEM, system), (Part.MESSAGE, talk)
    return parts, {Part.TOOLS: "tools", Part.SYSTEM: "system", Part.MESSAGE: "messages"}


def _responses(body: Mapping[str, Any], kept: Kept) -> Sliced[_Parts | None]:
    given = body.get("input", [])
    if isinstance(given, str):
        own: tuple[Element, ...] = (Element("input", digest_of({"role": "user", "content": given}), given),)
    elif isinstance(given, list):
        own = yield from _elements("input", given)
    else:
        return None
    instructions = body.get("instructions")
    head = () if instructions is None else (Element("instructions", digest_of(instructions), instructions),)
    tools = yield from _elements("tools", body.get("tools"))
    before = tuple(Element("", each) for each in kept.leading), tuple(Element("", each) for each in kept.rest)
    lead, rest = ((), own) if before[1] else _split(own)
    parts = (
        (Part.SYSTEM, head),
        (Part.TOOLS, tools),
        (Part.SYSTEM, (*before[0], *lead)),
        (Part.MESSAGE, (*before[1], *rest)),
    )
    return parts, {Part.TOOLS: "tools", Part.SYSTEM: "input", Part.MESSAGE: "input"}


def _gemini(body: Mapping[str, Any], _kept: Kept) -> Sliced[_Parts | None]:
    contents = body.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list):
        return None
    name = "systemInstruction" if "systemInstruction" in body else "system_instruction"
    system = body.get(name)
    head = () if system is None else (Element(name, digest_of(system), system),)
    tools = yield from _elements("tools", body.get("tools"))
    talk = yield from _elements("contents", contents)
    parts = (Part.SYSTEM, head), (Part.TOOLS, tools), (Part.MESSAGE, talk)
    return parts, {Part.TOOLS: "tools", Part.SYSTEM: name, Part.MESSAGE: "contents"}


_READERS = {
    Dialect.CHAT: _chat,
    Dialect.MESSAGES: _messages,
    Dialect.RESPONSES: _responses,
    Dialect.GEMINI: _gemini,
}


def _elements(name: str, values: object, *, loose: bool = False) -> Sliced[tuple[Element, ...]]:
    found: list[Element] = []
    for at, each in enumerate(values if isinstance(values, list) else ()):
        value = unmarked(each)
        found.append(Element(f"{name}[{at}]", digest_of(in_blocks(value) if loose else value), value))
        if at % _PER_SLICE == _PER_SLICE - 1:
            yield
    return tuple(found)


def _split(elements: tuple[Element, ...]) -> tuple[tuple[Element, ...], tuple[Element, ...]]:
    """The leading system and developer messages, and the rest."""
    count = next((at for at, each in enumerate(elements) if not _leads(each.value)), len(elements))
    return elements[:count], elements[count:]


def _leads(value: object) -> bool:
    return isinstance(value, dict) and value.get("role") in _LEADING


def unmarked(value: Any) -> Any:
    """A value without the marks of what is to be cached."""
    if isinstance(value, dict):
        return {name: unmarked(each) for name, each in value.items() if name != "cache_control"}
    return [unmarked(each) for each in value] if isinstance(value, list) else value


def in_blocks(value: Any) -> Any:
    """A message whose texts that stand alone are blocks of text, in what is nested there, too."""
    if isinstance(value, dict):
        found = {name: in_blocks(each) for name, each in value.items()}
        if isinstance(found.get("content"), str):
            found["content"] = [{"type": "text", "text": found["content"]}]
        return found
    return [in_blocks(each) for each in value] if isinstance(value, list) else value


def _lives(body: Mapping[str, Any]) -> list[bool]:
    """Of each mark in the order of the prompt, whether it asks for an hour."""
    return [
        mark.get("ttl") == "1h"
        for name in ("tools", "system", "messages")
        for block in _blocks(body.get(name))
        if isinstance(mark := block.get("cache_control"), dict)
    ]


def _blocks(value: object) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict):
            yield each
            yield from _blocks(each.get("content"))


def digest_of(value: object) -> bytes:
    """Equal for equal JSON values; the order of an object's members is no difference."""
    return _digest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST).digest()


def texts_of(value: object, depth: int = 12) -> Iterator[str]:
    """All texts under `text`, `content`, `output` and the like of a message, in their order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each, depth - 1) if depth else ()
    elif isinstance(value, dict):
        for name in _TEXTS:
            yield from texts_of(value.get(name), depth - 1) if depth else ()


_TEXTS = ("text", "content", "output", "parts")


@dataclass(slots=True)
class Histories:
    """What a prompt's history says of answers that came before: ids, and texts of the model."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    at: int = 0
    """How many stand before."""
    before: bytes = b""
    """Digest of these."""


def history_of(elements: Sequence[Element]) -> list[Histories]:
    """Per element that tells of an earlier answer, what it tells; the last one first."""
    found: list[Histories] = []
    before = blake2b(digest_size=_DIGEST)
    for at, each in enumerate(elements):
        if isinstance(each.value, dict):
            told = _history(each.value)
            if told.ids or told.texts:
                told.at, told.before = at, before.digest()
                found.append(told)
        before.update(each.digest)
    return found[::-1]


def digest_of_all(elements: Sequence[Element]) -> bytes:
    """Equal for equal conversations: what `Histories.before` is of the answer to one."""
    running = blake2b(digest_size=_DIGEST)
    for each in elements:
        running.update(each.digest)
    return running.digest()


def own_ids(elements: Sequence[Element]) -> list[str]:
    """Ids that a program has given to its own messages."""
    return [each.value["id"] for each in elements if _has_own_id(each.value)]


def _has_own_id(value: object) -> bool:
    if not isinstance(value, dict) or value.get("role") != "user":
        return False
    return isinstance(name := value.get("id"), str) and is_unique(name)


def digest_without_id(element: Element) -> bytes:
    """Of an element, whatever id its program has given it."""
    value = element.value
    if not isinstance(value, dict) or "id" not in value:
        return element.digest
    return digest_of({name: each for name, each in value.items() if name != "id"})


_IDS = ("call_id", "tool_call_id", "tool_use_id", "id")
_SPOKEN = ("assistant", "model")


def _history(value: Mapping[str, Any]) -> Histories:
    """Of one message or item."""
    told = Histories()
    role, kind = value.get("role"), value.get("type")
    if role not in ("user", *_LEADING) or kind not in (None, "message") or _has_own_id(value):
        told.ids += _ids(value)
    content = value.get("content", value.get("parts"))
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") not in ("text", "input_text", "output_text", "image"):
            told.ids += _ids(block)
            told.ids += _ids(block.get("functionCall")) + _ids(block.get("functionResponse"))
    calls = value.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        told.ids += _ids(call)
    if role in _SPOKEN and (text := "".join(texts_of(_without_thoughts(content))).strip()):
        told.texts.append(text)
    told.texts += [quoted for each in content if (quoted := quote(each))] if isinstance(content, list) else []
    return told


def _without_thoughts(content: object) -> object:
    """Gemini's thoughts stand among what it says, and no client has to send them back."""
    if not isinstance(content, list):
        return content
    return [each for each in content if not (isinstance(each, dict) and each.get("thought") is True)]


def quote(part: object) -> str | None:
    """A call of a tool that has no id, as Gemini's may have none: its name and what it was given."""
    call = part.get("functionCall") if isinstance(part, dict) else None
    if not isinstance(call, dict) or isinstance(call.get("id"), str):
        return None
    return json.dumps([call.get("name"), call.get("args")], sort_keys=True)


def _ids(value: object) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [found for name in _IDS if isinstance(found := value.get(name), str) and is_unique(found)]


_DIGITS = re.compile(r"[0-9]")


def is_unique(name: str) -> bool:
    """Whether a name looks as if it was made for one thing alone: `call_0` and `agents-v3` do not."""
    return 12 <= len(name) <= 4096 and (len(_DIGITS.findall(name)) >= 3 or len(name) >= 24)
