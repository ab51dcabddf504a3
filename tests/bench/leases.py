"""Turns of `/chat` as the store sees them, from two processes: lease, load, save, release.

Beside what relay has (a parent that lends its store) stands what it could have: each process opens the same SQLite
file, and leases are rows of tickets in it. Only the second is written for this comparison. It has no expiry and no
fencing, so it does less than it would have to.
"""

import asyncio
import json
import multiprocessing
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from addons.core.sessions import Session, Turn
from addons.store.embedded import EmbeddedStore
from addons.workers.remote_store import Channel
from addons.workers.store_server import StoreServer
from tests.bench.rounds import middle
from tests.bench.tables import table, times
from tests.support.live import ROOT, environment

_PROCESSES = 2
_CLIENTS = 16
"""At a time, in each process."""
_SESSION = Session(tuple(Turn("你是谁?" * 5, "Hello! How can I help you today?" * 5) for _ in range(10)))

Work = Callable[[str], Awaitable[None]]
"""One turn of one session."""

NOTE = (
    f"{_PROCESSES} processes with {_CLIENTS} messages each at a time, each of another session of ten turns: lease, "
    "load, save, release. `lent`: a parent has the store, as with `workers: 2`. `shared file`: each process opens the "
    "same SQLite file, with leases as rows of tickets in it."
)


def section(seconds: float, rounds: int) -> str:
    """The table."""
    found: dict[str, list[float]] = {"lent": [], "shared file": []}
    for number in range(rounds):
        for name in found if number % 2 == 0 else reversed(found):
            found[name].append(_lent(seconds) if name == "lent" else _shared(seconds))
    ratios = [other / one for one, other in zip(found["lent"], found["shared file"], strict=True)]
    rows = [
        ["lent", f"{middle(found['lent'], float):,.0f}", ""],
        ["shared file", f"{middle(found['shared file'], float):,.0f}", times(middle(ratios, float))],
    ]
    return table(["", "turns/s", "x lent"], rows)


async def _turns(work: Work, name: str, seconds: float) -> float:
    """How many turns a second."""
    end, count = time.perf_counter() + seconds, 0

    async def client(number: int) -> None:
        nonlocal count
        turn = 0
        while time.perf_counter() < end:
            await work(f"{name}-{number}-{turn % 60}")
            turn += 1
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
    return count / (time.perf_counter() - began)


def _lent(seconds: float) -> float:
    async def parent(folder: str) -> float:
        store = EmbeddedStore(Path(folder), 10_000, 10_000, time.time)
        server = StoreServer(store)
        try:
            return sum(await asyncio.gather(*(_employ(server, number, seconds) for number in range(_PROCESSES))))
        finally:
            store.close()

    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        return asyncio.run(parent(folder))


async def _employ(server: StoreServer, number: int, seconds: float) -> float:
    import socket

    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-O", "-m", "tests.bench.leases", str(theirs.fileno()), str(number), str(seconds)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment()
        )
    serving = asyncio.ensure_future(server.serve(ours, lambda note: None))
    said, _ = await process.communicate()
    await serving
    return float(json.loads(said))


async def _worker(descriptor: int, name: str, seconds: float) -> float:
    import socket

    channel = Channel(socket.socket(fileno=descriptor))
    channel.start(lambda note: None, lambda: None)
    store = channel.store

    async def work(session_id: str) -> None:
        key, owner = store.key("sk-bench", session_id)
        async with store.lease(key, 100) as lease:
            await store.load(key, 1800)
            await store.save(lease, owner, _SESSION)

    return await _turns(work, name, seconds)


# The alternative


class _Shared:
    """A store that every process opens, for one thread."""

    def __init__(self, folder: Path) -> None:
        self.sql = sqlite3.connect(folder / "shared.db", timeout=30, isolation_level=None, check_same_thread=False)
        self.sql.execute("PRAGMA journal_mode=wal")
        self.sql.execute("CREATE TABLE IF NOT EXISTS Dict (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self.sql.execute("CREATE TABLE IF NOT EXISTS Ticket (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT)")
        self.sql.execute("CREATE INDEX IF NOT EXISTS Ticket_key ON Ticket (key, id)")

    def take(self, key: str) -> tuple[int, bool]:
        """A ticket, and whether it is its turn."""
        self.sql.execute("BEGIN IMMEDIATE")
        ticket = self.sql.execute("INSERT INTO Ticket (key) VALUES (?)", (key,)).lastrowid or 0
        first = self.sql.execute("SELECT min(id) FROM Ticket WHERE key = ?", (key,)).fetchone()[0]
        self.sql.execute("COMMIT")
        return ticket, first == ticket

    def is_first(self, key: str, ticket: int) -> bool:
        """Whether its turn has come."""
        return bool(self.sql.execute("SELECT min(id) FROM Ticket WHERE key = ?", (key,)).fetchone()[0] == ticket)

    def load(self, key: str) -> Session:
        """A session."""
        row = self.sql.execute("SELECT value FROM Dict WHERE key = ?", (key,)).fetchone()
        return Session.from_json(row[0]) if row else Session()

    def save(self, key: str, ticket: int, session: Session) -> None:
        """Keep a session and give the ticket back, in one transaction."""
        self.sql.execute("BEGIN IMMEDIATE")
        self.sql.execute("INSERT OR REPLACE INTO Dict (key, value) VALUES (?, ?)", (key, session.to_json()))
        self.sql.execute("DELETE FROM Ticket WHERE id = ?", (ticket,))
        self.sql.execute("COMMIT")


def _shared(seconds: float) -> float:
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        _Shared(Path(folder)).sql.close()
        with multiprocessing.get_context("spawn").Pool(_PROCESSES) as pool:
            arguments = [(folder, str(number), seconds) for number in range(_PROCESSES)]
            return sum(pool.starmap(_sharing, arguments))


def _sharing(folder: str, name: str, seconds: float) -> float:
    async def run() -> float:
        store, thread, loop = _Shared(Path(folder)), ThreadPoolExecutor(1), asyncio.get_running_loop()

        async def work(key: str) -> None:
            ticket, first = await loop.run_in_executor(thread, store.take, key)
            while not first:
                await asyncio.sleep(0.02)
                first = await loop.run_in_executor(thread, store.is_first, key, ticket)
            await loop.run_in_executor(thread, store.load, key)
            await loop.run_in_executor(thread, store.save, key, ticket, _SESSION)

        return await _turns(work, name, seconds)

    return asyncio.run(run())


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_worker(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))))
