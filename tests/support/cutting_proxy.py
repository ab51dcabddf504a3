"""A proxy before Redis that can lose replies: what is asked reaches Redis, and the answer nobody."""

import asyncio
import contextlib
from typing import Self


class CuttingProxy:
    """Passes bytes on. It lives in the loop of the test."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.port = 0
        self.cut_next = 0
        """So many replies are dropped, each with its connection, after what was asked has gone through."""
        self.cuts = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        up = asyncio.ensure_future(self._copy(reader, back))
        try:
            while data := await there.read(1 << 16):
                # Commands of redis-py's own handshake are small and pass; what relay asks for calls a function.
                if self.cut_next and self._asked:
                    self.cut_next -= 1
                    self.cuts += 1
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            up.cancel()
            for each in (writer, back):
                each.transport.abort()

    _asked = False

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                self._asked = b"FCALL" in data
                writer.write(data)
                await writer.drain()
