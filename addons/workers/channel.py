"""Channel: frames between a worker and its parent, over a pair of connected sockets.

A frame is its length in four bytes, big endian; a JSON array on one line; a newline; and, where a session travels, the
JSON of that session, byte for byte as it is stored. The array begins with what it is about, and with the number of the
call if it belongs to one: replies come in any order.

asyncio's own transports won't do: where a write fails they drop what has come in and was not read yet, and there may be
a session in it that a dying worker wanted to be kept. Here the writing side may break, and the reading side still reads
to the end of file.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

VERSION = 5
"""Of what the frames say (store_server.py). A parent that was not restarted meets workers of newer code."""

FRAME_CAP = 64 * 1024**2
"""Bytes of a frame. More is never sent, and who sends it all the same is not listened to any longer."""

HIGH = 1024**2
"""Bytes that may wait to be sent before whoever sends sessions has to wait, too."""

_LENGTH = 4
_READ = 64 * 1024
_json = json.JSONEncoder(separators=(",", ":"))


class FrameTooLarge(ValueError):
    """A frame over `FRAME_CAP`."""


class Frame(NamedTuple):
    """What came in one piece."""

    head: list[Any]
    body: bytes = b""


def pack(head: list[Any], body: bytes = b"") -> bytes:
    """A frame as it is sent. Raises FrameTooLarge."""
    line = _json.encode(head).encode()
    size = len(line) + 1 + len(body)
    if size > FRAME_CAP:
        raise FrameTooLarge(f"{size} bytes; at most {FRAME_CAP} can be sent to another process")
    return b"".join((size.to_bytes(_LENGTH), line, b"\n", body))


class Unpacker:
    """Takes bytes as they come, gives frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """More has come."""
        self._data += data

    def next(self) -> Frame | None:
        """The next frame that is complete. Raises ValueError where there is none to be found; nothing follows then."""
        if len(self._data) < _LENGTH:
            return None
        end = _LENGTH + _size(self._data[:_LENGTH])
        if len(self._data) < end:
            return None
        frame = _frame(self._data[_LENGTH:end])
        del self._data[:end]
        return frame


def _size(prefix: bytes | bytearray) -> int:
    size = int.from_bytes(prefix)
    if size > FRAME_CAP:
        raise FrameTooLarge(f"a frame of {size} bytes")
    return size


def _frame(payload: bytes | bytearray) -> Frame:
    line, _, body = payload.partition(b"\n")
    head = json.loads(line)
    if not isinstance(head, list) or not head:
        raise ValueError("a frame begins with an array")
    return Frame(head, bytes(body))


def receive(sock: socket.socket, timeout: float) -> Frame:
    """Wait for one frame, outside of any loop, and read not a byte more.

    Raises OSError where it doesn't come within `timeout` seconds or the other side is gone, ValueError for no frame.
    """
    until = time.monotonic() + timeout
    return _frame(_exactly(sock, _size(_exactly(sock, _LENGTH, until)), until))


def _exactly(sock: socket.socket, size: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        if not (more := sock.recv(size - len(data))):
            raise ConnectionResetError("end of file")
        data += more
    return bytes(data)


class Wire:
    """One end of the pair, in a loop: frames out, frames in, and word of the other end's going."""

    def __init__(self, sock: socket.socket, on_frame: Callable[[Frame], None], on_closed: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.closed = False
        self._sock = sock
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._unpacker = Unpacker()
        self._out = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._paused = False
        self._deaf = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Join the loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._readable)
        if self._out:
            self._loop.add_writer(self._sock, self._writable)

    # Out

    def send(self, frame: bytes) -> None:
        """Send at once what the other side takes at once, the rest as it takes it; nothing if it is gone."""
        if self.closed or self._deaf:
            return
        if not self._out:
            frame = frame[self._push(frame) :]
            if not frame:
                return
            if self._loop is not None:
                self._loop.add_writer(self._sock, self._writable)
        self._out += frame
        if len(self._out) > HIGH:
            self._room.clear()

    async def room(self) -> None:
        """Wait while too much waits to be sent. Does not wait where the other side is gone."""
        while len(self._out) > HIGH:
            await self._room.wait()

    def flush(self, timeout: float) -> None:
        """Send what waits to be sent, for at most `timeout` seconds in which nothing else goes on."""
        until = time.monotonic() + timeout
        while self._out and not self.closed and (left := until - time.monotonic()) > 0:
            self._sock.settimeout(left)
            del self._out[: self._push(self._out)]
        if not self.closed:
            self._sock.setblocking(False)

    def _push(self, data: bytes | bytearray) -> int:
        """How many bytes are settled: sent, or of no use any more."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, TimeoutError):
            return 0
        except OSError:
            # It is gone. What it said before is still to be read, and the end of file after that closes. Were it there
            # after all, it would see our end and go.
            self._deaf = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            return len(data)

    def _writable(self) -> None:
        del self._out[: self._push(self._out)]
        if not self._out and self._loop is not None:
            self._loop.remove_writer(self._sock)
        if len(self._out) <= HIGH:
            self._room.set()

    # In

    def pause(self) -> None:
        """Give no more frames until `resume`, and read none."""
        self._paused = True
        if self._loop is not None and not self.closed:
            self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Go on, in the loop's next turn."""
        if not self._paused or self._loop is None or self.closed:
            return
        self._paused = False
        self._loop.add_reader(self._sock, self._readable)
        self._loop.call_soon(self._deliver)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # closed with something unread: Linux tells it after the last byte
            data = b""
        if not data:
            self.close()
            return
        self._unpacker.feed(data)
        self._deliver()

    def _deliver(self) -> None:
        try:
            while not self._paused and not self.closed and (frame := self._unpacker.next()) is not None:
                self._on_frame(frame)
        except Exception as error:  # of another version, or a bug: nothing that follows can be trusted
            logger.error(f"a frame between relay's processes can't be read: {type(error).__name__}")
            self.close()

    def close(self) -> None:
        """Close this end, and say so; twice is harmless."""
        if self.closed:
            return
        self.closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self._sock.close()
        self._out.clear()
        self._room.set()
        self._on_closed()
