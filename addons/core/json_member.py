"""Members of a JSON object by their places, caught while its bytes pass: for answers that are too large to be parsed.

A member counts by where it stands and not by its name: what a model or a caller has written may hold the same names.
Only the first two levels are told apart, deeper ones are skipped by their brackets. Time is linear in the bytes fed,
and no more is kept than the values that are wanted. Who sends much at once that is nothing but brackets is not heard
any more: nothing is found then.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from addons.core import bounded_json

_LONGEST_NAME = 64
_LONGEST_VALUE = 1 << 14
_MARKS = 1000
_SHALLOW = re.compile(rb'["\[\]{},:]')
_SKIPPED = re.compile(rb'[\[\]{}]|"(?:[^"\\]++|\\.)*+"|"', re.DOTALL)
"""A bracket, a string, or the beginning of one whose end has not come."""
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TOLD_APART = 2
_MOST_TOKENS = 100_000
"""Names, values and brackets that matter in bytes that are fed at once: some 100 ms of work."""


class MemberCatcher:
    """Catches the values at `wanted` paths, of one name or two."""

    def __init__(self, wanted: Collection[tuple[str, ...]]) -> None:
        self.found: dict[tuple[str, ...], Any] = {}
        """The last value at each path."""
        self._wanted = wanted
        self._level = 0
        self._path: list[str] = []
        self._objects: list[bool] = []  # of the first levels: whether each is an object
        self._inside = False  # a string
        self._escaped = False  # the last byte was a backslash in a string
        self._name: bytearray | None = None  # the name that is being read
        self._expects_name = False
        self._value: bytearray | None = None  # the value that is being caught
        self._value_path: tuple[str, ...] = ()
        self._value_level = 0
        self._floor: int | None = None  # the level at which what is skipped has ended
        self._deaf = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        at = tokens = 0
        while at < len(data) and not self._deaf:
            if self._inside:
                at = self._through_string(data, at)
                continue
            if self._skips():
                at = self._skip(data, at)
                continue
            token = _SHALLOW.search(data, at)
            end = len(data) if token is None else token.start()
            self._keep(data[at:end])
            if token is None:
                return
            self._take(token[0])
            at = token.end()
            tokens += 1
            if tokens > _MOST_TOKENS:
                self._deaf = True
                self.found.clear()

    def _skips(self) -> bool:
        """Whether nothing that is wanted can come before a bracket closes."""
        if self._floor is None and self._value is None and self._name is None:
            if self._level > _TOLD_APART:
                self._floor = _TOLD_APART
            elif self._level and not self._objects[self._level - 1]:
                self._floor = self._level - 1
        return self._floor is not None

    def _skip(self, data: bytes, at: int) -> int:
        floor, level = self._floor or 0, self._level
        end = len(data)
        for found in _SKIPPED.finditer(data, at):
            token = found[0]
            if token == b"[" or token == b"{":
                level += 1
            elif token == b"]" or token == b"}":
                level -= 1
                if level <= floor:
                    end, self._floor = found.end(), None
                    del self._objects[floor:], self._path[floor:]
                    self._expects_name = False
                    break
            elif token == b'"':
                end, self._inside = found.end(), True
                break
        self._level = level
        return end

    def _through_string(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            self._text(data[at : at + 1])
            return at + 1
        found = _INSIDE.match(data, at)
        end = at if found is None else found.end()
        self._text(data[at:end])
        if end < len(data):
            if data[end : end + 1] == b'"':
                self._inside = False
                self._keep(b'"')
                self._end_name()
            else:  # a backslash at the end of what has come
                self._escaped = True
                self._text(b"\\")
            return end + 1
        return end

    def _text(self, piece: bytes) -> None:
        if self._name is not None and len(self._name) <= _LONGEST_NAME:
            self._name += piece
        self._keep(piece)

    def _keep(self, piece: bytes) -> None:
        if self._value is not None and piece:
            self._value += piece
            if len(self._value) > _LONGEST_VALUE:
                self._value = None

    def _take(self, token: bytes) -> None:
        if token == b'"':
            self._inside = True
            self._keep(token)
            if self._expects_name and self._level <= _TOLD_APART:
                self._name = bytearray()
            return
        if token in (b",", b"}", b"]") and self._level == self._value_level and self._value is not None:
            self._end_value()
        self._keep(token)
        if token in (b"{", b"["):
            self._open(token == b"{")
        elif token in (b"}", b"]"):
            self._close()
        elif token == b",":
            self._expects_name = self._is_object
        elif token == b":" and self._is_object and self._expects_name is False and self._level <= _TOLD_APART:
            self._begin_value()

    @property
    def _is_object(self) -> bool:
        return 0 < self._level <= _TOLD_APART and self._objects[self._level - 1]

    def _open(self, is_object: bool) -> None:
        self._level += 1
        if self._level <= _TOLD_APART:
            self._objects.append(is_object)
            self._path.append("")
        self._expects_name = is_object and self._level <= _TOLD_APART

    def _close(self) -> None:
        if 0 < self._level <= _TOLD_APART:
            self._objects.pop()
            self._path.pop()
        self._level = max(0, self._level - 1)
        self._expects_name = False

    def _end_name(self) -> None:
        if self._name is None:
            return
        written, self._name = bytes(self._name), None
        self._expects_name = False
        try:
            self._path[self._level - 1] = str(json.loads(b'"' + written + b'"'))
        except ValueError:
            self._path[self._level - 1] = ""

    def _begin_value(self) -> None:
        path = tuple(self._path[: self._level])
        if path in self._wanted and all(self._objects[: self._level]) and self._value is None:
            self._value, self._value_path, self._value_level = bytearray(), path, self._level

    def _end_value(self) -> None:
        written, self._value = self._value, None
        try:
            self.found[self._value_path] = bounded_json.loads((written or b"").decode("utf-8"), marks=_MARKS)
        except ValueError:
            self.found.pop(self._value_path, None)
