"""Sockets: a websocket may live for hours; its record keeps the newest messages only.

mitmproxy keeps every message of a socket for as long as it is open.
"""

from collections import deque

from mitmproxy import http

from addons.exchange import Part, of

FRAME = 500
"""Bytes that a message takes in memory besides its content, roughly: many empty ones must not add up."""


class _Held:
    """The sizes of the messages in a record, the oldest first."""

    def __init__(self) -> None:
        self._sizes: deque[int] = deque()
        self._total = 0

    def add(self, size: int, most: int) -> int:
        """Note a message; how many of the oldest go for it. The newest never does."""
        self._sizes.append(size)
        self._total += size
        gone = 0
        while self._total > most and len(self._sizes) > 1:
            self._total -= self._sizes.popleft()
            gone += 1
        return gone


_HELD = Part[_Held]("websocket")


class Sockets:
    """Trims the record of a websocket to `inspect.max_body` bytes, whole messages, the newest last."""

    optional = True

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Let go of the oldest messages. The newest one stays in any case: it has not been sent yet."""
        exchange = of(flow)
        if exchange is None or flow.websocket is None:
            return
        messages = flow.websocket.messages
        # Sizes as they came: the record of a message may be shorter by then.
        held = _HELD.of(exchange) or _HELD.keep(exchange, _Held())
        gone = held.add(len(messages[-1].content) + FRAME, exchange.settings.inspect.max_body)
        del messages[:gone]
        if gone:
            flow.metadata["relay.messages_dropped"] = flow.metadata.get("relay.messages_dropped", 0) + gone
