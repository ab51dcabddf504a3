"""Ending: notes when exchanges end, and in which order, before any of their records is cleaned: a long one takes longer
than the next.
"""

import time
from collections.abc import Callable

from mitmproxy import http

from addons.exchange import of


class Ending:
    """Stands before all that takes its time. `line_up` hears of each exchange."""

    optional = True

    def __init__(self, line_up: Callable[[http.HTTPFlow], None]) -> None:
        self.line_up = line_up

    def response(self, flow: http.HTTPFlow) -> None:
        """The exchange is over."""
        self._note(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """It broke off."""
        self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is not None and exchange.record.watched:
            exchange.record.ended_at = time.monotonic()
            self.line_up(flow)
