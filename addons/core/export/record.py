"""One exchange as it was recorded: what every export tells of it. None is not known, never nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from addons.core import bounded_json
from addons.core.metered import Metered
from addons.core.threads.causes import Cause

MOST_MARKS = 200_000
"""`[`, `{`, `,` and `:` of a body that is read, some 20 ms in which nothing else goes on. No record of what people send
has so many."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer."""

    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    """Decoded; None where none was kept."""
    size: int | None = None
    """Bytes on the wire, where the record keeps only the start."""

    @property
    def content_type(self) -> str:
        """The media type, in lower case."""
        found = next((value for name, value in self.headers if name.lower() == "content-type"), "")
        return found.partition(";")[0].strip().lower()

    @property
    def stream(self) -> bool:
        """Whether it consists of events."""
        return self.content_type == "text/event-stream"

    def json(self) -> Any:
        """The body's value; None where it has none, or one that can't be read."""
        return loaded(self.body or b"")


@dataclass(frozen=True, slots=True)
class SocketMessage:
    """One message of a websocket."""

    at: float
    from_client: bool
    text: str | None
    """None of what is no text."""
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One exchange."""

    id: str
    at: float
    """When its request came: seconds since the epoch."""
    method: str
    path: str
    """With its query."""
    request: Message
    response: Message | None = None
    status: int | None = None
    request_id: str | None = None
    first_byte_ms: float | None = None
    duration_ms: float | None = None
    upstream: str | None = None
    upstream_path: str | None = None
    """What upstream was asked for, where that is not `path`."""
    model: str | None = None
    key: str | None = None
    """The name of a relay key."""
    session: str | None = None
    thread: str | None = None
    parent: str | None = None
    cause: Cause | None = None
    known: int | None = None
    """Leading messages of its list that were no news."""
    tokens: Metered | None = None
    cost: Decimal | None = None
    """In dollars."""
    estimated: bool = False
    """The cost is an estimate."""
    attempts: Sequence[Mapping[str, Any]] = ()
    error: str | None = None
    """What broke it off, in mitmproxy's words."""
    socket: Sequence[SocketMessage] | None = field(default=None)


def loaded(body: bytes) -> Any:
    """A body's JSON value; None for what is none, or is more than is read. Never raises."""
    try:
        text = body.decode("utf-8-sig")
        return bounded_json.loads(text, marks=MOST_MARKS) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None
