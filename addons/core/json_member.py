"""Members of a JSON object by their places, caught while its bytes pass: for answers that are too large to be parsed.

A member counts by where it stands and not by its name: what a model or a caller has written may hold the same names.

1. Members that nobody wants are passed over, as many at once as there are, by one regular expression: those whose value
   is a string, a number, or an array or object that is nested no deeper than twice.
2. Any other value that is unwanted, or is caught, is gone through by its brackets.
3. What is left is taken mark by mark: the names and values that are wanted, and what the chunks have cut in two.

Time is linear in the bytes fed, some 10 ms for 64 KiB at most, and no more is kept than the values that are wanted. Of
3 there is little in any answer: who sends much of it is not heard any more, and nothing is found then.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from addons.core import bounded_json
from addons.core.slices import Sliced

_LONGEST_NAME = 64
_LONGEST_VALUE = 1 << 14
_MARKS = 1000
_AT_ONCE = 1 << 16
_MOST_AT_ONCE = 8000
"""Steps for as many bytes: up to 10 ms of work. A run of brackets is a step; answers with probabilities have 1,500."""
_MARK = 10
"""Steps that a mark is which is taken by itself, since a string or a value may stand behind it."""
_MOST_MARKS = 20_000
"""Such marks of a whole answer. One of OpenAI's has some hundred."""

_SHALLOW = re.compile(rb'["\[\]{},:]')
_INSIDE = re.compile(rb'[^"\\]*+(?:(?:\\.)++[^"\\]*+)*+', re.DOTALL)
_STRING = rb'"[^"\\]*+(?:(?:\\.)++[^"\\]*+)*+"'
_FLAT = rb"(?:[^\[\]{}\"]++|" + _STRING + rb")*+"
_LEVEL = rb"(?:[^\[\]{}\"]++|" + _STRING + rb"|\[" + _FLAT + rb"\]|\{" + _FLAT + rb"\})*+"
"""What leaves the level as it is: arrays and objects with none inside, too."""
_SKIPPED = re.compile(_LEVEL + rb"([\[{]++|[\]}]++|\"|\Z)", re.DOTALL)
"""And what comes behind it: brackets, the beginning of a string whose end has not come, or nothing."""


def catching(data: bytes, wanted: Collection[tuple[str, ...]]) -> Sliced[dict[str, Any]]:
    """Of an object that is all there those members that are wanted, in slices; of what is no JSON as many as there are.

    >>> at_once(catching(b'{"id": 1, "a": 2, "response": {"id": 3}}', {("id",), ("response", "id")}))
    {'id': 1, 'response': {'id': 3}}
    """
    catcher = MemberCatcher(wanted)
    for start in range(0, len(data), _AT_ONCE):
        if start:
            yield
        catcher.feed(data[start : start + _AT_ONCE])
    return catcher.members


class MemberCatcher:
    """Catches the values at `wanted` paths of names."""

    def __init__(self, wanted: Collection[tuple[str, ...]]) -> None:
        self.found: dict[tuple[str, ...], Any] = {}
        """The last value at each path."""
        self._wanted = frozenset(wanted)
        self._unwanted = _unwanted_in(self._wanted)
        self._path: list[str] = []  # of the objects that are open, the name that came last in each
        self._skipped = 0  # brackets that are open in a value that is gone through
        self._inside = False  # a string
        self._escaped = False  # the last byte was a backslash in a string
        self._expects_name = False
        self._name: bytearray | None = None  # the name that is being read
        self._value: bytearray | None = None  # the value that is being caught
        self._marks = 0
        self._steps = 0
        self._deaf = False

    @property
    def members(self) -> dict[str, Any]:
        """What was found, in the objects that it stood in."""
        members: dict[str, Any] = {}
        for path, value in self.found.items():
            place: Any = members
            for name in path[:-1]:
                place = place.setdefault(name, {}) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place[path[-1]] = value
        return members

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for start in range(0, len(data), _AT_ONCE):
            self._steps = 0
            self._feed(data[start : start + _AT_ONCE])

    def _feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._deaf:
            if self._inside:
                at = self._through_string(data, at)
                continue
            if self._skipped:
                at = self._skip(data, at)
                continue
            if self._expects_name:
                at = self._past_unwanted(data, at)
            token = _SHALLOW.search(data, at)
            end = len(data) if token is None else token.start()
            self._keep(data, at, end)
            if token is None:
                return
            at = token.end()
            self._take(token[0])
            self._marks += 1
            self._steps += _MARK
            if self._steps > _MOST_AT_ONCE or self._marks > _MOST_MARKS:
                self._stop()

    def _stop(self) -> None:
        """Hear nothing any more."""
        self._deaf = True
        self._name = self._value = None
        self.found.clear()

    def _past_unwanted(self, data: bytes, at: int) -> int:
        """Where the next member stands that is wanted, or has to be looked into."""
        found = self._unwanted[*self._path[:-1]].match(data, at)
        return at if found is None else found.end()

    def _skip(self, data: bytes, at: int) -> int:
        """Go through a value; where it ends, or what has come of it."""
        level, end = self._skipped, len(data)
        for steps, found in enumerate(_SKIPPED.finditer(data, at), self._steps + 1):
            self._steps = steps
            if steps > _MOST_AT_ONCE:
                self._stop()
                break
            brackets = found[1]
            if brackets[:1] in (b"{", b"["):
                level += len(brackets)
            elif brackets[:1] in (b"}", b"]"):
                level -= len(brackets)
                if level <= 0:  # the last of them closes it, or one before it
                    end, level = found.end() + level, 0
                    break
            else:
                end, self._inside = found.end(), brackets == b'"'
                break
        self._skipped = level
        self._keep(data, at, end)
        return end

    def _through_string(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            self._text(data, at, at + 1)
            return at + 1
        found = _INSIDE.match(data, at)
        end = at if found is None else found.end()
        if end == len(data):
            self._text(data, at, end)
            return end
        if data[end] == ord('"'):
            self._inside = False
            self._text(data, at, end)
            self._keep(data, end, end + 1)
            self._end_name()
        else:  # a backslash at the end of what has come
            self._escaped = True
            self._text(data, at, end + 1)
        return end + 1

    def _text(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None and len(self._name) <= _LONGEST_NAME:
            self._name += data[start : min(end, start + _LONGEST_NAME + 1)]
        self._keep(data, start, end)

    def _keep(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            return
        if len(self._value) + end - start > _LONGEST_VALUE:
            self._value = None
        else:
            self._value += data[start:end]

    def _take(self, token: bytes) -> None:
        if token in b",}]" and self._value is not None:
            self._end_value()
        if self._value is not None:
            self._value += token
        match token:
            case b'"':
                self._inside = True
                if self._expects_name:
                    self._name = bytearray()
            case b"{" | b"[":
                self._open(token == b"{")
            case b"}" | b"]":
                if self._path:
                    self._path.pop()
                self._expects_name = False
            case b",":
                self._expects_name = bool(self._path)
            case b":" if self._path and not self._expects_name and (*self._path,) in self._wanted:
                self._value = bytearray()

    def _open(self, is_object: bool) -> None:
        """An array, or an object, begins: it is looked into if something in it may be wanted."""
        self._expects_name = is_object and self._value is None and (*self._path,) in self._unwanted
        if self._expects_name:
            self._path.append("")
        else:
            self._skipped = 1

    def _end_name(self) -> None:
        if self._name is None:
            return
        written, self._name = bytes(self._name), None
        self._expects_name = False
        try:
            self._path[-1] = str(json.loads(b'"' + written + b'"'))
        except ValueError:
            self._path[-1] = ""

    def _end_value(self) -> None:
        path, written, self._value = (*self._path,), self._value, None
        try:
            self.found[path] = bounded_json.loads((written or b"").decode("utf-8"), marks=_MARKS)
        except ValueError:
            self.found.pop(path, None)


@lru_cache(16)
def _unwanted_in(wanted: frozenset[tuple[str, ...]]) -> Mapping[tuple[str, ...], re.Pattern[bytes]]:
    """What stands beside wanted members, and is neither wanted nor leads to any, by the path of the object.

    Each pattern matches any number of such members, whole and with the comma behind each.
    """
    names: dict[tuple[str, ...], set[str]] = {}
    for path in wanted:
        for level, name in enumerate(path):
            names.setdefault(path[:level], set()).add(name)
    return {path: _members_but(sorted(each)) for path, each in names.items()}


def _members_but(names: Iterable[str]) -> re.Pattern[bytes]:
    name = rb'"(?!(?:' + "|".join(map(re.escape, names)).encode() + rb')")[^"\\]*+"'  # with an escape it may be any
    value = rb"(?:" + _STRING + rb'|[^"\[\]{},:]++|\[' + _LEVEL + rb"\]|\{" + _LEVEL + rb"\})"
    blank = rb"[ \t\r\n]*+"
    return re.compile(rb"(?:" + blank.join((b"", name, b":", value, b",")) + rb")*+", re.DOTALL)
