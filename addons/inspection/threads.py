"""Threads: notes on each call of a model which conversation it belongs to, and why it cost what it did.

    ~comment 4f1c2a9e                  one thread, by its short hash in the comments
    ~meta "relay.thread: 4f1c"         the same, in what -w has saved, too
    ~meta "reason.: .prefix_changed"   the calls whose prompt began otherwise than the one before

Only where somebody looks: mitmweb, mitmproxy, or a file that flows are saved to. It reads records as they are kept,
without keys.
"""

from collections.abc import Awaitable, Callable

from mitmproxy import http

from addons.config.settings import Settings
from addons.core.slices import Sliced, at_once
from addons.core.threads.call import Call
from addons.core.threads.registry import Threads
from addons.exchange import Part, of
from addons.flow.model_calls import THREAD, UPSTREAM, call_of, is_call, note, shown_key
from addons.flow.turns import LITTLE
from addons.inspection.call_queue import CallQueue, QueuedCall
from addons.inspection.placing import cost_of_lost
from addons.meter.prices import Prices

_CALL = Part[QueuedCall]("threads.call")


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
        self.queue = CallQueue(self._take)

    def line_up(self, flow: http.HTTPFlow, *, ended: bool) -> None:
        """A call is being answered, or has ended; it is placed once it is clean."""
        exchange = of(flow)
        if exchange is None or not exchange.record.watched or exchange.refused or not self.threads.most:
            return
        call = _CALL.of(exchange)
        if call is None and is_call(flow) and THREAD not in flow.metadata:
            call = _CALL.keep(exchange, QueuedCall(flow, exchange, shown_key(flow)))
            self.queue.expect(call)
        if call is not None:
            call.ended = call.ended or ended

    def forget(self, flow: http.HTTPFlow) -> None:
        """Its record will never be clean."""
        exchange = of(flow)
        if exchange is not None and (queued := _CALL.take(exchange)) is not None:
            self.queue.leave(queued)

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Its record is clean."""
        return self._note(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """As after an answer."""
        return self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        if exchange is None or exchange.record.later or (queued := _CALL.take(exchange)) is None:
            return None
        flow.metadata[UPSTREAM] = exchange.upstream.name
        # A list can be put right later: no client waits for that.
        return None if self._place_little(queued) else self.queue.enter(queued)

    def _place_little(self, queued: QueuedCall) -> bool:
        """Place it at once, where that is no work, and nobody is before it; whether it was."""
        if not self.queue.is_next(queued):
            return False
        call = call_of(queued.flow)
        if call is not None and len(call.body) + len(call.answer) > LITTLE:
            return False
        try:
            at_once(self._placing(queued.flow, call))
        finally:
            self.queue.leave(queued)
        return True

    def _take(self, queued: QueuedCall) -> Sliced[None]:
        yield from self._placing(queued.flow, call_of(queued.flow))
        if not queued.saved:
            self.placed(queued.flow)

    def _placing(self, flow: http.HTTPFlow, call: Call | None) -> Sliced[None]:
        placed = (yield from self.threads.placing(call)) if call is not None else None
        if call is not None and placed is not None:
            note(flow, placed, cost_of_lost(call, placed, self.prices))
