"""Finishing: the records that nobody reads before a person looks into the list are finished behind their exchanges, in
time that nobody else needs. Whoever only looks on slows down nobody.

Until then a record shows what may be seen of it without looking into it: its row has a method, a path and a status.
What falls out of the list before its turn has come is not finished at all.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mitmproxy import ctx, http

from addons.core.slices import Sliced
from addons.exchange import of
from addons.flow.turns import SpareTime

logger = logging.getLogger(__name__)

Hook = Callable[[http.HTTPFlow], Awaitable[None] | None]


class Finishing:
    """Runs `hooks` for each record once it is clean, the one that ended first first. `dropped` hears of one that is not
    in the list any more, or can't be cleaned."""

    optional = True

    def __init__(self, hooks: Sequence[Hook], dropped: Callable[[http.HTTPFlow], None]) -> None:
        self._hooks = hooks
        self._dropped = dropped
        self._waiting: deque[http.HTTPFlow] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._time = SpareTime()

    def response(self, flow: http.HTTPFlow) -> None:
        """All of it is sent."""
        exchange = of(flow)
        if exchange is None or not exchange.record.later:
            return
        self._waiting.append(flow)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        await asyncio.sleep(0)  # mitmproxy's tasks begin at once, and this hook is to be over
        begun = time.monotonic()
        while self._waiting:
            for _ in self._finishing(self._waiting.popleft()):
                if self._time.is_long(begun):
                    await self._time.wait(begun)
                    begun = time.monotonic()

    def _finishing(self, flow: http.HTTPFlow) -> Sliced[None]:
        exchange, view = of(flow), ctx.master.addons.get("view")
        if exchange is None:
            return
        record = exchange.record
        cleaning, record.cleaning = record.cleaning, None
        if view is None or view.get_by_id(flow.id) is None:
            self._dropped(flow)
            return
        try:
            yield from cleaning or ()
            record.later = False
            for hook in self._hooks:
                yield
                hook(flow)
        except Exception:
            logger.exception("a record can't be finished")
            record.later = False
            self._dropped(flow)
        yield
        try:
            view.update([flow])
        except Exception:
            logger.exception("a list can't be told of an exchange")
        yield
