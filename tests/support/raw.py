"""An HTTP/1.1 client that shows the bytes: it sends what it is given, and tells chunks apart as they were framed."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from addons.cli.fake_openai.wire import Headers, header

LINE = b"\r\n"


class Broken(Exception):
    """The peer ended the connection in the middle of an answer."""


@dataclass
class Reply:
    """The head of an answer: names and values as they came, in their order."""

    version: str
    status: int
    reason: str
    fields: Headers

    def get(self, name: str) -> str | None:
        """The first value of this header."""
        return header(self.fields, name)

    def all(self, name: str) -> list[str]:
        """Every value of this header."""
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return (self.get("transfer-encoding") or "").lower() == "chunked"


def request(
    method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A request's bytes. It has a Host and, with a body, a Content-Length, unless `headers` frame it."""
    given = list(headers)
    if header(given, "host") is None:
        given.insert(0, ("Host", "relay.test"))
    if body is not None and header(given, "content-length") is None and header(given, "transfer-encoding") is None:
        given.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in given), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; the last one if it is empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Client:
    """One connection."""

    def __init__(self, port: int, timeout: float = 8, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        version: str = "1.1",
    ) -> tuple[Reply, bytes]:
        """One exchange. Raises Broken."""
        self.send(request(method, target, headers, body, version))
        reply = self.head()
        bodiless = method == "HEAD" or reply.status in (204, 304)
        return reply, b"" if bodiless else b"".join(self.pieces(reply))

    def head(self) -> Reply:
        """The head of the next answer. Raises Broken."""
        first = self._until(LINE).decode("latin-1").split(" ", 2)
        fields: Headers = []
        while line := self._until(LINE).decode("latin-1"):
            name, _, value = line.partition(":")
            fields.append((name, value.strip()))
        return Reply(first[0], int(first[1]), first[2] if len(first) > 2 else "", fields)

    def pieces(self, reply: Reply) -> Iterator[bytes]:
        """The body: chunk by chunk if chunked, else whole. Raises Broken where it does not come to its end."""
        if reply.chunked:
            while size := int(self._until(LINE), 16):
                yield self._exactly(size + 2)[:-2]
            while self._until(LINE):
                pass
        elif (length := reply.get("content-length")) is not None:
            yield self._exactly(int(length))
        else:
            yield self.rest()

    def timed(self, reply: Reply) -> Iterator[tuple[bytes, float]]:
        """The pieces with the time, by time.monotonic(), at which each was there."""
        for piece in self.pieces(reply):
            yield piece, time.monotonic()

    def rest(self) -> bytes:
        """Everything until the peer closes."""
        with contextlib.suppress(Broken, ConnectionResetError):
            while True:
                self._more()
        rest, self._buffer = self._buffer, b""
        return rest

    @property
    def closed(self) -> bool:
        """Whether the peer closes without sending anything more; waits for it up to the time-out."""
        return self.rest() == b""

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        parts, have = [self._buffer[:size]], min(size, len(self._buffer))
        self._buffer = self._buffer[size:]
        while have < size:
            part = self.socket.recv(min(size - have, 1 << 20))
            if not part:
                raise Broken(f"{have} of {size} bytes")
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise Broken(f"closed after {self._buffer[-80:]!r}")
        self._buffer += data
