"""The members of a JSON object, where each stands in its text, found in slices; and how one is put in or replaced.

relay changes a body only in the very place that it has to: whatever else is in it stays byte for byte. Members are
found by their brackets, so a body of any size takes no more memory than its names. Values are not checked, but for
those that are read.
"""

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from addons.core import bounded_json
from addons.core.slices import Sliced, at_once

MOST_MEMBERS = 1000
_MOST_TOKENS = 1 << 21
"""Strings and brackets of all values, which take a second: 32 KB of a compressed body may hold ten times as many. A
message of a conversation has six."""
_LONGEST_NAME = 256
_SLICE = 1 << 14
_DECODED = 1 << 20
"""Bytes that are decoded at a time."""
_BLANK = re.compile(r"[ \t\n\r]{0,65536}+")
"""More than that between two tokens is no JSON that anybody writes: it is looked through at once."""
_SCALAR = re.compile(r"[^ \t\n\r,{}\[\]:\"]{1,200}")
_TOKEN = re.compile(r'["\[{\]}]')
_INSIDE = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_PLAIN = re.compile(
    r'"([^"\\\x00-\x1f]{0,256}+)"[ \t\n\r]{0,64}+:[ \t\n\r]{0,64}+("[^"\\]{0,200}+"|[^ \t\n\r,{}\[\]:"]{1,200}+)'
)
"""A name and a short text or a number, as nearly all members have them."""
_SHORT = 1 << 14
"""Characters of a text whose objects and arrays the parser of the standard library may pass over: in C, and so few that
nobody waits for it."""


class NoObject(ValueError):
    """The text is no JSON object."""


class Repeated(ValueError):
    """A name stands twice at the top level: which of them counts, parsers disagree on."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the field {name!r} stands twice")
        self.name = name


@dataclass(frozen=True, slots=True)
class Members:
    """An object's text, and where the value of each of its members stands."""

    text: str
    spans: Mapping[str, tuple[int, int]]
    end: int
    """Where its closing bracket stands."""

    def __contains__(self, name: str) -> bool:
        return name in self.spans

    def raw(self, name: str) -> str:
        """The text of a value, "" for a member that is not there."""
        start, end = self.spans.get(name, (0, 0))
        return self.text[start:end]

    def size(self, name: str) -> int:
        """Characters of a value, 0 for a member that is not there."""
        start, end = self.spans.get(name, (0, 0))
        return end - start

    def begins(self, name: str, beginning: str) -> bool:
        """Whether the text of a value begins so."""
        start, end = self.spans.get(name, (0, 0))
        return self.text.startswith(beginning, start, end)

    def holds(self, name: str, text: str) -> bool:
        """Whether this stands in the text of a value."""
        return self.text.find(text, *self.spans.get(name, (0, 0))) >= 0

    def value(self, name: str, default: Any = None, *, marks: int = bounded_json.MAX_MARKS) -> Any:
        """A value. Raises ValueError where it is no JSON, or one of more than `marks` values."""
        if name not in self.spans:
            return default
        raw = self.raw(name)
        if len(raw) <= bounded_json.MAX_DEPTH:  # neither deep nor many
            return bounded_json.parse(raw)
        return bounded_json.loads(raw, marks=marks)

    def items(self, name: str, most: int) -> Sliced[list[str]]:
        """The texts of a list's first items, `most` of them, in slices; none of what is no list. Raises NoObject."""
        start, end = self.spans.get(name, (0, 0))
        found: list[str] = []
        if not self.begins(name, "["):
            return found
        at, tokens = _past_blanks(self.text, start + 1), 0
        while at < end - 1 and len(found) < most:
            begin = at
            at, tokens = yield from _past_value(self.text, begin, tokens)
            found.append(self.text[begin:at])
            at = _past_blanks(self.text, at)
            if self.text[at : at + 1] == ",":
                at = _past_blanks(self.text, at + 1)
        return found

    def put(self, changes: Mapping[str, object]) -> str:
        """The text with these values, each in place of the one of its name, or behind the last member."""
        # In ASCII: a value that was read may hold halves of characters, which only escapes can write.
        said = {name: json.dumps(value) for name, value in changes.items()}
        fresh = ", ".join(f"{json.dumps(name)}: {value}" for name, value in said.items() if name not in self.spans)
        comma = ", " if fresh and self.spans else ""
        text = f"{self.text[: self.end]}{comma}{fresh}{self.text[self.end :]}"
        for name in sorted(self.spans.keys() & said.keys(), key=lambda name: self.spans[name], reverse=True):
            start, end = self.spans[name]
            text = text[:start] + said[name] + text[end:]
        return text


def decoding(body: bytes) -> Sliced[str]:
    """The text of a body in UTF-8, in slices. Raises UnicodeDecodeError."""
    if len(body) <= _DECODED:
        return body.decode("utf-8")
    decoder, pieces = codecs.getincrementaldecoder("utf-8")(), []
    for at in range(0, len(body), _DECODED):
        pieces.append(decoder.decode(body[at : at + _DECODED]))
        yield
    return "".join((*pieces, decoder.decode(b"", True)))


def members(text: str) -> Members:
    """`finding` without a pause."""
    return at_once(finding(text))


def finding(text: str) -> Sliced[Members]:
    """The members of the object that is all of `text`, in slices. Raises NoObject and Repeated."""
    at = _past_blanks(text, 0)
    if text[at : at + 1] != "{":
        raise NoObject("the body is not a JSON object")
    at = _past_blanks(text, at + 1)
    spans: dict[str, tuple[int, int]] = {}
    is_short = len(text) <= _SHORT and text.count("[") + text.count("{") <= bounded_json.MAX_DEPTH
    tokens = 0
    while text[at : at + 1] != "}" or spans:
        if (plain := _PLAIN.match(text, at)) is not None:
            name, start, at = plain[1], plain.start(2), plain.end()
        else:
            name, at = _name(text, at)
            at = _past_blanks(text, at)
            if text[at : at + 1] != ":":
                raise NoObject("a colon is missing")
            start = _past_blanks(text, at + 1)
            if is_short and (end := _end_of_short(text, start)) is not None:
                at = end
            else:
                at, tokens = yield from _past_value(text, start, tokens)
        if name in spans:
            raise Repeated(name)
        spans[name] = (start, at)
        if len(spans) > MOST_MEMBERS:
            raise NoObject(f"more than {MOST_MEMBERS} fields")
        at = _past_blanks(text, at)
        if text[at : at + 1] == "}":
            break
        if text[at : at + 1] != ",":
            raise NoObject("a comma is missing")
        at = _past_blanks(text, at + 1)
    if _past_blanks(text, at + 1) != len(text):
        raise NoObject("something follows the object")
    return Members(text, spans, at)


def _past_blanks(text: str, at: int) -> int:
    if text[at : at + 1] not in " \t\r\n":
        return at
    found = _BLANK.match(text, at)
    return found.end() if found is not None else at


def _name(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise NoObject("the name of a field is missing")
    try:
        name, end = scanstring(text[at + 1 : at + 1 + 6 * _LONGEST_NAME], 0, True)
    except ValueError:
        raise NoObject("the name of a field is none, or too long") from None
    return name, at + 1 + end


def _end_of_short(text: str, at: int) -> int | None:
    """Where an object or an array has ended that is JSON; None for other values, and for what is none."""
    if text[at : at + 1] not in ("{", "["):
        return None
    try:
        return _DECODER.raw_decode(text, at)[1]
    except ValueError:
        return None


_DECODER = json.JSONDecoder()


def _past_value(text: str, at: int, tokens: int) -> Sliced[tuple[int, int]]:
    """Where the value that begins at `at` has ended, and how many tokens there were so far."""
    first = text[at : at + 1]
    if first not in ('"', "{", "["):
        found = _SCALAR.match(text, at)
        if found is None:
            raise NoObject("a value is missing")
        return found.end(), tokens
    level, inside = 0, False
    while at < len(text):
        end = at + _SLICE
        while at < end:
            if inside:
                found = _INSIDE.match(text, at, end)
                at = at if found is None else found.end()
                if at >= end or text[at : at + 1] != '"':
                    break
                at += 1
                inside = False
                if not level:
                    return at, tokens
            token = _TOKEN.search(text, at, end)
            if token is None:
                at = end
                break
            at = token.end()
            tokens += 1
            match token[0]:
                case '"':
                    inside = True
                case "{" | "[":
                    level += 1
                    if level > bounded_json.MAX_DEPTH:
                        raise NoObject("nested too deep")
                case _:
                    level -= 1
                    if level <= 0:
                        return at, tokens
        if inside and len(text) - at <= 1:
            break
        if tokens > _MOST_TOKENS:
            raise NoObject(f"more than {_MOST_TOKENS} values")
        yield
    raise NoObject("it ends too early")
