"""Draining: how a process that serves comes to its end without breaking off what is under way."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

from mitmproxy import ctx

_TICK = 0.1
RECORDS, _LEAST = 10.0, 1.0
"""Seconds in which what was served comes into the record, at most, and where all others are used up."""


class Draining(Protocol):
    """Whoever knows the clients."""

    @property
    def longest(self) -> float:
        """Seconds that what is under way has to come to its end."""

    async def announce(self) -> None:
        """Tell whoever watches that this process is about to end."""

    def drain(self) -> None:
        """Let each client go as soon as nothing of it is under way."""

    async def finish(self, within: float) -> None:
        """Wait for the records of what was served, at most so many seconds."""


async def drain(
    clients: Draining | None,
    *,
    announced: bool,
    listeners: Sequence[socket.socket] = (),
    longest: float | None = None,
) -> None:
    """Take no more clients, wait until the last one is gone, and end: after `longest` seconds in any case.

    With `announced` whoever asks /readyz hears of it before. `listeners` are closed: what others wait for in their
    queue is refused.
    """
    proxyserver = ctx.master.addons.get("proxyserver")
    if announced and clients is not None:
        await clients.announce()
    ctx.options.update(server=False)
    for listener in listeners:
        listener.close()
    await asyncio.sleep(_TICK)  # for who was just accepted to be seen
    if clients is not None:
        clients.drain()
    loop = asyncio.get_running_loop()
    end = loop.time() + longest if longest is not None else None
    while proxyserver.connections and (end is None or loop.time() < end):
        await asyncio.sleep(_TICK)
    await asyncio.sleep(_TICK)
    if clients is not None:
        await clients.finish(RECORDS if end is None else max(_LEAST, min(RECORDS, end - loop.time())))
    ctx.master.shutdown()
