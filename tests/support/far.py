"""A network that is far away: passes TCP on, and lets each byte take its time.

    python -m tests.support.far 8443 0.05

Before port 8443 of this machine, with a round trip of 50 ms; prints the port it listens at. What either side says
arrives half a round trip later, and the first that a client says one more round trip later, since its connection would
not have been there before (RFC 9293, 3.5). Bandwidth is unbounded; order, ends and resets are kept.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import cast

from tests.support.live import ROOT, environment


@contextlib.contextmanager
def running(port: int, round_trip: float) -> Iterator[int]:
    """The port of one before `port`, in a process of its own; `round_trip` in seconds."""
    command = [sys.executable, "-m", "tests.support.far", str(port), str(round_trip)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class Lane:
    """One direction: what is put in is done `seconds` later, in the same order."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._due = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    def put(self, step: Callable[[], None], later: float = 0.0) -> None:
        """Do `step` in its time, or `later` seconds after that."""
        self._due = max(self._due, self._loop.time() + self._seconds + later)
        self._waiting.append(step)
        self._loop.call_at(self._due, self._next)

    def _next(self) -> None:
        self._waiting.popleft()()


class Side(asyncio.Protocol):
    """One of the two connections: what is said there goes to `peer`."""

    def __init__(self, lane: Lane, round_trip: float = 0.0) -> None:
        """`round_trip` of whoever has connected: how long that would have taken."""
        self.peer: Side
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._made, self._round_trip = self._loop.time(), round_trip
        self._transport: asyncio.Transport | None = None
        self._early: list[Callable[[asyncio.Transport], None]] = []
        """What is to be done as soon as there is a connection."""
        self._ends = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for step in self._early:
            step(self._transport)

    def data_received(self, data: bytes) -> None:
        """Carry it over."""
        self.carry(lambda transport: transport.write(data))

    def eof_received(self) -> bool:
        """This side has said all; it still hears."""
        self.carry(lambda _: self.peer.end())
        self._end_counts()
        return True

    def end(self) -> None:
        """Nothing more will be said to this side."""
        assert self._transport is not None
        self._transport.write_eof()
        self._end_counts()

    def _end_counts(self) -> None:
        self._ends += 1
        if self._ends == 2 and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, or was reset."""
        self.carry(lambda transport: transport.close() if exc is None else transport.abort())

    def carry(self, step: Callable[[asyncio.Transport], None]) -> None:
        """Do `step` with the other connection when news of it would have arrived there."""
        fresh = self._loop.time() - self._made < self._round_trip
        self._lane.put(lambda: self.peer.do(step), self._round_trip if fresh else 0.0)

    def do(self, step: Callable[[asyncio.Transport], None]) -> None:
        """Do it with this connection."""
        if self._transport is None:
            self._early.append(step)
        elif not self._transport.is_closing():
            with contextlib.suppress(OSError):  # its end is there already, and only asyncio has not heard of it
                step(self._transport)


def _accept(port: int, round_trip: float, tasks: set[asyncio.Task[None]]) -> Side:
    near, far = Side(Lane(round_trip / 2), round_trip), Side(Lane(round_trip / 2))
    near.peer, far.peer = far, near
    task = asyncio.create_task(_reach(far, port, round_trip / 2))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return near


async def _reach(far: Side, port: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    try:
        await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", port)
    except OSError as error:
        far.connection_lost(error)


async def _serve(port: int, round_trip: float) -> None:
    tasks: set[asyncio.Task[None]] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _accept(port, round_trip, tasks), "127.0.0.1", 0, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
