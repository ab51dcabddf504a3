"""Reading: how much of what a peer sends is taken at a time, and what becomes of its last words."""

import asyncio
import os
import time
from typing import Any

from mitmproxy.proxy import events
from mitmproxy.proxy.tunnel import TunnelLayer

from addons.engine.wrapping import Commands, pause, wrap

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
    wrap(TunnelLayer, "event_to_child", _in_pieces)


class LetGo(Exception):
    """The connection has been taken from whoever reads it."""


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
        self._gone = False

    async def read(self, size: int) -> bytes:
        """As `StreamReader.read`. Raises LetGo."""
        try:
            data = await self._next(size)
        except asyncio.CancelledError:
            if self._gone:
                raise LetGo from None  # what was to be closed is somebody else's
            raise
        if self._gone:
            raise LetGo
        self._dense = _is_dense(data)
        most = min(size, self._most[self._dense])
        data, self._held = data[:most], data[most:]
        self._given, self._given_at = len(data), time.thread_time()
        return data

    async def _next(self, size: int) -> bytes:
        took = time.thread_time() - self._given_at
        if took > _LONG:
            await asyncio.sleep(0)
        self._learn(took)
        return self._held or (b"" if self._gone else await self._reader.read(min(size, self._most[False])))

    @property
    def has_more(self) -> bool:
        """Whether something has come that is not given yet."""
        return bool(self._held or self._reader._buffer)  # type: ignore[attr-defined]

    def let_go(self) -> None:
        """The connection is somebody else's from now on: whoever reads here must stop."""
        self._gone = True

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


class WholeReading(asyncio.StreamReaderProtocol):
    """Hands on what a peer has said before the connection broke under a write.

    mitmproxy 12.2.3 reads by asyncio's StreamReaderProtocol, which throws that away; so the answer of an upstream that
    refuses an upload and closes is lost. The protocol of a connection that is there already becomes one of these, so
    that nobody else's is touched. Remove when asyncio reads what is left before it reports a failed write.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        """Read what is left, then tell. What comes through TLS is read by that (engine/pool/tls.py)."""
        reader: asyncio.StreamReader | None = self._stream_reader  # type: ignore[attr-defined]
        transport = self._transport  # type: ignore[attr-defined]
        plain = transport is not None and not self._over_ssl  # type: ignore[attr-defined]
        if isinstance(exc, ConnectionError) and reader is not None and plain:
            try:
                while data := os.read(transport.get_extra_info("socket").fileno(), _STEP):
                    reader.feed_data(data)
                    exc = None  # the break is told as the end of what was read
            except OSError:
                pass
        super().connection_lost(exc)
