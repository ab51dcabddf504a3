"""What an upstream's refusal says of its key and of itself: what it can't have billed, and how long to leave it alone.

A failure is one of three:

1. *Before anything could have been billed*: no connection (DNS, TCP, TLS), 429, 503 with `retry-after`, 529, 402, and a
   key that is refused (401; 403 where its code speaks of a key or a project). Another key or upstream may be asked.
2. *Uncertain*: sent, and broken off; 502; 504. It may have been worked on, and billed.
3. An answer like any other, 500 and 400 included.

How long: what `retry-after` and the rate-limit headers say, the longest of them, but never more than `MOST`.
https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from addons.core import upstream_error
from addons.core.upstream_error import ErrorKind

MOST = 600.0
"""Seconds that a key or an upstream is left alone at most, whatever it says."""
_QUOTA = 300.0
"""Seconds without a key that is out of money: who pays for it has to do something first."""
_FIRST, _LAST = 1.0, 60.0
"""Seconds after the first of several refusals that say nothing, which double, and their bound. A key that is refused is
bound by `MOST` alone: it may have been for a moment, or for good."""


class Scope(enum.StrEnum):
    """What a refusal is of."""

    KEY = "key"
    MODEL = "model"
    """Of the key for this model: upstreams count requests and tokens for each model by itself."""
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request was not worked on."""

    reason: str
    """`key refused`, `out of quota`, `rate limited` or `overloaded`."""
    scope: Scope
    told: float | None = None
    """Seconds that it says, or that are known from its kind; None: it says nothing."""

    @property
    def of_key(self) -> bool:
        """Whether upstream does not take the key at all."""
        return self.reason == KEY_REFUSED


KEY_REFUSED, OUT_OF_QUOTA, RATE_LIMITED, OVERLOADED = "key refused", "out of quota", "rate limited", "overloaded"
UNCERTAIN = (502, 504)
"""Statuses behind which a request may have been worked on."""
_MAYBE = frozenset((401, 402, 403, 429, 503, 529))
_OF_KEY = re.compile(r"key|project")
_OF_CALLER = re.compile(r"organization|mismatch|country|region|territory|ip_address|ipaddress")
"""Codes that speak of what a caller's own headers or address say: no key is at fault."""


_OF_SCOPE = "missing_scope"


def may_refuse(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the head of an answer may be that of a refusal, so that its body is worth waiting for."""
    return status in _MAYBE and (status != 503 or "retry-after" in headers or "retry-after-ms" in headers)


def refusal(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Refusal | None:
    """What an answer refuses, None where it is an answer like any other.

    `headers` has names in lower case. `body` is decoded, as much of it as there is. `now` is seconds since the epoch.
    """
    if not may_refuse(status, headers):
        return None
    told = waiting(headers, now)
    if status in (503, 529):
        return Refusal(OVERLOADED, Scope.UPSTREAM, told)
    error = upstream_error.read(status, body)
    code = f"{error.code} {error.type}".lower()
    if status == 402 or (status in (403, 429) and error.kind is ErrorKind.QUOTA):
        return Refusal(OUT_OF_QUOTA, Scope.KEY, max(_QUOTA, told or 0.0))
    if status == 429:
        return Refusal(RATE_LIMITED, Scope.MODEL, told)
    if _OF_CALLER.search(code) or (status == 403 and not _OF_KEY.search(error.code.lower())):
        return None
    # A restricted key of OpenAI's does other things well; whoever asks for what it may not do takes it from nobody.
    limited = _OF_SCOPE in code or _OF_SCOPE in error.reason.lower().replace(" ", "_")
    return Refusal(KEY_REFUSED, Scope.MODEL if limited else Scope.KEY)


def seconds_aside(refused: Refusal, strikes: int) -> float:
    """How long something is left alone that has refused `strikes` times in a row before this one."""
    if refused.told is not None:
        return min(MOST, max(refused.told, 0.0))
    doubled: float = _FIRST * 2 ** min(strikes, 16)
    return min(MOST if refused.of_key else _LAST, doubled)


_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_PARTS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH, _EPOCH_MS = 1e9, 1e12
"""Numbers from here on are moments, in seconds or milliseconds since the epoch."""
_RESET = re.compile(
    r"(?P<whose>(?:x-|anthropic-)?ratelimit)(?:-(?P<kind>[a-z-]{1,40}))??-reset(?:-(?P<behind>[a-z-]{1,40}))?"
)


def waiting(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait for, the longest of all it says; None where it says none.

    Of the rate-limit headers those count whose limit is used up, or does not say how much is left.
    """
    said = [
        _duration(headers.get("retry-after-ms", ""), now, 0.001),
        _duration(headers.get("retry-after", ""), now),
        *(_duration(value, now) for name, value in headers.items() if _is_exhausted(name, headers)),
    ]
    known = [each for each in said if each is not None]
    return min(MOST, max(known)) if known else None


def _is_exhausted(name: str, headers: Mapping[str, str]) -> bool:
    found = _RESET.fullmatch(name)
    if found is None:
        return False
    left = headers.get(name.replace("-reset", "-remaining"), "0").strip()
    return _NUMBER.fullmatch(left) is None or float(left) <= 0


def _duration(text: str, now: float, unit: float = 1.0) -> float | None:
    """Seconds from `20`, `1m30s`, `20ms`, a moment since the epoch, an HTTP date or one of RFC 3339."""
    text = text.strip()[:64]
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _EPOCH_MS:
            return max(0.0, number / 1000 - now)
        return max(0.0, number - now) if number >= _EPOCH else number * unit
    parts = _PARTS.findall(text)
    if parts and "".join(f"{number}{unit}" for number, unit in parts) == text:
        return sum(float(number) * _UNITS[each] for number, each in parts)
    moment = _moment(text)
    return None if moment is None else max(0.0, moment - now)


_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _moment(text: str) -> float | None:
    """Seconds since the epoch: RFC 9110, 5.6.7, and RFC 3339."""
    try:
        if (found := _HTTP_DATE.fullmatch(text)) is not None:
            day, month, year, hour, minute, second = found.groups()
            at = (int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), min(int(second), 59))
            return datetime(*at, tzinfo=UTC).timestamp()
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
