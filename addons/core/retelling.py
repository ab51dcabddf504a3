"""A streamed completion, retold piece by piece as `/chat` streams it.

    data: {"delta": "你"}
    data: {"delta": "好"}
    data: {"code": 200, "message": "执行成功", "data": "你好"}

The last event is not made here: it is said when the turn is kept.
"""

import json

from addons.core import lenient
from addons.core.completion import Completion
from addons.core.sse import Parser


class Retelling:
    """Bytes of an upstream's event stream in, bytes of `/chat`'s out. `max_text` bounds the text, in code points."""

    def __init__(self, max_text: int) -> None:
        self.completion = Completion(max_text)
        self._parser = Parser(max_event=max_text)

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk; the events to send on, empty if it held none."""
        for event in self._parser.feed(chunk):
            self._read(event.data)
        piece = self.completion.news()
        return _event({"delta": piece}) if piece else b""

    def _read(self, data: str) -> None:
        if data.strip() == "[DONE]":
            self.completion.finish()
        elif not lenient.too_deep(data):
            try:
                self.completion.add(json.loads(data))
            except ValueError:
                return

    @property
    def overflowed(self) -> bool:
        """The text is longer than may be kept."""
        return self.completion.truncated or self._parser.oversized > 0

    @property
    def whole(self) -> bool:
        """The answer came to its end: upstream said so, in one of two ways."""
        return self.completion.done or self.completion.finish_reason is not None


def _event(value: dict[str, str]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode("utf-8", "backslashreplace")


def last_event(envelope: bytes) -> bytes:
    """The end of a stream: an envelope as an event."""
    return b"data: " + envelope + b"\n\n"
