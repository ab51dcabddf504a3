"""Locks: one at a time through each gate, in order of arrival, with a bounded queue before it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Full(Exception):
    """As many wait before this gate as may."""


class Left(Exception):
    """Who waited is gone."""


class Queue(Protocol):
    """Gates as whoever waits before them sees them: here, or in another process."""

    async def enter(self, client: str, key: str, max_waiting: int) -> Callable[[], None]:
        """Wait for the gate `key` on behalf of a client. The result frees the gate.

        Raises Full and Left, and StoreError where the other process is gone.
        """

    def client_left(self, client: str) -> None:
        """Give up every place of a client."""


class FairLocks:
    """Gates by key. An unused gate takes no memory."""

    def __init__(self) -> None:
        self._gates: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._gates)

    async def enter(self, key: str, max_waiting: int) -> None:
        """Wait until it is our turn, and hold the gate until `leave`.

        Raises Full without waiting where `max_waiting` wait already. Cancelled while waiting, it holds nothing.
        """
        queue = self._gates.get(key)
        if queue is None:
            self._gates[key] = deque()
            return
        if len(queue) >= max_waiting:
            raise Full
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(key)  # our turn came in the very moment we gave up
            elif turn in queue:
                queue.remove(turn)
            raise

    def leave(self, key: str) -> None:
        """Let the next one in."""
        queue = self._gates[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._gates[key]


class LocalSessionLocks:
    """A turnstile whose waiting clients may leave."""

    def __init__(self) -> None:
        self.turnstile = FairLocks()
        self._waiting: dict[str, set[asyncio.Task[None]]] = {}

    async def enter(self, client: str, key: str, max_waiting: int) -> Callable[[], None]:
        """Wait for the gate `key` on behalf of a client. The result frees the gate; calling it again does nothing.

        Raises Full, and Left where the client has gone meanwhile.
        """
        waiting = asyncio.ensure_future(self.turnstile.enter(key, max_waiting))
        self._waiting.setdefault(client, set()).add(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.cancelled() and not _cancelling():
                raise Left from None
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self.turnstile.leave(key)
            waiting.cancel()
            raise
        finally:
            tasks = self._waiting[client]
            tasks.discard(waiting)
            if not tasks:
                del self._waiting[client]
        free = [key]
        return lambda: self.turnstile.leave(free.pop()) if free else None

    def client_left(self, client: str) -> None:
        """Give up every place of a client."""
        for task in list(self._waiting.get(client, ())):
            task.cancel()


def _cancelling() -> bool:
    """Whether it is the task that runs this which is being cancelled, not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
