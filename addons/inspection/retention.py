"""Retention: mitmweb shows the newest exchanges, not all since its start, so it runs for days.

mitmweb and mitmproxy hold every flow with its bodies for ever; mitmdump lets finished ones go by itself.
"""

import inspect
from collections import deque

from mitmproxy import ctx, http

from addons.config.settings import Settings
from addons.core.summary import FAILED


class Retention:
    """Removes the oldest finished flows from the view, except those a person has marked."""

    optional = True

    def __init__(self, settings: Settings) -> None:
        self._flows: deque[tuple[http.HTTPFlow, int]] = deque()
        self._bytes = 0
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings."""
        self.most = settings.inspect.keep_flows
        self.most_bytes = settings.inspect.keep_bytes

    def response(self, flow: http.HTTPFlow) -> None:
        """One more has come to its end."""
        self._add(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """A broken one counts as well."""
        self._add(flow)

    def _add(self, flow: http.HTTPFlow) -> None:
        view = ctx.master.addons.get("view")
        if view is None:
            return
        self._keep(flow, _size(flow))
        _let_go(flow)
        for _ in range(len(self._flows)):
            if len(self._flows) <= self.most and self._bytes <= self.most_bytes:
                break
            oldest, size = self._flows.popleft()
            self._bytes -= size
            if oldest.live or oldest.intercepted:
                self._keep(oldest, size)  # not over yet, and removing kills: its turn comes again
            elif oldest.marked in ("", FAILED):
                inspect.unwrap(type(view).remove)(view, [oldest])  # as a command it judges its arguments each time

    def _keep(self, flow: http.HTTPFlow, size: int) -> None:
        self._flows.append((flow, size))
        self._bytes += size


def _let_go(flow: http.HTTPFlow) -> None:
    """What has read the bodies as they passed goes with the exchange: the list keeps its record alone."""
    for message in (flow.request, flow.response):
        if message is not None and callable(message.stream):
            message.stream = True


def _size(flow: http.HTTPFlow) -> int:
    """Bytes that a record takes in memory, roughly."""
    bodies = (flow.request, flow.response) if flow.response is not None else (flow.request,)
    size = sum(len(each.raw_content or b"") for each in bodies)
    if flow.websocket is not None:
        size += sum(len(each.content) for each in flow.websocket.messages)
    return size + _HEADS


_HEADS = 8 << 10
"""Of a record without bodies."""
