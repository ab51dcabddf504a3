"""The first difference between two requests of a thread: its path, what was there, what is there now.

Compared, one after the other, are (views.py has what each part is):

1. `model`;
2. the parts of the prompt in their order, but not what is merely added behind the last message (or item); in messages,
   `tool_choice` and `thinking` come between system and messages, since what is cached of the messages depends on them;
3. the other settings, in the order of views.SETTINGS: no cache depends on them;
4. what is added behind the last message or item: the new turn, which begins with the answer before; in a chain, whose
   upstream keeps that answer, with the first item of the body;
5. where the messages now end sooner than before and are the same up to there: the first that is gone.

The first that differs is the difference; each request has one at most, whatever the reason of its cost.

The path leads into the *present* request's body as sent (of a value that is gone: into the previous one's). It is
written with dots and brackets, `messages[3].content[0].text`; a name that is no plain word is quoted,
`properties["-n"]`. How deep it goes: two objects are compared member by member, in the order in which the previous one
has them, then those that the present one has besides; a member that one of them lacks is the difference. Two lists are
compared element by element, then by their lengths. Elements of a list are the same, edited, when they agree in `type`,
`role`, `name`, `id`, `call_id`, `tool_call_id`, `tool_use_id` and `function.name`: then the path goes on inside. Else
another element stands there, and the path ends at it: `tools[2]` for tools in another order. The order of an object's
members is no difference. Strings are compared whole: the path ends at them.
Two values of which one is text alone and the other a list with one text block are compared by that text (messages
alone).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.agent_runs.dialect import compact
from tests.support.agent_runs.views import CACHED_SETTINGS, SETTINGS, Element, View, member

_IDENTITY = ("type", "role", "name", "id", "call_id", "tool_call_id", "tool_use_id")
_SHOWN = 120
_LED_IN = 20


@dataclass(frozen=True, slots=True)
class Absent:
    """What stands for a value that is not there."""


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    place: str
    """`model`, `tools`, `system`, `cached_setting`, `message`, `setting`, `new` or `cut`."""
    path: str
    before: Any
    after: Any
    """The two values, or ABSENT."""


def first_difference(before: View, after: View) -> Difference | None:
    return next(_differences(before, after), None)


def _differences(before: View, after: View) -> Iterator[Difference]:
    """All differences, one for each part or setting at most, the first one first."""
    if before.model != after.model:
        yield Difference("model", "model", before.model, after.model)
    cached = CACHED_SETTINGS if after.dialect == "messages" else ()
    tail = None
    for (part, old), (_, new) in zip(before.parts, after.parts, strict=True):
        if part == "message":
            yield from _settings(before, after, cached, "cached_setting")
        found = _in_list(old, new, after.list_paths[part], part, after.dialect == "messages")
        if found is not None and found.place in ("new", "cut"):
            tail = found
        elif found is not None:
            yield found
    yield from _settings(before, after, tuple(name for name in SETTINGS if name not in cached), "setting")
    if tail is not None:
        yield tail


def all_places(before: View, after: View) -> list[str]:
    return [each.place for each in _differences(before, after)]


def _settings(before: View, after: View, names: tuple[str, ...], place: str) -> Iterator[Difference]:
    for name in names:
        found = _within(name, before.settings.get(name, ABSENT), after.settings.get(name, ABSENT), False)
        if found is not None:
            yield Difference(place, *found)


def _in_list(
    old: tuple[Element, ...], new: tuple[Element, ...], whole: str, part: str, loose: bool
) -> Difference | None:
    for one, other in zip(old, new, strict=False):
        if one.value != other.value:
            found = _within(other.path, one.value, other.value, loose, element=True)
            if found is not None:
                return Difference(part, *found)
    if len(new) > len(old):
        # In a chain the answer before is new as well, but kept by the upstream: no path leads there.
        first = next((each for each in new[len(old) :] if each.path), new[-1])
        return Difference("new" if part == "message" else part, first.path, ABSENT, first.value)
    if len(new) < len(old):
        gone = old[len(new)]
        return Difference("cut" if part == "message" else part, gone.path or whole, gone.value, ABSENT)
    return None


def _identity(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        return []
    function = value.get("function")
    return [*(value.get(name) for name in _IDENTITY), function.get("name") if isinstance(function, dict) else None]


def _one_text(value: Any) -> str | None:
    """The text of a list with one text block and nothing besides."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and set(value[0]) == {"type", "text"}:
        return str(value[0]["text"])
    return None


def _within(path: str, old: Any, new: Any, loose: bool, element: bool = False) -> tuple[str, Any, Any] | None:
    if old == new:
        return None
    if element and _identity(old) != _identity(new):
        return path, old, new
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            found = _within(member(path, name), old.get(name, ABSENT), new.get(name, ABSENT), loose)
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list):
        for at in range(max(len(old), len(new))):
            one, other = old[at] if at < len(old) else ABSENT, new[at] if at < len(new) else ABSENT
            found = _within(f"{path}[{at}]", one, other, loose, element=True)
            if found is not None:
                return found
        return None
    if loose and isinstance(old, str) and (text := _one_text(new)) is not None:
        return None if text == old else (f"{path}[0].text", old, text)
    if loose and isinstance(new, str) and (text := _one_text(old)) is not None:
        return None if text == new else (path, text, new)
    return path, old, new


def shown(before: Any, after: Any) -> tuple[str | None, str | None]:
    """Both values as short text; None for ABSENT.

    A string as it is, anything else as JSON without blanks. What two strings have in common at their start is left out
    but for its last 20 characters, with an ellipsis in its place; of the rest 120 characters are kept, with an
    ellipsis after them.
    """
    old, new = (
        None if each is ABSENT else each if isinstance(each, str) else compact(each) for each in (before, after)
    )
    start = 0
    if isinstance(before, str) and isinstance(after, str):
        same = next(
            (at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]),
            min(len(before), len(after)),
        )
        start = max(0, same - _LED_IN)
    return _cut(old, start), _cut(new, start)


def _cut(text: str | None, start: int) -> str | None:
    if text is None:
        return None
    rest = text[start:]
    return ("…" if start else "") + (rest if len(rest) <= _SHOWN else rest[:_SHOWN] + "…")
