"""A store server and workers, in one process and one loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from addons.core.sessions import Session
from addons.store import Lease, LeaseRequest, Store, StoreError
from addons.store.embedded import names
from addons.store.leases import LocalLeases
from addons.workers.channel import Frame, Unpacker, pack
from addons.workers.remote_store import Channel
from addons.workers.store_server import StoreServer

SECRET = bytes(range(32))


async def settle(turns: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


@dataclass
class Memory:
    """A store that takes no time, or as long as a test wants, and believes every lease."""

    kept: dict[str, Session] = field(default_factory=dict)
    secret: bytes = SECRET
    going: asyncio.Event | None = None
    """What calls wait for, where there is such a thing."""
    error: Exception | None = None
    under_way: int = 0
    most: int = 0
    """The most calls that were under way at a time."""
    leases: LocalLeases = field(default_factory=LocalLeases)

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        return names(self.secret, api_key, session_id)

    async def _work(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.going is not None:
                await self.going.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.under_way -= 1

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        return self.leases.lease(key, max_waiting, waiter)

    def waiter_left(self, waiter: str) -> None:
        self.leases.waiter_left(waiter)

    async def load(self, key: str, ttl: float) -> Session:
        await self._work()
        return self.kept.get(key, Session())

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        await self._work()
        self.kept[lease.key] = Session.from_json(session.to_json())

    async def delete(self, lease: Lease) -> bool:
        await self._work()
        return self.kept.pop(lease.key, None) is not None

    async def sweep(self, ttl: float) -> None:
        raise StoreError("only the parent sweeps")

    def close(self) -> None:
        raise StoreError("only the parent closes")


@dataclass
class Worker:
    """A worker's end, and what the parent holds of it."""

    channel: Channel
    parents: socket.socket
    serving: asyncio.Task[None]
    notes: list[str] = field(default_factory=list)
    closed: int = 0

    def go(self) -> None:
        """End as a killed process does."""
        self.channel.close()

    def gone(self) -> None:
        """Count."""
        self.closed += 1


async def hire(server: StoreServer, on_message: Callable[[str], None] = lambda note: None) -> Worker:
    """One more worker."""
    parents, workers = socket.socketpair()
    serving = asyncio.ensure_future(server.serve(parents, on_message))
    await asyncio.sleep(0)
    worker = Worker(Channel(workers, 1), parents, serving)
    worker.channel.start(worker.notes.append, worker.gone)
    return worker


@contextlib.asynccontextmanager
async def hired(store: Store, count: int = 1) -> AsyncIterator[list[Worker]]:
    """Some workers of a store server, who go at the end."""
    server = StoreServer(store)
    workers = [await hire(server) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.go()
        await asyncio.wait_for(asyncio.gather(*(worker.serving for worker in workers)), 5)


class Raw:
    """A worker's end without anything in it: frames as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self._unpacker = Unpacker()

    def send(self, *head: object, body: bytes = b"") -> None:
        """Send a frame."""
        self.sock.sendall(pack(list(head), body))

    async def next(self) -> Frame:
        """The next frame, within five seconds. Raises EOFError at the end."""
        loop = asyncio.get_running_loop()
        while (frame := self._unpacker.next()) is None:
            data = await asyncio.wait_for(loop.sock_recv(self.sock, 1 << 16), 5)
            if not data:
                raise EOFError
            self._unpacker.feed(data)
        return frame


@contextlib.contextmanager
def socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets, closed at the end."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other
