"""Waiting for a key: requests that every key has refused for now stand in line, fairly by caller.

1. Those who may go to the same places with the same model stand in one line. In a line callers have their turns, and
   each caller's requests go in the order in which they came.
2. The line moves when something is learned (a probe was answered: two go, and each of their answers lets two more go)
   and when the time of a place is over. So whoever has recovered is not run over.
3. `MOST` wait in a process, and `MOST_A_CALLER` of a caller; more are refused at once.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

MOST = 1000
MOST_A_CALLER = 100
_SOON = 0.05
"""Seconds between two looks at least."""


@dataclass(eq=False, slots=True)
class _Waiter[T]:
    caller: str
    take: Callable[[], T | None]
    future: asyncio.Future[T]


@dataclass(eq=False, slots=True)
class _Line[T]:
    callers: OrderedDict[str, deque[_Waiter[T]]] = field(default_factory=OrderedDict)
    timer: asyncio.TimerHandle | None = None
    soonest: Callable[[], float | None] = lambda: None


class Lines[T]:
    """All lines of a process. `T` is what is waited for."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line[T]] = {}
        self._by_caller: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._by_caller.total()

    def is_waited_for(self, line: Hashable) -> bool:
        """Whether others stand there already, who come first."""
        return line in self._lines

    async def wait(
        self,
        line: Hashable,
        caller: str,
        seconds: float,
        take: Callable[[], T | None],
        soonest: Callable[[], float | None],
        lost: Callable[[T], object],
    ) -> T | None:
        """What `take` gives when it is this one's turn; None after `seconds`, or where too many wait.

        `take` is called when it may have something, and `soonest` says in how many seconds that is to be expected.
        `lost` gets back what was taken for one that has left in that moment.
        """
        if len(self) >= MOST or self._by_caller[caller] >= MOST_A_CALLER:
            return None
        standing = self._lines.setdefault(line, _Line())
        standing.soonest = soonest
        waiter = _Waiter(caller, take, asyncio.get_running_loop().create_future())
        standing.callers.setdefault(caller, deque()).append(waiter)
        self._by_caller[caller] += 1
        self._set_timer(line, standing)
        try:
            async with asyncio.timeout(seconds):
                found: T = await waiter.future
                return found
        except TimeoutError:
            # It may have got something in this very turn.
            return waiter.future.result() if waiter.future.done() and not waiter.future.cancelled() else None
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                lost(waiter.future.result())
            raise
        finally:
            self._leave(line, standing, waiter)

    def _leave(self, line: Hashable, standing: _Line[T], waiter: _Waiter[T]) -> None:
        self._by_caller[waiter.caller] -= 1
        if not self._by_caller[waiter.caller]:
            del self._by_caller[waiter.caller]
        queue = standing.callers.get(waiter.caller)
        if queue is not None:
            if waiter in queue:
                queue.remove(waiter)
            if not queue:
                del standing.callers[waiter.caller]
        if not standing.callers and self._lines.get(line) is standing:
            if standing.timer is not None:
                standing.timer.cancel()
            del self._lines[line]

    def move(self, most: int) -> None:
        """Something was learned: let so many go in each line."""
        for line, standing in list(self._lines.items()):
            self._move(standing, most)
            self._set_timer(line, standing)

    def _move(self, standing: _Line[T], most: int) -> None:
        for _ in range(most):
            waiter = self._next(standing)
            if waiter is None:
                return
            found = waiter.take()
            if found is None:
                return
            waiter.future.set_result(found)
            queue = standing.callers[waiter.caller]
            queue.popleft()
            if queue:
                standing.callers.move_to_end(waiter.caller)
            else:
                del standing.callers[waiter.caller]

    def _next(self, standing: _Line[T]) -> _Waiter[T] | None:
        """Whose turn it is."""
        for queue in standing.callers.values():
            for waiter in queue:
                if not waiter.future.done():
                    while queue[0] is not waiter:
                        queue.popleft()  # who has left and not gone yet
                    return waiter
        return None

    def _set_timer(self, line: Hashable, standing: _Line[T]) -> None:
        if standing.timer is not None:
            standing.timer.cancel()
            standing.timer = None
        if not standing.callers:
            return
        seconds = standing.soonest()
        wait = max(_SOON, seconds) if seconds is not None else _SOON
        standing.timer = asyncio.get_running_loop().call_later(wait, self._look, line)

    def _look(self, line: Hashable) -> None:
        standing = self._lines.get(line)
        if standing is not None:
            standing.timer = None
            self._move(standing, 1)
            self._set_timer(line, standing)
