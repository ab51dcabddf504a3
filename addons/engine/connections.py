"""Connections: what a client may expect of one after something went wrong on it."""

import asyncio
import os
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.server import ConnectionHandler

from addons.engine.wrapping import Commands, wrap

_STEP = 1 << 16


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "get_connection", _forget_failed_connects)
    wrap(ConnectionHandler, "handle_connection", _begin_after_registration)
    wrap(ConnectionHandler, "drain_writers", _drain_writers)
    wrap(asyncio.StreamReaderProtocol, "connection_lost", _read_what_is_left)


def _forget_failed_connects(stock: Any, layer: HttpLayer, event: Any, **kwargs: Any) -> Commands:
    for known in layer.connections:
        if isinstance(known, Server) and known.error and known not in layer.waiting_for_establishment:
            known.error = None
    yield from stock(layer, event, **kwargs)


async def _begin_after_registration(stock: Any, handler: Any, connection: Any) -> None:
    if handler.transports[connection].handler is None:
        # Tasks start eagerly: with the end of the connection already read, this one would be over before it is known.
        await asyncio.sleep(0)
    await stock(handler, connection)


async def _drain_writers(stock: Any, handler: Any) -> None:
    """As stock, but an upstream that takes no more is not given up: its answer may be there already."""
    async with handler._drain_lock:
        for peer, transport in list(handler.transports.items()):
            if transport.writer is None:
                continue
            try:
                await transport.writer.drain()
            except OSError as error:
                if transport.handler is not None and not isinstance(peer, Server):
                    transport.handler.cancel(f"Error sending data: {error}")


def _read_what_is_left(stock: Any, protocol: Any, exc: Exception | None) -> None:
    """Hand on what a peer has said before the connection broke under a write; asyncio would throw it away."""
    reader, transport = protocol._stream_reader, protocol._transport
    if isinstance(exc, ConnectionError) and reader is not None and transport is not None:
        try:
            while data := os.read(transport.get_extra_info("socket").fileno(), _STEP):
                reader.feed_data(data)
                exc = None  # the break is told as the end of what was read
        except OSError:
            pass
    stock(protocol, exc)
