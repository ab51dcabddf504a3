"""Connections: what a client may expect of one after something went wrong on it."""

import asyncio
import os
import time
from collections import defaultdict
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.proxy.tunnel import TunnelLayer

from addons.engine.corrections import reuse
from addons.engine.wrapping import Commands, pause, replace, wrap

_STEP = 1 << 16

_FEW = 1 << 12
"""Bytes that are given of what looks like much work: 64 KiB of chunks with one byte each hold the loop for 150 ms."""
_LEAST = 1 << 9
_LINES = 512
"""Line ends of many chunks or headers; events may have four times as many."""
_FRAMES = bytes((0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x89, 0x8A))
"""What a websocket's frame begins with; a frame of HTTP/2 has zeros in its head."""
_DENSE = 20
"""Bytes for one of them: random bytes have one in 32."""
_LONG = 0.002
"""Seconds of work with what was read, from which on others have a turn before more is read."""
_TOO_LONG = 0.005
"""From here on less is read at a time."""


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "get_connection", _forget_failed_connects)
    wrap(ConnectionHandler, "handle_connection", _begin_after_registration)
    replace(ConnectionHandler, "drain_writers", _drain_writers)
    wrap(TunnelLayer, "event_to_child", _in_pieces)


def _forget_failed_connects(stock: Any, layer: HttpLayer, event: Any, **kwargs: Any) -> Any:
    """mitmproxy 12.2.3 keeps the error of a failed connect with the server, and answers with it again; so a keep-alive
    client hears of the first failure for as long as its own connection lives. It also takes a connection that upstream
    has closed for a good one until the end has been read; so the next request fails on it. Remove when get_connection
    tries anew where connection.error is set, and looks whether a connection is still open.
    """
    for known in layer.connections:
        if isinstance(known, Server):
            if known.error and known not in layer.waiting_for_establishment:
                known.error = None
            reuse.pass_over(known)
    return stock(layer, event, **kwargs)


async def _begin_after_registration(stock: Any, handler: Any, connection: Any) -> None:
    """mitmproxy 12.2.3 enters a client's task in `transports` after it was started, and tasks start eagerly; so with
    the end of the connection already read the task is over before it is known, which is logged as a crash. Here it
    waits a turn, and the readers below take their places. Remove when handle_client registers before the task can run.
    """
    if handler.transports[connection].handler is None:
        # Tasks start eagerly: with the end of the connection already read, this one would be over before it is known.
        await asyncio.sleep(0)
    io = handler.transports[connection]
    if type(io.reader) is asyncio.StreamReader:
        io.reader = Patient(io.reader)
        protocol = io.writer.transport.get_protocol()
        if type(protocol) is asyncio.StreamReaderProtocol:
            protocol.__class__ = _WholeReading
            if isinstance(connection, Server):
                wire = reuse.begin(connection, io.writer.transport.get_extra_info("socket"))
                vars(protocol)["wire"] = wire
    await stock(handler, connection)


class Patient:
    """A reader that lets others have a turn before it gives more, where what it gave last was much work, and gives less
    then.

    mitmproxy 12.2.3 takes all that a reader holds, 64 KiB at a time, without a pause in between; so whoever sends much
    in small pieces holds the loop. Remove when handle_connection yields to others between two reads and bounds their
    work.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._given_at = time.thread_time()
        self._given = 0
        self._dense = False
        self._most = {False: _STEP, True: _FEW}
        """Bytes that are given at a time: of what looks like little work, and of what looks like much."""
        self._held = b""
        """What has been read, and is not given yet."""

    async def read(self, size: int) -> bytes:
        """As `StreamReader.read`."""
        took = time.thread_time() - self._given_at
        if took > _LONG:
            await asyncio.sleep(0)
        self._learn(took)
        data = self._held or await self._reader.read(min(size, self._most[False]))
        self._dense = _is_dense(data)
        most = min(size, self._most[self._dense])
        data, self._held = data[:most], data[most:]
        self._given, self._given_at = len(data), time.thread_time()
        return data

    def _learn(self, took: float) -> None:
        most = self._most[self._dense]
        if took > _TOO_LONG:
            self._most[self._dense] = max(_LEAST, int(self._given * _TOO_LONG / took))
        elif self._given == most < _STEP:
            self._most[self._dense] = most * 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def _is_dense(data: bytes) -> bool:
    """Whether it looks like very many small parts: a guess, since what it is gets known only by the work."""
    if len(data) <= _LEAST:
        return False
    if data.count(b"\r\n") > _LINES or data.count(b"\n") > 4 * _LINES:
        return True
    return len(data) - len(data.translate(None, _FRAMES)) > len(data) // _DENSE


def _in_pieces(stock: Any, tunnel: TunnelLayer, event: events.Event) -> Commands:
    """mitmproxy 12.2.3 gives a layer all at once what one read brought through TLS; so many small parts hold the loop,
    and a `Patient` saw no more than what it is in cipher. Here a few bytes at a time are given where it looks like much
    work. Remove when server_event pauses a turn that is long.
    """
    if not isinstance(event, events.DataReceived) or len(event.data) <= _FEW or not _is_dense(event.data):
        return (yield from stock(tunnel, event))
    for at in range(0, len(event.data), _FEW):
        yield from stock(tunnel, events.DataReceived(event.connection, event.data[at : at + _FEW]))
        yield pause()


async def _drain_writers(handler: Any) -> None:
    """mitmproxy 12.2.3 cancels an upstream's connection over a write that fails, and asks each writer behind a lock
    after every read; so the answer of one that refuses an upload early and closes is lost. As stock, but an upstream
    that takes no more is not given up, and what has nothing to drain is left alone, which is nearly always all there
    is. Remove when drain_writers reads on from a server whose write side broke.
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


class _WholeReading(asyncio.StreamReaderProtocol):
    """Hands on what a peer has said before the connection broke under a write.

    mitmproxy 12.2.3 reads by asyncio's StreamReaderProtocol, which throws that away; so the answer of an upstream that
    refuses an upload and closes is lost. The protocol of a connection that is there already becomes one of these, so
    that nobody else's is touched. Remove when asyncio reads what is left before it reports a failed write.
    """

    wire: reuse.Wire | None = None
    """Of an upstream's connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.wire is not None:
            self.wire.close()
        reader: asyncio.StreamReader | None = self._stream_reader  # type: ignore[attr-defined]
        transport = self._transport  # type: ignore[attr-defined]
        if isinstance(exc, ConnectionError) and reader is not None and transport is not None:
            try:
                while data := os.read(transport.get_extra_info("socket").fileno(), _STEP):
                    reader.feed_data(data)
                    exc = None  # the break is told as the end of what was read
            except OSError:
                pass
        super().connection_lost(exc)


def allow_upstreams(handler: ConnectionHandler, count: int) -> None:
    """Let one client have so many connections to each upstream at a time.

    mitmproxy 12.2.3 allows five to an address, which an HTTP/2 client meets with its sixth stream; so that one waits
    until another has ended. Remove when the number is an option (issue #8322).
    """
    handler.max_conns = defaultdict(lambda: asyncio.Semaphore(count))
