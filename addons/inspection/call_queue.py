"""Call queue: finished calls one after the other, in the order in which they were asked, once their records are clean.

An SDK asks on while the record of the answer before is still being cleaned, and a long record takes longer than the
next one. Each lane has a queue of its own, and nobody waits for another's.
"""

import asyncio
import contextlib
import heapq
import logging
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import takewhile

from mitmproxy import http

from addons.core.slices import Sliced
from addons.exchange import Exchange
from addons.flow.turns import in_turns

logger = logging.getLogger(__name__)

_PATIENCE, _PATIENCE_SAVED = 5.0, 60.0
"""Seconds that a call waits for the record of one that was asked before it; and where a file is written."""
_MOST = 5000
"""Calls that are open, and calls that wait for their turn: more of them are not looked after."""


class Mark:
    """An event for which mostly nobody waits."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        """It has come."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Until it has."""
        if not self._is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


@dataclass(eq=False, slots=True)
class QueuedCall:
    """A call that has not had its turn yet."""

    flow: http.HTTPFlow
    exchange: Exchange
    key: str
    """As it came: until its record is clean, that is what there is of all of them."""
    ended: bool = False
    clean: Mark = field(default_factory=Mark)
    done: Mark = field(default_factory=Mark)

    @property
    def saved(self) -> bool:
        """What is written to a file stays as it is."""
        return self.exchange.record.saved

    @property
    def lane(self) -> str | None:
        """The calls whose order matters: those of its key; where a file is written all, since a conversation may go on
        with another key.
        """
        return None if self.saved else self.key

    @property
    def is_over(self) -> bool:
        """Whether its client has all of it: some go on at the last event, before upstream has ended."""
        told = self.exchange.stream.ended
        try:
            return self.ended or (told is not None and told())
        except Exception:  # a tap that fails has seen none; nobody else waits for that
            return self.ended

    def __lt__(self, other: "QueuedCall") -> bool:
        return self.exchange.started < other.exchange.started


class CallQueue:
    """`take` does with a call what is to be done with it."""

    def __init__(self, take: Callable[[QueuedCall], Sliced[None]]) -> None:
        self._take = take
        self._open: list[QueuedCall] = []
        """The one that was asked first stands first."""
        self._waiting = 0
        self._lanes: dict[str | None, list[QueuedCall]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    def expect(self, call: QueuedCall) -> None:
        """It is being answered: what is asked after it has ended waits for its record."""
        insort(self._open, call)
        if len(self._open) > _MOST:
            del self._open[0]

    def is_next(self, call: QueuedCall) -> bool:
        """Whether a call that is clean has to wait for none."""
        return call.lane not in self._lanes and self._before(call) is None

    def leave(self, call: QueuedCall) -> None:
        """It has had its turn, or needs none."""
        self._close(call)
        call.clean.set()
        call.done.set()

    def enter(self, call: QueuedCall) -> Awaitable[None] | None:
        """Its record is clean, and it waits for its turn. What to await where a file waits for it."""
        if self._waiting >= _MOST:
            self.leave(call)
            return None
        self._close(call)
        call.clean.set()
        self._waiting += 1
        if (lane := self._lanes.get(call.lane)) is not None:
            heapq.heappush(lane, call)
        else:
            self._lanes[call.lane] = [call]
            worker = asyncio.get_running_loop().create_task(self._work(call.lane))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return call.done.wait() if call.saved else None

    async def _work(self, name: str | None) -> None:
        lane = self._lanes[name]
        while lane:
            if (before := self._before(lane[0])) is None:
                await in_turns(self._turns(lane))
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(before.clean.wait(), _PATIENCE_SAVED if before.saved else _PATIENCE)
            self._close(before)  # it may have failed on its way here
        del self._lanes[name]

    def _turns(self, lane: list[QueuedCall]) -> Sliced[None]:
        while lane and self._before(lane[0]) is None:
            call = heapq.heappop(lane)
            self._waiting -= 1
            try:
                yield from self._take(call)
            except Exception:
                logger.exception("a call can't be placed in its thread")
            finally:
                call.done.set()
            yield

    def _before(self, call: QueuedCall) -> QueuedCall | None:
        """One that was asked before and is over, and whose record is not clean."""
        earlier = takewhile(lambda each: each < call, self._open)
        return next((each for each in earlier if each.lane == call.lane and each.is_over), None)

    def _close(self, call: QueuedCall) -> None:
        at = bisect_left(self._open, call)
        while at < len(self._open) and not call < self._open[at]:  # several may have been asked at the same time
            if self._open[at] is call:
                del self._open[at]
                return
            at += 1
