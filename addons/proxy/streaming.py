"""Streaming: bodies pass chunk by chunk, as they come, in both directions.

A tap stands beside each body: it counts, and keeps a copy up to `inspect.max_body` for the record that mitmweb shows.
The copy enters the flow when nothing of it reaches the wire any more. A tap that fails gives up its copy and never a
byte. Beside an event stream another one waits for its last event: a client may leave with it
(engine/corrections/partings.py).
"""

import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable

from mitmproxy import connection, http

from addons.core.ending import Ending, ended
from addons.core.upstream_error import is_event_stream
from addons.engine.corrections import partings
from addons.engine.transports import cut_upstream
from addons.errors import TooLarge, Unavailable
from addons.exchange import Exchange, Kind, Part, of, ongoing
from addons.flow.answers import refuse
from addons.flow.capture import ANSWER, BEAT, LISTENER, Copy, Listener, new_copy, warn_cut
from addons.flow.decoding import decode
from addons.flow.upstream import declared_length

logger = logging.getLogger(__name__)

_UPLOAD = Part[Copy]("upload")
_BEGINNING = 128
_SHORTEST_BEGINNING = 8
"""Bytes of a body by which an event stream is known."""
MOST_DECODED = 1 << 20
"""Bytes of a compressed stream that are looked through for its last event."""


class Upload:
    """The tap of a request body: counts, and stops it at the limit."""

    def __init__(self, flow: http.HTTPFlow, exchange: Exchange, copy: Copy) -> None:
        self._flow = weakref.ref(flow)  # which holds this: tied together, they would wait for the garbage collector
        self.exchange = exchange
        self.copy = copy
        self.limit = exchange.settings.limits.body

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Pass a chunk on, or drop it where the body is over the limit: upstream is cut off and sees no false end."""
        self.copy(chunk)
        if self.copy.seen <= self.limit:
            return chunk
        flow = self._flow()
        if self.exchange.failure.fault is None and flow is not None:
            self.exchange.failure.fault = too_large(self.limit)
            cut_upstream(flow, "relay: body over its limit")
        return []


class Events:
    """The tap of an event stream: a copy, and whether the last event was told."""

    def __init__(self, exchange: Exchange, copy: Copy, encoding: str) -> None:
        self.exchange = exchange
        self.copy = copy
        self.encoding = encoding
        self._ending = Ending() if encoding in ("", "identity") else None
        self._looked, self._has_ended = 0, False
        make = BEAT.of(exchange)
        self._beat = make(exchange) if make is not None else None

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Pass a chunk on, unless nobody is there any more."""
        self.copy(chunk)
        if self._beat is not None and chunk:
            self._beat()
        self.hear(chunk)
        return [] if self.exchange.stream.seen_off else chunk

    def hear(self, chunk: bytes) -> None:
        """Look for the last event."""
        if self._ending is not None:
            try:
                self._ending.feed(chunk)
            except Exception:
                logger.exception("a stream is not watched for its end any more")
                self._ending = None

    def ended(self) -> bool:
        """Asked when the client leaves, and by those that wait for its record. What is compressed is looked at then, in
        the copy, where that is whole; not again before there is more of it."""
        if self._ending is not None:
            return self._ending.finished
        if self.copy.cut:
            return False
        if self._looked != self.copy.seen:
            self._looked, self._has_ended = self.copy.seen, self._look()
        return self._has_ended

    def _look(self) -> bool:
        try:
            return ended(decode(self.copy.body(), self.encoding, MOST_DECODED, cut=True))
        except ValueError:
            return False


class Unannounced:
    """The tap of a body that may be an event stream though its content type does not say so: its beginning tells."""

    def __init__(self, exchange: Exchange, copy: Copy) -> None:
        self.exchange = exchange
        self.copy = copy
        self._beginning = b""
        self._tap: Callable[[bytes], bytes | list[bytes]] | None = None

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Pass a chunk on."""
        if self._tap is not None:
            return self._tap(chunk)
        self._beginning += chunk[:_BEGINNING]
        if len(self._beginning) < _SHORTEST_BEGINNING and chunk:
            return self.copy(chunk)
        self._tap = self.copy
        if is_event_stream(self._beginning.decode("utf-8", "replace")):
            events = Events(self.exchange, self.copy, "")
            events.hear(self._beginning[: -len(chunk[:_BEGINNING]) or None])
            self.exchange.stream.ended = events.ended
            self._tap = events
        return self._tap(chunk)


class Heard:
    """The tap of an answer that somebody listens to, and may take something out of: what that is must not pass."""

    def __init__(
        self, flow: http.HTTPFlow, listener: Listener, passing: Callable[[bytes], bytes | list[bytes]]
    ) -> None:
        self._flow = weakref.ref(flow)  # as `Upload` has it
        self._listener = listener
        self._passing = passing
        self._broken = False

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Pass a chunk on."""
        self._listener.hear(chunk)
        edit = self._listener.edit
        if edit is None:
            return self._passing(chunk)
        if self._broken:
            return []
        try:
            kept = edit(chunk)
        except Exception:
            logger.exception("a stream is broken off, since it can't be edited")
            self._break_off()
            return []
        if chunk:
            return self._passing(kept) if kept else []
        return [each for piece in (kept, b"") for each in _pieces(self._passing(piece)) if each]

    def _break_off(self) -> None:
        self._broken = True
        flow = self._flow()
        if flow is not None:
            if (exchange := of(flow)) is not None:
                exchange.failure.fault = Unavailable("无法处理上游的流。", "The upstream's stream can't be handled.")
            if flow.killable:
                flow.kill()  # where all of it has come already, there must be no false end
            cut_upstream(flow, "relay: a stream that can't be edited")


def _pieces(passed: bytes | list[bytes]) -> list[bytes]:
    return [passed] if isinstance(passed, bytes) else passed


class Retold:
    """The tap of a stream that relay makes itself, `/chat`'s: a copy of what the client is told."""

    def __init__(self, tell: Callable[[bytes], Iterable[bytes] | bytes], copy: Copy) -> None:
        self.tell = tell
        self.copy = copy

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """What is told in place of a chunk."""
        written = self.tell(chunk)
        if isinstance(written, bytes):
            return self.copy(written)
        return [self.copy(piece) for piece in written]


class Streaming:
    """Decides what is streamed, which is all that relay need not read, and taps it."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the request body up, or refuse it by its declared length."""
        exchange = ongoing(flow, Kind.PASS)
        if exchange is None or (exchange.body.cap is not None and not exchange.body.passes):
            return  # somebody reads it whole
        limits = exchange.settings.limits
        declared = declared_length(flow.request)
        if declared is not None and declared > limits.body:
            refuse(flow, exchange, too_large(limits.body))
            return
        copy = _UPLOAD.keep(exchange, new_copy(exchange))
        tap = Upload(flow, exchange, copy)
        if exchange.body.passes:
            exchange.body.passing = tap
        else:
            flow.request.stream = tap

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the answer down, whatever it is."""
        exchange, response = of(flow), flow.response
        if exchange is None or exchange.refused or response is None:
            return
        if exchange.kind == Kind.CHAT and callable(response.stream):
            copy = ANSWER.keep(exchange, new_copy(exchange))
            response.stream = Retold(response.stream, copy)
        if exchange.kind != Kind.PASS or exchange.answer.read_whole:
            return
        exchange.committed = True
        copy = ANSWER.keep(exchange, new_copy(exchange))
        response.stream = copy
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            response.headers["X-Accel-Buffering"] = "no"
            response.headers.setdefault("Cache-Control", "no-cache")
            events = Events(exchange, copy, response.headers.get("content-encoding", "").strip().lower())
            response.stream, exchange.stream.ended = events, events.ended
        elif "content-length" not in response.headers and "content-encoding" not in response.headers:
            response.stream = Unannounced(exchange, copy)
        if (listener := LISTENER.take(exchange)) is not None:
            response.stream = Heard(flow, listener, response.stream)

    def client_disconnected(self, client: connection.Client) -> Awaitable[None] | None:
        """Hold upstream for a moment, where the client has left with the last event."""
        return partings.left(client)

    def response(self, flow: http.HTTPFlow) -> None:
        """Put the copies into the record: all of it has been sent."""
        exchange = of(flow)
        if exchange is not None and flow.response is not None:
            exchange.stream.sent = flow.response.raw_content is None
            if exchange.answer.tail and isinstance(flow.response.stream, Retold) and flow.error is None:
                flow.response.stream.copy(exchange.answer.tail)  # /chat's last event, which is sent behind this hook
        self._record(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Put into the record what there was until it broke."""
        exchange = of(flow)
        if exchange is not None:
            exchange.stream.sent = True
        self._record(flow)

    def _record(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is None:
            return
        for name, part, message in (("upload", _UPLOAD, flow.request), ("answer", ANSWER, flow.response)):
            copy = part.of(exchange)
            if copy is None or message is None or message.raw_content is not None:
                continue
            message.raw_content = copy.body()
            if name == "answer" and (times := copy.times):
                flow.metadata["relay.chunks"] = times
            if copy.cut:
                flow.metadata[f"relay.{name}_bytes"] = copy.seen
                if exchange.record.saved:
                    warn_cut(flow, name, copy)


def too_large(limit: int) -> TooLarge:
    """The error for a body over `limit` bytes."""
    return TooLarge(
        f"请求体超过此中转的上限 {limit} 字节。",
        f"The request body is over this relay's limit of {limit} bytes.",
    )
