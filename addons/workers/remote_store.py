"""Borrowed: the store and the gates as a worker sees them. Both live in its parent, at the end of a channel.

Where the parent is gone, whatever waits for it and whatever asks it later gets a StoreError.

A reload drops relay's modules and their classes, `StoreError` among them, while the channel goes on. So what is kept
over a reload (`Line`) knows replies as plain values only, and errors are raised by the code that called.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any, Self

from addons.core.sessions import Session
from addons.store.leases import Full, Left
from addons.store.shelf import StoreError, names
from addons.workers.channel import VERSION, Frame, TooLarge, Wire, pack, receive

HELLO_TIMEOUT = 10.0
"""Seconds in which the parent says hello."""

_FLUSH_TIMEOUT = 2.0
_GONE = "the process that keeps the sessions is gone"


class Line:
    """Calls to the parent, and the replies to them."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire = Wire(sock, self._take, self._closed)
        self.on_note: Callable[[str], None] = lambda note: None
        self.on_closed: Callable[[], None] = lambda: None
        self.waiting: dict[str, set[asyncio.Future[Frame]]] = {}
        """The replies that clients wait for before a gate."""
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Future[Frame]] = {}

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
        except TooLarge as error:
            reply.set_result(Frame(["failed", number, f"the session has {error}"]))
        return number, reply

    def forget(self, number: int) -> None:
        """A reply that is still to come is not wanted any more."""
        self._pending.pop(number, None)

    def leave(self, number: int) -> None:
        """Free the gate of a call to `enter`, or give up its place in the queue."""
        self.wire.send(pack(["leave", number]))

    def _take(self, frame: Frame) -> None:
        match frame.head:
            case ["ok" | "full" | "failed", int(number), *_]:
                reply = self._pending.get(number)
                if reply is not None and not reply.done():
                    reply.set_result(frame)
            case ["note", str(note)]:
                asyncio.get_running_loop().call_soon(self.on_note, note)
            case _:
                raise ValueError("no such frame")

    def _closed(self) -> None:
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
        self.store = BorrowedStore(line, secret)
        self.gates = BorrowedGates(line)

    def start(self, on_note: Callable[[str], None], on_closed: Callable[[], None]) -> None:
        """Join the loop that runs. `on_note` gets the parent's notes, `on_closed` is called once the parent is gone."""
        line = self.line
        line.on_note, line.on_closed = on_note, on_closed
        if line.wire.closed:
            asyncio.get_running_loop().call_soon(on_closed)
        else:
            line.wire.start()

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


class BorrowedStore:
    """`store.SessionStore`, in another process."""

    def __init__(self, line: Line, secret: bytes) -> None:
        self.secret = secret
        self._line = line
        self._closed = False

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session in the store, and its owner's: keyed hashes, in hexadecimal."""
        return names(self.secret, api_key, session_id)

    async def load(self, key: str, ttl: float) -> Session:
        """The session under `key`, empty if it was unused for `ttl` seconds."""
        try:
            return Session.from_json((await self._call("load", key, ttl)).body)
        except ValueError as error:
            raise StoreError(str(error)) from None

    async def save(self, key: str, owner: str, session: Session) -> None:
        """Keep `session` under `key`; it is on the disk when this returns."""
        body = session.to_json()
        await self._line.wire.room()
        await self._call("save", key, owner, body=body)

    async def delete(self, key: str) -> bool:
        """Forget a session; False if there was none."""
        return (await self._call("delete", key)).head[2] is True

    async def sweep(self, ttl: float) -> None:
        """Nothing: the parent sweeps."""

    def close(self) -> None:
        """Let go what is on its way to the store; later calls of other methods raise StoreError. The channel stays."""
        self._closed = True
        self._line.wire.flush(_FLUSH_TIMEOUT)

    async def _call(self, kind: str, *values: object, body: bytes = b"") -> Frame:
        if self._closed:
            raise StoreError("the session store is closed")
        number, coming = self._line.ask(kind, *values, body=body)
        try:
            reply = await coming
        finally:
            self._line.forget(number)
        _raise_failed(reply)
        return reply


class BorrowedGates:
    """`turnstile.Gates`, in another process: first come is who is first to be heard there."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def enter(self, client: str, key: str, max_waiting: int) -> Callable[[], None]:
        """Wait for the gate `key` on behalf of a client. The result frees the gate; calling it again does nothing.

        Raises Full, Left where the client has gone meanwhile, and StoreError where the parent has.
        """
        line = self._line
        number, coming = line.ask("enter", key, max_waiting)
        line.waiting.setdefault(client, set()).add(coming)
        try:
            reply = await coming
        except BaseException:
            line.leave(number)  # whether or not the gate is ours already
            raise
        finally:
            line.forget(number)
            line.waiting[client].discard(coming)
            if not line.waiting[client]:
                del line.waiting[client]
        if reply.head[0] == "left":
            line.leave(number)
            raise Left
        if reply.head[0] == "full":
            raise Full
        _raise_failed(reply)
        free = [number]
        return lambda: line.leave(free.pop()) if free else None

    def client_left(self, client: str) -> None:
        """Give up every place of a client."""
        for coming in self._line.waiting.get(client, ()):
            if not coming.done():
                coming.set_result(Frame(["left"]))


def _raise_failed(reply: Frame) -> None:
    head: list[Any] = reply.head
    if head[0] == "failed":
        raise StoreError(head[2])
