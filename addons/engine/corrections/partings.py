"""Partings: a client that has read a stream to its last event may leave, and upstream still has a moment.

What it says in it counts: the last chunk, a usage behind the last event. mitmproxy would close upstream at once, and
call the exchange broken (engine/corrections/answers.py, "Partings", takes it for finished).
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass, field

from mitmproxy import connection, http

from addons.engine.transports import cut_upstream

MOMENT = 1.0
"""Seconds that upstream has to come to its end, once the client is gone."""
WHY = "relay: the client has read its last event"

_PARTING = "relay_parting"
_PARTINGS = "relay_partings"


@dataclass
class _Parting:
    timer: asyncio.TimerHandle
    over: asyncio.Event = field(default_factory=asyncio.Event)


def begin(flow: http.HTTPFlow) -> bool:
    """The client of `flow` has left; False where nobody could see to it that upstream ends, too.

    mitmproxy 12.2.3 closes upstream as soon as the client has left, so a usage behind the last event is lost. Remove
    when a flow can outlive its client.
    """
    try:
        timer = asyncio.get_running_loop().call_later(MOMENT, cut_upstream, flow, WHY)
    except RuntimeError:
        return False
    parting = _Parting(timer)
    setattr(flow, _PARTING, parting)
    client = flow.client_conn
    setattr(client, _PARTINGS, [*getattr(client, _PARTINGS, ()), parting])
    return True


def end(flow: http.HTTPFlow) -> None:
    """The exchange is over; harmless where none of it was a parting."""
    parting: _Parting | None = getattr(flow, _PARTING, None)
    if parting is not None:
        parting.timer.cancel()
        parting.over.set()
        getattr(flow.client_conn, _PARTINGS).remove(parting)
        delattr(flow, _PARTING)


def left(client: connection.Client) -> Awaitable[None] | None:
    """What to wait for once a client is gone: mitmproxy closes its upstreams when this is over. None: nothing."""
    partings: list[_Parting] = getattr(client, _PARTINGS, [])
    return _wait(list(partings)) if partings else None


async def _wait(partings: list[_Parting]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * MOMENT):
            for each in partings:
                await each.over.wait()
