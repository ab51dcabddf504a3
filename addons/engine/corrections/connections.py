"""Connections: what a client may expect of one after something went wrong on it."""

import asyncio
import contextlib
from collections import defaultdict
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy.server import ConnectionHandler

from addons.engine.corrections.reading import LetGo, Patient, WholeReading
from addons.engine.pool import lending
from addons.engine.wrapping import replace, wrap


def install() -> None:
    """Make the changes of this room."""
    wrap(ConnectionHandler, "handle_connection", _begin_after_registration)
    replace(ConnectionHandler, "drain_writers", _drain_writers)


async def _begin_after_registration(stock: Any, handler: Any, connection: Any) -> None:
    """mitmproxy 12.2.3 enters a client's task in `transports` after it was started, and tasks start eagerly; so with
    the end of the connection already read the task is over before it is known, which is logged as a crash. Here it
    waits a turn, and relay's readers take their places. Remove when handle_client registers before the task can run.
    """
    if handler.transports[connection].handler is None:
        # Tasks start eagerly: with the end of the connection already read, this one would be over before it is known.
        await asyncio.sleep(0)
    io = handler.transports[connection]
    if type(io.reader) is asyncio.StreamReader:
        io.reader = Patient(io.reader)
        protocol = io.writer.transport.get_protocol()
        if type(protocol) is asyncio.StreamReaderProtocol:
            protocol.__class__ = WholeReading
    with contextlib.suppress(LetGo):
        lending.begin(handler, connection)
        try:
            await stock(handler, connection)
        finally:
            lending.end(handler, connection)


async def _drain_writers(handler: Any) -> None:
    """mitmproxy 12.2.3 cancels an upstream's connection over a write that fails, and asks each writer behind a lock
    after every read; so the answer of one that refuses an upload early and closes is lost. As stock, but an upstream
    that takes no more is not given up, and what has nothing to drain is left alone, which is nearly always all there
    is. Remove when drain_writers reads on from a server whose write side broke.
    """
    full = [(peer, io) for peer, io in handler.transports.items() if io.writer is not None and _holds_data(io.writer)]
    if not full:
        return
    try:
        async with handler._drain_lock:
            for peer, io in full:
                await _drain(peer, io)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if all(io.handler is not task for io in handler.transports.values()):
            raise LetGo from None  # what was to be closed is somebody else's
        raise


async def _drain(peer: Any, io: Any) -> None:
    try:
        await io.writer.drain()
    except OSError as error:
        if io.handler is not None and not isinstance(peer, Server):
            io.handler.cancel(f"Error sending data: {error}")


def _holds_data(writer: Any) -> bool:
    return not isinstance(writer, asyncio.StreamWriter) or writer.transport.get_write_buffer_size() > 0


def allow_upstreams(handler: ConnectionHandler, count: int) -> None:
    """Let one client have so many connections to each upstream at a time.

    mitmproxy 12.2.3 allows five to an address, which an HTTP/2 client meets with its sixth stream; so that one waits
    until another has ended. Remove when the number is an option (issue #8322).
    """
    handler.max_conns = defaultdict(lambda: asyncio.Semaphore(count))
