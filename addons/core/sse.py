"""Server-Sent Events, read as they come: bytes in, events out.

The rules are those of the WHATWG HTML standard, "9.2.6 Interpreting an event stream"
(https://html.spec.whatwg.org/multipage/server-sent-events.html). Three of them are easy to get wrong:

1. A line ends in CR, LF or CRLF and in nothing else. `str.splitlines` also cuts at U+2028, U+0085, \\x0b and \\x0c,
   which stand unescaped inside real answers; `bytes.splitlines` cuts at CR, LF and CRLF alone, so lines are cut before
   decoding. That equals decoding first: CR and LF are never part of a multi-byte character, not even of a broken one.
2. A CR at the end of a packet already ends its line; an LF at the start of the next packet belongs to it.
3. What stands after the last blank line when the stream ends is no event. `Parser.pending` and `Parser.remainder` tell
   of it.

Time is linear in the bytes fed, however they are cut: a line that has not ended is kept in one growing buffer, which is
never searched again. Memory is bounded by `max_event` and one slice of a chunk.
"""

from dataclasses import dataclass

MAX_EVENT = 1 << 20
"""Default bound of one event, in bytes."""

_SLICE = 1 << 16  # bytes cut into lines at a time: a large chunk of short lines must not become millions of objects
_SHORT = 64  # bytes of a line that is worth looking at again and again while it grows
_MAX_RETRY_DIGITS = 18  # longer ones are no time anybody means, and int() refuses 4300 digits
_BOM = b"\xef\xbb\xbf"
_LF, _CR, _COLON = b"\n\r:"


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: `id` is the last event id of the stream so far (None if there was none), `retry` the
    milliseconds that this very event asked for."""

    data: str
    event: str = "message"
    id: str | None = None
    retry: int | None = None


BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
"""What an event ends in: the end of its last line, and a line without anything."""


def end_of_events(data: bytes | bytearray, searched: int = 0) -> int:
    """Where the last blank line in `data` ends, 0 where there is none: up to there it is whole events. What lies before
    `searched` is known to hold none, or none that counts."""
    return max((at + len(each) for each in BLANK_LINES if (at := data.rfind(each, searched)) >= 0), default=0)


class Parser:
    """Incremental parser of one event stream.

    `max_event` bounds one event in bytes: its lines without comments, each with one byte for its end. An event over the
    bound is dropped whole and counted in `oversized`; the next one is read as usual.

    With `errors` a field `error` is an event of that name with this data: the standard would ignore it, and some
    upstreams (llama.cpp's server up to 2025) have no other word for why they end.
    """

    def __init__(self, max_event: int = MAX_EVENT, *, errors: bool = False) -> None:
        self.max_event = max_event
        self._errors = errors
        self.oversized = 0
        """Events dropped for their size."""
        self.retry: int | None = None
        """The last reconnection time the stream asked for, in milliseconds."""
        self.last_id: str | None = None
        """The last event id, as a browser would send it in Last-Event-ID."""
        self._head: bytes | None = b""  # the first bytes while they may still be a BOM, then None
        self._after_cr = False  # the last byte was a CR: an LF that follows belongs to it
        self._line = bytearray()  # the start of a line that has not ended
        self._skip_line = False  # the line that has not ended is of no interest: a comment, or of an oversized event
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        """Begin a new event."""
        self._data: list[bytes] = []
        self._event = b""
        self._id: bytes | None = None
        self._retry: int | None = None
        self._size = 0  # bytes of this event so far
        self._dropped = False  # this event is over the bound

    @property
    def pending(self) -> bool:
        """Whether an event has begun that no blank line has ended: once the stream is over, it broke here. A comment
        begins no event."""
        return bool(self._size or self._dropped or self._line or self._head)

    @property
    def begun(self) -> str:
        """The data of the event that has not ended, where that is one short line, whole or not; else ""."""
        if len(self._data) + bool(self._line) != 1 or len(self._data[0] if self._data else self._line) > _SHORT:
            return ""
        return self.remainder

    @property
    def remainder(self) -> str:
        """The data of the event that has not ended, with a data line that was cut; "" if there is none."""
        parts = list(self._data)
        name, colon, value = bytes(self._line).partition(b":")
        if name == b"data" and colon:
            parts.append(value.removeprefix(b" "))
        return b"\n".join(parts).decode("utf-8", "replace")

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes of the stream and return the events they complete. Raises ValueError after `close`."""
        if self._closed:
            raise ValueError("the event stream is closed")
        events: list[Event] = []
        if self._head is not None:
            chunk = self._without_bom(chunk)
        for start in range(0, len(chunk), _SLICE):
            self._feed(chunk[start : start + _SLICE], events)
        return events

    def close(self) -> list[Event]:
        """End the stream. An unfinished event is discarded, as the standard says, so this returns no event;
        `pending` and `remainder` keep telling what was discarded."""
        self._closed = True
        return []

    def _without_bom(self, chunk: bytes) -> bytes:
        """The chunk without a byte order mark at the start of the stream; b"" while that is not known yet."""
        head = (self._head or b"") + chunk
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _feed(self, chunk: bytes, events: list[Event]) -> None:
        """Cut a non-empty chunk into lines and take each."""
        if self._after_cr:
            self._after_cr = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
                if not chunk:
                    return
        lines = chunk.splitlines()
        last = chunk[-1]
        self._after_cr = last == _CR
        tail = b"" if last in (_LF, _CR) else lines.pop()
        if lines:
            if self._skip_line:
                self._skip_line = False
                del lines[0]
            elif self._line:
                lines[0] = bytes(self._line) + lines[0]
                self._line.clear()
            self._take(lines, events)
        if tail:
            self._keep(tail)

    def _take(self, lines: list[bytes], events: list[Event]) -> None:
        """Interpret whole lines."""
        for line in lines:
            if not line:
                if self._size:
                    self._dispatch(events)
                continue
            if self._dropped or line[0] == _COLON:
                continue
            self._size += len(line) + 1
            if self._size > self.max_event:
                self._drop()
            elif line.startswith(b"data: "):  # how nearly all lines begin
                self._data.append(line[6:])
            else:
                self._field(line)

    def _field(self, line: bytes) -> None:
        """Process one field; names are compared to the letter, unknown ones ignored."""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" not in value:
                self._id = value
        elif name == b"error" and self._errors:
            self._event = b"error"
            self._data.append(value)
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry = self._retry = int(value)

    def _keep(self, tail: bytes) -> None:
        """Keep the start of a line that goes on in the next chunk."""
        if self._skip_line:
            return
        if self._dropped or (not self._line and tail[0] == _COLON):
            self._skip_line = True
        elif self._size + len(self._line) + len(tail) + 1 > self.max_event:
            self._drop()
            self._skip_line = True
        else:
            self._line += tail

    def _drop(self) -> None:
        """Forget this event, and whatever of it is still to come."""
        self._reset()
        self._line.clear()
        self._size = 1  # a blank line must still end it
        self._dropped = True
        self.oversized += 1

    def _dispatch(self, events: list[Event]) -> None:
        """End the event at a blank line: without any data line there is none, but its id counts."""
        if self._id is not None:
            self.last_id = self._id.decode("utf-8", "replace")
        if self._data:
            data = b"\n".join(self._data).decode("utf-8", "replace")
            event = self._event.decode("utf-8", "replace") or "message"
            events.append(Event(data, event, self.last_id, self._retry))
        self._reset()
