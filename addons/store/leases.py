"""Leases on sessions, for one process: one holder at a time, in order of arrival, with a bounded queue.

A lease of this process ends with it, so none expires here. Where other processes hold leases of this one's store
(addons/workers/store_server.py), whoever serves them releases what a dead or stopped holder has.
"""

import asyncio
import itertools
import time
from collections import deque
from functools import partial

from addons.store import Lease, LeaseRequest, TooManyWaiting, WaiterLeft


class FairLocks:
    """Locks by key. One that nobody holds takes no memory."""

    def __init__(self, queues: dict[str, deque[asyncio.Future[None]]] | None = None) -> None:
        self.queues: dict[str, deque[asyncio.Future[None]]] = queues if queues is not None else {}

    def __len__(self) -> int:
        return len(self.queues)

    async def acquire(self, key: str, max_waiting: int) -> None:
        """Wait until it is our turn, and hold the lock until `release`.

        Raises TooManyWaiting without waiting where `max_waiting` wait already. Cancelled while waiting, it holds
        nothing.
        """
        queue = self.queues.get(key)
        if queue is None:
            self.queues[key] = deque()
            return
        if len(queue) >= max_waiting:
            raise TooManyWaiting
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(key)  # our turn came in the very moment we gave up
            elif turn in queue:
                queue.remove(turn)
            raise

    def release(self, key: str) -> None:
        """Let the next one in."""
        queue = self.queues[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self.queues[key]


class LocalLeases:
    """Leases of this process, whose waiting clients may leave.

    `before` are those of the code before a reload. What is known of holders and of who waits is plain values, and
    shared, so a lease goes on under either code.
    """

    def __init__(self, before: "LocalLeases | None" = None) -> None:
        self.locks: FairLocks = FairLocks(before.locks.queues if before is not None else None)
        self._waiting: dict[str, set[asyncio.Task[None]]] = before._waiting if before is not None else {}
        # Above those of a process before this one.
        self._fences: itertools.count[int] = before._fences if before is not None else itertools.count(time.time_ns())
        self._holders: dict[str, int] = before._holders if before is not None else {}

    def __len__(self) -> int:
        """How many sessions are held, and how many clients wait for one."""
        return len(self.locks) + len(self._waiting)

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """As `Store.lease`."""
        return LeaseRequest(partial(self._acquire, key, max_waiting, waiter))

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still its holder's."""
        return self._holders.get(lease.key) == lease.fence

    def waiter_left(self, waiter: str) -> None:
        """As `Store.waiter_left`."""
        for task in list(self._waiting.get(waiter, ())):
            task.cancel()

    async def _acquire(self, key: str, max_waiting: int, waiter: str) -> Lease:
        waiting = asyncio.ensure_future(self.locks.acquire(key, max_waiting))
        self._waiting.setdefault(waiter, set()).add(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.cancelled() and not _cancelling():
                raise WaiterLeft from None
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self.locks.release(key)
            waiting.cancel()
            raise
        finally:
            tasks = self._waiting[waiter]
            tasks.discard(waiting)
            if not tasks:
                del self._waiting[waiter]
        fence = self._holders[key] = next(self._fences)
        return Lease(key, fence, lambda: self._release(key, fence))

    def _release(self, key: str, fence: int) -> None:
        if self._holders.get(key) == fence:
            del self._holders[key]
            self.locks.release(key)


def _cancelling() -> bool:
    """Whether it is the task that runs this which is being cancelled, not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
