"""Streams: bodies pass chunk by chunk, as they come, in both directions.

A tap stands beside each body: it counts, and keeps a copy up to `inspect.max_body` for the record that mitmweb shows.
The copy enters the flow when nothing of it reaches the wire any more. A tap that fails gives up its copy and never a
byte.
"""

import logging
import weakref

from mitmproxy import http

from addons.answers import refuse
from addons.copies import Copy, new_copy, warn_cut
from addons.errors import TooLarge
from addons.exchange import Exchange, Kind, of, ongoing
from addons.wire import cut_upstream, declared_length

logger = logging.getLogger(__name__)


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
        if self.exchange.fault is None and flow is not None:
            self.exchange.fault = too_large(self.limit)
            cut_upstream(flow, "relay: body over its limit")
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
        copy = exchange.notes["upload"] = new_copy(exchange)
        flow.request.stream = Upload(flow, exchange, copy)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the answer down, whatever it is."""
        exchange = of(flow)
        if exchange is None or exchange.refused or exchange.kind != Kind.PASS or flow.response is None:
            return
        exchange.committed = True
        if flow.response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            flow.response.headers["X-Accel-Buffering"] = "no"
            flow.response.headers.setdefault("Cache-Control", "no-cache")
        copy = exchange.notes["answer"] = new_copy(exchange)
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
            if name == "answer" and copy.times:
                flow.metadata["relay.chunks"] = copy.times
            if copy.cut:
                flow.metadata[f"relay.{name}_bytes"] = copy.seen
                if exchange.recorded:
                    warn_cut(flow, name, copy)


def too_large(limit: int) -> TooLarge:
    """The error for a body over `limit` bytes."""
    return TooLarge(
        f"请求体超过 {limit} 字节的上限。",
        f"The request body is over this relay's limit of {limit} bytes (limits.body).",
    )
