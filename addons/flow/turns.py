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
    """Time that nobody else needs: while others are busy, a twentieth of it, and all of it while nobody is."""

    _SLICE, _LOOK, _BUSY, _OTHERS = 0.001, 0.001, 0.2, 19
    """Seconds of work in a row, and of a look at what others do then; the part of those in which they work when they
    are busy; and how many times as long as it has worked whoever takes the time waits for them."""

    def is_long(self, begun: float) -> bool:
        """Whether others are to have their turn, of work that was `begun` then, on the monotonic clock."""
        return time.monotonic() - begun >= self._SLICE

    async def wait(self, begun: float) -> None:
        """Let others have it."""
        ended, used = time.monotonic(), time.thread_time()
        await asyncio.sleep(self._LOOK)
        if time.thread_time() - used > (time.monotonic() - ended) * self._BUSY:
            await asyncio.sleep((ended - begun) * self._OTHERS)


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
