"""JSONL: one exchange a line.

Fields whose names begin with `relay.` are those of the flow's metadata. What is not known is null. Money is text, an
exact decimal number of dollars. A body that is JSON stands there as JSON, as it was written: no number is read and
written anew. Any other is text, and of what is no text there is the size.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from addons.core.export.record import Exported, Message, SocketMessage, loaded
from addons.core.threads.noted import noted

_BLANKS = str.maketrans("\n\r\t", "   ")


def line(record: Exported) -> str:
    """An exchange as one line of JSON, without the line's end."""
    return _members(
        {
            "id": _json(record.id),
            "request_id": _json(record.request_id),
            "time": _json(time(record.at)),
            "first_byte_ms": _json(record.first_byte_ms),
            "duration_ms": _json(record.duration_ms),
            "method": _json(record.method),
            "path": _json(record.path),
            "upstream_path": _json(record.upstream_path),
            "status": _json(record.status),
            "upstream": _json(record.upstream),
            "model": _json(record.model),
            "relay.key": _json(record.key),
            "relay.session": _json(record.session),
            "relay.thread": _json(record.thread),
            "relay.parent": _json(record.parent),
            "relay.known": _json(record.known),
            "relay.tokens": _json(None if record.tokens is None else record.tokens.parts()),
            "relay.cost": _json(None if record.cost is None else f"{record.cost:f}"),
            "relay.cost_estimated": _json(None if record.cost is None else record.estimated),
            "relay.cause": _json(None if record.cause is None else noted(record.cause)),
            "relay.attempts": _json([dict(each) for each in record.attempts]),
            "error": _json(record.error),
            "request": _message(record.request),
            "response": "null" if record.response is None else _message(record.response),
            "messages": "null" if record.socket is None else _socket(record.socket),
        }
    )


def time(at: float) -> str:
    """A time in ISO 8601, UTC, in milliseconds.

    >>> time(1767225600.25)
    '2026-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(round(at, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(message: Message) -> str:
    body, kind = _body(message)
    size = len(message.body) if message.body is not None else None
    return _members(
        {
            "headers": _json([list(each) for each in message.headers]),
            "kind": _json(kind),
            "bytes": _json(size if message.size is None else message.size),
            "cut": _json(message.size is not None),
            "body": body,
        }
    )


def _body(message: Message) -> tuple[str, str | None]:
    """A body as JSON, and what it is: `json`, `text` or `binary`."""
    if message.body is None:
        return "null", None
    if not message.body:
        return '""', "text"
    try:
        text = message.body.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not message.content_type.startswith("text/"):
            return "null", "binary"
        text = message.body.decode("utf-8", "replace")
    if "\0" in text:
        return "null", "binary"
    if loaded(message.body) is not None and not _has_constants(text):
        return text.strip().translate(_BLANKS), "json"
    return _json(text), "text"


def _has_constants(text: str) -> bool:
    """Whether NaN or Infinity stands in it, which Python reads, and JSON does not have."""
    if "NaN" not in text and "Infinity" not in text:
        return False
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return True
    return False


def _refuse(name: str) -> None:
    raise ValueError(name)


def _socket(messages: Sequence[SocketMessage]) -> str:
    return _json(
        [
            {
                "time": time(each.at),
                "from": "client" if each.from_client else "upstream",
                "bytes": each.size,
                "text": each.text,
            }
            for each in messages
        ]
    )


def _members(members: Mapping[str, str]) -> str:
    """An object of members that are JSON already."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members.items()) + "}"


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    return text.encode("utf-8", "replace").decode()  # a half of a pair is no character


def document(records: Iterable[Exported]) -> str:
    """All lines."""
    return "".join(f"{line(record)}\n" for record in records)
