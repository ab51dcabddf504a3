"""Threads: notes on each call of a model which conversation it belongs to, and why it cost what it did.

    ~comment 4f1c2a9e                  one thread, by its short hash in the comments
    ~meta "relay.thread: 4f1c"         the same, in what -w has saved, too
    ~meta "reason.: .prefix_changed"   the calls whose prompt began otherwise than the one before

Only where somebody looks: mitmweb, mitmproxy, or a file that flows are saved to. It reads records as they are kept,
without keys.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable

from mitmproxy import http

from addons.config.settings import Settings
from addons.core.slices import Sliced, at_once
from addons.core.threads.call import Call
from addons.core.threads.registry import Threads
from addons.exchange import Part, of
from addons.flow.model_calls import THREAD, UPSTREAM, call_of, is_call, note, shown_key
from addons.flow.turns import LITTLE, in_turns
from addons.inspection.placing import cost_of_lost
from addons.meter.prices import Prices

_MOST_KEYS = 1000
_PATIENCE = 5.0
"""Seconds that a call waits for the record of the one that has ended before it."""
_PLACE = Part[tuple[asyncio.Event | None, asyncio.Event]]("threads.place")
"""Whom it waits for, and who waits for it."""


class ThreadNotes:
    """Places finished calls, in the order in which they have ended. `threads` outlives a change of settings."""

    optional = True

    def __init__(self, settings: Settings, threads: Threads, prices: Prices) -> None:
        self.threads = threads
        self.prices = prices
        self.threads.most = settings.inspect.keep_threads
        self._latest: OrderedDict[str, asyncio.Event] = OrderedDict()
        """By keys: set once the call that has ended last is placed. Others' are waited for where a file is written."""

    def line_up(self, flow: http.HTTPFlow) -> None:
        """A call has ended; it is placed once it is clean."""
        exchange = of(flow)
        if exchange is None or not exchange.record.watched or exchange.refused or not self.threads.most:
            return
        if is_call(flow) and THREAD not in flow.metadata:
            # A conversation may go on with another key, and what is in a file stays as it is.
            over, key = asyncio.Event(), "" if exchange.record.saved else shown_key(flow)
            _PLACE.keep(exchange, (self._latest.pop(key, None), over))
            self._latest[key] = over
            if len(self._latest) > _MOST_KEYS:
                self._latest.popitem(last=False)

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Its record is clean."""
        return self._note(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """As after an answer."""
        return self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        place = _PLACE.take(exchange) if exchange is not None else None
        if exchange is None or place is None:
            return None
        flow.metadata[UPSTREAM] = exchange.upstream.name
        before, over = place
        call = call_of(flow)
        if before is None or before.is_set():
            if call is None or len(call.body) + len(call.answer) <= LITTLE:
                try:
                    at_once(self._placing(flow, call))
                finally:
                    over.set()
                return None
            before = None
        return self._place(flow, call, before, over)

    async def _place(
        self, flow: http.HTTPFlow, call: Call | None, before: asyncio.Event | None, over: asyncio.Event
    ) -> None:
        try:
            if before is not None:
                with contextlib.suppress(TimeoutError):  # it may have failed on its way here
                    await asyncio.wait_for(before.wait(), _PATIENCE)
            await in_turns(self._placing(flow, call))
        finally:
            over.set()

    def _placing(self, flow: http.HTTPFlow, call: Call | None) -> Sliced[None]:
        placed = (yield from self.threads.placing(call)) if call is not None else None
        if call is not None and placed is not None:
            note(flow, placed, cost_of_lost(call, placed, self.prices))
