"""Keeper: the parent's end of the channels. It has the store and the gates, and lends both to the workers.

What a worker sends, and what it gets:

    ["load", n, key, ttl]           ["ok", n, null] and the session
    ["save", n, key, owner] and it  ["ok", n, null]
    ["delete", n, key]              ["ok", n, true or false]
    ["enter", n, key, max_waiting]  ["ok", n, null], the gate is its own now; ["full", n]
    ["leave", n]                    nothing: the gate of call n is free, or its place in the queue is given up
    ["note", text]                  nothing

Anything but `leave` and `note` may also get ["failed", n, text]. Notes go the other way, too, and the first frame of
all is ["hello", version] with the store's secret, which keys the names of sessions.

1. A gate belongs to the call that asked for it, so whoever stops waiting sends `leave` and need not know whether the
   gate was granted meanwhile: both cases end with the gate free.
2. A worker that is gone frees its gates at once. What it has asked the store for is done all the same.
3. Frames are taken up in their order up to the point where they wait: a `save` is in the store's thread before the
   `leave` behind it lets anybody load.
4. A worker has at most `UNDER_WAY` calls to the store at a time, then it is not listened to until one is done. What
   waits for a gate does not count: it may wait for a `leave` of the same worker.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from addons.core.sessions import Session
from addons.store.leases import Full, Queue
from addons.store.shelf import Store, StoreError
from addons.workers.channel import VERSION, Frame, TooLarge, Wire, pack

logger = logging.getLogger(__name__)

UNDER_WAY = 64
"""Calls of one worker to the store at a time."""


@dataclass(frozen=True, slots=True)
class Packed(Session):
    """A session as a worker has packed it: stored as it is, since reading it would only take time."""

    stored: bytes = b""

    def to_json(self) -> bytes:
        """The same bytes."""
        return self.stored


class Keeper:
    """Serves all workers of a parent, in its loop."""

    def __init__(self, store: Store, gates: Queue) -> None:
        self.store = store
        self.gates = gates
        self._desks: dict[socket.socket, _Desk] = {}

    async def serve(self, sock: socket.socket, on_message: Callable[[str], None]) -> None:
        """Serve the worker at the other end of `sock` until that end is closed; `on_message` gets its notes.

        Its gates are free then, and what it has asked the store for is done. Cancelled, it closes the socket, too.
        """
        desk = self._desks[sock] = _Desk(self.store, self.gates, sock, on_message)
        try:
            desk.open()
            await desk.gone.wait()
        finally:
            desk.wire.close()
            del self._desks[sock]
        await desk.finish()

    def tell(self, sock: socket.socket, note: str) -> None:
        """Send a note to the worker served at `sock`; nothing if it is gone."""
        if (desk := self._desks.get(sock)) is not None:
            desk.wire.send(pack(["note", note]))


class _Desk:
    """Where one worker is served."""

    def __init__(self, store: Store, gates: Queue, sock: socket.socket, on_message: Callable[[str], None]) -> None:
        self.store = store
        self.gates = gates
        self.on_message = on_message
        self.wire = Wire(sock, self._take, self._closed)
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._held: dict[int, Callable[[], None]] = {}

    def open(self) -> None:
        """Say hello, and listen."""
        self.wire.send(pack(["hello", VERSION], self.store.secret))
        self.wire.start()

    async def finish(self) -> None:
        """Wait for what the store has still to do."""
        if self._calls:
            await asyncio.wait(self._calls)

    def _closed(self) -> None:
        for task in list(self._waiting.values()):
            task.cancel()
        while self._held:
            self._held.popitem()[1]()
        self.gone.set()

    def _take(self, frame: Frame) -> None:
        match frame.head:
            case ["load", int(number), str(key), int() | float() as ttl]:
                self._call(number, self._load(key, ttl))
            case ["save", int(number), str(key), str(owner)]:
                self._call(number, self._save(key, owner, frame.body))
            case ["delete", int(number), str(key)]:
                self._call(number, self._delete(key))
            case ["enter", int(number), str(key), int(max_waiting)]:
                task = self._begin(self._enter(number, key, max_waiting))
                if not task.done():
                    self._waiting[number] = task
            case ["leave", int(number)]:
                self._leave(number)
            case ["note", str(text)]:
                self._loop.call_soon(self.on_message, text)
            case _:
                raise ValueError("no such frame")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Eager: it runs up to where it waits before the next frame is taken up.
        return asyncio.Task(work, loop=self._loop, eager_start=True)

    # Gates

    async def _enter(self, number: int, key: str, max_waiting: int) -> None:
        try:
            free = await self.gates.enter("worker", key, max_waiting)
        except Full:
            self.wire.send(pack(["full", number]))
        except Exception as error:  # whoever waits must hear of it
            self.wire.send(_failed(number, error))
        else:
            self._held[number] = free
            self.wire.send(pack(["ok", number, None]))
        finally:
            self._waiting.pop(number, None)

    def _leave(self, number: int) -> None:
        if (free := self._held.pop(number, None)) is not None:
            free()
        elif (task := self._waiting.pop(number, None)) is not None:
            task.cancel()

    # Store

    def _call(self, number: int, work: Awaitable[tuple[object, bytes]]) -> None:
        task = self._begin(self._answer(number, work))
        if task.done():
            return
        self._calls.add(task)
        task.add_done_callback(self._answered)
        if len(self._calls) >= UNDER_WAY:
            self.wire.pause()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self.wire.resume()

    async def _answer(self, number: int, work: Awaitable[tuple[object, bytes]]) -> None:
        try:
            value, body = await work
            reply = pack(["ok", number, value], body)
        except TooLarge as error:
            reply = _failed(number, StoreError(f"the session has {error}"))
        except Exception as error:  # whoever waits must hear of it
            reply = _failed(number, error)
        await self.wire.room()
        self.wire.send(reply)

    async def _load(self, key: str, ttl: float) -> tuple[None, bytes]:
        return None, (await self.store.load(key, ttl)).to_json()

    async def _save(self, key: str, owner: str, stored: bytes) -> tuple[None, bytes]:
        await self.store.save(key, owner, Packed(stored=stored))
        return None, b""

    async def _delete(self, key: str) -> tuple[bool, bytes]:
        return await self.store.delete(key), b""


def _failed(number: int, error: Exception) -> bytes:
    """The reply that tells of an error. Of one that nobody expects only the log says more than its type."""
    if isinstance(error, StoreError):
        return pack(["failed", number, str(error)])
    logger.error(f"a call of a worker failed: {type(error).__name__}", exc_info=error)
    return pack(["failed", number, f"the process that keeps the sessions failed: {type(error).__name__}"])
