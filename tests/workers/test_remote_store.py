import asyncio
import contextlib
import importlib
import itertools
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.core.sessions import Request, Session, Turn
from addons.store import Lease, LeaseRequest, Store, StoreError, WaiterLeft
from addons.store.embedded import EmbeddedStore
from addons.store.leases import LocalLeases
from addons.workers import channel as channel_module
from addons.workers.channel import VERSION, pack, receive
from addons.workers.remote_store import Channel
from addons.workers.store_server import StoreServer
from tests.support.pairs import SECRET, Memory, Worker, hire, hired, settle, socketpair
from tests.support.stores import forget, keep

KEY = "sk-0123456789abcdefghij"
SAID = Session((Turn("我叫小明", "你好\ud800\U0001f600"), Turn("a\nb", "", 9)), Request("p", 1, 12))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    opened = EmbeddedStore(tmp_path, 1000, 1000, time.time)
    yield opened
    opened.close()


@contextlib.contextmanager
def greeted() -> Iterator[tuple[socket.socket, Channel]]:
    """A parent's end that the test plays, and a channel."""
    with socketpair() as (parents, workers):
        parents.sendall(pack(["hello", VERSION], SECRET))
        held = Channel(workers, 1)
        yield parents, held
        held.close()


# The store


def test_a_borrowed_store_is_like_the_store(store: EmbeddedStore) -> None:
    async def scenario() -> None:
        async with hired(store, 2) as workers:
            one, other = (worker.channel.store for worker in workers)
            for name in ("s", "", "\ud800", "b\0s"):
                assert one.key(KEY, name) == store.key(KEY, name)
            key, owner = one.key(KEY, "s")
            assert await one.load(key, 60) == Session()
            await keep(one, key, owner, SAID)
            assert await other.load(key, 60) == SAID
            assert await other.load(key, 0) == Session()
            assert await store.load(key, 60) == SAID
            await other.sweep(0)  # the parent's business
            assert await forget(other, key) is True
            assert await forget(one, key) is False
            assert await one.load(key, 60) == Session()

    asyncio.run(scenario())


def test_what_is_stored_is_the_same_byte_for_byte(store: EmbeddedStore) -> None:
    async def scenario() -> None:
        async with hired(store) as (worker,):
            for name, keeps in (("a", store), ("b", worker.channel.store)):
                await keep(keeps, *store.key(KEY, name), SAID)

    asyncio.run(scenario())
    keys = [store.key(KEY, name)[0] for name in "ab"]
    first, second = (store._thread.submit(store._shelf.shelf.__getitem__, key).result() for key in keys)
    assert first == second == SAID.to_json()


def test_an_error_of_the_store_keeps_type_and_text(store: EmbeddedStore) -> None:
    async def scenario() -> None:
        async with hired(store) as (worker,):
            lent = worker.channel.store
            lease = await lent.lease("k", 0)
            store.close()
            for call in (lent.load("k", 60), lent.save(lease, "o", SAID), lent.delete(lease)):
                with pytest.raises(StoreError, match=r"^the session store is closed$"):
                    await call

    asyncio.run(scenario())


def test_a_session_over_the_cap_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with hired(Memory()) as (worker,):
            monkeypatch.setattr(channel_module, "FRAME_CAP", 1000)
            lent = worker.channel.store
            with pytest.raises(StoreError, match=r"the session has .* at most 1000") as caught:
                await lent.save(Lease("k", 1), "o", Session((Turn("sk-secret" * 200, "y"),)))
            assert "sk-secret" not in str(caught.value)
            await lent.save(Lease("k", 1), "o", SAID)
            assert await lent.load("k", 60) == SAID
            assert not worker.channel.line._pending

    asyncio.run(scenario())


def test_a_caller_that_is_cancelled_leaves_nothing_half_done() -> None:
    async def scenario() -> None:
        store = Memory(going=asyncio.Event())
        assert store.going is not None
        async with hired(store) as (worker,):
            lent = worker.channel.store
            saving = asyncio.ensure_future(lent.save(Lease("k", 1), "o", SAID))
            await asyncio.sleep(0)
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving
            assert not worker.channel.line._pending
            store.going.set()
            assert await lent.load("k", 60) == SAID

    asyncio.run(scenario())


def test_a_closed_store_says_so_and_sends_what_it_had() -> None:
    async def scenario() -> None:
        large = Session((Turn("x" * 500_000, "y"),))
        store = Memory()
        async with hired(store) as (worker,):
            lent = worker.channel.store
            saving = asyncio.ensure_future(lent.save(Lease("k", 1), "o", SAID))
            await asyncio.sleep(0)
            lent.close()
            lent.close()
            for call in (lent.load("k", 60), lent.save(Lease("k", 1), "o", large), lent.delete(Lease("k", 1))):
                with pytest.raises(StoreError, match="closed"):
                    await call
            await saving
            assert store.kept == {"k": SAID}

    asyncio.run(scenario())


def test_closing_waits_for_what_is_on_its_way() -> None:
    async def scenario() -> None:
        with greeted() as (parents, held):
            held.start(print, lambda: None)
            large = Session((Turn("x" * 3_000_000, "y"),))
            saving = asyncio.ensure_future(held.store.save(Lease("k", 1), "o", large))
            await asyncio.sleep(0)
            arriving = asyncio.ensure_future(asyncio.to_thread(receive, parents, 5))
            await asyncio.sleep(0)
            held.store.close()
            saving.cancel()
            held.close()  # as the end of the process does
            assert (await arriving).body == large.to_json()

    asyncio.run(scenario())


def test_saves_wait_for_a_slow_parent() -> None:
    async def scenario() -> None:
        store = Memory(going=asyncio.Event())
        assert store.going is not None
        large = Session((Turn("x" * 100_000, "y"),))
        async with hired(store) as (worker,):
            lent = worker.channel.store
            saves = [asyncio.ensure_future(lent.save(Lease(f"{number}", 1), "o", large)) for number in range(200)]
            await settle(100)
            assert len(worker.channel.line.wire._out) < 2 * channel_module.HIGH
            store.going.set()
            await asyncio.wait_for(asyncio.gather(*saves), 20)
            assert len(store.kept) == 200

    asyncio.run(scenario())


# The parent's hello


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "does not answer: TimeoutError"),
        (None, "does not answer: ConnectionResetError"),
        (b"\x00\x00\x00\x03abc", "does not answer: JSONDecodeError"),
        (pack(["hello", VERSION + 1], SECRET), "another version of relay"),
    ],
    ids=["nothing", "the end", "junk", "a later version"],
)
def test_without_a_hello_there_is_no_channel(said: bytes | None, told: str) -> None:
    with socketpair() as (parents, workers):
        if said is None:
            parents.close()
        else:
            parents.sendall(said)
        with pytest.raises(StoreError, match=told) as caught:
            Channel(workers, 0.05)
        assert repr(SECRET)[2:-1] not in repr(caught.value)


def test_nothing_shows_the_secret() -> None:
    async def scenario() -> None:
        async with hired(Memory()) as (worker,):
            held = worker.channel
            for each in (held, held.store, held.line, held.line.wire):
                assert repr(SECRET)[2:-1] not in repr(each)
                assert SECRET.hex() not in repr(each)

    asyncio.run(scenario())


# The leases


def test_workers_take_turns() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        async with hired(Memory(leases=leases), 3) as workers:
            order = list[int]()

            async def visit(number: int) -> None:
                leave = await workers[number % 3].channel.store.lease("a", 100, "c")
                order.append(number)
                await asyncio.sleep(0)
                assert order[-1] == number
                leave.release()
                leave.release()

            tasks = list[asyncio.Task[None]]()
            for number in range(12):
                tasks.append(asyncio.ensure_future(visit(number)))
                await settle(3)
            await asyncio.gather(*tasks)
            assert order == list(range(12))
            await settle()
            assert len(leases.locks) == 0

    asyncio.run(scenario())


def test_a_client_that_leaves_gives_up_its_places_and_no_others() -> None:
    async def scenario() -> None:
        real = LocalLeases()
        async with hired(Memory(leases=real), 2) as (one, other):
            leases = one.channel.store
            free = await leases.lease("a", 9, "one")
            gone = [asyncio.ensure_future(leases.lease("a", 9, "two")) for _ in range(3)]
            namesake = asyncio.ensure_future(other.channel.store.lease("a", 9, "two"))
            await settle()
            stays = asyncio.ensure_future(leases.lease("a", 9, "three"))
            await settle()
            leases.waiter_left("two")
            leases.waiter_left("nobody")
            for task in gone:
                with pytest.raises(WaiterLeft):
                    await task
            free.release()
            (await asyncio.wait_for(namesake, 1)).release()
            (await asyncio.wait_for(stays, 1)).release()
            await settle()
            assert len(real.locks) == 0
            assert not one.channel.line.waiting
            assert not one.channel.line._pending

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["cancelled", "left"])
@pytest.mark.parametrize("turns", range(14))
def test_giving_up_at_any_moment(turns: int, how: str) -> None:
    async def scenario() -> None:
        real = LocalLeases()
        async with hired(Memory(leases=real), 2) as (one, other):
            free = await one.channel.store.lease("a", 9, "holder")
            gives_up = asyncio.ensure_future(other.channel.store.lease("a", 9, "c"))
            await settle()
            free.release()
            for _ in range(turns):
                await asyncio.sleep(0)
            if how == "cancelled":
                gives_up.cancel()
            else:
                other.channel.store.waiter_left("c")
            await asyncio.wait([gives_up], timeout=5)
            if not gives_up.cancelled() and gives_up.exception() is None:
                gives_up.result().release()
            (await asyncio.wait_for(one.channel.store.lease("a", 9, "next"), 5)).release()
            await settle()
            assert len(real.locks) == 0
            assert not real._waiting

    asyncio.run(scenario())


def test_a_lease_that_is_granted_when_nobody_wants_it_any_more_is_handed_on() -> None:
    async def scenario() -> None:
        real = LocalLeases()
        async with hired(Memory(leases=real)) as (worker,):
            leases = worker.channel.store
            for _ in range(2):
                entering = asyncio.ensure_future(leases.lease("a", 0, "c"))
                await asyncio.sleep(0)
                entering.cancel()  # the grant comes when the call is forgotten
                with pytest.raises(asyncio.CancelledError):
                    await entering
            await settle()
            assert len(real.locks) == 0

    asyncio.run(scenario())


def test_a_lease_that_is_granted_as_its_client_leaves_is_handed_on() -> None:
    async def scenario() -> None:
        with greeted() as (parents, held):
            held.start(print, lambda: None)
            entering = asyncio.ensure_future(held.store.lease("a", 9, "c"))
            await settle()
            assert receive(parents, 1).head == ["lease", 0, "a", 9]
            parents.sendall(pack(["ok", 0, 1]))
            await asyncio.sleep(0)  # the loop knows of the grant, and reads it next
            held.store.waiter_left("c")
            with pytest.raises(WaiterLeft):
                await entering
            assert receive(parents, 1).head == ["release", 0]

    asyncio.run(scenario())


# The parent is gone


def test_the_parent_s_going_ends_all_that_waits() -> None:
    async def scenario() -> None:
        store = Memory(going=asyncio.Event())
        worker = await hire(StoreServer(store))
        held = worker.channel
        free = await held.store.lease("a", 9, "c")
        waiting: list[Awaitable[Any]] = [
            held.store.lease("a", 9, "c"),
            held.store.load("a", 60),
            held.store.save(Lease("a", 1), "o", SAID),
            held.store.delete(Lease("a", 1)),
        ]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        await settle()
        worker.serving.cancel()
        for task in tasks:
            with pytest.raises(StoreError, match="the process that keeps the sessions is gone"):
                await asyncio.wait_for(task, 5)
        free.release()
        held.store.waiter_left("c")
        for later in (
            held.store.lease("a", 9, "c"),
            held.store.load("a", 60),
            held.store.save(Lease("a", 1), "o", SAID),
        ):
            with pytest.raises(StoreError, match="gone"):
                await asyncio.wait_for(later, 5)
        assert worker.closed == 1
        assert not held.line._pending
        held.store.close()
        assert store.going is not None
        store.going.set()
        await settle()

    asyncio.run(scenario())


def test_a_parent_that_goes_before_the_start_is_told() -> None:
    async def scenario() -> None:
        with greeted() as (parents, held):
            parents.close()
            gone = asyncio.Event()
            held.note("ready")
            held.start(print, gone.set)
            await asyncio.wait_for(gone.wait(), 5)
            again = asyncio.Event()
            Channel.resumed(held).start(print, again.set)
            await asyncio.wait_for(again.wait(), 5)

    asyncio.run(scenario())


# Code that is loaded anew


def test_a_channel_goes_on_under_code_that_is_loaded_anew() -> None:
    def drop() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "addons"}

    async def scenario() -> None:
        real = LocalLeases()
        store = Memory(leases=real)
        async with hired(store) as (worker,):
            free = await worker.channel.store.lease("a", 9, "old")
            waits = asyncio.ensure_future(worker.channel.store.lease("a", 9, "old"))
            await settle()
            before = drop()
            try:
                fresh: Any = importlib.import_module("addons.workers.remote_store")
                assert fresh.StoreError is not StoreError
                again = fresh.Channel.resumed(worker.channel)
                notes = list[str]()
                again.start(notes.append, worker.gone)
                assert again.store.key(KEY, "s") == worker.channel.store.key(KEY, "s")
                store.error = StoreError("disk full")
                with pytest.raises(fresh.StoreError, match="disk full"):
                    await again.store.load("k", 60)
                with pytest.raises(fresh.TooManyWaiting):
                    await again.store.lease("a", 0, "new")
                again.store.waiter_left("old")
                with pytest.raises(WaiterLeft):
                    await waits
                free.release()
                (await again.store.lease("a", 0, "new")).release()
            finally:
                drop()
                sys.modules.update(before)
        assert len(real.locks) == 0

    asyncio.run(scenario())


# Whatever happens, in whatever order

ACTIONS = ["arrive", "arrive", "arrive", "cancel", "client", "release", "release", "die"]
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11), st.integers(0, 6)), max_size=40)
WORKERS = 3


class Arrivals(LocalLeases):
    """Leases that note who comes and who enters, as the server has it."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.entered: defaultdict[str, list[int]] = defaultdict(list)

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        number = next(self.numbers)

        async def acquire() -> Lease:
            lease = await LocalLeases.lease(self, key, max_waiting, waiter)
            self.entered[key].append(number)
            return lease

        return LeaseRequest(acquire)


class Visit:
    """Somebody at a lease."""

    def __init__(self, worker: Worker, store: Store, client: str, key: str, bound: int) -> None:
        self.worker = worker
        self.client = client
        self.key = key
        self.task = asyncio.ensure_future(store.lease(key, bound, client))

    @property
    def state(self) -> str:
        """What has become of it."""
        if not self.task.done():
            return "waits"
        if self.task.cancelled():
            return "cancelled"
        error = self.task.exception()
        return "entered" if error is None else type(error).__name__


class Visitors:
    """Visitors of two leases, in workers that may die at any moment and are replaced."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.leases = Arrivals()
        self.server = StoreServer(Memory(leases=self.leases))
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.visits: list[Visit] = []
        self.over: set[Visit] = set()
        """Those who have left, or whose worker has died."""

    async def start(self) -> None:
        self.workers = [await hire(self.server) for _ in range(WORKERS)]

    def inside(self) -> list[Visit]:
        """Who holds a lease as far as the workers know."""
        held = [visit for visit in self.visits if visit not in self.over and visit.state == "entered"]
        keys = [visit.key for visit in held]
        assert len(keys) == len(set(keys)), "two at once"
        return held

    async def step(self, action: str, pick: int) -> Visit | Worker | None:
        """One thing happens; to whom."""
        if action == "arrive":
            worker = self.workers[pick % WORKERS]
            visit = Visit(worker, worker.channel.store, f"client {pick % 2}", "ab"[pick % 4 // 2], self.bound)
            self.visits.append(visit)
            return visit
        if action == "cancel" and self.visits:
            visit = self.visits[-1 - pick % len(self.visits)]
            visit.task.cancel()
            return visit
        if action == "client":
            worker = self.workers[pick % WORKERS]
            worker.channel.store.waiter_left(f"client {pick % 2}")
            return worker
        if action == "leave" and (held := self.inside()):
            self.leave(visit := held[pick % len(held)])
            return visit
        if action == "die":
            worker = self.workers.pop(pick % WORKERS)
            self.dead.append(worker)
            worker.go()
            self.over |= {visit for visit in self.visits if visit.worker is worker}
            self.workers.append(await hire(self.server))
            return worker
        return None

    def leave(self, visit: Visit) -> None:
        """Free a lease."""
        self.over.add(visit)
        visit.task.result().release()

    async def drain(self) -> None:
        """Everybody leaves; nothing may stay behind."""
        for _ in range(100):
            await settle()
            if not (held := self.inside()):
                break
            for visit in held:
                self.leave(visit)
        for visit in self.visits:
            assert visit.task.done(), "somebody waits for ever"
            if not visit.task.cancelled():
                visit.task.exception()
        for worker in self.workers:
            assert not worker.channel.line.waiting
            assert not worker.channel.line._pending
        for peer in self.server._peers.values():
            assert not peer._waiting and not peer._held and not peer._calls
        for worker in self.workers:
            worker.go()
        everyone = [worker.serving for worker in (*self.workers, *self.dead)]
        await asyncio.wait_for(asyncio.gather(*everyone), 5)
        assert len(self.leases.locks) == 0, "a lease is left behind"
        assert not self.leases._waiting
        assert not self.server._peers
        for order in self.leases.entered.values():
            assert order == sorted(order), "somebody was overtaken"


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(0, 4))
def test_whatever_happens_when(schedule: list[tuple[str, int, int]], bound: int) -> None:
    async def scenario() -> None:
        visitors = Visitors(bound)
        await visitors.start()
        for action, pick, turns in schedule:
            await visitors.step(action, pick)
            await settle(turns)
            visitors.inside()
        await visitors.drain()

    asyncio.run(scenario())


class Model:
    """What two leases should do, where nothing happens at the same time as anything else."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.queues: defaultdict[str, list[Visit]] = defaultdict(list)
        """Who is inside comes first."""
        self.ended: dict[Visit, str] = {}

    def follow(self, action: str, what: Visit | Worker | None, client: str) -> None:
        """The same as has happened to the leases."""
        if action == "arrive" and isinstance(what, Visit):
            queue = self.queues[what.key]
            if len(queue) > self.bound:
                self.ended[what] = "TooManyWaiting"
            else:
                queue.append(what)
        elif action == "cancel" and isinstance(what, Visit):
            if what in self.queues[what.key][1:]:
                self._end(what, "cancelled")
        elif action == "leave" and isinstance(what, Visit):
            self._end(what, "entered")
        elif action == "client":
            for visit in self._who_waits(what):
                if visit.client == client:
                    self._end(visit, "WaiterLeft")
        elif action == "die":
            for visit in self._who_waits(what):
                self._end(visit, "StoreError")
            for queue in self.queues.values():
                if queue and queue[0].worker is what:
                    self._end(queue[0], "entered")

    def _who_waits(self, worker: Visit | Worker | None) -> list[Visit]:
        return [visit for queue in self.queues.values() for visit in queue[1:] if visit.worker is worker]

    def _end(self, visit: Visit, how: str) -> None:
        self.queues[visit.key].remove(visit)
        self.ended[visit] = how

    def state(self, visit: Visit) -> str:
        """What should have become of a visit."""
        if visit in self.ended:
            return self.ended[visit]
        return "entered" if self.queues[visit.key][0] is visit else "waits"


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(0, 3))
def test_one_after_the_other_it_is_what_the_model_says(schedule: list[tuple[str, int, int]], bound: int) -> None:
    async def scenario() -> None:
        visitors, model = Visitors(bound), Model(bound)
        await visitors.start()
        for action, pick, _ in schedule:
            what = await visitors.step(action, pick)
            await settle()
            model.follow(action, what, f"client {pick % 2}")
            for visit in visitors.visits:
                assert visit.state == model.state(visit)
        await visitors.drain()

    asyncio.run(scenario())
