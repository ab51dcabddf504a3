"""Leases in Redis: nobody waits for a relay that is gone, and nothing is taken from one that is there."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from addons.core.sessions import Session
from addons.store import LeaseLost
from addons.store.shared import sessions
from addons.store.shared.opened import Shared
from tests.support.redis_server import NEEDED, RedisServer, opened_shared, redis_server

pytestmark = NEEDED

prefixes = (f"sessions{number}" for number in count())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def pair(redis: RedisServer, folder: Path) -> AsyncIterator[tuple[Shared, Shared]]:
    prefix = next(prefixes)
    one, other = opened_shared(redis, folder / "one", prefix), opened_shared(redis, folder / "other", prefix)
    try:
        await one.reach()
        await other.reach()
        yield one, other
    finally:
        await one.finish()
        await other.finish()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(40):
            await scenario()

    asyncio.run(bounded())


def test_nobody_waits_long_for_a_relay_that_is_gone(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(redis, tmp_path) as (gone, there):
            assert gone.sessions is not None and there.sessions is not None
            await asyncio.sleep(sessions.ALIVE)  # before that nobody doubts that the others are there
            lost = await gone.sessions.lease("k", 1)
            gone.sessions.stop()  # as if it were killed
            begun = time.monotonic()
            async with there.sessions.lease("k", 1) as lease:
                assert sessions.ALIVE - 1 < time.monotonic() - begun < sessions.ALIVE + 2 < 6
                await there.sessions.save(lease, "o", Session())
                with pytest.raises(LeaseLost):  # it wakes up
                    await gone.sessions.save(lost, "o", Session())

    run(scenario)


def test_whoever_is_there_keeps_its_lease(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(redis, tmp_path) as (one, other):
            assert one.sessions is not None and other.sessions is not None
            await asyncio.sleep(sessions.ALIVE)
            async with one.sessions.lease("k", 1) as lease:
                waiting = asyncio.ensure_future(other.sessions.lease("k", 1))
                await asyncio.sleep(sessions.ALIVE + 2)
                assert not waiting.done()
                await one.sessions.save(lease, "o", Session())
            (await waiting).release()

    run(scenario)


def test_a_lease_that_ended_while_redis_was_away_is_given_back(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pair(redis, tmp_path) as (one, other):
            assert one.sessions is not None and other.sessions is not None
            lease = await one.sessions.lease("k", 1)
            await asyncio.to_thread(redis.kill)
            lease.release()
            await asyncio.sleep(4)  # longer than a call waits
            await asyncio.to_thread(redis.start)
            begun = time.monotonic()
            (await other.sessions.lease("k", 1)).release()
            assert time.monotonic() - begun < 5

    run(scenario)
