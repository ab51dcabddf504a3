"""Where two prompts first differ: the path, what was there, what is there now.

Compared, one after the other, are the model; the parts in the order of the prompt, but not what is merely added behind
the last message (in messages, `tool_choice` and `thinking` stand between system and messages, since what is cached of
the messages depends on them); the other settings; what is added behind the last message; and where the messages now
end sooner.

A path leads into the present request's body; that of a value that is gone, into the previous one's. Two objects are
compared member by member in the order of the previous one, two lists element by element, then by their lengths. An
element of a list is the same one, edited, while its type, role, name and ids stay: then the path goes on inside.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from addons.core.threads.prompt import CACHED_SETTINGS, SETTINGS, UNSEEN, Dialect, Element, Part, Prompt

_IDENTITY = ("type", "role", "name", "id", "call_id", "tool_call_id", "tool_use_id")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHOWN = 120
"""Characters of a value that are shown."""
_LED_IN = 20
"""Of them, what two texts have in common before they differ."""


class _Absent:
    """What stands for a value that is not there."""


ABSENT = _Absent()


class Place(StrEnum):
    """What a difference concerns."""

    MODEL = "model"
    TOOLS = "tools"
    SYSTEM = "system"
    CACHED_SETTING = "cached_setting"
    MESSAGE = "message"
    SETTING = "setting"
    NEW = "new"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is another one."""

    place: Place
    path: str
    before: Any
    after: Any
    """The two values, or ABSENT; UNSEEN of what the upstream keeps."""


def differences(before: Prompt, after: Prompt) -> Iterator[Difference]:
    """One for each part or setting at most, the first one first."""
    if before.model != after.model:
        yield Difference(Place.MODEL, "model", before.model, after.model)
    loose = after.dialect is Dialect.MESSAGES
    cached = CACHED_SETTINGS if loose else ()
    tail = None
    for at, (part, new) in enumerate(after.parts):
        old = before.parts[at][1] if before.dialect is after.dialect else ()
        if part is Part.MESSAGE:
            yield from _settings(before, after, cached, Place.CACHED_SETTING)
        found = _in_part(old, new, after.lists[part], part, loose)
        if found is not None and found.place in (Place.NEW, Place.CUT):
            tail = found
        elif found is not None:
            yield found
    yield from _settings(before, after, tuple(each for each in SETTINGS if each not in cached), Place.SETTING)
    if tail is not None:
        yield tail


def _settings(before: Prompt, after: Prompt, names: tuple[str, ...], place: Place) -> Iterator[Difference]:
    for name in names:
        found = _within(name, before.settings.get(name, ABSENT), after.settings.get(name, ABSENT), False)
        if found is not None:
            yield Difference(place, *found)


def common(old: tuple[bytes, ...], new: tuple[bytes, ...]) -> int:
    """How many elements two lists begin with that are the same."""
    return next(
        (at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
    )


def _in_part(
    old: tuple[Element, ...], new: tuple[Element, ...], whole: str, part: Part, loose: bool
) -> Difference | None:
    place = {Part.TOOLS: Place.TOOLS, Part.SYSTEM: Place.SYSTEM, Part.MESSAGE: Place.MESSAGE}[part]
    for one, other in zip(old, new, strict=False):
        if one.digest != other.digest:
            found = _within(other.path or whole, one.value, other.value, loose, element=True)
            if found is not None:
                return Difference(place, *found)
    if len(new) > len(old):
        # In a chain the answer before is new as well, but kept by the upstream: no path leads there.
        first = next((each for each in new[len(old) :] if each.path), new[-1])
        return Difference(Place.NEW if part is Part.MESSAGE else place, first.path, ABSENT, first.value)
    if len(new) < len(old):
        gone = old[len(new)]
        return Difference(Place.CUT if part is Part.MESSAGE else place, gone.path or whole, gone.value, ABSENT)
    return None


def _identity(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        return []
    function = value.get("function")
    return [*(value.get(name) for name in _IDENTITY), function.get("name") if isinstance(function, dict) else None]


def _lone_text(value: Any) -> str | None:
    """The text of a list that holds one block of text, and nothing besides."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        text = value[0].get("text")
        return text if value[0].keys() == {"type", "text"} and isinstance(text, str) else None
    return None


_Found = tuple[str, Any, Any]


def _within(path: str, old: Any, new: Any, loose: bool, *, element: bool = False) -> _Found | None:
    if old == new and type(old) is type(new):
        return None
    if element and _identity(old) != _identity(new):
        return path, old, new
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return _first(
            lambda name: _within(member(path, name), old.get(name, ABSENT), new.get(name, ABSENT), loose), names
        )
    if isinstance(old, list) and isinstance(new, list):
        return _first(
            lambda at: _within(f"{path}[{at}]", _at(old, at), _at(new, at), loose, element=True),
            range(max(len(old), len(new))),
        )
    if loose and isinstance(old, str) and (text := _lone_text(new)) is not None:
        return None if text == old else (f"{path}[0].text", old, text)
    if loose and isinstance(new, str) and (text := _lone_text(old)) is not None:
        return None if text == new else (path, text, new)
    return path, old, new


def _first(find: Callable[[Any], _Found | None], where: Any) -> _Found | None:
    return next((found for each in where if (found := find(each)) is not None), None)


def _at(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else ABSENT


def member(path: str, name: str) -> str:
    """The path of a member: `a.b`, or `a["b-c"]` where its name is no plain word."""
    if _PLAIN.match(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name, ensure_ascii=False)}]"


def shown(before: Any, after: Any) -> tuple[str | None, str | None]:
    """Both values as short texts; None for what is not there.

    A text as it is, all else as JSON. What two texts have in common at their beginning is left out but for the last of
    it, with an ellipsis in its place.
    """
    old, new = (_text(each) for each in (before, after))
    start = 0
    if isinstance(before, str) and isinstance(after, str):
        start = max(0, _same(before, after) - _LED_IN)
    return _cut(old, start), _cut(new, start)


def _same(one: str, other: str) -> int:
    """Characters that two texts begin with that are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halves are compared in one go, where a loop would look at each character
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _text(value: Any) -> str | None:
    if value is UNSEEN or value is ABSENT:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cut(text: str | None, start: int) -> str | None:
    if text is None:
        return None
    rest = text[start:]
    return ("…" if start else "") + (rest if len(rest) <= _SHOWN else rest[:_SHOWN] + "…")
