"""What the kernel knows of a connection to an upstream: how much of what was sent has arrived, and what has come."""

import contextlib
import socket
import struct
from typing import Any

_ACKED = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of `struct tcp_info`, linux/tcp.h, since Linux 4.1."""


class KernelView:
    """A socket as asyncio lends it, and what was known of it at the end."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._last: int | None = None

    def acknowledged(self) -> int | None:
        """Bytes that the other side's kernel has acknowledged so far; None where that is not known."""
        if self._socket is None:
            return self._last
        with contextlib.suppress(OSError, AttributeError, struct.error):
            told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
            count: int = _ACKED.unpack(told)[0]
            return count
        return None

    def waiting(self) -> bytes | None:
        """The next byte that nobody has read, b"" where the end has come, None where nothing has."""
        with contextlib.suppress(OSError, AttributeError):  # mostly BlockingIOError: nothing has come
            plain = self._socket._sock  # asyncio lends a socket that can't be read
            byte: bytes = plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return byte
        return None

    def is_over(self) -> bool:
        """Whether its end can be read already, although nobody has read it yet."""
        return self.waiting() == b""

    def close(self) -> None:
        """The socket is about to be closed: keep what it knows."""
        self._last, self._socket = self.acknowledged(), None
