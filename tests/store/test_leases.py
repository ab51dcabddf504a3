import asyncio
import contextlib
import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.store import TooManyWaiting, WaiterLeft
from addons.store.leases import FairLocks, LocalLeases


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(6):
        await asyncio.sleep(0)


def test_one_at_a_time_in_order_of_arrival() -> None:
    async def scenario() -> None:
        locks, order = FairLocks(), list[int]()

        async def visit(number: int) -> None:
            await locks.acquire("a", 10)
            order.append(number)
            await asyncio.sleep(0.001)
            assert order[-1] == number
            locks.release("a")

        await asyncio.gather(*(visit(number) for number in range(10)))
        assert order == list(range(10))
        assert len(locks) == 0

    asyncio.run(scenario())


def test_leases_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        locks = FairLocks()
        await locks.acquire("a", 0)
        await asyncio.wait_for(locks.acquire("b", 0), 1)
        assert len(locks) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", [0, 1, 3], ids=lambda bound: f"{bound} may wait")
def test_the_queue_is_bounded(bound: int) -> None:
    async def scenario() -> None:
        locks = FairLocks()
        await locks.acquire("a", bound)
        waiting = [asyncio.ensure_future(locks.acquire("a", bound)) for _ in range(bound)]
        await settle()
        with pytest.raises(TooManyWaiting):
            await locks.acquire("a", bound)
        for task in waiting:
            locks.release("a")
            await asyncio.wait_for(task, 1)
        locks.release("a")
        assert len(locks) == 0

    asyncio.run(scenario())


def test_who_gives_up_makes_room_in_the_queue() -> None:
    async def scenario() -> None:
        locks = FairLocks()
        await locks.acquire("a", 1)
        first = asyncio.ensure_future(locks.acquire("a", 1))
        await settle()
        first.cancel()
        await settle()
        second = asyncio.ensure_future(locks.acquire("a", 1))
        await settle()
        locks.release("a")
        await asyncio.wait_for(second, 1)

    asyncio.run(scenario())


def test_a_turn_that_comes_while_giving_up_is_handed_on() -> None:
    async def scenario() -> None:
        locks = FairLocks()
        await locks.acquire("a", 9)
        first, second = (asyncio.ensure_future(locks.acquire("a", 9)) for _ in range(2))
        await settle()
        locks.release("a")  # first has its turn, and does not know it yet
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, 1)
        locks.release("a")
        assert len(locks) == 0

    asyncio.run(scenario())


# A schedule: what happens, to which visitor, and whether the loop gets to run before the next thing does.
steps = st.lists(
    st.tuples(st.sampled_from(["arrive", "cancel", "leave"]), st.integers(0, 9), st.booleans()), max_size=40
)


class Model:
    """Visitors of two leases under a schedule, and what must hold at any moment."""

    def __init__(self, bound: int) -> None:
        self.locks = FairLocks()
        self.bound = bound
        self.numbers = itertools.count()
        self.tasks: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self.inside: dict[str, int] = {}
        self.entered: defaultdict[str, list[int]] = defaultdict(list)

    async def _visit(self, number: int, key: str) -> None:
        try:
            await self.locks.acquire(key, self.bound)
        except TooManyWaiting:
            return
        assert key not in self.inside, "two at once"
        self.inside[key] = number
        self.entered[key].append(number)

    def step(self, action: str, pick: int) -> bool:
        """One thing of the schedule; whether the loop has to run after it."""
        if action == "arrive":
            number, key = next(self.numbers), "ab"[pick % 2]
            self.tasks[number] = (key, asyncio.ensure_future(self._visit(number, key)))
        elif action == "cancel" and self.tasks:
            _, task = self.tasks[sorted(self.tasks)[pick % len(self.tasks)]]
            task.cancel()
            return True
        elif action == "leave" and self.inside:
            key = sorted(self.inside)[pick % len(self.inside)]
            del self.inside[key]
            self.locks.release(key)
        return False

    async def drain(self) -> None:
        """Everybody leaves."""
        for _ in range(1000):
            await settle()
            if not self.inside:
                break
            for key in list(self.inside):
                del self.inside[key]
                self.locks.release(key)
        for _, task in self.tasks.values():
            assert task.done(), "somebody waits for ever"
            with contextlib.suppress(asyncio.CancelledError):
                task.result()
        assert len(self.locks) == 0, "a lease is left behind"
        for order in self.entered.values():
            assert order == sorted(order), "somebody was overtaken"


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(0, 4))
def test_whatever_happens_when(schedule: list[tuple[str, int, bool]], bound: int) -> None:
    async def scenario() -> None:
        model = Model(bound)
        for action, pick, run in schedule:
            if model.step(action, pick) or run:
                await asyncio.sleep(0)
        await model.drain()

    asyncio.run(scenario())


@pytest.mark.parametrize("ticks", range(8))
@pytest.mark.parametrize("waits", [0, 1, 2], ids=["who enters at once", "the first who waits", "the second who waits"])
def test_cancelled_at_any_moment(ticks: int, waits: int) -> None:
    async def scenario() -> None:
        locks = FairLocks()
        leaves = 0

        async def visit() -> None:
            nonlocal leaves
            await locks.acquire("a", 9)
            try:
                await asyncio.sleep(0)
            finally:
                leaves += 1
                locks.release("a")

        tasks = [asyncio.ensure_future(visit()) for _ in range(4)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        tasks[waits].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert leaves >= 3
        assert len(locks) == 0

    asyncio.run(scenario())


# Leases: a locks for clients, who may leave


def test_a_lease_is_freed_once() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        free = await leases.lease("a", 9, "one")
        second = asyncio.ensure_future(leases.lease("a", 9, "two"))
        third = asyncio.ensure_future(leases.lease("a", 9, "three"))
        await settle()
        free.release()
        free.release()
        await asyncio.wait_for(second, 1)
        await settle()
        assert not third.done()
        second.result().release()
        (await third).release()
        assert len(leases.locks) == 0

    asyncio.run(scenario())


def test_a_client_that_leaves_gives_up_its_places_and_no_others() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        free = await leases.lease("a", 9, "one")
        gone = [asyncio.ensure_future(leases.lease("a", 9, "two")) for _ in range(3)]
        stays = asyncio.ensure_future(leases.lease("a", 9, "three"))
        await settle()
        leases.waiter_left("two")
        leases.waiter_left("nobody")
        for task in gone:
            with pytest.raises(WaiterLeft):
                await task
        free.release()
        (await asyncio.wait_for(stays, 1)).release()
        assert len(leases.locks) == 0
        assert not leases._waiting

    asyncio.run(scenario())


def test_a_full_queue_is_told() -> None:
    async def scenario() -> None:
        leases = LocalLeases()
        free = await leases.lease("a", 0, "one")
        with pytest.raises(TooManyWaiting):
            await leases.lease("a", 0, "two")
        free.release()
        assert len(leases.locks) == 0
        assert not leases._waiting

    asyncio.run(scenario())


def test_a_lease_goes_on_under_code_that_is_loaded_anew() -> None:
    async def scenario() -> None:
        old = LocalLeases()
        held = await old.lease("a", 9)
        waits = asyncio.ensure_future(old.lease("a", 9, "one"))
        await settle()
        new = LocalLeases(old)
        assert new.holds(held)
        last = asyncio.ensure_future(new.lease("a", 9, "two"))
        await settle()
        with pytest.raises(TooManyWaiting):
            await new.lease("a", 2)
        held.release()
        second = await asyncio.wait_for(waits, 1)
        assert new.holds(second) and not new.holds(held) and second.fence > held.fence
        assert not last.done()
        second.release()
        (await asyncio.wait_for(last, 1)).release()
        assert len(old) == len(new) == 0

    asyncio.run(scenario())
