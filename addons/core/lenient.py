"""JSON as real callers of /chat build it, often by joining strings: a UTF-8 BOM, raw newlines and tabs inside strings.

Everything else is refused with a `reason` to choose a message by. Time is linear in the body, and neither nesting nor
long numbers nor their count can hurt: all are bounded before anything is built (`core.bounded_json`).
"""

import json
import math
from typing import ClassVar, NoReturn

from addons.core import bounded_json
from addons.core.bounded_json import MAX_DEPTH
from addons.core.slices import Sliced, at_once


class Unreadable(ValueError):
    """The body is not what is asked for; `reason` is a stable code, the text says it in English."""

    reason: ClassVar[str] = "unreadable"


class NotUtf8(Unreadable):
    """Some bytes are not UTF-8; `position` is the first one's offset in bytes."""

    reason = "not_utf8"

    def __init__(self, position: int) -> None:
        super().__init__(f"not UTF-8: bad byte at position {position}")
        self.position = position


class NotJson(Unreadable):
    """Not JSON; `problem` in the words of Python's parser, `line` and `column` count from 1, in code points."""

    reason = "not_json"

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"not JSON: {problem} at line {line}, column {column}")
        self.problem = problem
        self.line = line
        self.column = column


class NotObject(Unreadable):
    """JSON, but no object; `found` names what it is instead."""

    reason = "not_object"

    def __init__(self, found: str) -> None:
        super().__init__(f"expected a JSON object, found {found}")
        self.found = found


class TooDeep(Unreadable):
    """Nested deeper than `MAX_DEPTH`."""

    reason = "too_deep"

    def __init__(self) -> None:
        super().__init__(f"nested deeper than {MAX_DEPTH} levels")


class TooMany(Unreadable):
    """More values than may be read."""

    reason = "too_many"


class BadNumber(Unreadable):
    """A number that is too long or too large, or NaN or Infinity, which JSON does not have."""

    reason = "bad_number"


def loads_object(body: bytes) -> dict[str, object]:
    """`loading_object` without a pause."""
    return at_once(loading_object(body))


def loading_object(body: bytes) -> Sliced[dict[str, object]]:
    """Read a JSON object leniently, in slices; of a doubled key the last value counts. Strings may hold lone surrogates
    (`"\\ud800"`), which UTF-8 cannot: mind them when encoding. Raises `Unreadable`."""
    try:
        text = body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise NotUtf8(error.start) from None
    try:
        value: object = yield from bounded_json.loading(text, _parse)
    except bounded_json.TooDeep:
        raise TooDeep from None
    except bounded_json.TooComplex as error:
        raise TooMany(str(error)) from None
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.lineno, error.colno) from None
    if not isinstance(value, dict):
        raise NotObject(_kind(value))
    return value


def _parse(text: str) -> object:
    return json.loads(text, strict=False, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant)


def _integer(digits: str) -> int:
    try:
        return bounded_json.read_int(digits)
    except bounded_json.TooComplex as error:
        raise BadNumber(f"{error} is too long") from None


class Written(float):
    """A number with a fraction or an exponent, and how it was written: 1.0 and 1e0 are one number and two texts."""

    __slots__ = ("text",)

    text: str


def _float(digits: str) -> float:
    if len(digits) > bounded_json.MAX_FRACTION:
        raise BadNumber(f"a number of {len(digits)} characters is too long")
    value = Written(digits)
    if math.isinf(value):
        raise BadNumber("a number is too large")
    value.text = digits
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadNumber(f"{name} is not a JSON number")


def _kind(value: object) -> str:
    match value:
        case list():
            return "an array"
        case str():
            return "a string"
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case _:
            return "a number"
