"""Loop lag: how late the loop comes to what is due, since something else has kept it."""

import asyncio

from addons.core.metrics import Histogram

PERIOD = 0.5
"""Seconds."""


class LoopLag:
    """Sets a timer every half second and notes how late it comes."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """From now on. Twice is harmless."""
        if self._timer is None:
            self._set(asyncio.get_running_loop())

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + PERIOD
        self._timer = loop.call_at(self._due, self._came, loop)

    def _came(self, loop: asyncio.AbstractEventLoop) -> None:
        self._histogram.observe(max(0.0, loop.time() - self._due))
        self._set(loop)
