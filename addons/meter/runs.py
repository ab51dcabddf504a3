"""Runs: work that reads much for somebody who waits, in threads of its own, and only as long as somebody does.

1. Two threads: however many ask, the event loop keeps its share, and nothing else that needs a thread waits for these.
2. Equal questions that are asked at once share one run.
3. A run that nobody waits for any more is told to stop, and so are all when relay ends: Python joins its threads.
"""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from addons import errors
from addons.store.ledger_reader import Stopped

type Stop = Callable[[], bool]
"""Whether nobody waits any more."""


@dataclass(eq=False)
class _Run:
    stopped: bool = False
    waiting: int = 0
    work: Future[Any] = field(init=False)
    future: asyncio.Future[Any] = field(init=False)
    """The same, for whoever waits."""

    def stop(self) -> bool:
        return self.stopped


class Runs:
    """What is under way."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="relay-report")
        self._runs: dict[Hashable, _Run] = {}

    async def run[T](self, question: Hashable, work: Callable[[Stop], T]) -> T:
        """The result of `work`, or of the same question's that is under way. `work` looks at what it is given now and
        then, and raises Stopped where that says so.

        Raises what `work` raises, and Unavailable where it was stopped by `stop`.
        """
        run = self._runs.get(question)
        if run is None:
            run = self._runs[question] = _Run()
            run.work = self._pool.submit(work, run.stop)
            run.future = asyncio.wrap_future(run.work)
        run.waiting += 1
        try:
            found: T = await asyncio.shield(run.future)
            return found
        except Stopped:
            raise errors.Unavailable("中转服务正在停止。", "This relay is about to end.") from None
        finally:
            run.waiting -= 1
            if not run.waiting:
                self._leave(question, run)

    def _leave(self, question: Hashable, run: _Run) -> None:
        """Nobody waits for it."""
        run.stopped = True
        run.work.cancel()  # it may not have begun, and never does then: asyncio's own cancels it in the next turn
        run.future.cancel()
        if self._runs.get(question) is run:
            del self._runs[question]

    def stop(self) -> None:
        """relay ends: whatever is under way ends soon."""
        for question, run in list(self._runs.items()):
            run.stopped = True
            del self._runs[question]
