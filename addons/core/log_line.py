"""An exchange as one line of JSON: `log: json`."""

import json
from datetime import UTC, datetime

from addons.core.observed import Observed
from addons.core.rates import dollars


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds.

    >>> timestamp(1_767_225_600.25)
    '2026-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exchange_line(seen: Observed) -> str:
    """One line, without a line break at its end. `null` is what is not known; `cost` is a text of dollars, exact."""
    used = seen.used
    usage = used.usage
    return dumps(
        {
            "time": timestamp(seen.ended),
            "level": "info",
            "event": "exchange",
            "request_id": seen.id,
            "key": seen.key or None,
            "method": seen.method,
            "path": seen.path,
            "endpoint": seen.endpoint,
            "model": used.model or None,
            "upstream": seen.upstream or None,
            "status": seen.status,
            "code": seen.code,
            "outcome": str(seen.outcome),
            "error": seen.error or None,
            "tokens": None if usage is None else usage.parts() | {"input": usage.input, "output": usage.output},
            "cost": None if used.cost is None else f"{dollars(used.cost):f}",
            "estimated": used.estimated,
            "stream": seen.stream,
            "first_byte_ms": _milliseconds(seen.first_byte),
            "duration_ms": _milliseconds(seen.seconds),
            "upstream_ms": _milliseconds(seen.upstream_seconds),
            "relay_ms": _milliseconds(seen.overhead),
            "attempts": seen.asked_times,
        }
    )


def message_line(seconds: float, level: str, message: str) -> str:
    """A message of relay's own, or of mitmproxy's."""
    return dumps({"time": timestamp(seconds), "level": level, "event": "message", "message": message})


def dumps(value: object) -> str:
    """JSON on one line, whatever stands in it: what looks like a line break elsewhere is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(value, separators=(",", ":"))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
