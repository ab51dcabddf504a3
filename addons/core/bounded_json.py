"""JSON from a stranger: how much work it is gets counted before it is parsed.

A parser builds an object for every value, so 4 MB of `[],` become 100 MB and hold the interpreter for 0.2 s, while 4 MB
of one string are nothing. What counts is the number of values and how deep they nest:

1. `[`, `{`, `,` and `:` are counted in the whole text. Few enough of them: done, and nearly all texts are.
2. Else they are counted once more outside strings, since prose is full of commas, in slices of the text. Strings are
   taken out by one regular expression, and what is left is counted: no character is looked at by itself.
"""

import json
import re
from array import array
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from addons.core.slices import Sliced, at_once

MAX_MARKS = 60_000
"""`[`, `{`, `,` and `:` outside strings; counting and parsing so many takes 5 to 20 ms, and 10 MB."""
MAX_DEPTH = 64
"""How deep arrays and objects may nest."""

MAX_DIGITS = 640
"""How long a whole number may be: the longest that every Python reads (`sys.int_info.str_digits_check_threshold`)."""
MAX_FRACTION = 100
"""How long any other number may be, in characters. A float has 17 digits."""

_COUNTED = 1 << 20  # characters that `str.count` goes through in a slice: 2 ms
_SLICE = 1 << 15  # characters that strings are taken out of in a slice: 4 ms where they are as many as can be
_END = "\0"
"""Stands behind a slice, and is gone where a string goes on. JSON has no such character outside strings."""
_STRING = re.compile(r'"[^"\\]*+(?:(?:\\.)++[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # possessive: nothing is tried twice
_STRING_BYTES = re.compile(_STRING.pattern.encode(), re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


class TooComplex(ValueError):
    """More values than may be parsed, or nested too deep."""


class TooDeep(TooComplex):
    """Nested too deep."""


def parse(text: str, *, strict: bool = True) -> Any:
    """`json.loads`, but for numbers that take long to read: ValueError for them. No model and no app writes such."""
    return (_DECODER if strict else _MILD).decode(text)


def read_int(digits: str) -> int:
    """A whole number: reading it takes time that grows with the square of its length."""
    if len(digits) > MAX_DIGITS:
        raise TooComplex(f"a number of {len(digits)} digits")
    return int(digits)


def read_float(digits: str) -> float:
    """A number with a fraction or an exponent: of many digits all have to be compared."""
    if len(digits) > MAX_FRACTION:
        raise TooComplex(f"a number of {len(digits)} characters")
    return float(digits)


_DECODER = json.JSONDecoder(parse_int=read_int, parse_float=read_float)
_MILD = json.JSONDecoder(parse_int=read_int, parse_float=read_float, strict=False)


def loads(text: str, parse: Callable[[str], Any] = parse, *, marks: int = MAX_MARKS) -> Any:
    """The JSON value of a short text. Raises TooComplex, and ValueError for what is no JSON."""
    if len(text) <= marks and text.count("[") + text.count("{") <= MAX_DEPTH:  # neither many values nor deep
        try:
            return parse(text)
        except RecursionError:
            raise TooDeep("nested too deep") from None
    return at_once(loading(text, parse, marks=marks))


def loading(text: str, parse: Callable[[str], Any] = parse, *, marks: int = MAX_MARKS) -> Sliced[Any]:
    """The JSON value of `text`, as `parse` reads it, in slices.

    Raises TooComplex where it has more than `marks` marks or is nested deeper than `MAX_DEPTH`, and ValueError for what
    is no JSON.
    """
    yield from measuring(text, marks=marks)
    try:
        return parse(text)
    except RecursionError:  # not by the text alone: the stack was nearly full before
        raise TooDeep("nested too deep") from None


def measuring(text: str, *, marks: int = MAX_MARKS, depth: int = MAX_DEPTH) -> Sliced[None]:
    """Count, in slices. Raises TooComplex. Broken JSON may pass, but never costs its parser more than the bounds."""
    found = opened = 0
    for start in range(0, len(text), _COUNTED):
        if start:
            yield
        piece = text[start : start + _COUNTED]
        brackets = piece.count("[") + piece.count("{")
        opened += brackets
        found += brackets + piece.count(",") + piece.count(":")
    if found > marks or opened > depth:
        yield from _counting(text, marks, depth)


def _counting(text: str, marks: int, depth: int) -> Sliced[None]:
    """Count outside strings. Where the text is seen to be broken counting ends: so does parsing, there or before."""
    found = strings = level = at = 0
    opening = ""  # a quotation mark where a slice begins in a string
    while at < len(text):
        end = min(at + _SLICE, len(text))
        piece = opening + text[at:end]
        outside, ended = _STRING.subn("", piece + _END)
        strings += ended - len(opening)
        opening = "" if outside.endswith(_END) else '"'
        opened = outside.count("[") + outside.count("{")
        found += opened + outside.count(",") + outside.count(":")
        if found > marks:
            raise TooComplex(f"more than {marks} values")
        if level + opened > depth and _highest(outside, level) > depth:
            raise TooDeep(f"nested deeper than {depth} levels")
        level += opened - outside.count("]") - outside.count("}")
        if level < 0 or strings > found + 1 or end == len(text):
            return
        # A backslash belongs to what follows it.
        at = end - (len(piece) - len(piece.rstrip("\\"))) % 2 if opening else end
        yield


def _highest(outside: str, level: int) -> int:
    """The deepest level that the brackets of a text without strings come to, from `level` on."""
    steps = array("b", outside.encode("utf-8", "replace").translate(_STEPS, _NO_BRACKETS))
    return max(accumulate(steps, initial=level))


class Whole:
    """Hears a JSON object or array come, and says when its last bracket has: whoever sends it may not end there.

    Time is linear in the bytes fed. Brackets are counted and not compared: what is no JSON is found out by parsing it.
    """

    def __init__(self) -> None:
        self._level = 0
        self._inside = False  # a string
        self._escaped = False  # the last byte was a backslash in a string

    def feed(self, piece: bytes) -> bool:
        """Take the next bytes; whether they closed the value."""
        if self._escaped and piece:
            piece, self._escaped = piece[1:], False
        if self._inside:
            piece = b'"' + piece
        outside = _STRING_BYTES.sub(b"", piece + _END.encode())
        self._inside = not outside.endswith(_END.encode())
        self._escaped = self._inside and (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
        brackets = outside.translate(_STEPS, _NO_BRACKETS)
        if not brackets:
            return False
        levels = list(accumulate(array("b", brackets), initial=self._level))
        self._level = levels.pop()
        return self._level <= 0 or min(levels[1:], default=1) <= 0
