"""Connections: what a client may expect of one after something went wrong on it."""

import asyncio
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.server import ConnectionHandler

from addons.engine.wrapping import Commands, wrap


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "get_connection", _forget_failed_connects)
    wrap(ConnectionHandler, "handle_connection", _begin_after_registration)


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
