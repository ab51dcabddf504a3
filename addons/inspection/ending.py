"""Ending: notes when exchanges end, and in which order, before any of their records is cleaned: a long one takes longer
than the next.
"""

import time
from typing import Protocol

from mitmproxy import http

from addons.exchange import of


class LineUp(Protocol):
    """Hears of an exchange that is being answered, or has ended."""

    def __call__(self, flow: http.HTTPFlow, *, ended: bool) -> None:
        """Must not wait."""


class Ending:
    """Stands before all that takes its time."""

    optional = True

    def __init__(self, line_up: LineUp) -> None:
        self.line_up = line_up

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """An answer has begun."""
        self.line_up(flow, ended=False)

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
            self.line_up(flow, ended=True)
