"""Sockets: a websocket may live for hours; its record keeps the newest messages only.

mitmproxy keeps every message of a socket for as long as it is open.
"""

from collections import deque

from mitmproxy import http

from addons.exchange import of

FRAME = 500
"""Bytes that a message takes in memory besides its content, roughly: many empty ones must not add up."""


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
        sizes: deque[int] = exchange.notes.setdefault("websocket", deque())
        sizes.append(len(messages[-1].content) + FRAME)
        held = exchange.notes.get("websocket_held", 0) + sizes[-1]
        gone = 0
        while held > exchange.settings.inspect.max_body and len(sizes) > 1:
            held -= sizes.popleft()
            gone += 1
        del messages[:gone]
        exchange.notes["websocket_held"] = held
        if gone:
            flow.metadata["relay.messages_dropped"] = flow.metadata.get("relay.messages_dropped", 0) + gone
