"""Durations and sizes as people write them: `1h30m`, `500ms`, `64k`, `512m`.

A bare number means seconds, or bytes. Reading is strict, since `30M` or `1,5s` in a configuration is a slip that nobody
notices until something times out. What `format_*` writes, `parse_*` reads back to the same number.
"""

import re
from decimal import Decimal

DURATION_EXPECTED = "expected a duration such as 500ms, 30s, 5m, 1h30m, 2d or a number of seconds"
SIZE_EXPECTED = "expected a size such as 64k, 512m, 1g or a number of bytes"

LONGEST = 36500 * 86400
"""The longest duration, in seconds: a century. Beyond it timers overflow somewhere below."""

LARGEST = 2**63 - 1
"""The largest size, in bytes: what file systems and C libraries count with."""

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_NUMBER = r"[0-9]{1,25}(?:\.[0-9]{1,25})?"
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS))
_BARE = re.compile(rf"{_NUMBER}(?:[eE][+-]?[0-9]{{1,3}})?")
_SIZE = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(value: object) -> float:
    """Seconds from `1h30m`, `500ms`, `90` or 1.5. Zero is a duration, a negative number is not.

    Raises ValueError, saying what was expected.
    """
    if isinstance(value, str):
        seconds = _duration_of_text(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError(DURATION_EXPECTED)
    if not seconds >= 0:  # and not `seconds < 0`, which nan is not
        raise ValueError(DURATION_EXPECTED)
    if seconds > LONGEST:
        raise ValueError(f"expected a duration of at most {format_duration(LONGEST)}")
    return float(seconds)


def _duration_of_text(text: str) -> float:
    if _BARE.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(DURATION_EXPECTED)
    # Decimal, so that 100ms is the very number that 0.1 is, and not a neighbour of it.
    milliseconds = sum(Decimal(number) * _UNITS[unit] for unit, number in match.groupdict().items() if number)
    return float(Decimal(milliseconds) / 1000)


def format_duration(seconds: float) -> str:
    """`1h30m` from 5400: whole units, largest first; a bare number of seconds where milliseconds are too coarse."""
    rest = round(seconds * 1000)
    if rest / 1000 != seconds:
        return repr(float(seconds))
    parts = []
    for unit, length in _UNITS.items():
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(value: object) -> int:
    """Bytes from `64k`, `1.5m`, `1GiB`, `1000` or 1000; k is 1024. Zero is a size, half a byte is not.

    Raises ValueError, saying what was expected.
    """
    if isinstance(value, str):
        size = _size_of_text(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise ValueError(SIZE_EXPECTED)
    if size < 0:
        raise ValueError(SIZE_EXPECTED)
    if size > LARGEST:
        raise ValueError("expected a size of less than 8388608t")
    return size


def _size_of_text(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(SIZE_EXPECTED)
    numerator, denominator = Decimal(match["number"]).as_integer_ratio()
    power: int = _POWERS[match["unit"].lower()]
    size, remainder = divmod(numerator << 10 * power, denominator)
    if remainder:
        raise ValueError(SIZE_EXPECTED)
    return size


def format_size(size: int) -> str:
    """`64k` from 65536: the largest unit that leaves a whole number, else bare bytes."""
    for unit, power in reversed(_POWERS.items()):
        count, rest = divmod(size, 1024**power)
        if count and not rest:
            return f"{count}{unit}"
    return str(size)
