"""Whether an event stream has told its last event, which is when many clients leave: openai-python closes at `[DONE]`,
Codex after `response.completed`. What they then leave behind is finished, and not broken off.

    data: [DONE]                                        the completions of everybody
    event: response.completed (.failed, .incomplete)    OpenAI's Responses
    event: message_stop                                 Anthropic's Messages
    "finish_reason": "stop" and then "usage": {...}     completions where `[DONE]` never comes, or is not waited for

All but the first count once the blank line behind them is there: a client is told of an event by that line.

These signs can't stand in a model's words: those are JSON strings, in which no line begins and no quote stands bare.
They are searched for in the bytes as they come, since this sees each chunk of each stream: no event is taken apart,
nothing but the last bytes is kept, and time is linear however the chunks are cut.
"""

import re

_LONGEST = 96
"""Bytes that a sign takes at most, with what must stand around it."""
_FINAL = rb"response\.(?:completed|failed|incomplete)|message_stop"
_LAST = re.compile(
    rb"(?<=[\r\n])(?:(data: ?\[DONE\](?=[ \t]{0,8}[\r\n]))"
    rb"|event: ?(?:" + _FINAL + rb')(?=[ \t]{0,8}[\r\n])|data: ?\{ ?"type" ?: ?"(?:' + _FINAL + rb')")'
)
_REASON = re.compile(rb'"finish_reason"[ \t]{0,4}:[ \t]{0,4}"\w')
_USAGE = re.compile(rb'"usage"[ \t]{0,4}:[ \t]{0,4}\{')
_BLANK = re.compile(rb"\n\r?\n|\r\r")
_HINTS = (b"[DONE]", b"response.completed", b"response.failed", b"response.incomplete", b"message_stop")


class Ending:
    """Watches a stream for its last event."""

    __slots__ = ("_closing", "_reason", "_tail", "finished")

    def __init__(self) -> None:
        self.finished = False
        """The last event was told whole."""
        self._tail = b"\n"  # the start of a stream is the start of a line
        self._closing = False  # a last event has begun
        self._reason = False  # a finish reason was told, in this event or an earlier one

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream, decoded."""
        if self.finished or not chunk:
            return
        window = self._tail + chunk
        told = 0  # where what has counted ends: it must not count again with the next chunk
        if not self._closing:
            told = self._look(window)
        if self._closing and not self.finished:
            self.finished = _BLANK.search(window, told) is not None
        self._tail = window[max(told, len(window) - _LONGEST) :]

    def _look(self, window: bytes) -> int:
        """Look for the signs; where the last one that was found ends, 0 for none."""
        if any(hint in window for hint in _HINTS) and (last := _LAST.search(window)):
            self.finished = last[1] is not None
            self._closing = True
            return last.end()
        if self._reason:
            usage = _USAGE.search(window)
            self._closing = usage is not None
            return usage.end() if usage else 0
        reason = _REASON.search(window) if b'"finish_reason"' in window else None
        if reason is None:
            return 0
        self._reason = True
        # The usage may stand before the reason in the same event. The usage of an event before that says nothing.
        begin = max(window.rfind(b"\n\n", 0, reason.start()), window.rfind(b"\n\r\n", 0, reason.start()), 0)
        usage = _USAGE.search(window, begin)
        self._closing = usage is not None
        return max(reason.end(), usage.end()) if usage else begin


def ended(body: bytes) -> bool:
    """Whether a stream that is there so far has told its last event."""
    ending = Ending()
    ending.feed(body)
    return ending.finished
