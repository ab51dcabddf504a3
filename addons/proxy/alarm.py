"""Alarm: a timer that is set, put off and set again with every request.

asyncio's own timers are made and thrown away each time. Here the loop keeps one, which looks at the time when it rings
and goes on sleeping where it has been put off meanwhile.
"""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls `call` with a reason when its time has come, once for each time it is set."""

    __slots__ = ("_call", "_timer", "_why", "due")

    def __init__(self, call: Callable[[str], None]) -> None:
        self._call = call
        self._why = ""
        self._timer: asyncio.TimerHandle | None = None
        self.due: float | None = None
        """When it is to ring, on the loop's clock."""

    def set(self, seconds: float, why: str) -> None:
        """Ring in so many seconds, and not when it was to before."""
        loop = asyncio.get_running_loop()
        self._why = why
        self.due = due = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring)
        elif self._timer.when() > due:
            self._timer.cancel()
            self._timer = loop.call_at(due, self._ring)

    def put_off(self) -> None:
        """Don't ring until it is set again."""
        self.due = None

    def cancel(self) -> None:
        """The same for good: the loop forgets it."""
        self.due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self.due is None:
            return
        loop = asyncio.get_running_loop()
        if self.due > loop.time():
            self._timer = loop.call_at(self.due, self._ring)
            return
        self.due = None
        self._call(self._why)
