import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from addons.core.sessions import Session, Turn
from addons.store.leases import LocalSessionLocks
from addons.store.shelf import SessionStore, StoreError
from addons.workers import channel
from addons.workers.channel import VERSION, Frame
from addons.workers.store_server import UNDER_WAY, Keeper
from tests.workers.pairs import SECRET, Memory, Raw, hire, settle

ROOT = Path(__file__).resolve().parents[2]
SAID = Session((Turn("我 \ud800 \U0001f600", "ok", 7),))


@contextlib.asynccontextmanager
async def served(keeper: Keeper, notes: list[str] | None = None) -> AsyncIterator[Raw]:
    """A worker's end that has been greeted."""
    parents, workers = socket.socketpair()
    serving = asyncio.ensure_future(keeper.serve(parents, (notes if notes is not None else []).append))
    raw = Raw(workers)
    assert await raw.next() == Frame(["hello", VERSION], SECRET)
    try:
        yield raw
    finally:
        workers.close()
        await asyncio.wait_for(serving, 5)


def test_what_a_worker_may_ask() -> None:
    async def scenario() -> None:
        store, gates, notes = Memory(), LocalSessionLocks(), list[str]()
        async with served(Keeper(store, gates), notes) as worker:
            worker.send("save", 1, "key", "owner", body=SAID.to_json())
            assert await worker.next() == Frame(["ok", 1, None])
            assert store.kept == {"key": SAID}
            worker.send("load", 2, "key", 60)
            assert await worker.next() == Frame(["ok", 2, None], SAID.to_json())
            worker.send("delete", 3, "key")
            assert await worker.next() == Frame(["ok", 3, True])
            worker.send("delete", 4, "key")
            assert await worker.next() == Frame(["ok", 4, False])
            worker.send("enter", 5, "key", 0)
            assert await worker.next() == Frame(["ok", 5, None])
            worker.send("enter", 6, "key", 0)
            assert await worker.next() == Frame(["full", 6])
            worker.send("leave", 5)
            worker.send("enter", 7, "key", 0)
            assert await worker.next() == Frame(["ok", 7, None])
            worker.send("note", "ready")
            await settle()
            assert notes == ["ready"]
        assert len(gates.turnstile) == 0

    asyncio.run(scenario())


def test_replies_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        store = Memory(going=asyncio.Event())
        async with served(Keeper(store, LocalSessionLocks())) as worker:
            worker.send("load", 1, "a", 60)
            worker.send("enter", 2, "a", 0)
            assert await worker.next() == Frame(["ok", 2, None])
            assert store.going is not None
            store.going.set()
            assert (await worker.next()).head == ["ok", 1, None]

    asyncio.run(scenario())


def test_notes_reach_the_worker_they_are_for() -> None:
    async def scenario() -> None:
        keeper = Keeper(Memory(), LocalSessionLocks())
        one, other = await hire(keeper), await hire(keeper)
        keeper.tell(one.parents, "drain")
        await settle()
        assert (one.notes, other.notes) == (["drain"], [])
        for worker in (one, other):
            worker.go()
            await asyncio.wait_for(worker.serving, 5)
        keeper.tell(one.parents, "nobody hears this")

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
        async with served(Keeper(store, LocalSessionLocks())) as worker:
            for head in (["load", 1, "a", 60], ["save", 2, "a", "b"], ["delete", 3, "a"]):
                worker.send(*head)
                assert await worker.next() == Frame(["failed", head[1], text])

    asyncio.run(scenario())


def test_gates_that_fail_are_told() -> None:
    class Failing(LocalSessionLocks):
        async def enter(self, client: str, key: str, max_waiting: int) -> Callable[[], None]:
            raise RuntimeError

    async def scenario() -> None:
        async with served(Keeper(Memory(), Failing())) as worker:
            worker.send("enter", 1, "a", 9)
            assert (await worker.next()).head[0] == "failed"

    asyncio.run(scenario())


def test_a_session_over_the_cap_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = Memory({"large": Session((Turn("x" * 2000, "y"),)), "small": SAID})
        async with served(Keeper(store, LocalSessionLocks())) as worker:
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
        gates = LocalSessionLocks()
        async with served(Keeper(Memory(), gates)) as worker:
            worker.send("enter", 1, "a", 9)
            await worker.next()
            worker.send(*head)
            with pytest.raises(EOFError):
                await worker.next()
            assert len(gates.turnstile) == 0

    asyncio.run(scenario())
    assert "can't be read" in caplog.text


# Who dies


def test_whoever_dies_frees_its_gates_and_gives_up_its_places() -> None:
    async def scenario() -> None:
        gates = LocalSessionLocks()
        keeper = Keeper(Memory(), gates)
        async with served(keeper) as stays:
            async with served(keeper) as dies:
                dies.send("enter", 1, "a", 9)
                dies.send("enter", 2, "b", 9)
                await dies.next()
                await dies.next()
                dies.send("enter", 3, "a", 9)
                await settle()
                stays.send("enter", 1, "a", 9)
                stays.send("enter", 2, "b", 9)
                await settle()
            assert sorted([(await stays.next()).head, (await stays.next()).head]) == [["ok", 1, None], ["ok", 2, None]]
            assert len(gates.turnstile) == 2
        assert len(gates.turnstile) == 0
        assert not gates._waiting

    asyncio.run(scenario())


def test_what_a_dead_worker_has_asked_to_save_is_saved_first() -> None:
    async def scenario() -> None:
        store, gates = Memory(going=asyncio.Event()), LocalSessionLocks()
        assert store.going is not None
        keeper = Keeper(store, gates)
        parents, workers = socket.socketpair()
        serving = asyncio.ensure_future(keeper.serve(parents, print))
        raw = Raw(workers)
        raw.send("enter", 1, "a", 9)
        raw.send("save", 2, "a", "owner", body=SAID.to_json())
        workers.close()
        await settle()
        assert len(gates.turnstile) == 0  # at once
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
            async def save(self, key: str, owner: str, session: Session) -> None:
                order.append("save")

        class NotingGates(LocalSessionLocks):
            async def enter(self, client: str, key: str, max_waiting: int) -> Callable[[], None]:
                return lambda: order.append("leave")

        async with served(Keeper(Noting(), NotingGates())) as worker:
            worker.send("enter", 1, "a", 9)
            await worker.next()
            worker.send("save", 2, "a", "o", body=SAID.to_json())
            worker.send("leave", 1)
            await worker.next()
            assert order == ["save", "leave"]

    asyncio.run(scenario())


def test_cancelled_it_frees_and_closes_everything() -> None:
    async def scenario() -> None:
        gates = LocalSessionLocks()
        keeper = Keeper(Memory(), gates)
        worker = await hire(keeper)
        await worker.channel.gates.enter("c", "a", 9)
        worker.serving.cancel()
        await settle()
        assert worker.serving.cancelled()
        assert worker.closed == 1
        assert len(gates.turnstile) == 0

    asyncio.run(scenario())


# Bounds


def test_calls_under_way_are_bounded_and_leaves_get_through() -> None:
    async def scenario() -> None:
        store, gates = Memory(going=asyncio.Event()), LocalSessionLocks()
        assert store.going is not None
        async with served(Keeper(store, gates)) as worker:
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
        keeper = Keeper(store, LocalSessionLocks())
        async with served(keeper) as worker:
            for number in range(200):
                worker.send("load", number, "a", 60)
            await settle(200)
            (desk,) = keeper._desks.values()
            assert len(desk._calls) == UNDER_WAY
            assert len(desk.wire._out) < 2 * 1024**2
            for _ in range(200):
                assert (await worker.next()).body == large.to_json()

    asyncio.run(scenario())


def test_who_waits_for_a_gate_is_no_call_under_way() -> None:
    async def scenario() -> None:
        async with served(Keeper(Memory(), LocalSessionLocks())) as worker:
            for number in range(3 * UNDER_WAY):
                worker.send("enter", number, "a", 1000)
            for number in range(3 * UNDER_WAY):
                assert await worker.next() == Frame(["ok", number, None])
                worker.send("leave", number)

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
    await channel.gates.enter("client", key, 9)
    waiting = asyncio.ensure_future(channel.gates.enter("client", key, 9))
    saving = asyncio.ensure_future(channel.store.save(key, owner, Session((Turn("x" * int(sys.argv[2]), "y"),))))
    await asyncio.sleep(0)
    channel.note("at it")
    await gone.wait()
    sys.exit(7)
asyncio.run(main())
"""


def employ(keeper: Keeper, notes: list[str], size: int) -> tuple[subprocess.Popen[bytes], asyncio.Task[None]]:
    """A process at the other end."""
    parents, workers = socket.socketpair()
    with workers:
        command = [sys.executable, "-c", WORKER, str(workers.fileno()), str(size)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environ, pass_fds=[workers.fileno()])
    return process, asyncio.ensure_future(keeper.serve(parents, notes.append))


async def until(true: list[str]) -> None:
    """Wait for a note."""
    async with asyncio.timeout(20):
        while not true:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("size", [10, 100_000], ids=["a small session", "a large session"])
def test_a_killed_process_frees_its_gates_and_its_save_is_done(tmp_path: Path, size: int) -> None:
    store = SessionStore(tmp_path, 9, 9, time.time)

    async def scenario() -> None:
        gates, notes = LocalSessionLocks(), list[str]()
        keeper = Keeper(store, gates)
        process, serving = employ(keeper, notes, size)
        await until(notes)
        key, _ = store.key("sk-a", "s")
        entering = asyncio.ensure_future(gates.enter("here", key, 9))
        os.kill(process.pid, signal.SIGKILL)
        (await asyncio.wait_for(entering, 5))()
        await asyncio.wait_for(serving, 5)
        assert process.wait(5) == -signal.SIGKILL
        assert (await store.load(key, 60)).turns[0].user == "x" * size
        assert len(gates.turnstile) == 0

    asyncio.run(scenario())
    store.close()


def test_a_process_hears_of_its_parent_s_going(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, 9, 9, time.time)

    async def scenario() -> None:
        notes = list[str]()
        process, serving = employ(Keeper(store, LocalSessionLocks()), notes, 10)
        await until(notes)
        serving.cancel()
        assert await asyncio.to_thread(process.wait, 10) == 7

    asyncio.run(scenario())
    store.close()
