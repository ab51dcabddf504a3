"""Turns: work in slices (`core.slices`) on the event loop, which serves others between them.

All such work of a process shares one turn in each round of the loop: forty slices of 5 ms in a row would hold it as one
of 200 ms does.
"""

import asyncio
import time
from weakref import WeakKeyDictionary

from addons.core.slices import Sliced, at_once

_LONG, _SHORT = 0.01, 0.002
"""Seconds of work in slices in one round of the loop; and those within which one piece of work takes its next slice
without asking again."""
LITTLE = 1 << 14
"""Bytes of a body that is no work worth a turn: to look through it takes less than 0.5 ms."""


class _Share:
    """What work in slices has taken of the present round; each slice is done inside of it, in the order of asking."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._taken = self._begun = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        if self._taken > _LONG:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._lock.release()
                raise
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._renew)
        self._begun = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self._taken += time.monotonic() - self._begun
        self._lock.release()

    def _renew(self) -> None:
        self._taken = 0.0


_shares: WeakKeyDictionary[asyncio.AbstractEventLoop, _Share] = WeakKeyDictionary()


class SpareTime:
    """Time that nobody else needs. Whoever works in it takes most of what others leave, and a hundredth of all where
    they leave nothing: how busy they are is told by how often the loop has something else to do when it is wanted.
    """

    _SLICE, _LATE = 0.001, 0.0005
    """Seconds of work in a row; and those by which a timer is late where the loop does something else."""
    _ALL, _LEAST, _MOST = 0.95, 0.01, 0.7
    """Parts of the time: what others take when they leave nothing, and what is taken here, at least and at most."""
    _WORK = 0.2
    """The part of the time in which they are seen to work when they do."""
    _NEWEST = 0.1
    """What the latest look counts for."""

    def __init__(self) -> None:
        self._others = 0.0

    def is_long(self, begun: float) -> bool:
        """Whether others are to have their turn, of work that was `begun` then, on the monotonic clock."""
        return time.monotonic() - begun >= self._SLICE

    async def wait(self, begun: float) -> None:
        """Let others have it."""
        ended, used = time.monotonic(), time.thread_time()
        part = max(self._LEAST, self._MOST * (1 - self._others / self._ALL))
        due = ended + (ended - begun) * (1 - part) / part
        await asyncio.sleep(due - ended)
        now = time.monotonic()
        # Late it is on a busy machine, too, where the loop has nothing to do.
        busy = now - due > self._LATE and time.thread_time() - used > (now - ended) * self._WORK
        self._others += (busy - self._others) * self._NEWEST


async def in_turns_if_large[T](work: Sliced[T], size: int) -> T:
    """`in_turns`; where `size`, the bytes that it is about, is little, at once."""
    return at_once(work) if size <= LITTLE else await in_turns(work)


async def in_turns[T](work: Sliced[T]) -> T:
    """The result of `work`; between two of its slices the event loop takes up whatever else is waiting."""
    share = _shares.setdefault(asyncio.get_running_loop(), _Share())
    while True:
        async with share:
            until = time.monotonic() + _SHORT
            try:
                next(work)
                while time.monotonic() < until:
                    next(work)
            except StopIteration as end:
                result: T = end.value
                return result
        await asyncio.sleep(0)
