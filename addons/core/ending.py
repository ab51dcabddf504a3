"""Whether an event stream that passes by has told its last event, which is when many clients leave: openai-python
closes at `[DONE]`, Codex after `response.completed`. What they then leave behind is finished, and not broken off.

What an end is, `core.stream_end` knows. Here stands what it takes to ask that of each chunk of each stream: bytes are
held to the end of their event and searched for signs, and only events that have one are read. Signs are no proof: a
model may talk of them.

    [DONE]                                              the completions of everybody
    response.completed (.failed, .incomplete)           OpenAI's Responses, as an event's name or its type
    message_stop                                        Anthropic's Messages
    "finish_reason": "stop", and then "usage": {        completions where `[DONE]` never comes, or is not waited for
    "finishReason": "STOP", "usageMetadata": {          Gemini's own, which has no other end
    "index": 1                                          there is more than one choice: each has its own finish reason

All but the first count once the blank line behind them is there: a client is told of an event by that line.

Time is linear however the chunks are cut, and memory bounded by `MAX_HELD`. Of a longer event its beginning and its end
count, where its type stands.
"""

import re

from addons.core import bounded_json
from addons.core.sse import BLANK_LINES, Event, Parser, end_of_events
from addons.core.stream_end import DONE, FAILED, LAST, StreamEnd

MAX_HELD = 1 << 20
"""Bytes of one event that are held until it has ended."""
_SLICE = 1 << 16  # bytes that are searched for an event's end at a time
_MOST_READ = 500
"""Events with an end mark, and with another sign, that are read of one stream: 10 ms each. What comes then is no sign
any more. Other signs are many where a model calls several tools, since these have an index, too."""
_MARKS = 20_000  # values of one event that is read
_HEAD = 256  # bytes of an event in which its name stands, or at its end
_SHORT = 128  # bytes of an event that may be `[DONE]`, with an id before it
_NAMES = tuple(name for name in (*LAST, *FAILED) if name != "error")
_ANY_NAME = "|".join(map(re.escape, _NAMES))
_NAMED = re.compile(
    rf'(?:^|[\r\n])(?:event: ?(?:{_ANY_NAME})[ \t]{{0,8}}[\r\n]|data: ?\{{ ?"type" ?: ?"(?:{_ANY_NAME})")'.encode()
)
_TYPE = rf'"type"[ \t]{{0,4}}:[ \t]{{0,4}}"(?:{_ANY_NAME})"'
# The type of an event, and not that of something in it: no bracket stands between it and the end of the object.
_TYPED_FIRST = re.compile(rf"(?:^|[\r\n])data: ?\{{[^{{}}\[\]\r\n]{{0,{_HEAD}}}{_TYPE}".encode())
_TYPED_LAST = re.compile(rf"{_TYPE}[^{{}}\[\]\r\n]{{0,{_HEAD}}}\}}[ \t]{{0,8}}[\r\n]".encode())
_MARKED = tuple(name.encode() for name in (DONE, *_NAMES))
_REASON = re.compile(r'"finish(?:_r|R)eason"[ \t]{0,4}:[ \t]{0,4}"\w')
_USAGE = re.compile(r'"usage(?:Metadata)?"[ \t]{0,4}:[ \t]{0,4}\{')
_INDEX = re.compile(r'"index"[ \t]{0,4}:[ \t]{0,4}([1-9][0-9]{0,2})')
_SIGNS = re.compile("|".join(each.pattern for each in (_REASON, _INDEX)).encode())
_SIGNS_BEHIND = re.compile("|".join(each.pattern for each in (_REASON, _INDEX, _USAGE)).encode())


class Ending:
    """Watches a stream for its last event."""

    __slots__ = ("_end", "_held", "_left", "_long", "_marks_left", "finished")

    def __init__(self) -> None:
        self.finished = False
        """The last event was told whole."""
        self._end = StreamEnd()
        self._held = bytearray()  # an event that has not ended
        self._long: bool | None = None  # it is longer than is held, and whether its name is one of a last event
        self._marks_left = self._left = _MOST_READ

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream, decoded."""
        for start in range(0, len(chunk), _SLICE):
            if self.finished or not self._marks_left:
                return
            self._feed(chunk[start : start + _SLICE])

    def _feed(self, piece: bytes) -> None:
        searched = max(0, len(self._held) - 3)
        self._held += piece
        if end := end_of_events(self._held, searched):
            events = bytes(self._held[:end])
            del self._held[:end]
            self._take(events)
        if not self.finished and len(self._held) <= _SHORT and self._held.find(b"[DONE]") >= 0:
            self.finished = self._is_done()
        elif len(self._held) > MAX_HELD:
            if self._long is None:
                head = self._held[:_HEAD]
                self._long = bool(_NAMED.search(head) or _TYPED_FIRST.search(head))
            del self._held[:-_HEAD]

    def _is_done(self) -> bool:
        """`[DONE]` needs no blank line: its own line's end will do."""
        parser = Parser()
        parser.feed(bytes(self._held))
        return parser.begun.strip() == DONE and self._held.endswith((b"\n", b"\r"))

    def _take(self, events: bytes) -> None:
        """Look through events that have ended."""
        if self._long is not None:
            first = min(at + len(each) for each in BLANK_LINES if (at := events.find(each)) >= 0)
            self.finished = self._long or _TYPED_LAST.search(events[max(0, first - _HEAD) : first]) is not None
            self._long = None
            events = events[first:]
        signs = (_SIGNS_BEHIND if self._end.finished else _SIGNS) if self._left else None
        if self.finished or not (any(mark in events for mark in _MARKED) or (signs and signs.search(events))):
            return
        for event in Parser(MAX_HELD + _SLICE).feed(events):
            if self._marks_left and self._is_marked(event):
                self._marks_left -= 1
            elif self._left and self._tells(event.data):
                self._left -= 1
            else:
                continue
            self._read(event)
            if self.finished or self._end.nothing_follows:
                self.finished = True
                return

    def _is_marked(self, event: Event) -> bool:
        return event.event in _NAMES or DONE in event.data or any(name in event.data for name in _NAMES)

    def _tells(self, data: str) -> bool:
        """Whether an event may say something of a choice's end."""
        if _REASON.search(data) or (self._end.finished and _USAGE.search(data)):
            return True
        return any(int(number[1]) not in self._end.choices for number in _INDEX.finditer(data))

    def _names_an_end(self, data: str) -> bool:
        head, tail = f"data: {data[:_HEAD]}".encode(), f"{data[-_HEAD:]}\n".encode()
        return _TYPED_FIRST.search(head) is not None or _TYPED_LAST.search(tail) is not None

    def _read(self, event: Event) -> None:
        value: object = None
        if event.event in _NAMES:
            value = {}  # its name says it all
        elif len(event.data) > _SHORT or event.data.strip() != DONE:
            try:
                value = bounded_json.loads(event.data, marks=_MARKS)
            except ValueError:
                # Too many values to be read: its type says it, where it stands at an end of it.
                if self._names_an_end(event.data):
                    self.finished = True
                return
        self._end.hear(event.data, value, event.event)


def ended(body: bytes) -> bool:
    """Whether a stream that is there so far has told its last event."""
    ending = Ending()
    ending.feed(body)
    return ending.finished
