"""A streamed completion, retold piece by piece as `/chat` streams it.

    data: {"delta": "你"}
    data: {"delta": "好"}
    data: {"code": 200, "message": "执行成功", "data": "你好"}

The last event is not made here: it is said when the turn is kept.
"""

import json

from addons.core import bounded_json, upstream_error
from addons.core.completion import Completion
from addons.core.key_mask import KeyMask
from addons.core.slices import Sliced
from addons.core.sse import Event, Parser
from addons.core.stream_end import DONE, StreamEnd

MAX_EVENT = 1 << 20
"""Bytes of one event: reading it as JSON takes some 5 ms."""

_MARKS = 20_000  # values of one event, or of a completion: some thirty where they are honest
_BLANK = b"\xef\xbb\xbf \t\r\n"
_MAX_BLANK = 64  # bytes before the first letter
_SLICE = 1 << 14  # bytes of a body that was read whole: if all of it are tiny events, 10 ms


class Retelling:
    """Bytes of an upstream's event stream in, bytes of `/chat`'s out. `max_text` bounds the text, in code points.

    `hidden` is a key that is not told, however upstream writes it and in however many pieces. `completion` holds what
    upstream has said.
    """

    def __init__(self, max_text: int, hidden: str = "") -> None:
        self.completion = Completion(max_text)
        self._mask = KeyMask(hidden)
        self.unreadable = False
        """A piece of the answer is no JSON: what it said is lost, and the rest is no answer."""
        self._max_text = max_text
        self._parser = Parser(max_event=min(max_text, MAX_EVENT), errors=True)
        self._end = StreamEnd()
        self._head: bytes | None = b""  # what has come while it may be anything, then None
        self._plain: _Plain | None = None
        self._words: object = None  # what may be a reason, where no answer comes

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk; the events to send on, empty if it held none. What comes behind the end is not read."""
        if self.over:
            return b""
        if self._head is not None:
            self._head += chunk
            beginning = self._head.lstrip(_BLANK)
            if not beginning and len(self._head) < _MAX_BLANK:
                return b""
            chunk, self._head = self._head, None
            if beginning[:1] in (b"{", b"["):
                self._plain = _Plain(self._max_text)
        if self._plain is not None:
            if self._plain.feed(chunk):
                self._read_plain(self._plain)
        else:
            self._feed(chunk)
        news = self.completion.news()
        return _delta(self._mask.feed(news)) if news else b""

    def _feed(self, chunk: bytes) -> None:
        for event in self._parser.feed(chunk):
            if self._read(event):
                break
        else:
            # Some upstreams leave out the blank line behind it: nothing that could still come would change it.
            if self._parser.begun == DONE:
                self._read(Event(DONE))

    def _read_plain(self, plain: "_Plain") -> None:
        """Some answer with JSON, an error or a whole completion, and call it an event stream."""
        plain.over = True
        try:
            text = plain.body.decode("utf-8-sig")
            self.completion = Completion.from_json(bounded_json.loads(text, marks=_MARKS), self._max_text)
        except ValueError:
            self.unreadable = True

    def reading(self, body: bytes) -> Sliced[None]:
        """Read a whole body, in slices."""
        for start in range(0, len(body), _SLICE):
            self.feed(body[start : start + _SLICE])
            if self.over:
                return
            yield
        self.close()

    def close(self) -> bytes:
        """The body has ended; what is left to send on, where a key was cut off in it.

        An event that no blank line has ended is none, but where it tells an error that is told all the same.
        """
        self._read_rest()
        return _delta(self._mask.feed(""))

    def _read_rest(self) -> None:
        if self._plain is not None:
            if not self._plain.over:
                self._read_plain(self._plain)
            return
        if not (self.over or self.whole) and self._parser.pending:
            value = _json_of(self._parser.remainder)
            if upstream_error.find_error(value, strict=True) is not None:
                self._read(Event(self._parser.remainder))
        if not (self.over or self.whole) and self.completion.text is None:
            self.completion.error = self.completion.error or upstream_error.find_error(self._words)

    def _read(self, event: Event) -> bool:
        """Take an event; whether it was the last."""
        value = _json_of(event.data)
        self._end.hear(event.data, value, event.event)
        if value is None and not self._end.over and not self.whole and _may_be_a_piece(event.data):
            self.unreadable = True
            return True
        if self._words is None:
            self._words = value if isinstance(value, dict) else event.data if " " in event.data.strip() else None
        self.completion.add(value, failed=self._end.failed)
        if self._end.failed and self.completion.error is None:
            self.completion.error = value if isinstance(value, dict) else {"message": event.data}
        if self._end.over and not self._end.failed:
            self.completion.finish()
        return self._end.over

    @property
    def overflowed(self) -> bool:
        """The text is longer than may be kept."""
        too_long = self._plain is not None and self._plain.too_long
        return too_long or self.completion.truncated or self._parser.oversized > 0

    @property
    def over(self) -> bool:
        """Upstream has said its last word: `[DONE]`, or an error; or one that can't be read."""
        return self._end.over or self.unreadable or (self._plain is not None and self._plain.over)

    @property
    def whole(self) -> bool:
        """The answer came to its end: upstream said so, in one of two ways."""
        return self.completion.done or (self.completion.finish_reason is not None and not self.unreadable)


class _Plain:
    """A body that is JSON where an event stream was announced."""

    def __init__(self, most: int) -> None:
        self.body = bytearray()
        self.too_long = False
        self.over = False
        """It has been read."""
        self._most = most
        self._end = bounded_json.Whole()

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk; whether it was the last."""
        if len(self.body) + len(chunk) > self._most:
            self.too_long = True
            return False
        self.body += chunk
        return self._end.feed(chunk)


def _json_of(data: str) -> object:
    """The JSON of an event; None where it is none, or too much."""
    try:
        value = bounded_json.loads(data, marks=_MARKS) if _may_be_a_piece(data) else None
    except ValueError:
        return None
    return value[0] if isinstance(value, list) and len(value) == 1 else value  # Gemini's errors stand in a list


def _may_be_a_piece(data: str) -> bool:
    """Whether an event may be of the answer. `[DONE]` is not, nor what some send to keep the connection: `ping`."""
    return "{" in data or '"' in data


def _delta(piece: str) -> bytes:
    if not piece:
        return b""
    return f"data: {json.dumps({'delta': piece}, ensure_ascii=False)}\n\n".encode("utf-8", "backslashreplace")


def last_event(envelope: bytes) -> bytes:
    """The end of a stream: an envelope as an event."""
    return b"data: " + envelope + b"\n\n"
