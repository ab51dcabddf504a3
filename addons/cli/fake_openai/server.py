"""A small look-alike of OpenAI's API, for relay's tests and for `./run.sh demo`.

    python -m addons.cli.fake_openai.server --port 8081    until SIGINT or SIGTERM; port 0 is any free one

    with Upstream.running() as up:                 in a test: a thread with its own loop
        up.script("/v1/models", Behaviour(status=500, body=b"{}"))
        ...
        assert up.seen[-1].target == "/v1/models"

What it says stands in api.py and chat.py, how it says it in answer.py. A request may ask for
a `Behaviour` itself by a header `x-test` that holds the fields as JSON. All times are time.monotonic().
"""

import argparse
import asyncio
import contextlib
import random
import signal
import ssl
import sys
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self

from addons.cli.fake_openai import api as api
from addons.cli.fake_openai.answer import Answer, Behaviour, of_fault, send
from addons.cli.fake_openai.call import ApiError, Call, File
from addons.cli.fake_openai.record import Arrival, Record, Seen
from addons.cli.fake_openai.websocket import Websocket
from addons.cli.fake_openai.wire import Connection, Cut, Head, Left, Malformed, Reader
from addons.core.faults import EXPECTED, HEADER, Faults, shares

__all__ = ["Behaviour", "Seen", "Upstream", "main"]


class Upstream:
    """The look-alike. What has no underscore may be used from any thread."""

    def __init__(
        self,
        *,
        delay: float = 0.0,
        prefix: str = "",
        ssl_context: ssl.SSLContext | None = None,
        faults: Faults | None = None,
    ) -> None:
        """`delay`: seconds between streamed pieces; `prefix`: a path under which all of it lives, e.g. /x/y; `faults`:
        what POST requests meet."""
        self.delay = delay
        self.prefix = prefix
        self.host = ""
        self.port = 0
        self.accepted = 0
        """Connections so far."""
        self.open = 0
        """Connections now."""
        self._ssl = ssl_context
        self._faults = faults
        self._record = Record()
        self._files: OrderedDict[str, File] = OrderedDict()
        self._scripts: defaultdict[str, deque[Behaviour]] = defaultdict(deque)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, with the prefix, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}{self.prefix}"

    @property
    def seen(self) -> list[Seen]:
        """The newest requests, oldest first: a copy of the list, the requests themselves still filling."""
        return self._record.newest

    def clear(self) -> None:
        """Forget what was seen and what was scripted."""
        self._record.clear()
        self._scripts.clear()

    def script(self, path: str, *behaviours: Behaviour, times: int = 1) -> None:
        """The next requests for this path get these behaviours in turn, each `times` times.

        The path is as on the wire, without its query; "*" stands for any, after those that are named.
        """
        for behaviour in behaviours:
            self._scripts[path].extend([behaviour] * times)

    def wait[T](self, found: Callable[[list[Seen]], T], timeout: float = 5.0) -> T:
        """Ask `found` about `seen` until it says something true, and return that. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while not (result := found(self.seen)):
            if time.monotonic() > end:
                raise TimeoutError(f"not seen within {timeout} s")
            time.sleep(0.002)
        return result

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Listen inside the running loop. Raises OSError where that address cannot be had."""

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Reader(), self._accept)

        server = await asyncio.get_running_loop().create_server(protocol, host, port, ssl=self._ssl, backlog=1024)
        self.host, self.port = server.sockets[0].getsockname()[:2]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            server.abort_clients()

    @classmethod
    @contextlib.contextmanager
    def running(cls, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[Self]:
        """Listen in a thread of its own until the block ends; `options` as for the constructor. Raises OSError."""
        up = cls(**options)
        thread = _Thread(up, host, port)
        thread.start()
        try:
            thread.await_ready()
            yield up
        finally:
            thread.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None and isinstance(reader, Reader)
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        connection = Connection(reader, writer, self.accepted)
        try:
            await self._converse(connection)
        except (Left, Cut, OSError):
            pass
        except Malformed as error:
            await _complain(connection, error)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, connection: Connection) -> None:
        while head := await connection.head():
            seen = Seen(head.method, head.target, head.version, head.headers, time.monotonic(), connection.number)
            self._record.add(seen)
            with connection.watching(seen.left):
                keep = await self._exchange(connection, head, seen)
            if not keep:
                return

    async def _exchange(self, connection: Connection, head: Head, seen: Seen) -> bool:
        behaviour = self._behaviour(head, seen)
        if behaviour.delay_read:
            await connection.pause(behaviour.delay_read)
        if behaviour.early_answer:
            return await self._answer_early(connection, head, seen, behaviour)
        if (head.get("expect") or "").lower() == "100-continue":
            await connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        arrival = await self._receive(connection, head, seen)
        if Websocket.wanted(head, seen.path.removeprefix(self.prefix)) and behaviour == Behaviour():
            return await self._websocket(connection, head, arrival)
        return await self._answer(connection, head, arrival, behaviour)

    async def _websocket(self, connection: Connection, head: Head, arrival: Arrival) -> bool:
        try:
            websocket = Websocket(connection, head)
        except ApiError as error:
            return await send(connection, head, error.answer, Behaviour())
        await websocket.echo()
        arrival.seen.answered_at = time.monotonic()
        return False

    async def _answer_early(self, connection: Connection, head: Head, seen: Seen, behaviour: Behaviour) -> bool:
        if head.get("expect"):  # whoever gets a final answer here may keep the body, so the connection is spent
            await self._answer(connection, head, Arrival(seen, head), behaviour)
            return False
        reading = asyncio.create_task(_forgiving(self._receive(connection, head, seen)))
        try:
            keep = await self._answer(connection, head, Arrival(seen, head), behaviour)
            if not behaviour.close:
                await reading
            return keep
        finally:
            reading.cancel()

    async def _receive(self, connection: Connection, head: Head, seen: Seen) -> Arrival:
        arrival = Arrival(seen, head)
        try:
            async for data in connection.body(head, seen.trailers):
                arrival.feed(data)
            seen.complete = True
        finally:
            arrival.close()
            self._record.bound(seen)
        return arrival

    async def _answer(self, connection: Connection, head: Head, arrival: Arrival, behaviour: Behaviour) -> bool:
        if behaviour.never:
            await connection.pause(None)
        if behaviour.close_without_answer or behaviour.garbage is not None:
            await connection.pause(behaviour.delay_headers)
            await connection.write(behaviour.garbage or b"")
            await connection.cut(behaviour.reset)
            raise Cut
        answer = Answer() if behaviour.speaks else api.answer(self._call(head, arrival))
        keep = await send(connection, head, answer, behaviour)
        arrival.seen.answered_at = time.monotonic()
        return keep

    def _call(self, head: Head, arrival: Arrival) -> Call:
        seen, parts = arrival.seen, arrival.form.parts if arrival.form else []
        path = seen.path.removeprefix(self.prefix) if seen.path.startswith(self.prefix) else ""
        return Call(head, path, seen.body, seen.length, seen.sha256, parts, self._files, self.delay)

    def _behaviour(self, head: Head, seen: Seen) -> Behaviour:
        for path in (seen.path, "*"):
            if waiting := self._scripts.get(path):
                return waiting.popleft()
        if self._faults is not None and head.method == "POST":
            return of_fault(self._faults.next(head.get(HEADER)))
        asked = head.get("x-test")
        try:
            return Behaviour.from_json(asked) if asked else Behaviour()
        except (ValueError, TypeError, KeyError) as error:
            return Behaviour(status=400, body=f"x-test cannot be read: {error}".encode())


class _Thread(threading.Thread):
    """A thread whose loop serves an upstream until it is stopped."""

    def __init__(self, up: Upstream, host: str, port: int) -> None:
        super().__init__(name="upstream", daemon=True)
        self._up, self._host, self._port = up, host, port
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # it belongs to whoever started the thread
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        async with self._up.serving(self._host, self._port):
            self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
            self._ready.set()
            await self._done.wait()

    def await_ready(self) -> None:
        """Raises what kept it from listening."""
        self._ready.wait()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Ends the loop and waits for it."""
        if self._loop and self._done:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._done.set)
        self.join(10)


async def _forgiving(receiving: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(Left, Malformed):
        await receiving


async def _complain(connection: Connection, error: Malformed) -> None:
    body = f"Bad request: {error}\n".encode()
    head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
    with contextlib.suppress(Left):
        await connection.write(head.encode() + b"connection: close\r\n\r\n" + body)


async def _serve(host: str, port: int, delay: float, faults: Faults | None) -> None:
    done, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: SIGINT arrives as KeyboardInterrupt
            loop.add_signal_handler(number, done.set)
    async with Upstream(delay=delay, faults=faults).serving(host, port) as up:
        print(f"upstream: listening at {up.url}", flush=True)
        await done.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A small look-alike of OpenAI's API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0: any free one")
    parser.add_argument("--delay-ms", type=float, default=40, help="between streamed pieces (default: 40)")
    parser.add_argument("--faults", metavar="SHARES", help=EXPECTED)
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default: 1)")
    given = parser.parse_args()
    try:
        faults = None if given.faults is None else Faults(shares(given.faults), random.Random(given.seed).random)
    except ValueError as error:
        sys.exit(f"upstream: --faults: {error}")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(given.host, given.port, given.delay_ms / 1000, faults))
    except OSError as error:
        sys.exit(f"upstream: cannot listen at {given.host}:{given.port}: {error.strerror or error}")


if __name__ == "__main__":
    main()
