"""A body and what is known about it, and the two ways of reading one: as JSON, or as an event stream."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from addons.core.bounded_json import read_float, read_int
from addons.core.reading.mend import mend
from addons.core.reading.page import Page, count, one_line, size
from addons.core.sse import Event, Parser

MAX_READ = 1 << 20
"""Bytes of a body that are read."""

MAX_MARKS = 40_000
"""`[`, `{`, `,` and `:` of a body that is parsed whole; some 5 ms. One with more is read as far as that."""
MAX_EVENT_MARKS = 20_000
"""The same of one event, which has to be read whole or not at all."""

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


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes to read, `MAX_READ` at most."""

    data: bytes
    about: About = field(default_factory=About)
    beyond: int = 0
    """Bytes of the record that are not read."""
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


def note_time(page: Page, left_out: str) -> None:
    """Say what the view had no time for."""
    page.note(f"a view takes 50 ms: {left_out} left out; the raw view has them")


def document(body: Body, page: Page) -> dict[str, object]:
    """The JSON object of a body; of one that was cut, what there is. Raises UnreadableBody."""
    text = body.data.decode("utf-8-sig", "ignore" if body.partial else "replace")
    if body.partial or marks(text) > MAX_MARKS:
        value, left_out = _mended(text)
        if value is None:  # a cut may have hit nothing, and many marks may stand in prose
            value = _loaded(text)
    else:
        value, left_out = _loaded(text), 0
        if value is None:
            value, left_out = _mended(text)
            if value is not None:
                page.note("this JSON ends too early: here is what there is of it")
    if left_out:
        note_time(page, count(left_out, "character"))
    if not isinstance(value, dict):
        raise UnreadableBody("not a JSON object")
    return value


def _loaded(text: str) -> object:
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
    return _loaded(mended), left_out


def marks(text: str) -> int:
    """How many values a JSON text has at most: quickly, since those in strings count as well."""
    return text.count("[") + text.count("{") + text.count(",") + text.count(":")


class Stream:
    """The events of a body, read until its end or until time is up. Read the other fields after the events."""

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
        """Bytes there was no time for."""

    def __iter__(self) -> Iterator[Event]:
        data = self.body.data
        for start in range(0, len(data), _SLICE):
            if start and self.body.expired():
                self.unread = len(data) - start
                return
            for event in self.parser.feed(data[start : start + _SLICE]):
                if event.data.strip() == "[DONE]":
                    self.done = True
                    continue
                self.count += 1
                yield event

    def values(self) -> Iterator[tuple[Event, dict[str, object]]]:
        """The events whose data is a JSON object, with it."""
        for event in self:
            if len(event.data) > MAX_EVENT_MARKS and marks(event.data) > MAX_EVENT_MARKS:
                self.complex += 1
                continue
            value = _loaded(event.data)
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
            note_time(page, f"the last {size(self.unread)}")
        elif not ended and not self.body.partial:
            if finished and not self.parser.pending:
                page.note("no end mark came ([DONE]), though the model had finished")
                return
            text = f"this stream broke off after {count(self.count, 'event')}: its end mark never came"
            if self.parser.pending:
                text += f", and its last event is unfinished: {one_line(self.parser.remainder, 200) or '(no data)'}"
            page.note(text)
