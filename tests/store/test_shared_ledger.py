"""The ledger in Redis: the same decisions as in memory, each of them once, whatever is lost on the way."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from copy import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from addons.core.accounts import Accounts, Claim, Terms
from addons.core.metered import Metered
from addons.core.relay_keys import begins, day_of
from addons.core.sessions import Session
from addons.store import StoreError, keys_file
from addons.store.folder import read_secret
from addons.store.keys_file import StoredKey, written
from addons.store.ledger_file import BROKE, FINISHED, KILLED
from addons.store.settlements import OverLimit, Settlement
from addons.store.shared import ledger as shared_ledger
from addons.store.shared import mirror as shared_mirror
from addons.store.shared.opened import Shared
from tests.support.cutting_proxy import CuttingProxy
from tests.support.live import free_port
from tests.support.redis_server import NEEDED, RedisServer, opened_shared, redis_server

pytestmark = NEEDED

prefixes = (f"ledger{number}" for number in count())
BUDGET = 100


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def relays(redis: RedisServer, folder: Path, number: int = 2, **store: Any) -> AsyncIterator[list[Shared]]:
    """So many relays, each on a machine of its own."""
    prefix = next(prefixes)
    opened = [opened_shared(redis, folder / f"{prefix}-{at}", prefix, **store) for at in range(number)]
    try:
        for each in opened:
            await each.reach()
        yield opened
    finally:
        for each in opened:
            await each.finish()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


def claim(request: str, amount: int = 10, key: str = "k1", terms: Terms | None = None) -> Claim:
    terms = terms if terms is not None else Terms(BUDGET)
    return Claim(request, key, amount, 5, terms, "alice", "openai", "gpt-4o", "/v1/chat/completions")


def settlement(request: str, amount: int | None = 4, key: str = "k1", **more: Any) -> Settlement:
    path, used = "/v1/chat/completions", Metered(9, 4)
    whole = Settlement(request, time.time(), key, "alice", "openai", "gpt-4o", {}, path, FINISHED, used, amount)
    return replace(whole, **{"held": True, **more})


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


def rows(shared: Shared) -> list[tuple[str, int | None, str]]:
    """Request, amount and reason of what this machine's copy has."""
    try:
        with contextlib.closing(sqlite3.connect(f"{shared.ledger.path.as_uri()}?mode=ro", uri=True)) as sql:
            return sql.execute("SELECT request, amount, reason FROM Settlements ORDER BY request").fetchall()
    except sqlite3.OperationalError:  # it is not there yet
        return []


async def is_copied(shared: Shared, number: int) -> bool:
    return len(rows(shared)) == number


def test_a_settlement_waits_for_a_redis_that_is_full(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as [one]:
            await one.ledger.reserve(claim("full"))
            await one.link.command("CONFIG", "SET", "maxmemory", "1")
            try:
                one.ledger.settle(settlement("full"))
                await asyncio.sleep(0.5)
                assert await one.ledger.balance("k1", "total") == (0, 10)
            finally:
                await one.link.command("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: is_copied(one, 1))
            assert await one.ledger.balance("k1", "total") == (4, 0)

    run(scenario)


# One decision


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(st.sampled_from(["reserve", "reserve", "settle", "again"]), st.integers(0, 9), st.integers(0, 60)),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.sampled_from(["day", "month", "total"]), st.sampled_from([None, 2, 5]), st.sampled_from([None, 3]))
def test_redis_decides_as_memory_does(
    redis: RedisServer, tmp_path: Path, history: list[Step], per: Any, parallel: int | None, requests: int | None
) -> None:
    async def scenario() -> None:
        accounts, terms = Accounts(), Terms(BUDGET, per, requests, None, parallel)
        async with relays(redis, tmp_path) as (one, other):
            for at, (what, request, amount) in enumerate(history):
                ledger, name, now = (one, other)[at % 2].ledger, f"r{request}", time.time()
                if what == "reserve" and name not in accounts.holds and name not in settled:
                    refused = accounts.reserve(claim(name, amount, terms=terms), now)
                    owners[name] = ledger
                    if refused is None:
                        await ledger.reserve(claim(name, amount, terms=terms))
                    else:
                        with pytest.raises(OverLimit) as over:
                            await ledger.reserve(claim(name, amount, terms=terms))
                        assert over.value.refused.why == refused.why and over.value.refused.left == refused.left
                elif what != "reserve" and name in owners:
                    if accounts.settle(name, amount, 3, now) is not None:
                        settled.add(name)
                    owners[name].settle(settlement(name, amount))
                    await until(lambda ledger=owners[name]: idle(ledger))  # type: ignore[misc]
                assert await one.ledger.balance("k1", per) == accounts.balance("k1", per, now)

    async def idle(ledger: shared_ledger.SharedLedger) -> bool:
        return not ledger._left

    owners: dict[str, shared_ledger.SharedLedger] = {}
    settled: set[str] = set()
    run(scenario)


def test_parallel_requests_are_admitted_as_far_as_the_budget_goes(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 3) as opened:
            terms = Terms(27 * 7)
            asked = [opened[n % 3].ledger.reserve(claim(f"r{n}", 7, terms=terms)) for n in range(200)]
            heard = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(each is None for each in heard) == 27
            assert all(each is None or isinstance(each, OverLimit) for each in heard)
            assert await opened[0].ledger.balance("k1", "total") == (0, 27 * 7)

    run(scenario)


def test_rates_are_one_for_all(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            terms = Terms(None, requests=3)
            for number, relay in enumerate((one, other, one)):
                await relay.ledger.reserve(claim(f"r{number}", 0, terms=terms))
            with pytest.raises(OverLimit) as over:
                await other.ledger.reserve(claim("r3", 0, terms=terms))
            assert over.value.refused.why == "requests" and 50 <= over.value.refused.retry_after <= 60
            tokens = Terms(None, tokens=9)
            await one.ledger.reserve(claim("t0", 0, "k2", tokens))  # 5 by estimate
            one.ledger.settle(settlement("t0", 0, "k2", tokens=9))  # 9 in truth
            await until(lambda: refuses(other, tokens))

    async def refuses(relay: Shared, terms: Terms) -> bool:
        request = f"t{next(numbers)}"
        try:
            await relay.ledger.reserve(claim(request, 0, "k2", terms))
        except OverLimit as over:
            return over.refused.why == "tokens"
        relay.ledger.settle(settlement(request, 0, "k2", tokens=0))
        return False

    numbers = count(1)
    run(scenario)


def test_a_cluster_finds_each_call_on_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one node refuses what would lie on two (CROSSSLOT)."""
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    monkeypatch.setattr(shared_ledger, "LEASE", 0.3)
    monkeypatch.setattr(shared_ledger, "RENEW", 0.1)

    async def scenario() -> None:
        with redis_server(tmp_path / "redis", *cluster) as server:
            first = opened_shared(server, tmp_path / "first")
            await first.link.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await first.link.command("SET", "there", "1")
            await first.reach()
            store = first.sessions
            assert store is not None
            key, owner = store.key("sk-key", "s")
            async with store.lease(key, 0) as lease:
                await store.save(lease, owner, Session())
                await store.delete(lease)
            await first.ledger.reserve(claim("r1", terms=Terms(BUDGET, "total", 5, 50, 5)))
            first.ledger.settle(settlement("r1"))
            await first.ledger.reserve(claim("r2"))
            await until(lambda: is_copied(first, 1))
            first.ledger.stop()
            second = opened_shared(server, tmp_path / "second")
            await second.reach()
            await until(lambda: is_copied(second, 2))  # what the first one held
            await second.link.command("FLUSHALL")
            await second.epochs.look()
            await second.keys.look()
            assert await second.ledger.balance("k1", "total") == (14, 0)
            await first.finish()
            await second.finish()

    run(scenario)


# Each once


def test_a_lost_reply_changes_nothing(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with CuttingProxy(redis.port) as proxy:
            prefix = next(prefixes)
            through = opened_shared(redis, tmp_path / "cut", prefix, url=f"redis://127.0.0.1:{proxy.port}/0")
            await through.reach()
            for number in range(10):
                proxy.cut_next = 1
                await through.ledger.reserve(claim(f"r{number}", 10))
                assert await through.ledger.balance("k1", "total") == (4 * number, 10)
                proxy.cut_next = 1
                through.ledger.settle(settlement(f"r{number}"))
                await until(lambda number=number: spent(through, 4 * number + 4))  # type: ignore[misc]
            assert proxy.cuts >= 8
            await until(lambda: is_copied(through, 10))
            await through.finish()

    async def spent(relay: Shared, amount: int) -> bool:
        return await relay.ledger.balance("k1", "total") == (amount, 0)

    run(scenario)


def test_what_redis_has_forgotten_is_spent_all_the_same(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            await relay.ledger.reserve(claim("r1"))
            where = relay.names.partition("k1")
            await relay.link.command("DEL", where.account("k1"), where.holds(relay.process))
            relay.ledger.settle(settlement("r1"))
            await until(lambda: is_copied(relay, 1))
            assert (await relay.ledger.balance("k1", "total"))[0] == 4

    run(scenario)


def test_functions_that_are_gone_are_loaded_again(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            await relay.ledger.reserve(claim("r1"))
            await relay.link.command("FUNCTION", "FLUSH")
            await relay.ledger.reserve(claim("r2"))
            assert await relay.ledger.balance("k1", "total") == (0, 20)

    run(scenario)


def test_redis_may_be_restarted(tmp_path: Path) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            async with relays(server, tmp_path, 1) as (relay,):
                await relay.ledger.reserve(claim("r1"))
                await asyncio.to_thread(server.kill)
                relay.ledger.settle(settlement("r1"))  # it waits
                asked = asyncio.ensure_future(relay.ledger.reserve(claim("r2")))
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.start)
                await asked  # within three seconds nobody hears of it
                await until(lambda: is_copied(relay, 1))
                assert await relay.ledger.balance("k1", "total") == (4, 10)

    run(scenario)


@pytest.mark.parametrize("passes", [False, True])
def test_without_redis_budgets_are_refused(tmp_path: Path, passes: bool) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            more = {"on_failure": "pass" if passes else "refuse"}
            async with relays(server, tmp_path, 1, **more) as (relay,):
                await relay.link.command("PING")
                await asyncio.to_thread(server.kill)
                with pytest.raises(StoreError, match="can't be reached"):
                    await relay.ledger.reserve(claim("r1"))
                begun = time.monotonic()
                with pytest.raises(StoreError):
                    await relay.ledger.reserve(claim("r2"))
                assert time.monotonic() - begun < 1.5, "nobody waits long for what is known to be away"
                free = relay.ledger.reserve(claim("r3", 0, "k2", Terms(requests=5)))
                if passes:
                    await free
                    relay.ledger.settle(settlement("r3", 7, "k2"))
                else:
                    with pytest.raises(StoreError):
                        await free
                await asyncio.to_thread(server.start)
                if passes:
                    await until(lambda: is_copied(relay, 1))

    run(scenario)


# Who is gone


def test_what_a_relay_leaves_is_settled_at_its_hold(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_ledger, "LEASE", 0.4)
    monkeypatch.setattr(shared_ledger, "RENEW", 0.1)

    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            await one.ledger.reserve(claim("gone", 10))
            await one.ledger.reserve(claim("free", 0, "k2", Terms(parallel=1)))
            await other.ledger.reserve(claim("stays", 20))
            one.ledger._tasks[1].cancel()  # it says nothing more
            await until(lambda: is_copied(other, 2))
            assert rows(other) == [("free", None, KILLED), ("gone", 10, KILLED)]
            assert await other.ledger.balance("k1", "total") == (10, 20)
            one.ledger.settle(settlement("gone", 3))  # it has only slept
            one.ledger.settle(settlement("free", None, "k2"))
            other.ledger.settle(settlement("stays", 5))
            await until(lambda: is_copied(other, 3))
            assert await other.ledger.balance("k1", "total") == (15, 0)
            await other.ledger.reserve(claim("next", 0, "k2", Terms(parallel=1)))  # its place is free

    run(scenario)


def test_who_is_alive_keeps_its_holds_after_redis_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_ledger, "LEASE", 0.6)
    monkeypatch.setattr(shared_ledger, "RENEW", 0.1)
    monkeypatch.setattr(shared_ledger, "_SHORT", 0.1)  # as much shorter than a lease as it is

    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            async with relays(server, tmp_path) as (one, other):
                await one.ledger.reserve(claim("r1"))
                await asyncio.sleep(0.7)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(0.9)  # longer than the lease
                await asyncio.to_thread(server.start)
                await asyncio.sleep(1.2)
                one.ledger.settle(settlement("r1", 3))
                await until(lambda: is_copied(other, 1))
                assert rows(other) == [("r1", 3, FINISHED)]

    run(scenario)


def test_a_redis_that_stood_still_takes_nobody_for_gone(redis: RedisServer, tmp_path: Path) -> None:
    """What was asked before it did is not done after it: all leases are over by then, and everybody is alive."""

    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            await relay.ledger.reserve(claim("r1"))
            where = relay.names.partition("k1")
            await relay.link.command("ZADD", where.holders, 1, relay.process)
            seconds, _ = await relay.link.command("TIME")
            for late in (1, 1000):
                assert await relay.ledger._settle_abandoned_in(where, (int(seconds) - late) * 1000) == 0
            assert await relay.ledger.balance("k1", "total") == (0, 10)
            await relay.ledger._settle_abandoned()
            assert await relay.ledger.balance("k1", "total") == (10, 0)

    run(scenario)


def test_what_strangers_leave_in_redis_is_gone_soon(redis: RedisServer, tmp_path: Path) -> None:
    """Whoever can reach relay can invent keys, and sessions."""

    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            for number in range(20):
                stranger = settlement(f"s{number}", None, f"c{number}", name=None, usage=None, reason=BROKE, held=False)
                relay.ledger.settle(stranger)
            assert relay.sessions is not None
            (await relay.sessions.lease(relay.sessions.key("sk-nobody", "s")[0], 0)).release()
            await until(lambda: has_written(relay))
            left = dict[str, int]()
            for name in await relay.link.command("KEYS", f"*{relay.names.prefix}*"):
                left[name.decode()] = await relay.link.command("PTTL", name)
            mine = [name for name in left if ":done:" in name or ":fences:" in name or ":account:" in name]
            assert 2 <= len(mine) <= 3 and all(0 < left[name] <= 600_000 for name in mine), left

    async def has_written(relay: Shared) -> bool:
        return bool(await relay.link.command("XLEN", relay.names.partition("").stream))

    run(scenario)


# The copy


def test_every_machine_has_all_of_it_once(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            for number in range(50):
                relay = (one, other)[number % 2]
                await relay.ledger.reserve(claim(f"r{number:02}", 1, f"k{number % 7}"))
                relay.ledger.settle(settlement(f"r{number:02}", 1, f"k{number % 7}"))
                # A key that is none leaves one row a day.
                stranger = settlement(f"s{number}", None, "c", name=None, usage=None, reason=BROKE, held=False)
                relay.ledger.settle(stranger)
            await until(lambda: is_copied(one, 50))
            await until(lambda: is_copied(other, 50))
            for relay in (one, other):
                await until(lambda relay=relay: has_heard(relay, 50))  # type: ignore[misc]
                assert strangers(relay) == 50
            sizes = [await one.link.command("XLEN", each.stream) for each in one.names.partitions]
            assert sum(sizes) < 60, "strangers can't fill Redis"
            late = opened_shared(redis, tmp_path / "late", one.names.prefix)
            await late.reach()
            await until(lambda: is_copied(late, 50))
            assert strangers(late) == 50
            await late.finish()

    async def has_heard(relay: Shared, number: int) -> bool:
        return strangers(relay) == number

    def strangers(relay: Shared) -> int:
        sql = sqlite3.connect(relay.ledger.path)
        try:
            return int(sql.execute("SELECT coalesce(sum(requests), 0) FROM Days").fetchone()[0])
        finally:
            sql.close()

    run(scenario)


def test_a_copy_goes_on_where_it_ended(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between what is written and what is acknowledged."""

    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            real = relay.link.command

            async def silent(*command: Any) -> Any:
                if command[:2] == ("XGROUP", "SETID"):
                    await asyncio.sleep(60)
                return await real(*command)

            monkeypatch.setattr(relay.link, "command", silent)
            relay.ledger.settle(settlement("r1", None, "c", name=None, held=False))
            await until(lambda: is_copied(relay, 1))
            monkeypatch.setattr(relay.link, "command", real)
            await relay.mirror.finish()
            again = opened_shared(redis, relay.ledger.path.parent, relay.names.prefix)
            await again.reach()
            again.ledger.settle(settlement("r2", None, "c", name=None, held=False))
            await until(lambda: is_copied(again, 2))
            stream = again.names.partition("c").stream
            (group,) = await again.link.command("XINFO", "GROUPS", stream)
            ((last, _),) = await again.link.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
            assert last in group, "Redis knows how far it has come"
            await again.finish()

    run(scenario)


def test_one_of_two_processes_with_a_folder_writes(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        prefix = next(prefixes)
        one = opened_shared(redis, tmp_path / "same", prefix)
        other = opened_shared(redis, tmp_path / "same", prefix)
        await one.reach()
        await other.reach()
        one.ledger.settle(settlement("r1", None, "c", name=None, held=False))
        await until(lambda: is_copied(other, 1))
        await one.finish()
        other.ledger.settle(settlement("r2", None, "c", name=None, held=False))
        await until(lambda: is_copied(other, 2))  # it has taken its place
        await other.finish()

    run(scenario)


def test_what_is_no_row_stops_nothing(redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            stream = relay.names.partition("c").stream
            for text in ("", "[]", '["settled", 1]', "{", '{"a": 1}'):
                await relay.link.command("XADD", stream, "*", "row", text)
            await relay.link.command("XADD", stream, "*", "other", "1")
            # As long as a row, and yet no disk takes it.
            await relay.link.command("XADD", stream, "*", "row", json.dumps(["settled", "r0", *[10**30] * 12]))
            relay.ledger.settle(settlement("r1", None, "c", name=None, held=False))
            await until(lambda: is_copied(relay, 1))

    run(scenario)
    assert caplog.text.count("none of relay's") == 6 and caplog.text.count("is passed over") == 1


def test_old_rows_leave_the_stream_and_become_sums(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            relay.ledger.settle(settlement("r1", None, "c", name=None, held=False))
            await until(lambda: is_copied(relay, 1))
            stream, later = relay.names.partition("c").stream, time.time() + 200 * 86400
            monkeypatch.setattr(relay.mirror, "_clock", lambda: later)
            await relay.mirror._tidy()
            assert await relay.link.command("XLEN", stream) == 0
            assert rows(relay) == []
            sql = sqlite3.connect(relay.ledger.path)
            assert sql.execute("SELECT sum(requests) FROM Days").fetchone() == (1,)
            sql.close()

    run(scenario)


def test_the_day_is_that_of_the_admission(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            relay.ledger.clock = lambda: 1_764_547_199.0  # one second before midnight
            await relay.ledger.reserve(claim("r1", 10, terms=Terms(BUDGET, "day")))
            relay.ledger.clock = lambda: 1_764_547_201.0
            assert await relay.ledger.balance("k1", "day") == (0, 0)
            relay.ledger.settle(settlement("r1", 4))
            await until(lambda: is_copied(relay, 1))
            assert await relay.ledger.balance("k1", "day") == (0, 0)
            relay.ledger.clock = lambda: 1_764_547_199.0
            assert await relay.ledger.balance("k1", "day") == (4, 0)

    run(scenario)
    assert begins("day", 1_764_547_199.0) != day_of(1_764_547_201.0)


def test_rows_stay_in_the_stream_until_every_machine_has_them() -> None:
    day = 86_400_000
    now = 100 * day
    assert shared_mirror._drop_before(now, [now, now - 5]) == now - day, "a day at least"
    assert shared_mirror._drop_before(now, [now, now - 3 * day]) == now - 3 * day, "a machine is late"
    assert shared_mirror._drop_before(now, [now, 0]) == now - 7 * day, "a machine does not come back"
    assert shared_mirror._drop_before(now, []) == now - day


# A Redis that is emptied


def test_what_was_spent_outlives_a_redis_that_is_emptied(
    redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            for number, relay in enumerate((one, other, one)):
                await relay.ledger.reserve(claim(f"r{number}", 30))
                relay.ledger.settle(settlement(f"r{number}", 30))
            await until(lambda: is_copied(one, 3))
            await until(lambda: is_copied(other, 3))
            await one.link.command("FLUSHALL")
            for relay in (one, other, one, other):
                with pytest.raises(OverLimit) as over:
                    await relay.ledger.reserve(claim("r9", 20))
                assert over.value.refused.left == 10
            await one.ledger.reserve(claim("r4", 10))
            one.ledger.settle(settlement("r4", 5))
            await until(lambda: spent(one, 95))
            await until(lambda: spent(other, 95))
            late = opened_shared(redis, tmp_path / "late", one.names.prefix)
            await late.reach()
            again = opened_shared(redis, one.ledger.path.parent, one.names.prefix)
            await again.reach()
            for relay in (one, other, late, again):
                assert await relay.ledger.balance("k1", "total") == (95, 0), "whoever comes adds nothing twice"
            await late.finish()
            await again.finish()

    async def spent(relay: Shared, amount: int) -> bool:
        return await relay.ledger.balance("k1", "total") == (amount, 0)

    run(scenario)
    assert "what they have spent is added" in caplog.text


def test_of_two_copies_that_differ_the_most_counts(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            await one.ledger.reserve(claim("r1", 30))
            one.ledger.settle(settlement("r1", 30))
            await until(lambda: is_copied(one, 1))
            await until(lambda: is_copied(other, 1))
            await other.mirror.finish()  # this machine hears no more
            await one.ledger.reserve(claim("r2", 40))
            one.ledger.settle(settlement("r2", 40))
            await until(lambda: is_copied(one, 2))
            await one.link.command("FLUSHALL")
            await other.epochs.look()
            assert await other.ledger.balance("k1", "total") == (30, 0)
            await one.epochs.look()
            assert await other.ledger.balance("k1", "total") == (70, 0)
            await other.epochs.look()
            assert await one.ledger.balance("k1", "total") == (70, 0)

    run(scenario)


def test_what_is_spent_since_is_not_taken_for_lost(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            again = opened_shared(redis, other.ledger.path.parent, one.names.prefix)  # another process of that machine
            await again.reach()
            for number in (1, 2):
                await one.ledger.reserve(claim(f"r{number}", 10))
                one.ledger.settle(settlement(f"r{number}", 10))
                for relay in (one, other):
                    await until(partial(is_copied, relay, number))
                if number == 1:
                    await one.link.command("FLUSHALL")
            for relay in (other, again, one):  # as each of them does every five seconds
                await relay.epochs.look()
                assert await one.ledger.balance("k1", "total") == (20, 0)
            await again.finish()

    run(scenario)


def test_what_was_spent_is_written_when_redis_takes_it_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as redis:
            async with relays(redis, tmp_path, 1) as (relay,):
                for number, (setting, refusing, taking) in enumerate(
                    [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")], 1
                ):
                    await relay.ledger.reserve(claim(f"r{number}"))
                    await relay.link.command("CONFIG", "SET", setting, refusing)
                    relay.ledger.settle(settlement(f"r{number}"))
                    await asyncio.sleep(0.5)
                    assert await relay.ledger.balance("k1", "total") == (4 * number - 4, 10)
                    await relay.link.command("CONFIG", "SET", setting, taking)
                    await until(partial(spent, relay, 4 * number))
                await relay.link.command("SET", relay.names.partition("k2").account("k2"), "no hash")
                relay.ledger.settle(settlement("r8", key="k2", held=False))
                relay.ledger.settle(settlement("r9", held=False))
                await until(lambda: spent(relay, 12))

    async def spent(relay: Shared, amount: int) -> bool:
        return await relay.ledger.balance("k1", "total") == (amount, 0)

    run(scenario)
    assert caplog.text.count("what was spent waits to be written") == 2
    assert caplog.text.count("can't be written, and is lost") == 1


def test_no_hold_waits_behind_what_holds_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as redis:
            async with relays(redis, tmp_path, 1) as (relay,):
                await relay.ledger.reserve(claim("r0"))
                redis.kill()
                for number in range(3000):
                    relay.ledger.settle(settlement(f"s{number}", key="k2", held=False))
                relay.ledger.settle(settlement("r0"))
                await asyncio.to_thread(redis.start)
                await until(lambda: free(relay))
                assert len(relay.kept.settlements) > 1000
                await until(lambda: written_all(relay))

    async def free(relay: Shared) -> bool:
        return await relay.ledger.balance("k1", "total") == (4, 0)

    async def written_all(relay: Shared) -> bool:
        return await relay.ledger.balance("k2", "total") == (12000, 0) and not relay.kept.settlements

    run(scenario)


def test_keys_outlive_it_too_and_are_on_every_machine(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            secret = one.kept.secret
            key = StoredKey("id", "alice", "hash", "now")
            await one.link.command("HSET", one.names.keys, "text", written([key]), "version", 7)
            await until(lambda: knows(other, [key]))
            await one.link.command("FLUSHALL")
            await until(lambda: is_there(one))
            assert await one.link.command("GET", one.names.secret) == secret
            for relay in (one, other):
                await relay.keys.look()
                assert relay.keys.read() == [key]
                folder = relay.ledger.path.parent
                assert read_secret(folder / "secret") == secret and keys_file.read(folder) == [key]

    async def knows(relay: Shared, keys: list[StoredKey]) -> bool:
        return relay.keys.read() == keys

    async def is_there(relay: Shared) -> bool:
        return await relay.link.command("HGET", relay.names.keys, "text") is not None

    run(scenario)


def test_who_comes_while_redis_is_away_lets_others_give_it_their_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis", "--appendonly", "no") as redis:
            async with relays(redis, tmp_path, 1) as (one,):
                redis.kill()  # and all that it knew is gone
                await asyncio.sleep(4.5)  # calls wait no more
                late = opened_shared(redis, tmp_path / "late", one.names.prefix)
                reaching = asyncio.create_task(late.reach())
                await asyncio.sleep(0.5)
                await asyncio.to_thread(redis.start)
                await reaching
                await until(lambda: same(one, late))
                assert "is not the secret" not in caplog.text
                await one.link.command("SET", one.names.secret, b"x" * 32)
                await until(said)
                await late.finish()

    async def same(one: Shared, late: Shared) -> bool:
        there: bytes | None = await one.link.command("GET", one.names.secret)
        return one.kept.secret == late.kept.secret == there

    async def said() -> bool:
        return "is not the secret that this relay goes by" in caplog.text

    run(scenario)


def test_a_key_that_was_revoked_does_not_come_back(redis: RedisServer, tmp_path: Path) -> None:
    """A relay that has missed it is the first to give its keys to a Redis that was emptied."""

    async def scenario() -> None:
        async with relays(redis, tmp_path) as (one, other):
            works, revoked = StoredKey("id", "a", "h", "now"), StoredKey("id", "a", "h", "now", revoked="now")
            await one.link.command("HSET", one.names.keys, "text", written([works]), "version", 6)
            await one.keys.look()
            await other.keys.look()
            other.keys.finish()
            await one.link.command("HSET", one.names.keys, "text", written([revoked]), "version", 7)
            await one.keys.look()
            await one.link.command("FLUSHALL")
            await other.keys._give_again(other.kept.secret or b"")
            await one.keys.look()
            await other.keys.look()
            assert one.keys.read() == other.keys.read() == [revoked]

    run(scenario)


def test_a_folder_of_another_store_is_left_as_it_is(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(redis, tmp_path, 1) as (relay,):
            folder = tmp_path / "other"
            folder.mkdir(mode=0o700)
            mine = read_secret(folder / "secret")
            other = opened_shared(redis, folder, relay.names.prefix)
            assert (await other.reach()).secret == relay.kept.secret != mine
            await relay.link.command("HSET", relay.names.keys, "text", written([]), "version", 3)
            await other.keys.look()
            assert read_secret(folder / "secret") == mine and not (folder / keys_file.NAME).exists()
            await other.finish()

    run(scenario)
