"""The secrets that one exchange has named: they are hidden wherever else they stand, however they are spelt there."""

import re
from base64 import b64encode, urlsafe_b64encode
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from addons.core.secrets import (
    MOST_SPANS,
    Span,
    fingerprint,
    is_fingerprint,
    may_hold_key,
    note,
    replaced,
    scrubbing,
)
from addons.core.slices import Sliced, at_once

MOST = 256
"""Secrets that are looked for; one that names more is not kept at all (`overfull`)."""
MOST_BYTES = 1 << 18
"""What they may have together."""
LONGEST = 1 << 16
"""Bytes of one of them; unescaping it takes 10 ms."""
SHORTEST = 8
"""Bytes of a value that is looked for elsewhere: a shorter one may be a word."""
LONGEST_ESCAPED = 512
"""Bytes of one that is looked for with escapes in it."""
LONGEST_ESCAPE = 13
"""Characters that may stand for one of them."""

_FAR = 1 << 20  # bytes that `bytes.find` goes through in a slice
_NEAR = 1 << 14  # bytes that are unescaped in a slice
_PER_SLICE = 2000
# Text in text in JSON is escaped more than once. Bounded: a run of backslashes is not read anew from each of them.
_ESCAPE = re.compile(rb"\\{1,8}+(?:u00([2-7][0-9A-Fa-f])|([/\"']))|%([2-7][0-9A-Fa-f])|\\\\")


_SHORTEST_CUT, _LONGEST_CUT = 8, 512
"""Bytes of a secret's beginning that are looked for at a cut."""


class KnownSecrets:
    """Values and what is shown for each. `secret` keys the hashes that are shown."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.overfull = False
        """More secrets were named than are looked for: what may echo them can't be shown."""
        self._shown: dict[bytes, bytes] = {}
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    def shown(self, value: bytes) -> bytes:
        """What is shown for a secret, known or not."""
        known = self._shown.get(value)
        return known if known is not None else fingerprint(value.decode("utf-8", "replace"), self.secret).encode()

    def add(self, value: bytes, *, shortest: int = SHORTEST, encoded: bool = False) -> None:
        """Look for `value` from now on, and with `encoded` for its base64 too; what is shorter than `shortest` is not
        looked for."""
        if len(value) > LONGEST:
            self.overfull = True
            return
        for spelt in {value, value.strip(), unescaped(value)}:
            if len(spelt) >= shortest and spelt not in self._shown and not is_fingerprint(spelt):
                self.put(spelt, self.shown(value.strip()))
        if encoded and len(value) >= SHORTEST:
            for code in {b64encode(value).rstrip(b"="), urlsafe_b64encode(value).rstrip(b"=")}:
                self.put(code, self.shown(value))

    def put(self, value: bytes, shown: bytes) -> None:
        """Look for `value` from now on, and show `shown` for it."""
        if len(self._shown) >= MOST or self._size + len(value) > MOST_BYTES:
            self.overfull = True
            return
        self._shown[value] = shown
        self._size += len(value)

    def mask(self, text: str) -> str:
        """A short text without them, and without what looks like a key."""
        raw = text.encode("utf-8", "surrogatepass")
        if not self.may_stand_in(raw):
            return text
        return at_once(self.masking(raw, len(raw))).decode("utf-8", "surrogatepass")

    def may_stand_in(self, data: bytes) -> bool:
        """A quick look that spares most texts the thorough one."""
        for value in self._shown:
            if value in data:
                return True
        if self._shown and (b"%" in data or b"\\" in data):
            return True
        return may_hold_key(data)

    def masking(self, data: bytes, most: int = MOST_SPANS) -> Sliced[bytes]:
        """Bytes of any length without them, and without what looks like a key, in slices.

        Raises TooManySecrets where it takes more than `most` replacements.
        """
        spans: list[Span] = []
        for value in sorted(self._shown, key=len, reverse=True):  # one may begin with another
            yield from _find(data, value, self._shown[value], spans, most)
        if self._shown and (b"\\" in data or b"%" in data):
            yield from self.finding_escaped(data, spans, most)
        return (yield from scrubbing(replaced(data, spans), most=most))

    def without_cut(self, data: bytes) -> bytes:
        """`data` without the beginning of a secret at its end: a record is cut anywhere."""
        for value in self:
            for length in range(min(len(value) - 1, _LONGEST_CUT), _SHORTEST_CUT - 1, -1):
                if data.endswith(value[:length]):
                    return data[:-length] + b"***"
        return data

    def finding_escaped(self, data: bytes, spans: list[Span], most: int = MOST_SPANS) -> Sliced[None]:
        """Add to `spans` where they stand with escapes in them, and what is shown for each. Raises TooManySecrets."""
        values = [value for value in self._shown if len(value) <= LONGEST_ESCAPED]
        if not values:
            return
        beyond = LONGEST_ESCAPE * max(map(len, values))
        for start in range(0, len(data), _NEAR):
            piece = data[start : start + _NEAR + beyond]
            escapes = [(found.start(), len(found[0]) - 1) for found in _ESCAPE.finditer(piece)]
            if not escapes:
                continue
            plain = unescaped(piece)
            longer = [0, *accumulate(extra for _, extra in escapes)]
            places = [at - before for (at, _), before in zip(escapes, longer, strict=False)]
            for value in values:
                at = plain.find(value)
                while at >= 0:
                    first, last = (each + longer[bisect_left(places, each)] for each in (at, at + len(value)))
                    if first >= _NEAR:
                        break  # the next slice has it
                    note(spans, (start + first, start + last, self._shown[value]), most)
                    at = plain.find(value, at + len(value))
            yield


def _find(data: bytes, value: bytes, shown: bytes, spans: list[Span], most: int) -> Sliced[None]:
    at = found = 0
    while at < len(data):
        end = at + _FAR
        place = data.find(value, at, end + len(value) - 1)
        if place < 0:
            at = end
            if at < len(data):
                yield
            continue
        at = place + len(value)
        note(spans, (place, at, shown), most)
        found += 1
        if found % _PER_SLICE == 0:
            yield


def unescaped(data: bytes) -> bytes:
    """The escapes of JSON and of addresses undone that stand for a character of ASCII."""
    if b"\\" not in data and b"%" not in data:
        return data
    return _ESCAPE.sub(_meant, data)


def _meant(found: re.Match[bytes]) -> bytes:
    code = found[1] or found[3]
    return bytes((int(code, 16),)) if code else found[2] or b"\\"
