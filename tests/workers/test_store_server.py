import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from addons.core.sessions import Session, Turn
from addons.store import Lease, LeaseRequest, StoreError
from addons.store.embedded import EmbeddedStore
from addons.store.leases import LocalLeases
from addons.workers import channel, store_server
from addons.workers.channel import VERSION, Frame
from addons.workers.store_server import UNDER_WAY, StoreServer
from tests.support.pairs import SECRET, Memory, Raw, hire, settle

ROOT = Path(__file__).resolve().parents[2]
SAID = Session((Turn("我 \ud800 \U0001f600", "ok", 7),))


@contextlib.asynccontextmanager
async def served(server: StoreServer, notes: list[str] | None = None) -> AsyncIterator[Raw]:
    """A worker's end that has been greeted."""
    parents, workers = socket.socketpair()
    serving = asyncio.ensure_future(server.serve(parents, (notes if notes is not None else []).append))
    raw = Raw(workers)
    assert await raw.next() == Frame(["hello", VERSION], SECRET)
    try:
        yield raw
    finally:
        workers.close()
        await asyncio.wait_for(serving, 5)


def test_what_a_worker_may_ask() -> None:
    async def scenario() -> None:
        leases, notes = LocalLeases(), list[str]()
        store = Memory(leases=leases)
        async with served(StoreServer(store), notes) as worker:
            worker.send("save", 1, "key", 1, "owner", body=SAID.to_json())
            assert await worker.next() == Frame(["ok", 1, None])
            assert store.kept == {"key": SAID}
            worker.send("load", 2, "key", 60)
            assert await worker.next() == Frame(["ok", 2, None], SAID.to_json())
            worker.send("delete", 3, "key", 1)
            assert await worker.next() == Frame(["ok", 3, True])
            worker.send("delete", 4, "key", 1)
            assert await worker.next() == Frame(["ok", 4, False])
            worker.send("lease", 5, "key", 0)
            head, _ = await worker.next()
            assert head[:2] == ["ok", 5]
            fence = head[2]
            worker.send("lease", 6, "key", 0)
            assert await worker.next() == Frame(["full", 6])
            worker.send("release", 5)
            worker.send("lease", 7, "key", 0)
            head, _ = await worker.next()
            assert head[:2] == ["ok", 7] and head[2] > fence
            worker.send("note", "ready")
            await settle()
            assert notes == ["ready"]
        assert len(leases.locks) == 0

    asyncio.run(scenario())


def test_replies_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        store = Memory(going=asyncio.Event())
        async with served(StoreServer(store)) as worker:
            worker.send("load", 1, "a", 60)
            worker.send("lease", 2, "a", 0)
            assert (await worker.next()).head[:2] == ["ok", 2]
            assert store.going is not None
            store.going.set()
            assert (await worker.next()).head == ["ok", 1, None]

    asyncio.run(scenario())


def test_notes_reach_the_worker_they_are_for() -> None:
    async def scenario() -> None:
        server = StoreServer(Memory())
        one, other = await hire(server), await hire(server)
        server.tell(one.parents, "drain")
        await settle()
        assert (one.notes, other.notes) == (["drain"], [])
        for worker in (one, other):
            worker.go()
            await asyncio.wait_for(worker.serving, 5)
        server.tell(one.parents, "nobody hears this")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreError("OSError: disk full \ud800"), "OSError: disk full \ud800"),
        (KeyError("sk-secret"), "the process that keeps the sessions failed: KeyError"),
    ],
    ids=["of the store", "that nobody expects"],
)
def test_an_error_is_told(error: Exception, text: str) -> None:
    async def scenario() -> None:
        store = Memory(error=error)
        async with served(StoreServer(store)) as worker:
            for head in (["load", 1, "a", 60], ["save", 2, "a", 1, "b"], ["delete", 3, "a", 1]):
                worker.send(*head)
                assert await worker.next() == Frame(["failed", head[1], text])

    asyncio.run(scenario())


def test_leases_that_fail_are_told() -> None:
    class Failing(LocalLeases):
        def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
            raise RuntimeError

    async def scenario() -> None:
        async with served(StoreServer(Memory(leases=Failing()))) as worker:
            worker.send("lease", 1, "a", 9)
            assert (await worker.next()).head[0] == "failed"

    asyncio.run(scenario())


def test_a_session_over_the_cap_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = Memory({"large": Session((Turn("x" * 2000, "y"),)), "small": SAID})
        async with served(StoreServer(store)) as worker:
            monkeypatch.setattr(channel, "FRAME_CAP", 1000)
            worker.send("load", 1, "large", 60)
            head, body = await worker.next()
            assert (head[:2], body) == (["failed", 1], b"")
            assert "at most 1000" in head[2]
            worker.send("load", 2, "small", 60)
            assert (await worker.next()).body == SAID.to_json()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "head",
    [["dance"], ["load", "1", "a", 60], ["load", 1], ["leave"], [None]],
    ids=["unknown", "a text for a number", "too few values", "no number", "no name"],
)
def test_who_sends_anything_else_is_not_listened_to(head: list[object], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        async with served(StoreServer(Memory(leases=leases))) as worker:
            worker.send("lease", 1, "a", 9)
            await worker.next()
            worker.send(*head)
            with pytest.raises(EOFError):
                await worker.next()
            assert len(leases.locks) == 0

    asyncio.run(scenario())
    assert "can't be read" in caplog.text


# Who dies


def test_whoever_dies_frees_its_leases_and_gives_up_its_places() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        server = StoreServer(Memory(leases=leases))
        async with served(server) as stays:
            async with served(server) as dies:
                dies.send("lease", 1, "a", 9)
                dies.send("lease", 2, "b", 9)
                await dies.next()
                await dies.next()
                dies.send("lease", 3, "a", 9)
                await settle()
                stays.send("lease", 1, "a", 9)
                stays.send("lease", 2, "b", 9)
                await settle()
            heads = [(await stays.next()).head, (await stays.next()).head]
            assert sorted(head[:2] for head in heads) == [["ok", 1], ["ok", 2]]
            assert len(leases.locks) == 2
        assert len(leases.locks) == 0
        assert not leases._waiting

    asyncio.run(scenario())


def test_what_a_dead_worker_has_asked_to_save_is_saved_first() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        store = Memory(going=asyncio.Event(), leases=leases)
        assert store.going is not None
        server = StoreServer(store)
        parents, workers = socket.socketpair()
        serving = asyncio.ensure_future(server.serve(parents, print))
        raw = Raw(workers)
        raw.send("lease", 1, "a", 9)
        raw.send("save", 2, "a", 1, "owner", body=SAID.to_json())
        workers.close()
        await settle()
        assert len(leases.locks) == 0  # at once
        assert store.under_way == 1
        assert not serving.done()  # so that nobody closes the store before
        store.going.set()
        await asyncio.wait_for(serving, 5)
        assert store.kept == {"a": SAID}

    asyncio.run(scenario())


def test_a_save_is_begun_before_the_leave_behind_it() -> None:
    async def scenario() -> None:
        order = list[str]()

        class Noting(Memory):
            async def save(self, lease: Lease, owner: str, session: Session) -> None:
                order.append("save")

        class NotingLeases(LocalLeases):
            def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
                async def acquire() -> Lease:
                    return Lease(key, 1, lambda: order.append("release"))

                return LeaseRequest(acquire)

        async with served(StoreServer(Noting(leases=NotingLeases()))) as worker:
            worker.send("lease", 1, "a", 9)
            await worker.next()
            worker.send("save", 2, "a", 1, "o", body=SAID.to_json())
            worker.send("release", 1)
            await worker.next()
            assert order == ["save", "release"]

    asyncio.run(scenario())


def test_cancelled_it_frees_and_closes_everything() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        server = StoreServer(Memory(leases=leases))
        worker = await hire(server)
        await worker.channel.store.lease("a", 9, "c")
        worker.serving.cancel()
        await settle()
        assert worker.serving.cancelled()
        assert worker.closed == 1
        assert len(leases.locks) == 0

    asyncio.run(scenario())


# Bounds


def test_calls_under_way_are_bounded_and_releases_get_through() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        store = Memory(going=asyncio.Event(), leases=leases)
        assert store.going is not None
        async with served(StoreServer(store)) as worker:
            for number in range(3 * UNDER_WAY):
                worker.send("load", number, "a", 60)
            await settle()
            assert store.under_way == UNDER_WAY
            store.going.set()
            heard = [(await worker.next()).head[1] for _ in range(3 * UNDER_WAY)]
            assert sorted(heard) == list(range(3 * UNDER_WAY))
            assert store.most == UNDER_WAY

    asyncio.run(scenario())


def test_a_worker_that_does_not_read_is_not_read_for_ever() -> None:
    async def scenario() -> None:
        large = Session((Turn("x" * 300_000, "y"),))
        store = Memory({"a": large})
        server = StoreServer(store)
        async with served(server) as worker:
            for number in range(200):
                worker.send("load", number, "a", 60)
            await settle(200)
            (peer,) = server._peers.values()
            assert len(peer._calls) == UNDER_WAY
            assert len(peer.wire._out) < 2 * 1024**2
            for _ in range(200):
                assert (await worker.next()).body == large.to_json()

    asyncio.run(scenario())


def test_who_waits_for_a_lease_is_no_call_under_way() -> None:
    async def scenario() -> None:
        async with served(StoreServer(Memory())) as worker:
            for number in range(3 * UNDER_WAY):
                worker.send("lease", number, "a", 1000)
            for number in range(3 * UNDER_WAY):
                assert (await worker.next()).head[:2] == ["ok", number]
                worker.send("release", number)

    asyncio.run(scenario())


# A real process

WORKER = """
import asyncio, socket, sys
from addons.core.sessions import Session, Turn
from addons.workers.remote_store import Channel
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
async def main():
    gone = asyncio.Event()
    channel.start(print, gone.set)
    key, owner = channel.store.key("sk-a", "s")
    lease = await channel.store.lease(key, 9, "client")
    waiting = asyncio.ensure_future(channel.store.lease(key, 9, "client"))
    saving = asyncio.ensure_future(channel.store.save(lease, owner, Session((Turn("x" * int(sys.argv[2]), "y"),))))
    await asyncio.sleep(0)
    channel.note("at it")
    await gone.wait()
    sys.exit(7)
asyncio.run(main())
"""


def employ(server: StoreServer, notes: list[str], size: int) -> tuple[subprocess.Popen[bytes], asyncio.Task[None]]:
    """A process at the other end."""
    parents, workers = socket.socketpair()
    with workers:
        command = [sys.executable, "-c", WORKER, str(workers.fileno()), str(size)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environ, pass_fds=[workers.fileno()])
    return process, asyncio.ensure_future(server.serve(parents, notes.append))


async def until(true: list[str]) -> None:
    """Wait for a note."""
    async with asyncio.timeout(20):
        while not true:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("size", [10, 100_000], ids=["a small session", "a large session"])
def test_a_killed_process_frees_its_leases_and_its_save_is_done(tmp_path: Path, size: int) -> None:
    store = EmbeddedStore(tmp_path, 9, 9, time.time)

    async def scenario() -> None:
        leases, notes = store.leases, list[str]()
        server = StoreServer(store)
        process, serving = employ(server, notes, size)
        await until(notes)
        key, _ = store.key("sk-a", "s")
        entering = asyncio.ensure_future(leases.lease(key, 9, "here"))
        os.kill(process.pid, signal.SIGKILL)
        (await asyncio.wait_for(entering, 5)).release()
        await asyncio.wait_for(serving, 5)
        assert process.wait(5) == -signal.SIGKILL
        assert (await store.load(key, 60)).turns[0].user == "x" * size
        assert len(leases.locks) == 0

    asyncio.run(scenario())
    store.close()


def test_a_stopped_process_loses_its_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_server, "EXPIRY", 1.0)
    store = EmbeddedStore(tmp_path, 9, 9, time.time)

    async def scenario() -> None:
        notes = list[str]()
        process, serving = employ(StoreServer(store), notes, 10)
        await until(notes)
        key, _ = store.key("sk-a", "s")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            # It held the session, and waits for it once more.
            (await asyncio.wait_for(asyncio.ensure_future(store.lease(key, 9, "here")), 10)).release()
        finally:
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(serving, 5)
        assert process.wait(5) == -signal.SIGKILL

    asyncio.run(scenario())
    store.close()


def test_a_process_hears_of_its_parent_s_going(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, 9, 9, time.time)

    async def scenario() -> None:
        notes = list[str]()
        process, serving = employ(StoreServer(store), notes, 10)
        await until(notes)
        serving.cancel()
        assert await asyncio.to_thread(process.wait, 10) == 7

    asyncio.run(scenario())
    store.close()
