"""A body and what is known about it, and the two ways of reading one: as JSON, or as an event stream."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from addons.core.bounded_json import read_float, read_int
from addons.core.reading.mend import mend
from addons.core.reading.page import Page, count, one_line, size
from addons.core.sse import BLANK_LINES, Event, Parser

MAX_READ = 1 << 20
"""Bytes of a body that are read."""

MAX_MARKS = 40_000
"""`[`, `{`, `,` and `:` of a body that is parsed whole; some 5 ms. One with more is read as far as that."""
MAX_EVENT_MARKS = 20_000
"""The same of one event, which has to be read whole or not at all."""
MAX_EVENTS = 10_000
"""Events of a stream that are read, besides those at its end."""
MAX_STREAM_MARKS = 250_000
"""Marks of all of them. The worst that all these bounds let through takes some 100 ms of the processor's time."""
TAIL = 1 << 16
"""Bytes at a stream's end that are read in any case: there stand its usage, its end mark, and why it ended."""

_SLICE = 1 << 14
_DECODER = json.JSONDecoder(
    strict=False, parse_int=read_int, parse_float=read_float
)  # json.loads would build a new one each time


AT_LEAST = 100
"""Messages, texts and the like that are shown even when time is up: most of it has gone into reading them."""


class UnreadableBody(ValueError):
    """The body is not what its kind promised."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How an answer came; None is not known."""

    first_byte_ms: float | None = None
    """From the request's first byte to the first of the answer's body."""
    duration_ms: float | None = None
    """From the request's first byte to the answer's last."""
    events: int | None = None
    """Events of the stream."""


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """What relay did with a message to `/chat`."""

    session: str = ""
    """The session's short hash."""
    content: str | None = None
    """The message as the app sent it."""
    turns: int | None = None
    """Earlier turns that relay added."""
    went_to: str = ""
    """The path that upstream was asked for, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a body besides its bytes."""

    request: bool = False
    path: str = ""
    """The request's path, without the query."""
    content_type: str = ""
    """The whole header."""
    status: int | None = None
    own: bool = False
    """The answer went through relay: it carries relay's request id."""
    real_size: int | None = None
    """Bytes on the wire, where the record keeps only the first of them."""
    failure: str | None = None
    """What broke the exchange, in mitmproxy's words."""
    timing: Timing = field(default_factory=Timing)
    chat: ChatFacts | None = None
    usage: object = None
    """The upstream's usage object, where the answer no longer holds it."""
    known: int | None = None
    """How many of a request's leading messages the previous request of its thread and the answer to it had."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes to read, `MAX_READ` at most."""

    data: bytes
    about: About = field(default_factory=About)
    beyond: int = 0
    """Bytes of the record that are not read."""
    tail: bytes = b""
    """The last of those, where a stream's end is looked for."""
    expired: Callable[[], bool] = bool  # bool() is False: never
    """Whether the time for reading is up."""

    @property
    def partial(self) -> bool:
        """Whether these are not all bytes there were: its end tells nothing then."""
        return self.beyond > 0 or self.about.real_size is not None


def note_bounds(body: Body, page: Page) -> None:
    """Say what the record or this view has left out, and what broke."""
    about = body.about
    if about.real_size is not None:
        page.note(f"cut in the record: the body had {size(about.real_size)}, only its start is kept (inspect.max_body)")
    if body.beyond:
        page.note(f"a view reads {size(MAX_READ)}: {size(body.beyond)} more left out; the raw view has them")
    if about.failure and not about.request:
        page.note(f"broke off: {one_line(about.failure, 200)}")


def note_left_out(page: Page, left_out: str) -> None:
    """Say what is more than a view reads."""
    page.note(f"more than a view reads: {left_out} left out; the raw view has them")


def document(body: Body, page: Page) -> dict[str, object]:
    """The JSON object of a body; of one that was cut, what there is. Raises UnreadableBody."""
    text = body.data.decode("utf-8-sig", "ignore" if body.partial else "replace")
    if body.partial or marks(text) > MAX_MARKS:
        value, left_out = _mended(text)
        if value is None:  # a cut may have hit nothing, and many marks may stand in prose
            value = loaded(text)
    else:
        value, left_out = loaded(text), 0
        if value is None:
            value, left_out = _mended(text)
            if value is not None:
                page.note("this JSON ends too early: here is what there is of it")
    if left_out:
        note_left_out(page, count(left_out, "character"))
    if not isinstance(value, dict):
        raise UnreadableBody("not a JSON object")
    return value


def loaded(text: str) -> object:
    """The JSON value; None for what is no JSON."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _mended(text: str) -> tuple[object, int]:
    """The JSON value of a text that was cut or is too much, and how many characters were left out; None for what is no
    JSON."""
    try:
        mended, left_out = mend(text)
    except ValueError:
        return None, 0
    return loaded(mended), left_out


def marks(text: str) -> int:
    """How many values a JSON text has at most: quickly, since those in strings count as well."""
    return text.count("[") + text.count("{") + text.count(",") + text.count(":")


class Stream:
    """The events of a body. Of a stream that is too much, the beginning and the end. Read the other fields after the
    events."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.parser = Parser()
        self.count = 0
        """Events with data, `[DONE]` not counted."""
        self.done = False
        """Whether `[DONE]` came."""
        self.complex = 0
        """Events of too many values to read."""
        self.unread = 0
        """Bytes that were passed over: too many events, or time was up."""
        self._marks = 0

    def __iter__(self) -> Iterator[Event]:
        data = self.body.data
        for start in range(0, len(data), _SLICE):
            if start and self._is_enough():
                yield from self._end(data[start:])
                return
            yield from self._events(data[start : start + _SLICE])
        if self.body.tail:
            yield from self._end(self.body.tail)

    def _is_enough(self) -> bool:
        return self.count >= MAX_EVENTS or self._marks >= MAX_STREAM_MARKS or self.body.expired()

    def _events(self, piece: bytes) -> Iterator[Event]:
        for event in self.parser.feed(piece):
            if event.data.strip() == "[DONE]":
                self.done = True
                continue
            self.count += 1
            yield event

    def _end(self, rest: bytes) -> Iterator[Event]:
        """The last events of what is not read."""
        if self.body.tail:
            rest = self.body.tail
        if len(rest) > TAIL:
            self.unread = len(rest) - TAIL
            rest = rest[-TAIL:]
            ends = [at + len(each) for each in BLANK_LINES if (at := rest.find(each)) >= 0]
            rest = rest[min(ends, default=len(rest)) :]
        self.parser = Parser()
        yield from self._events(rest)

    def last(self) -> dict[str, object] | None:
        """The last event that is JSON, where it has ended and is not too much; without having read the others."""
        data = (self.body.tail or self.body.data).replace(b"\r\n", b"\n").rstrip(b"\n")
        *_, data = data.removesuffix(b"data: [DONE]").rstrip(b"\n").rpartition(b"\n\n")
        for event in Parser().feed(data + b"\n\n"):
            if marks(event.data) <= MAX_MARKS and isinstance(value := loaded(event.data), dict):
                return value
        return None

    def values(self) -> Iterator[tuple[Event, dict[str, object]]]:
        """The events whose data is a JSON object, with it."""
        for event in self:
            found = marks(event.data)
            self._marks += min(found, MAX_EVENT_MARKS)
            if found > MAX_EVENT_MARKS:
                self.complex += 1
                continue
            value = loaded(event.data)
            if isinstance(value, dict):
                yield event, value

    def note_end(self, page: Page, ended: bool, finished: bool = False) -> None:
        """Say how the stream ended, if not as it should. `ended`: the mark of its end came; `finished`: the model had
        said all the same that it was through."""
        if self.parser.oversized:
            page.note(f"{count(self.parser.oversized, 'event')} too large to read")
        if self.complex:
            page.note(f"{count(self.complex, 'event')} of too many values to read; the raw view has them")
        if self.unread:
            note_left_out(page, f"{size(self.unread)} of this stream, before its end,")
        if not ended and self._has_end():
            if finished and not self.parser.pending:
                page.note("no end mark came ([DONE]), though the model had finished")
                return
            text = f"this stream broke off after {count(self.count, 'event')}: its end mark never came"
            if self.parser.pending:
                text += f", and its last event is unfinished: {one_line(self.parser.remainder, 200) or '(no data)'}"
            page.note(text)

    def _has_end(self) -> bool:
        """Whether what was read last is the end of the stream."""
        return self.body.about.real_size is None and (not self.body.beyond or bool(self.body.tail))
