"""HTTP/1.1 for the look-alike upstream, with every byte under control.

`Connection` reads heads and bodies and knows at once when the peer leaves, even while nobody reads. What is written
leaves as it was given, one write at a time.

The peer's end of file counts as leaving: a client that closes only its sending half gets no answer.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

type Headers = list[tuple[str, str]]

LIMIT = 256 * 1024
"""Bytes of a request's head, and what one read takes at most."""


class Left(Exception):
    """The peer left before the exchange was over."""


class Cut(Exception):
    """We ended the connection in the middle, as the behaviour asked."""


class Malformed(Exception):
    """The peer does not speak HTTP/1.1; the message says where."""


def header(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """The first value under this name, whatever its case."""
    return next((value for key, value in headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Head:
    """A request line and its headers, as they came: order and case kept, latin-1."""

    method: str
    target: str
    version: str
    headers: Headers

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises Malformed."""
        first, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise Malformed(f"no request line: {first[:80]!r}")
        headers: Headers = []
        for line in rest:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise Malformed(f"no header: {line[:80]!r}")
            headers.append((name, value.strip(" \t")))
        return cls(words[0], words[1], words[2], headers)

    def get(self, name: str) -> str | None:
        """The first value of this header."""
        return header(self.headers, name)

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return (self.get("transfer-encoding") or "").lower().endswith("chunked")

    @property
    def length(self) -> int:
        """The declared length of the body in bytes. Raises Malformed."""
        value = self.get("content-length") or "0"
        if not (value.isascii() and value.isdigit()):
            raise Malformed(f"no content-length: {value[:80]!r}")
        return int(value)

    @property
    def keeps_alive(self) -> bool:
        """Whether the peer wants to go on with this connection afterwards."""
        said = (self.get("connection") or "").lower()
        return "keep-alive" in said if self.version == "HTTP/1.0" else "close" not in said


class Reader(asyncio.StreamReader):
    """A stream that tells the moment its peer leaves, instead of when somebody next reads."""

    def __init__(self) -> None:
        super().__init__(limit=LIMIT)
        self.gone = asyncio.Event()
        self.on_gone: Callable[[], None] | None = None

    def feed_eof(self) -> None:
        super().feed_eof()
        self._left()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]  # the stubs allow Exception alone
        self._left()

    def _left(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            if self.on_gone:
                self.on_gone()


class Connection:
    """One accepted connection. Whatever waits here raises Left as soon as the peer is gone."""

    def __init__(self, reader: Reader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    @contextlib.contextmanager
    def watching(self, left: Callable[[], None]) -> Iterator[None]:
        """Call `left` the moment the peer leaves, and wake whoever still writes to it."""

        def leave() -> None:
            left()
            self.writer.transport.abort()

        self.reader.on_gone = leave
        try:
            yield
        finally:
            self.reader.on_gone = None

    async def head(self) -> Head | None:
        """The next request's head, or None where the peer has no further request. Raises Malformed."""
        try:
            return Head.parse(await self.reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, OSError):
            return None
        except asyncio.LimitOverrunError:
            raise Malformed(f"a head of more than {LIMIT} bytes") from None

    async def body(self, head: Head, trailers: Headers) -> AsyncIterator[bytes]:
        """The request's body as it arrives; at least one piece per chunk. Raises Left, Malformed."""
        try:
            if head.chunked:
                async for piece in self._chunks(trailers):
                    yield piece
            else:
                async for piece in self._exactly(head.length):
                    yield piece
        except (asyncio.IncompleteReadError, OSError):
            raise Left from None

    async def _exactly(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self.reader.read(min(left, LIMIT))
            if not piece:
                raise Left
            left -= len(piece)
            yield piece

    async def _chunks(self, trailers: Headers) -> AsyncIterator[bytes]:
        while size := self._size(await self._line()):
            async for piece in self._exactly(size):
                yield piece
            await self.reader.readexactly(2)
        while line := await self._line():
            name, _, value = line.decode("latin-1").partition(":")
            trailers.append((name, value.strip()))

    async def _line(self) -> bytes:
        return (await self.reader.readuntil(b"\r\n"))[:-2]

    @staticmethod
    def _size(line: bytes) -> int:
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise Malformed(f"no chunk size: {line[:80]!r}") from None

    async def pause(self, seconds: float | None) -> None:
        """Wait, or for ever where seconds is None. Raises Left."""
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
        elif not self.reader.gone.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.reader.gone.wait(), seconds)
        if self.reader.gone.is_set():
            raise Left

    async def write(self, data: bytes) -> None:
        """Raises Left."""
        if self.reader.gone.is_set():
            raise Left
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            raise Left from None

    async def cut(self, reset: bool) -> None:
        """End the connection now, politely (FIN) or not (RST)."""
        if reset:
            with contextlib.suppress(Left):
                await self.pause(0.05)  # a reset makes the peer drop what it has not read yet
            sock: socket.socket = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()
