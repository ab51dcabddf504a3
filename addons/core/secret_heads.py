"""Where secrets stand in heads: in addresses, and in addresses within them, and in cookies. Text in, spans out."""

import re
from collections.abc import Iterator
from itertools import islice
from urllib.parse import unquote, unquote_plus

from addons.core.secret_names import is_secret_json, is_secret_part
from addons.core.secrets import TooManySecrets

_DEEPEST = 3
"""Encodings around an address that is looked into: `redirect=https%253A%252F%252F...`."""
# What divides an address, as it is and encoded. Each encoding more makes `%25` of its `%`.
_MARK = re.compile(r"[?&;#]|%(?:25){0,3}+(?:3[Ff]|26|3[Bb]|23)")
_EQUALS = re.compile(r"=|%(?:25){0,3}+3[Dd]")
_LONGEST_NAME = 256
_LOOKED_AT = 4096
MOST_PARTS = 4096
"""Parts of an address; real ones have a few dozen."""

Part = tuple[int, int, int]
"""Where the value of a part begins and ends, and how often it is encoded besides its own encoding."""


def may_have_parts(text: str) -> bool:
    """Whether an address may have a query or a fragment; spares most headers the thorough look."""
    return ("=" in text and ("?" in text or "#" in text)) or "%3" in text or "%25" in text


def secret_parts(address: str) -> Iterator[Part]:
    """The values of secret parts in an address' queries and fragments, in order, none in another.

    A part may hold an address, encoded: what divides that is looked for as well. The value of a part ends before
    whatever divides it from the next one, which is encoded as often as what stands before it, or less. Raises
    TooManySecrets for an address of more parts than are looked through.
    """
    found = list(islice(_MARK.finditer(address), MOST_PARTS + 1))
    if len(found) > MOST_PARTS:
        raise TooManySecrets
    marks = [(mark.start(), mark.end(), _depth(mark[0])) for mark in found]
    ends = _ends(marks, len(address))
    done = 0
    for number, (_, start, depth) in enumerate(marks):
        if start <= done or depth > _DEEPEST:
            continue
        limit = marks[number + 1][0] if number + 1 < len(marks) else len(address)
        equals = _EQUALS.search(address, start, min(limit, start + _LONGEST_NAME))
        if equals is None:
            continue
        first, end = equals.end(), ends[number]
        value = address[first : min(end, first + _LOOKED_AT)]
        if is_secret_part(_encoded(address[start : equals.start()]), _encoded(value)) or is_secret_json(
            _encoded(value)
        ):
            yield first, end, depth
            done = end


def spellings(value: str, depth: int) -> list[str]:
    """A value as it stands there, with one encoding after the other undone, and with `+` for a blank."""
    found = [value]
    for _ in range(depth):
        found.append(unquote(found[-1]))
    return [*found, unquote_plus(found[-1]), unquote(found[-1])]


def meant(value: str, depth: int) -> str:
    """What it stands for."""
    return spellings(value, depth)[-1]


def _encoded(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _depth(mark: str) -> int:
    return 0 if len(mark) == 1 else (len(mark) - 1) // 2


def _ends(marks: list[tuple[int, int, int]], length: int) -> list[int]:
    """Where the part behind each mark ends."""
    nearest = [length] * (_DEEPEST + 2)
    ends = []
    for start, _, depth in reversed(marks):
        ends.append(nearest[depth])
        for deeper in range(depth, len(nearest)):
            nearest[deeper] = start
    ends.reverse()
    return ends


# Cookies

_ATTRIBUTES = frozenset(b"expires max-age domain path secure httponly samesite partitioned priority version".split())
_SESSION = re.compile(rb"sess|sid|auth|tok|key|secret|pass|jwt", re.IGNORECASE)
MOST_COOKIES = 256
"""Cookies in a header that are told one by one."""

Cookie = tuple[int, int, bytes]
"""Where a cookie's value begins and ends, and its name."""


def cookies(value: bytes, *, sets: bool) -> list[Cookie] | None:
    """The values in a Cookie header, or with `sets` in a Set-Cookie; None where there are too many.

    Attributes such as Path are none. What has no name is all value.
    """
    if value.count(b";") >= MOST_COOKIES:
        return None
    found: list[Cookie] = []
    at = 0
    for number, pair in enumerate(value.split(b";")):
        start, end = at, at + len(pair)
        at = end + 1
        name, equals, said = pair.partition(b"=")
        if not equals:
            name, said = b"", pair
        begins = start + (len(name) + 1 if equals else 0)
        if sets and number and (name or said).strip().lower() in _ATTRIBUTES and b"=" not in (said if equals else b""):
            continue
        begins += len(said) - len(said.lstrip(b' \t"'))
        end -= len(said) - len(said.rstrip(b' \t"'))
        if begins < end:
            found.append((begins, end, name.strip()))
    return found


def is_session(name: bytes) -> bool:
    """Whether a cookie's name says that its value is a secret, however short."""
    return _SESSION.search(name) is not None
