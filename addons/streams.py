"""Streams: bodies pass chunk by chunk, as they come, in both directions.

A tap stands beside each body: it counts, and keeps a copy up to `inspect.max_body` for the record that mitmweb shows.
The copy enters the flow when nothing of it reaches the wire any more. A tap that fails gives up its copy and never a
byte.
"""

import logging
import time

from mitmproxy import http

from addons.answers import refuse
from addons.errors import TooLarge
from addons.exchange import Exchange, Kind, of, ongoing
from addons.wire import cut_upstream, declared_length

logger = logging.getLogger(__name__)


class Copy:
    """The first bytes of a body, and how many there were."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.seen = 0
        self.first_at: float | None = None
        """When the first chunk came, on the monotonic clock."""
        self._chunks: list[bytes] = []
        self._held = 0

    def __call__(self, chunk: bytes) -> bytes:
        """Note a chunk and pass it on: mitmproxy's streaming interface. An empty one is the end."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.seen += len(chunk)
        if self._held < self.cap and chunk:
            part = chunk[: self.cap - self._held]
            self._chunks.append(part)
            self._held += len(part)
        return chunk

    @property
    def cut(self) -> bool:
        """Whether there was more than is held."""
        return self.seen > self._held

    def body(self) -> bytes:
        """What is held, as it was on the wire: still compressed, if it was."""
        return b"".join(self._chunks)


class Upload:
    """The tap of a request body: counts, and stops it at the limit."""

    def __init__(self, flow: http.HTTPFlow, exchange: Exchange, copy: Copy) -> None:
        self.flow = flow
        self.exchange = exchange
        self.copy = copy
        self.limit = exchange.settings.limits.body

    def __call__(self, chunk: bytes) -> bytes | list[bytes]:
        """Pass a chunk on, or drop it where the body is over the limit: upstream is cut off and sees no false end."""
        self.copy(chunk)
        if self.copy.seen <= self.limit:
            return chunk
        if self.exchange.fault is None:
            self.exchange.fault = too_large(self.limit)
            cut_upstream(self.flow, "relay: body over its limit")
        return []


class Streams:
    """Decides what is streamed, which is all that relay need not read, and taps it."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the request body up, or refuse it by its declared length."""
        exchange = ongoing(flow, Kind.PASS)
        if exchange is None:
            return
        limits = exchange.settings.limits
        declared = declared_length(flow.request)
        if declared is not None and declared > limits.body:
            refuse(flow, exchange, too_large(limits.body))
            return
        copy = exchange.notes["upload"] = Copy(exchange.settings.inspect.max_body)
        flow.request.stream = Upload(flow, exchange, copy)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the answer down, whatever it is."""
        exchange = of(flow)
        if exchange is None or exchange.refused or exchange.kind is not Kind.PASS or flow.response is None:
            return
        exchange.committed = True
        if flow.response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            flow.response.headers["X-Accel-Buffering"] = "no"
            flow.response.headers.setdefault("Cache-Control", "no-cache")
        copy = exchange.notes["answer"] = Copy(exchange.settings.inspect.max_body)
        flow.response.stream = copy

    def response(self, flow: http.HTTPFlow) -> None:
        """Put the copies into the record: all of it has been sent."""
        exchange = of(flow)
        if exchange is not None and flow.response is not None:
            exchange.sent = flow.response.raw_content is None
        self._record(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Put into the record what there was until it broke."""
        exchange = of(flow)
        if exchange is not None:
            exchange.sent = True
        self._record(flow)

    def _record(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is None:
            return
        for name, message in (("upload", flow.request), ("answer", flow.response)):
            copy = exchange.notes.get(name)
            if copy is None or message is None or message.raw_content is not None:
                continue
            message.raw_content = copy.body()
            if copy.cut:
                flow.metadata[f"relay.{name}_bytes"] = copy.seen


def too_large(limit: int) -> TooLarge:
    """The error for a body over `limit` bytes."""
    return TooLarge(
        f"请求体超过 {limit} 字节的上限。",
        f"The request body is over this relay's limit of {limit} bytes (limits.body).",
    )
