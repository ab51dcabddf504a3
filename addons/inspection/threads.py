"""Threads: notes on each call of a model which conversation it belongs to, and why it cost what it did.

    ~comment 4f1c2a9e                  one thread, by its short hash in the comments
    ~meta "relay.thread: 4f1c"         the same, in what -w has saved, too
    ~meta "reason.: .prefix_changed"   the calls whose prompt began otherwise than the one before

Only where somebody looks: mitmweb, mitmproxy, or a file that flows are saved to. It reads records as they are kept,
without keys.
"""

from collections.abc import Awaitable
from decimal import Decimal

from mitmproxy import http

from addons.config.settings import Settings
from addons.core.slices import Sliced, at_once
from addons.core.threads.call import Call, Placed
from addons.core.threads.registry import Threads
from addons.exchange import of
from addons.flow.model_calls import UPSTREAM, call_of, note
from addons.flow.turns import LITTLE, in_turns
from addons.meter.prices import Prices


class ThreadNotes:
    """Places finished calls. `threads` outlives a change of settings."""

    optional = True

    def __init__(self, settings: Settings, threads: Threads, prices: Prices) -> None:
        self.threads = threads
        self.prices = prices
        self.threads.most = settings.inspect.keep_threads

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The exchange is over."""
        return self._note(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """It broke off."""
        return self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        if exchange is None or not exchange.record.watched or exchange.refused or not self.threads.most:
            return None
        flow.metadata[UPSTREAM] = exchange.upstream.name
        call = call_of(flow)
        if call is None:
            return None
        placing = self._placing(flow, call)
        if len(call.body) + len(call.answer) > LITTLE:
            return in_turns(placing)
        at_once(placing)
        return None

    def _placing(self, flow: http.HTTPFlow, call: Call) -> Sliced[None]:
        placed = yield from self.threads.placing(call)
        if placed is not None:
            note(flow, placed, self._cost(call, placed))

    def _cost(self, call: Call, placed: Placed) -> Decimal | None:
        """What the tokens cost that were lost; None where that is not known."""
        if placed.cause.tokens == 0:
            return Decimal(0)
        billed = placed.cause.billed
        if billed is None or not self.prices.loaded:
            return None
        return self.prices.list_cost(billed, call.upstream, placed.model, call.at)
