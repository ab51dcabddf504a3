"""Sockets: a websocket may live for hours; its record keeps the newest messages only.

mitmproxy keeps every message of a socket for as long as it is open.
"""

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
        held = exchange.notes.get("websocket", 0) + len(messages[-1].content) + FRAME
        gone = 0
        while held > exchange.settings.inspect.max_body and gone < len(messages) - 1:
            held -= len(messages[gone].content) + FRAME
            gone += 1
        del messages[:gone]
        exchange.notes["websocket"] = held
        if gone:
            flow.metadata["relay.messages_dropped"] = flow.metadata.get("relay.messages_dropped", 0) + gone
