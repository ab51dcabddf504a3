"""Taking the usage chunk out of a stream for a client that did not ask for it.

A stream that is asked for its usage (`stream_options.include_usage`) ends with one more chunk, which has usage and no
choices: https://platform.openai.com/docs/api-reference/chat/create. Some clients read `choices[0]` of every chunk.

What is whole events passes at once, as it is. Only an event that has not ended is held until it has, since nobody can
tell before what it will be; one that grows over `_LONGEST` is none of that kind, and passes.
"""

import re

from addons.core import bounded_json
from addons.core.sse import Parser, end_of_events

_LONGEST = 1 << 16
_SPLIT = re.compile(rb"\r?\n\r?\n|\r\r")
_MARKS = 1000
_MOST = 50
"""Events that are read of one stream: there is one of this kind. What comes then passes."""
_NO_CHOICES = re.compile(rb'"choices"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}\[[ \t\r\n]{0,16}\]')


class UsageChunk:
    """Passes a stream on without its usage chunk."""

    def __init__(self) -> None:
        self._held = b""
        self._passing = False  # an event that is too long passes as it comes
        self._left = _MOST

    @property
    def idle(self) -> bool:
        """Whether nothing is held, and the next chunk begins an event."""
        return not self._held and not self._passing

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets now; b"" where that is nothing. An empty chunk is the end of the stream."""
        if not chunk:
            rest, self._held = self._held, b""
            return rest
        if not self._held and not self._passing and chunk.endswith(b"\n\n"):  # nearly all chunks are whole events
            return self._without(chunk)
        searched = max(0, len(self._held) - 3)
        data = self._held + chunk if self._held else chunk
        self._held = b""
        end = end_of_events(data, searched)
        whole, rest = data[:end], data[end:]
        if self._passing:
            if not end:
                return data
            self._passing = False
        else:
            whole = self._without(whole)
        if len(rest) > _LONGEST:
            self._passing = True
            return whole + rest
        self._held = rest
        return whole

    def _without(self, whole: bytes) -> bytes:
        """Whole events, but for the one that the client did not ask for."""
        if self._left and may_be_usage(whole):
            return b"".join(event for event in _events(whole) if not self._is_unasked(event))
        return whole

    def _is_unasked(self, event: bytes) -> bool:
        if not self._left or _NO_CHOICES.search(event) is None:
            return False
        self._left -= 1
        return _is_usage_chunk(event)


def may_be_usage(whole: bytes) -> bool:
    """Whether what is read of these events may be one that the client did not ask for."""
    return b'"usage"' in whole and _NO_CHOICES.search(whole) is not None


def _events(data: bytes) -> list[bytes]:
    """The events in it, each with the blank line that ends it."""
    found, at = [], 0
    for mark in _SPLIT.finditer(data):
        found.append(data[at : mark.end()])
        at = mark.end()
    return [*found, data[at:]] if at < len(data) else found


def _is_usage_chunk(event: bytes) -> bool:
    if b'"usage"' not in event or b'"choices"' not in event or len(event) > _LONGEST:
        return False
    read = Parser().feed(event)
    if len(read) != 1:
        return False
    try:
        value = bounded_json.loads(read[0].data, marks=_MARKS)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("choices") == [] and isinstance(value.get("usage"), dict)
