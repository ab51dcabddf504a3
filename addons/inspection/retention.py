"""Retention: mitmweb shows the newest exchanges, not all since its start, so it runs for days.

mitmweb and mitmproxy hold every flow with its bodies for ever; mitmdump lets finished ones go by itself.
"""

from collections import deque

from mitmproxy import ctx, http

from addons.config.settings import Settings
from addons.core.summary import FAILED


class Retention:
    """Removes the oldest finished flows from the view, except those a person has marked."""

    optional = True

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.inspect.keep_flows
        self._flows: deque[http.HTTPFlow] = deque()

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings."""
        self.limit = settings.inspect.keep_flows

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
        self._flows.append(flow)
        for _ in range(len(self._flows) - self.limit):
            oldest = self._flows.popleft()
            if oldest.live or oldest.intercepted:
                self._flows.append(oldest)  # not over yet, and removing kills: its turn comes again
            elif oldest.marked in ("", FAILED):
                view.remove([oldest])
