"""Remote store: the store as a worker sees it. It lives in its parent, at the end of a channel.

Where the parent is gone, whatever waits for it and whatever asks it later gets a StoreError.

A reload drops relay's modules and their classes, `StoreError` among them, while the channel goes on. So what is kept
over a reload (`Line`) knows replies as plain values only, and errors are raised by the code that called.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from addons.core.accounts import Claim, Refused, claim_to_json
from addons.core.relay_keys import Per
from addons.core.sessions import Session
from addons.store import Lease, LeaseLost, LeaseRequest, StoreError, TooManyWaiting, WaiterLeft
from addons.store.embedded import names
from addons.store.settlements import OverLimit, Settlement
from addons.workers.channel import VERSION, Frame, FrameTooLarge, Wire, pack, receive

HELLO_TIMEOUT = 10.0
"""Seconds in which the parent says hello."""

ALIVE = 5.0
"""Seconds between two words to the parent, which takes a silent worker's leases away."""

_FLUSH_TIMEOUT = 2.0
_GONE = "the process that keeps the sessions is gone"


class Line:
    """Calls to the parent, and the replies to them."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire = Wire(sock, self._take, self._closed)
        self.on_note: Callable[[str], None] = lambda note: None
        self.on_closed: Callable[[], None] = lambda: None
        self.waiting: dict[str, set[asyncio.Future[Frame]]] = {}
        """The leases that clients wait for."""
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._beat: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Join the loop that runs."""
        self.wire.start()
        if self._beat is None:
            self._beat = asyncio.get_running_loop().call_later(ALIVE, self._say_alive)

    def _say_alive(self) -> None:
        if not self.wire.closed:
            self.wire.send(pack(["alive"]))
            self._beat = asyncio.get_running_loop().call_later(ALIVE, self._say_alive)

    def ask(self, kind: str, *values: object, body: bytes = b"") -> tuple[int, asyncio.Future[Frame]]:
        """Begin a call; its number, and what will hold the reply. `forget` it once that is over."""
        number = next(self._numbers)
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._pending[number] = reply
        if self.wire.closed:
            reply.set_result(Frame(["failed", number, _GONE]))
            return number, reply
        try:
            self.wire.send(pack([kind, number, *values], body))
        except FrameTooLarge as error:
            reply.set_result(Frame(["failed", number, f"the session has {error}"]))
        return number, reply

    async def call(self, kind: str, *values: object, body: bytes = b"") -> Frame:
        """The reply to a call, of whatever kind it is."""
        number, coming = self.ask(kind, *values, body=body)
        try:
            return await coming
        finally:
            self.forget(number)

    def forget(self, number: int) -> None:
        """A reply that is still to come is not wanted any more."""
        self._pending.pop(number, None)

    def release(self, number: int) -> None:
        """Free the lease of a call, or give up its place in the queue."""
        self.wire.send(pack(["release", number]))

    def _take(self, frame: Frame) -> None:
        match frame.head:
            case ["ok" | "full" | "lost" | "over" | "failed", int(number), *_]:
                reply = self._pending.get(number)
                if reply is not None and not reply.done():
                    reply.set_result(frame)
            case ["note", str(note)]:
                asyncio.get_running_loop().call_soon(self.on_note, note)
            case _:
                raise ValueError("no such frame")

    def _closed(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        for number, reply in self._pending.items():
            if not reply.done():
                reply.set_result(Frame(["failed", number, _GONE]))
        self.on_closed()


class Channel:
    """A worker's way to its parent. Made outside of the loop or in it, it serves from `start` on."""

    def __init__(self, sock: socket.socket, timeout: float = HELLO_TIMEOUT) -> None:
        """Read the parent's hello, which may block for `timeout` seconds. Raises StoreError where it doesn't come."""
        self._adopt(_hello(sock, timeout), Line(sock))

    @classmethod
    def resumed(cls, before: "Channel") -> Self:
        """The same channel for code that has been loaded anew. Call `start` on it, too."""
        channel = cls.__new__(cls)
        channel._adopt(before.store.secret, before.line)
        return channel

    def _adopt(self, secret: bytes, line: Line) -> None:
        self.line = line
        self.store = RemoteStore(line, secret)

    def start(self, on_note: Callable[[str], None], on_closed: Callable[[], None]) -> None:
        """Join the loop that runs. `on_note` gets the parent's notes, `on_closed` is called once the parent is gone."""
        line = self.line
        line.on_note, line.on_closed = on_note, on_closed
        if line.wire.closed:
            asyncio.get_running_loop().call_soon(on_closed)
        else:
            line.start()

    def ledger(self, path: Path) -> "RemoteLedger":
        """The parent's ledger, whose file is at `path`."""
        return RemoteLedger(self.line, path)

    def tell_numbers(self, numbers: bytes) -> None:
        """Tell the parent what this worker has counted."""
        self.line.wire.send(pack(["numbers"], numbers))

    async def gather_numbers(self, numbers: bytes) -> bytes:
        """What all workers have counted; `numbers` is what this one has. Raises StoreError."""
        return _succeeded(await self.line.call("gather", body=numbers)).body

    def note(self, text: str) -> None:
        """Tell the parent something."""
        self.line.wire.send(pack(["note", text]))

    def close(self) -> None:
        """Close this end: what is under way fails, and the parent takes this worker for gone."""
        self.line.wire.close()


def _hello(sock: socket.socket, timeout: float) -> bytes:
    try:
        head, secret = receive(sock, timeout)
    except (OSError, ValueError) as error:
        raise StoreError(f"the process that keeps the sessions does not answer: {type(error).__name__}") from None
    if head != ["hello", VERSION]:
        raise StoreError("the process that keeps the sessions runs another version of relay: start relay again")
    return secret


class RemoteStore:
    """An `EmbeddedStore` in another process."""

    def __init__(self, line: Line, secret: bytes) -> None:
        self.secret = secret
        self._line = line
        self._closed = False

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session in the store, and its owner's: keyed hashes, in hexadecimal."""
        return names(self.secret, api_key, session_id)

    async def load(self, key: str, ttl: float) -> Session:
        """As `Store.load`."""
        try:
            return Session.from_json((await self._call("load", key, ttl)).body)
        except ValueError as error:
            raise StoreError(str(error)) from None

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """As `Store.lease`: first come is who is first to be heard there."""
        return LeaseRequest(partial(self._acquire, key, max_waiting, waiter))

    async def _acquire(self, key: str, max_waiting: int, waiter: str) -> Lease:
        line = self._line
        number, coming = line.ask("lease", key, max_waiting)
        line.waiting.setdefault(waiter, set()).add(coming)
        try:
            reply = await coming
        except BaseException:
            line.release(number)  # whether or not it is ours already
            raise
        finally:
            line.forget(number)
            line.waiting[waiter].discard(coming)
            if not line.waiting[waiter]:
                del line.waiting[waiter]
        if reply.head[0] == "left":
            line.release(number)
            raise WaiterLeft
        if reply.head[0] == "full":
            raise TooManyWaiting
        _succeeded(reply)
        return Lease(key, reply.head[2], lambda: line.release(number))

    def waiter_left(self, waiter: str) -> None:
        """As `Store.waiter_left`."""
        for coming in self._line.waiting.get(waiter, ()):
            if not coming.done():
                coming.set_result(Frame(["left"]))

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """As `Store.save`."""
        body = session.to_json()
        await self._line.wire.room()
        await self._call("save", lease.key, lease.fence, owner, body=body)

    async def delete(self, lease: Lease) -> bool:
        """As `Store.delete`."""
        return (await self._call("delete", lease.key, lease.fence)).head[2] is True

    async def sweep(self, ttl: float) -> None:
        """Nothing: the parent sweeps."""

    def close(self) -> None:
        """Let go what is on its way to the store; later calls of other methods raise StoreError. The channel stays."""
        self._closed = True
        self._line.wire.flush(_FLUSH_TIMEOUT)

    async def _call(self, kind: str, *values: object, body: bytes = b"") -> Frame:
        if self._closed:
            raise StoreError("the session store is closed")
        return _succeeded(await self._line.call(kind, *values, body=body))


class RemoteLedger:
    """The ledger that the parent has. What it does not hear of, since this worker is gone, is settled as held."""

    passes = True

    def __init__(self, line: Line, path: Path) -> None:
        self._line = line
        self.path = path

    async def reserve(self, claim: Claim) -> None:
        """As `Ledger.reserve`."""
        reply = _succeeded(await self._line.call("reserve", claim_to_json(claim)))
        if reply.head[0] == "over":
            raise OverLimit(Refused(*reply.head[2:5]))

    def settle(self, settlement: Settlement) -> None:
        """As `Ledger.settle`."""
        self._line.wire.send(pack(["settle", settlement.to_json()]))

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """As `Ledger.balance`."""
        spent, held = _succeeded(await self._line.call("spent", key, per)).head[2]
        return spent, held


def _succeeded(reply: Frame) -> Frame:
    """The reply, where it is none that tells of a failure. Raises StoreError, LeaseLost."""
    head: list[Any] = reply.head
    if head[0] == "lost":
        raise LeaseLost(head[2])
    if head[0] == "failed":
        raise StoreError(head[2])
    return reply
