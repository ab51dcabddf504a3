"""A way to Redis on which replies get lost: Redis has done what it was asked, and nobody hears of it."""

import asyncio
import contextlib
import random
import threading
from typing import Self

_HEARD = 0.005
"""Seconds for which Redis is left with what it was sent, before the connection is reset."""


class Cutting:
    """A proxy before the Redis at `redis`, in a thread of its own. What goes to Redis always arrives."""

    def __init__(self, redis: int, chance: random.Random) -> None:
        self.port = 0
        self.cuts = 0
        self.share = 0.0
        """Of what is sent to Redis: how much of it is not answered, or not to the end."""
        self._redis = redis
        self._chance = chance
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
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
        try:
            await self._between(reader, writer)
        finally:
            writer.transport.abort()

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._redis)
        except OSError:
            return
        connection = _Connection(writer)
        answers = asyncio.create_task(connection.pass_on(from_redis))
        try:
            await self._ask(reader, to_redis, connection)
        except OSError:
            pass
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            to_redis.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        while data := await reader.read(1 << 16):
            cut = self.share > 0 and self._chance.random() < self.share
            if cut:  # nothing, or the first bytes of the answer
                connection.left = self._chance.choice([0, 0, 1, 5, 40])
                self.cuts += 1
            to_redis.write(data)
            await to_redis.drain()
            if cut:
                await asyncio.sleep(_HEARD)
                return


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.left: int | None = None
        """Bytes that are passed on yet; None for all."""
        self._writer = writer

    async def pass_on(self, from_redis: asyncio.StreamReader) -> None:
        """What Redis answers, as far as that goes."""
        with contextlib.suppress(OSError):
            while data := await from_redis.read(1 << 16):
                if self.left is not None:
                    data, self.left = data[: self.left], max(0, self.left - len(data))
                self._writer.write(data)
                await self._writer.drain()
        if self.left is None:
            self._writer.transport.abort()
