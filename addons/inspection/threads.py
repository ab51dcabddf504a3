"""Threads: notes on each call of a model which conversation it belongs to, and why it cost what it did.

    ~comment 4f1c2a9e                  one thread, by its short hash in the comments
    ~meta "relay.thread: 4f1c"         the same, in what -w has saved, too
    ~meta "reason.: .prefix_changed"   the calls whose prompt began otherwise than the one before

Only where somebody looks: mitmweb, mitmproxy, or a file that flows are saved to. It reads records as they are kept,
without keys.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from mitmproxy import http

from addons.config.settings import Settings
from addons.core.slices import Sliced, at_once
from addons.core.threads.call import Call
from addons.core.threads.registry import Threads
from addons.exchange import Exchange, Part, of
from addons.flow.model_calls import THREAD, UPSTREAM, call_of, is_call, note, shown_key
from addons.flow.turns import LITTLE, in_turns
from addons.inspection.placing import cost_of_lost
from addons.meter.prices import Prices

logger = logging.getLogger(__name__)

_PATIENCE, _PATIENCE_SAVED = 5.0, 60.0
"""Seconds that a call waits for the record of each that was asked before it; and where a file is written."""
_MOST_OPEN = 5000


@dataclass(eq=False, slots=True)
class _Open:
    """A call that is not placed yet."""

    exchange: Exchange
    key: str
    ended: bool = False
    placed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether its client has all of it: some go on at the last event, before upstream has ended."""
        told = self.exchange.stream.ended
        return self.ended or (told is not None and told())


_OPEN = Part[_Open]("threads.open")


class ThreadNotes:
    """Places finished calls, in the order in which they were asked. `threads` outlives a change of settings; `placed`
    hears of a flow that is placed when its hooks are over."""

    optional = True

    def __init__(
        self, settings: Settings, threads: Threads, prices: Prices, placed: Callable[[http.HTTPFlow], None]
    ) -> None:
        self.threads = threads
        self.prices = prices
        self.threads.most = settings.inspect.keep_threads
        self.placed = placed
        self._open: dict[_Open, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def line_up(self, flow: http.HTTPFlow, *, ended: bool) -> None:
        """A call is being answered, or has ended; it is placed once it is clean."""
        exchange = of(flow)
        if exchange is None or not exchange.record.watched or exchange.refused or not self.threads.most:
            return
        call = _OPEN.of(exchange)
        if call is None and is_call(flow) and THREAD not in flow.metadata:
            call = _OPEN.keep(exchange, _Open(exchange, shown_key(flow)))
            self._open[call] = None
            if len(self._open) > _MOST_OPEN:
                del self._open[next(iter(self._open))]
        if call is not None:
            call.ended = call.ended or ended

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Its record is clean."""
        return self._note(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """As after an answer."""
        return self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        mine = _OPEN.take(exchange) if exchange is not None else None
        if exchange is None or mine is None:
            return None
        flow.metadata[UPSTREAM] = exchange.upstream.name
        before, call = self._before(mine), call_of(flow)
        if not before and (call is None or len(call.body) + len(call.answer) <= LITTLE):
            try:
                at_once(self._placing(flow, call))
            finally:
                self._over(mine)
            return None
        placing = self._place(flow, call, mine, before)
        if exchange.record.saved:
            return placing
        # A list can be put right later: no client waits for that.
        task = asyncio.get_running_loop().create_task(self._place_beside(flow, placing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _place_beside(self, flow: http.HTTPFlow, placing: Coroutine[Any, Any, None]) -> None:
        try:
            await placing
            self.placed(flow)
        except Exception:
            logger.exception("a call can't be placed in its thread")

    def _before(self, mine: _Open) -> list[_Open]:
        """The calls that were asked before and are over. Those of others are waited for where a file is written: a
        conversation may go on with another key, and what is in a file stays as it is."""
        every = mine.exchange.record.saved
        earlier = (each for each in self._open if each is not mine and each.exchange.started <= mine.exchange.started)
        return [each for each in earlier if (every or each.key == mine.key) and each.is_over]

    def _over(self, call: _Open) -> None:
        self._open.pop(call, None)
        call.placed.set()

    async def _place(self, flow: http.HTTPFlow, call: Call | None, mine: _Open, before: Sequence[_Open]) -> None:
        try:
            patience = _PATIENCE_SAVED if mine.exchange.record.saved else _PATIENCE
            for each in before:
                with contextlib.suppress(TimeoutError):  # it may have failed on its way here
                    await asyncio.wait_for(each.placed.wait(), patience)
            await in_turns(self._placing(flow, call))
        finally:
            self._over(mine)

    def _placing(self, flow: http.HTTPFlow, call: Call | None) -> Sliced[None]:
        placed = (yield from self.threads.placing(call)) if call is not None else None
        if call is not None and placed is not None:
            note(flow, placed, cost_of_lost(call, placed, self.prices))
