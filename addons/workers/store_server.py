"""Store server: the parent's end of the channels. It has the store with its leases, and lends both to the workers.

What a worker sends, and what it gets:

    ["lease", n, key, max_waiting]         ["ok", n, fence], the lease is its own now; ["full", n]
    ["release", n]                         nothing: the lease of call n is free, or its place in the queue is given up
    ["load", n, key, ttl]                  ["ok", n, null] and the session
    ["save", n, key, fence, owner] and it  ["ok", n, null]; ["lost", n, text]
    ["delete", n, key, fence]              ["ok", n, true or false]; ["lost", n, text]
    ["reserve", n, claim]                  ["ok", n, null]; ["over", n, why, left, retry_after]
    ["spent", n, key, per]                 ["ok", n, [spent, held]]
    ["settle", settlement]                 nothing
    ["alive"]                              nothing
    ["note", text]                         nothing

Those with a reply may also get ["failed", n, text]. Notes go the other way, too, and the first frame of all is
["hello", version] with the store's secret, which keys the names of sessions.

1. A lease belongs to the call that asked for it, so whoever stops waiting sends `release` and need not know whether the
   lease was granted meanwhile: both cases end with the session free.
2. A worker that is gone frees its leases at once, and what it had under way is settled at what was held for it. What it
   has asked the store for is done all the same. One that says nothing for `EXPIRY` seconds, as where somebody has
   stopped it, loses its leases, and what it saves when it wakes up is refused.
3. Frames are taken up in their order up to the point where they wait: a `save` is in the store's thread before the
   `release` behind it lets anybody load.
4. A worker has at most `UNDER_WAY` calls to the store at a time, then it is not listened to until one is done. What
   waits for a lease does not count: it may wait for a `release` of the same worker.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from addons.core.accounts import Claim, claim_of
from addons.core.relay_keys import PERIODS
from addons.core.sessions import Session
from addons.store import Lease, LeaseLost, Store, StoreError, TooManyWaiting
from addons.store.counts import count_kept
from addons.store.ledger import Book
from addons.store.settlements import Settlement
from addons.workers.channel import VERSION, Frame, FrameTooLarge, Wire, pack
from addons.workers.gathering import Gathering
from addons.workers.names import NUMBERS

logger = logging.getLogger(__name__)

UNDER_WAY = 64
"""Calls of one worker to the store at a time."""

EXPIRY = 15.0
"""Seconds without a word from a worker, which sends one every five, after which its leases are free."""


@dataclass(frozen=True, slots=True)
class Packed(Session):
    """A session as a worker has packed it: stored as it is, since reading it would only take time."""

    stored: bytes = b""

    def to_json(self) -> bytes:
        """The same bytes."""
        return self.stored


class StoreServer:
    """Serves all workers of a parent, in its loop."""

    def __init__(self, store: Store, book: Book | None = None) -> None:
        self.store = store
        self.book = book
        self._names = itertools.count(1)
        self._peers: dict[socket.socket, _Peer] = {}
        self._gathering = Gathering(lambda numbers: count_kept(numbers, store, book), self._ask_numbers)

    async def serve(self, sock: socket.socket, on_message: Callable[[str], None]) -> None:
        """Serve the worker at the other end of `sock` until that end is closed; `on_message` gets its notes.

        Its leases are free then, and what it has asked the store for is done. Cancelled, it closes the socket, too.
        """
        name = f"worker {next(self._names)}"
        peer = self._peers[sock] = _Peer(self.store, self.book, name, sock, on_message, self._gathering)
        try:
            peer.open()
            await peer.gone.wait()
        finally:
            peer.wire.close()
            del self._peers[sock]
        await peer.finish()

    def _ask_numbers(self, asker: object) -> None:
        for peer in self._peers.values():
            if peer is not asker:
                peer.wire.send(pack(["note", NUMBERS]))

    def tell(self, sock: socket.socket, note: str) -> None:
        """Send a note to the worker served at `sock`; nothing if it is gone."""
        if (peer := self._peers.get(sock)) is not None:
            peer.wire.send(pack(["note", note]))


class _Peer:
    """One worker."""

    def __init__(
        self,
        store: Store,
        book: Book | None,
        name: str,
        sock: socket.socket,
        on_message: Callable[[str], None],
        gathering: Gathering,
    ) -> None:
        self.gathering = gathering
        self.store = store
        self.book = book
        self.name = name
        self.on_message = on_message
        self.wire = Wire(sock, self._take, self._closed)
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._held: dict[int, Lease] = {}
        self._heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Say hello, and listen."""
        self.wire.send(pack(["hello", VERSION], self.store.secret))
        self.wire.start()
        self._expire()

    def _expire(self) -> None:
        """Look now and then whether it is still alive."""
        if self._loop.time() - self._heard >= EXPIRY and self._held:
            logger.warning(f"a worker has said nothing for {EXPIRY:g} s: its {len(self._held)} lease(s) have expired")
            self._release_all()
        self._watch = self._loop.call_later(EXPIRY / 3, self._expire)

    def _release_all(self) -> None:
        while self._held:
            self._held.popitem()[1].release()

    async def finish(self) -> None:
        """Wait for what the store has still to do."""
        if self._calls:
            await asyncio.wait(self._calls)

    def _closed(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for task in list(self._waiting.values()):
            task.cancel()
        self._release_all()
        self.gathering.gone(self)
        if self.book is not None:
            self.book.abandon(self.name)
        self.gone.set()

    def _take(self, frame: Frame) -> None:
        self._heard = self._loop.time()
        match frame.head:
            case ["load", int(number), str(key), int() | float() as ttl]:
                self._call(number, self._load(key, ttl))
            case ["save", int(number), str(key), int(fence), str(owner)]:
                self._call(number, self._save(Lease(key, fence), owner, frame.body))
            case ["delete", int(number), str(key), int(fence)]:
                self._call(number, self._delete(Lease(key, fence)))
            case ["lease", int(number), str(key), int(max_waiting)]:
                task = self._begin(self._lease(number, key, max_waiting))
                if not task.done():
                    self._waiting[number] = task
            case ["release", int(number)]:
                self._release(number)
            case ["reserve" | "spent" | "settle" as kind, *values] if self.book is not None:
                self._keep_book(self.book, kind, values)
            case ["numbers"]:
                self.gathering.told(self, frame.body)
            case ["gather", int(number)]:
                self._call(number, self._gather(frame.body))
            case ["alive"]:
                pass
            case ["note", str(text)]:
                self._loop.call_soon(self.on_message, text)
            case _:
                raise ValueError("no such frame")

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Eager: it runs up to where it waits before the next frame is taken up.
        return asyncio.Task(work, loop=self._loop, eager_start=True)

    # Leases

    async def _lease(self, number: int, key: str, max_waiting: int) -> None:
        try:
            lease = await self.store.lease(key, max_waiting)
        except TooManyWaiting:
            self.wire.send(pack(["full", number]))
        except Exception as error:  # whoever waits must hear of it
            self.wire.send(_failed(number, error))
        else:
            self._held[number] = lease
            self.wire.send(pack(["ok", number, lease.fence]))
        finally:
            self._waiting.pop(number, None)

    def _release(self, number: int) -> None:
        if (lease := self._held.pop(number, None)) is not None:
            lease.release()
        elif (task := self._waiting.pop(number, None)) is not None:
            task.cancel()

    # Ledger

    def _keep_book(self, book: Book, kind: str, values: list[Any]) -> None:
        match kind, *values:
            case "reserve", int(number), list(claim):
                self._reserve(book, number, claim_of(claim))
            case "spent", int(number), str(key), str(per) if per in PERIODS:
                spent, held = book.accounts.balance(key, per, book.clock())
                self.wire.send(pack(["ok", number, [spent, held]]))
            case "settle", list(settlement):
                book.settle(Settlement.from_json(settlement), self.name)
            case _:
                raise ValueError("no such frame")

    def _reserve(self, book: Book, number: int, claim: Claim) -> None:
        def done(error: str | None) -> None:
            if error is None:
                self.wire.send(pack(["ok", number, None]))
            else:
                self.wire.send(pack(["failed", number, f"the ledger can't be written: {error}"]))

        refused = book.reserve(claim, self.name, done)
        if refused is not None:
            self.wire.send(pack(["over", number, refused.why, refused.left, refused.retry_after]))

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
        except FrameTooLarge as error:
            reply = _failed(number, StoreError(f"the session has {error}"))
        except Exception as error:  # whoever waits must hear of it
            reply = _failed(number, error)
        await self.wire.room()
        self.wire.send(reply)

    async def _load(self, key: str, ttl: float) -> tuple[None, bytes]:
        return None, (await self.store.load(key, ttl)).to_json()

    async def _save(self, lease: Lease, owner: str, stored: bytes) -> tuple[None, bytes]:
        await self.store.save(lease, owner, Packed(stored=stored))
        return None, b""

    async def _gather(self, numbers: bytes) -> tuple[None, bytes]:
        return None, await self.gathering.all(self, numbers)

    async def _delete(self, lease: Lease) -> tuple[bool, bytes]:
        return await self.store.delete(lease), b""


def _failed(number: int, error: Exception) -> bytes:
    """The reply that tells of an error. Of one that nobody expects only the log says more than its type."""
    if isinstance(error, LeaseLost):
        return pack(["lost", number, str(error)])
    if isinstance(error, StoreError):
        return pack(["failed", number, str(error)])
    logger.error(f"a call of a worker failed: {type(error).__name__}", exc_info=error)
    return pack(["failed", number, f"the process that keeps the sessions failed: {type(error).__name__}"])
