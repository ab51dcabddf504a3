"""Copies of bodies, made by taps that stand beside the bytes on their way."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mitmproxy import ctx, http

from addons.exchange import Exchange, Part

logger = logging.getLogger(__name__)

MOST_CHUNKS = 50_000
"""Times that are noted of one body; what comes later belongs to the last of them."""
RECORDED_BODY = 64 << 20
"""Bytes of a body that a recording keeps at least: replaying what was cut would be another answer."""
UNWATCHED_BODY = 64 << 10
"""Bytes of a body that are kept where nobody looks at bodies: mitmdump's line says no more than how long one is."""
_LOOKS: dict[str, Callable[[Any], bool]] = {
    "hardump": bool,
    "flow_detail": lambda detail: detail > 1,
    "scripts": lambda scripts: len(scripts) > 1,
}


class Copy:
    """The first bytes of a body, and how many there were; with `timed`, when each chunk came."""

    def __init__(self, cap: int, *, timed: bool = False) -> None:
        self.cap = cap
        self.seen = 0
        self.first_at: float | None = None
        """When the first chunk came, on the monotonic clock."""
        self._times: list[list[int]] = []
        self._begun = time.monotonic() if timed else None
        self._chunks: list[bytes] = []
        self._held = 0

    def __call__(self, chunk: bytes) -> bytes:
        """Note a chunk and pass it on: mitmproxy's streaming interface. An empty one is the end."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.seen += len(chunk)
        if self._begun is not None and chunk:
            self._note_time(self._begun, len(chunk))
        if self._held < self.cap and chunk:
            part = chunk[: self.cap - self._held]
            self._chunks.append(part)
            self._held += len(part)
        return chunk

    def _note_time(self, begun: float, size: int) -> None:
        if len(self._times) < MOST_CHUNKS:
            self._times.append([round((time.monotonic() - begun) * 1000), size])
        else:
            self._times[-1][1] += size

    @property
    def times(self) -> str:
        """`12 340, 27 18`: of each chunk the milliseconds since this copy was begun, and its bytes. A flow file takes a
        text at once, and 50,000 numbers one by one."""
        return ", ".join([f"{at} {size}" for at, size in self._times])

    @property
    def cut(self) -> bool:
        """Whether there was more than is held."""
        return self.seen > self._held

    def body(self) -> bytes:
        """What is held, as it was on the wire: still compressed, if it was."""
        return b"".join(self._chunks)


def recording() -> bool:
    """Whether flows are saved to a file as they end."""
    return bool(getattr(getattr(ctx, "options", None), "save_stream_file", None))


def watched() -> bool:
    """Whether anybody may look into flows that have ended: a person, a file, another script.

    mitmdump by itself prints a line of each and lets it go.
    """
    master = getattr(ctx, "master", None)
    return _reads_at_once() or (master is not None and master.addons.get("view") is not None)


def _reads_at_once() -> bool:
    """Whether anybody reads a flow as soon as it ends."""
    options = getattr(ctx, "options", None)
    return recording() or any(_LOOKS[name](value) for name in _LOOKS if (value := getattr(options, name, None)))


class Watching(NamedTuple):
    """Who looks at flows that have ended."""

    watched: bool = False
    saved: bool = False
    """They are saved to a file as they end."""
    at_once: bool = False
    """Somebody reads them as they end, and not only when a person looks into a list."""


class Watch:
    """Who looks, asked anew once a second: mitmproxy's options are slow to read, and change by a person's hand."""

    def __init__(self) -> None:
        self._until = 0.0
        self._found = Watching()

    def __call__(self) -> Watching:
        """What is so now."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + 1.0
            self._found = Watching(watched(), recording(), _reads_at_once())
        return self._found


class Listener(NamedTuple):
    """Who hears an answer chunk by chunk as it comes, and what the client gets of it."""

    hear: Callable[[bytes], object]
    """Must not raise."""
    edit: Callable[[bytes], bytes] | None
    """What passes of a chunk, b"" where that is nothing; None: all of it. An empty chunk is the end."""


LISTENER = Part[Listener]("listener")
"""Of an answer that is streamed; to be left there before it is."""

BEAT = Part[Callable[[Exchange], Callable[[], object]]]("beat")
"""Makes what is called with each chunk of an event stream, where somebody counts the time between them. Neither
raises."""

ANSWER = Part[Copy]("answer")
"""Of what the client was sent."""


def new_copy(exchange: Exchange) -> Copy:
    """A copy of a body of `exchange`: `inspect.max_body` bytes, in a recording more, and with its times."""
    most = exchange.settings.inspect.max_body
    if exchange.record.saved:
        return Copy(max(most, RECORDED_BODY), timed=True)
    return Copy(most if exchange.record.watched else min(most, UNWATCHED_BODY))


def warn_cut(flow: http.HTTPFlow, name: str, copy: Copy) -> None:
    """Say that a recorded body is not whole, so that it can't be replayed."""
    logger.warning(
        f"{flow.request.method} {flow.request.path.partition('?')[0]}: of its {name} only the first {copy.cap} of "
        f"{copy.seen} bytes are recorded (inspect.max_body), so it can't be replayed."
    )
