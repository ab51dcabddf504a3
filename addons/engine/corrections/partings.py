"""Partings: a client that has read a stream to its last event may leave, and upstream still has a moment.

What it says in it counts: the last chunk, a usage behind the last event. mitmproxy would close upstream at once, and
call the exchange broken (engine/corrections/answers.py, "Partings", takes it for finished).
"""

import asyncio
import contextlib
from collections.abc import Awaitable

from mitmproxy import connection, http

from addons.engine.transports import cut_upstream
from addons.exchange import Parting, keep_parting, take_parting

MOMENT = 1.0
"""Seconds that upstream has to come to its end, once the client is gone."""
WHY = "relay: the client has read its last event"

_PARTINGS = "relay_partings"
"""Of a client's connection, which has several flows at once over HTTP/2."""


def begin(flow: http.HTTPFlow) -> bool:
    """The client of `flow` has left; False where nobody could see to it that upstream ends, too.

    mitmproxy 12.2.3 closes upstream as soon as the client has left, so a usage behind the last event is lost. Remove
    when a flow can outlive its client.
    """
    try:
        timer = asyncio.get_running_loop().call_later(MOMENT, cut_upstream, flow, WHY)
    except RuntimeError:
        return False
    parting = Parting(timer)
    keep_parting(flow, parting)
    client = flow.client_conn
    setattr(client, _PARTINGS, [*getattr(client, _PARTINGS, ()), parting])
    return True


def end(flow: http.HTTPFlow) -> None:
    """The exchange is over; harmless where none of it was a parting."""
    parting = take_parting(flow)
    if parting is not None:
        parting.timer.cancel()
        parting.over.set()
        getattr(flow.client_conn, _PARTINGS).remove(parting)


def left(client: connection.Client) -> Awaitable[None] | None:
    """What to wait for once a client is gone: mitmproxy closes its upstreams when this is over. None: nothing."""
    partings: list[Parting] = getattr(client, _PARTINGS, [])
    return _wait(list(partings)) if partings else None


async def _wait(partings: list[Parting]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * MOMENT):
            for each in partings:
                await each.over.wait()
