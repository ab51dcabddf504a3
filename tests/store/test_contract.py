"""What every store promises, whichever it is: sessions kept, and one holder of a session at a time."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from addons.core.sessions import Request, Session, Turn
from addons.store import Lease, LeaseLost, Store, StoreError, TooManyWaiting, WaiterLeft
from addons.store.embedded import EmbeddedStore
from addons.workers import remote_store, store_server
from tests.support import pairs
from tests.support.pairs import hired
from tests.support.redis_server import NEEDED, RedisServer, opened_shared, redis_server
from tests.support.stores import forget, keep

KEY = "sk-0123456789abcdefghij"
SAID = Session((Turn("我叫小明", "你好\ud800\U0001f600"), Turn("a\nb", "", 9)), Request("p", 1, 12))
OTHER = Session((Turn("b", "c"),))
TTL = 60.0

numbers = itertools.count()

Opened = contextlib.AbstractAsyncContextManager[tuple[Store, Store]]
"""One store, as two clients of it see it."""


@contextlib.asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[tuple[Store, Store]]:
    store = EmbeddedStore(folder, 1000, 1000, time.time)
    try:
        yield store, store
    finally:
        store.close()


@contextlib.asynccontextmanager
async def lent(folder: Path) -> AsyncIterator[tuple[Store, Store]]:
    store = EmbeddedStore(folder, 1000, 1000, time.time)
    try:
        async with hired(store, 2) as (one, other):
            yield one.channel.store, other.channel.store
    finally:
        store.close()


@contextlib.asynccontextmanager
async def shared(server: RedisServer, folder: Path) -> AsyncIterator[tuple[Store, Store]]:
    prefix = f"t{next(numbers)}"
    one, other = opened_shared(server, folder / "one", prefix), opened_shared(server, folder / "other", prefix)
    try:
        yield await one.reach(), await other.reach()
    finally:
        await one.finish()
        await other.finish()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(
    params=[embedded, lent, pytest.param(shared, marks=NEEDED)], ids=["embedded", "lent to workers", "shared in Redis"]
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Opened]:
    if request.param is shared:
        server: RedisServer = request.getfixturevalue("redis")
        return lambda: shared(server, tmp_path)
    return lambda: request.param(tmp_path)


async def settle(turns: int = 20) -> None:
    """Let things come to rest, on the way to Redis, too."""
    await pairs.settle(turns)
    await asyncio.sleep(0.05)


def held(opened: Callable[[], Opened], scenario: Callable[[Store, Store], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run() -> None:
        async with opened() as (one, other):
            await asyncio.wait_for(scenario(one, other), 20)

    asyncio.run(run())


def test_what_is_saved_is_loaded_wherever(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        key, owner = one.key(KEY, "s")
        assert other.key(KEY, "s") == (key, owner) and one.key(KEY, "t")[1] == owner and one.secret == other.secret
        assert await one.load(key, TTL) == Session()
        await keep(one, key, owner, SAID)
        assert await other.load(key, TTL) == SAID
        await keep(other, key, owner, OTHER)
        assert await one.load(key, TTL) == OTHER
        assert await one.load(other.key(KEY + "x", "s")[0], TTL) == Session()

    held(opened, scenario)


def test_what_is_deleted_is_gone(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        key, owner = one.key(KEY, "s")
        assert await forget(one, key) is False
        await keep(one, key, owner, SAID)
        assert await forget(other, key) is True
        assert await one.load(key, TTL) == Session()

    held(opened, scenario)


def test_what_is_over_its_time_is_not_loaded(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, _other: Store) -> None:
        key, owner = one.key(KEY, "s")
        await keep(one, key, owner, SAID)
        await asyncio.sleep(0.002)  # times are whole milliseconds
        assert await one.load(key, 0) == Session()
        await one.sweep(TTL)
        assert await one.load(key, TTL) == SAID

    held(opened, scenario)


def test_one_holds_a_session_at_a_time_in_order_of_arrival(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        order, fences = list[int](), list[int]()

        async def visit(number: int) -> None:
            async with (one, other)[number % 2].lease("k", 100) as lease:
                order.append(number)
                fences.append(lease.fence)
                await asyncio.sleep(0.001)
                assert order[-1] == number, "two at once"

        visits = list[asyncio.Task[None]]()
        for number in range(10):
            visits.append(asyncio.ensure_future(visit(number)))
            await settle()
        await asyncio.gather(*visits)
        assert order == list(range(10))
        assert fences == sorted(set(fences)), "fences rise"

    held(opened, scenario)


def test_sessions_do_not_wait_for_each_other(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        async with one.lease("a", 0), other.lease("b", 0):
            pass

    held(opened, scenario)


def test_the_queue_is_bounded(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        async with one.lease("k", 0):
            with pytest.raises(TooManyWaiting):
                await other.lease("k", 0)
        await settle()  # it is given back, which takes a moment where the store is elsewhere
        (await other.lease("k", 0)).release()

    held(opened, scenario)


def test_a_lease_is_given_back_by_failure_and_once(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, other: Store) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with one.lease("k", 0):
                raise ZeroDivisionError
        await settle()  # as above
        lease = await other.lease("k", 0)
        lease.release()
        second = await one.lease("k", 9)
        lease.release()  # of no effect on whoever has it now
        third = asyncio.ensure_future(other.lease("k", 9))
        await settle()
        assert not third.done()
        second.release()
        (await third).release()

    held(opened, scenario)


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_who_gives_up_holds_nothing(opened: Callable[[], Opened], how: str) -> None:
    async def scenario(one: Store, other: Store) -> None:
        first = await one.lease("k", 9)
        waits = asyncio.ensure_future(other.lease("k", 9, "client"))
        stays = asyncio.ensure_future(other.lease("k", 9, "another"))
        await settle()
        if how == "left":
            other.waiter_left("client")
            with pytest.raises(WaiterLeft):
                await waits
        else:
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
        first.release()
        (await stays).release()

    held(opened, scenario)


@pytest.mark.parametrize("call", ["save", "delete"])
def test_without_the_lease_nothing_is_written(opened: Callable[[], Opened], call: str) -> None:
    async def scenario(one: Store, other: Store) -> None:
        key, owner = one.key(KEY, "s")
        await keep(one, key, owner, SAID)
        over = await one.lease(key, 9)
        over.release()
        async with other.lease(key, 9) as lease:
            for stale in (
                over,
                Lease(key, lease.fence - 1),
                Lease(key, lease.fence + 1),
                Lease(f"{key}x", lease.fence),
            ):
                with pytest.raises(LeaseLost):
                    await (one.save(stale, owner, OTHER) if call == "save" else one.delete(stale))
            assert await one.load(key, TTL) == SAID

    held(opened, scenario)


def test_a_closed_store_says_so(opened: Callable[[], Opened]) -> None:
    async def scenario(one: Store, _other: Store) -> None:
        key, owner = one.key(KEY, "s")
        lease = await one.lease(key, 0)
        one.close()
        for call in (one.load(key, TTL), one.save(lease, owner, SAID), one.delete(lease)):
            with pytest.raises(StoreError, match="closed"):
                await call

    held(opened, scenario)


steps = st.lists(st.tuples(st.sampled_from(["say", "say", "forget", "pause"]), st.integers(0, 5)), max_size=25)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_no_turn_is_lost_or_mixed_up(opened: Callable[[], Opened], schedule: list[tuple[str, int]]) -> None:
    """Everybody adds a word to what is there, under the lease; at the end all words are there that were told so."""

    async def scenario(one: Store, other: Store) -> None:
        said = dict[str, list[str]]()

        async def say(store: Store, name: str, word: str) -> None:
            key, owner = store.key(KEY, name)
            async with store.lease(key, 100) as lease:
                turns = (await store.load(key, TTL)).turns
                assert [turn.user for turn in turns] == said.get(name, [])
                said[name] = [*(turn.user for turn in turns), word]
                await store.save(lease, owner, Session((*turns, Turn(word, ""))))

        async def drop(store: Store, name: str) -> None:
            key, _ = store.key(KEY, name)
            async with store.lease(key, 100) as lease:
                said[name] = []
                await store.delete(lease)

        tasks = list[asyncio.Task[None]]()
        for number, (action, pick) in enumerate(schedule):
            store, name = (one, other)[pick % 2], "ab"[pick // 3]
            if action == "say":
                tasks.append(asyncio.ensure_future(say(store, name, str(number))))
            elif action == "forget":
                tasks.append(asyncio.ensure_future(drop(store, name)))
            else:
                await pairs.settle(pick)
        await asyncio.gather(*tasks)
        for name in "ab":
            turns = (await one.load(one.key(KEY, name)[0], TTL)).turns
            assert [turn.user for turn in turns] == said.get(name, [])
        await forget(one, one.key(KEY, "a")[0])
        await forget(one, one.key(KEY, "b")[0])

    held(opened, scenario)


# Where a holder may be stopped


def test_who_slept_past_its_lease_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_server, "EXPIRY", 0.3)
    monkeypatch.setattr(remote_store, "ALIVE", 60.0)

    async def scenario(one: Store, other: Store) -> None:
        key, owner = one.key(KEY, "s")
        asleep = await one.lease(key, 9)
        async with other.lease(key, 9) as lease:
            await other.save(lease, owner, SAID)
            with pytest.raises(LeaseLost):
                await one.save(asleep, owner, OTHER)
        assert await one.load(key, TTL) == SAID
        (await one.lease(key, 9)).release()  # awake, it has its turn again

    held(lambda: lent(tmp_path), scenario)


def test_who_is_awake_keeps_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_server, "EXPIRY", 0.6)
    monkeypatch.setattr(remote_store, "ALIVE", 0.1)

    async def scenario(one: Store, other: Store) -> None:
        key, owner = one.key(KEY, "s")
        lease = await one.lease(key, 9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(other.lease(key, 9)), 1.5)
        await one.save(lease, owner, SAID)
        lease.release()

    held(lambda: lent(tmp_path), scenario)
