"""Connections: what a client may expect of one after something went wrong on it."""

import asyncio
import os
import time
from typing import Any

from mitmproxy.connection import Connection, Server
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.websocket import WebsocketLayer
from mitmproxy.proxy.server import ConnectionHandler

from addons.engine.wrapping import replace, wrap

_STEP = 1 << 16
_SWITCHED = "relay_switched"  # to a websocket, since the last read

# Bytes that one read brings: so many at first, from a client, an upstream and either in a websocket, and between these
# bounds later on.
_FIRST_OF_CLIENT = 1 << 12
_FIRST_OF_UPSTREAM = 1 << 14
_FIRST_OF_WEBSOCKET = 1 << 10
_LEAST = 1 << 9
_MOST = 1 << 16
# Seconds that the work with what was read has taken: from this on others have a turn, less is read, more is read.
_OTHERS = 0.002
_LONG = 0.008
_SHORT = 0.002


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "get_connection", _forget_failed_connects)
    wrap(ConnectionHandler, "handle_connection", _begin_after_registration)
    replace(ConnectionHandler, "drain_writers", _drain_writers)
    wrap(WebsocketLayer, "_handle_event", _note_websocket)
    wrap(asyncio.StreamReaderProtocol, "connection_lost", _read_what_is_left)


def _forget_failed_connects(stock: Any, layer: HttpLayer, event: Any, **kwargs: Any) -> Any:
    for known in layer.connections:
        if isinstance(known, Server) and known.error and known not in layer.waiting_for_establishment:
            known.error = None
    return stock(layer, event, **kwargs)


async def _begin_after_registration(stock: Any, handler: Any, connection: Any) -> None:
    if handler.transports[connection].handler is None:
        # Tasks start eagerly: with the end of the connection already read, this one would be over before it is known.
        await asyncio.sleep(0)
    io = handler.transports[connection]
    if type(io.reader) is asyncio.StreamReader:
        io.reader = Sips(io.reader, connection)
    await stock(handler, connection)


def _note_websocket(stock: Any, layer: WebsocketLayer, event: Any) -> Any:
    for peer in (layer.context.client, layer.context.server):
        vars(peer)[_SWITCHED] = True
    return stock(layer, event)


class Sips:
    """A reader that gives less at a time where little is much to do.

    64 KB of a body are nothing; 64 KB of chunks of one byte, of requests in one go or of the smallest websocket
    messages take 0.2 to 1 s, and as it stands mitmproxy handles them in one turn of the loop, and what else the reader
    holds in the next, with nobody served between the two.
    """

    def __init__(self, reader: asyncio.StreamReader, connection: Connection) -> None:
        self.size = _FIRST_OF_UPSTREAM if isinstance(connection, Server) else _FIRST_OF_CLIENT
        """Bytes that the next read brings at most."""
        self._connection = connection
        self._reader = reader
        self._given_at: float | None = None
        self._was_full = False

    async def read(self, most: int) -> bytes:
        """As `StreamReader.read`."""
        if self._given_at is not None:
            taken = time.thread_time() - self._given_at
            if taken > _LONG:
                self.size = max(_LEAST, int(self.size * _LONG / taken))
            elif taken < _SHORT and self._was_full:
                self.size = min(_MOST, 2 * self.size)
            if taken > _OTHERS:
                await asyncio.sleep(0)
        if vars(self._connection).pop(_SWITCHED, False):
            self.size = _FIRST_OF_WEBSOCKET
        size = min(most, self.size)
        data = await self._reader.read(size)
        self._was_full = len(data) == size
        self._given_at = time.thread_time()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


async def _drain_writers(handler: Any) -> None:
    """As stock, but an upstream that takes no more is not given up: its answer may be there already.

    What has nothing to drain is left alone, which is nearly always all there is.
    """
    full = [(peer, io) for peer, io in handler.transports.items() if io.writer is not None and _holds_data(io.writer)]
    if not full:
        return
    async with handler._drain_lock:
        for peer, io in full:
            try:
                await io.writer.drain()
            except OSError as error:
                if io.handler is not None and not isinstance(peer, Server):
                    io.handler.cancel(f"Error sending data: {error}")


def _holds_data(writer: Any) -> bool:
    return not isinstance(writer, asyncio.StreamWriter) or writer.transport.get_write_buffer_size() > 0


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
