"""Threads of records that no relay has placed as they passed: of a file that was saved elsewhere, or without looking.

All calls of such a file are placed anew, in the order in which they were asked; notes that are there already stay.
"""

from collections.abc import Sequence
from decimal import Decimal

from mitmproxy import http

from addons.core.slices import Sliced
from addons.core.threads.call import Call, Placed
from addons.core.threads.registry import Threads
from addons.flow.model_calls import THREAD, call_of, note
from addons.meter.prices import Prices

_MOST = 512 << 20
"""Bytes that threads take in memory meanwhile, roughly."""


def wants_placing(records: Sequence[http.HTTPFlow]) -> bool:
    """Whether a call of a model is among them that has no thread."""
    return any(THREAD not in each.metadata and call_of(each) is not None for each in records)


def placing(records: Sequence[http.HTTPFlow], prices: Prices) -> Sliced[None]:
    """Note the threads of records, which are clean. What lost tokens cost is told once `prices` are loaded."""
    threads = Threads(_MOST)
    for each in sorted(records, key=lambda each: each.request.timestamp_start):
        call = call_of(each)
        placed = (yield from threads.placing(call)) if call is not None else None
        if call is not None and placed is not None and THREAD not in each.metadata:
            note(each, placed, cost_of_lost(call, placed, prices))
        yield


def cost_of_lost(call: Call, placed: Placed, prices: Prices) -> Decimal | None:
    """Dollars at list price for the tokens that the cache had held and did not serve; None where that is not known."""
    if placed.cause.tokens == 0:
        return Decimal(0)
    if placed.lost is None or not prices.loaded:
        return None
    return prices.list_cost(placed.lost, call.upstream, placed.model, call.at)
