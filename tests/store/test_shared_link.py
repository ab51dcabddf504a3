"""The way to Redis: TLS, passwords, sentinels, what is lost on it, and sessions whose holder sleeps."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from addons.core.sessions import Session, Turn
from addons.store import LeaseLost, StoreError
from addons.store.shared import link as shared_link
from addons.store.shared import sessions as shared_sessions
from addons.store.shared.opened import Shared
from addons.store.shared.sessions import SharedSessions
from tests.support.certificates import self_signed
from tests.support.cutting_proxy import CuttingProxy
from tests.support.live import free_port
from tests.support.redis_server import NEEDED, PROGRAM, RedisServer, opened_shared, redis_server
from tests.support.stores import keep

pytestmark = NEEDED

TTL = 60.0
SAID, OTHER = Session((Turn("a", "b"),)), Session((Turn("c", "d"),))
prefixes = (f"link{number}" for number in count())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def reached(shared: Shared, longest: float = 10) -> AsyncIterator[SharedSessions]:
    try:
        yield await asyncio.wait_for(shared.reach(), longest)
    finally:
        await shared.finish()


# Ways to Redis


def works(server: RedisServer, folder: Path, url: str, longest: float = 10) -> None:
    async def scenario() -> None:
        async with reached(opened_shared(server, folder, url=url), longest) as store:
            key, owner = store.key("sk-key", "s")
            await keep(store, key, owner, SAID)
            assert await store.load(key, TTL) == SAID

    asyncio.run(scenario())


def test_a_user_and_a_password(tmp_path: Path) -> None:
    acl = ("--user", *["relay", "on", ">pass@word", "~*", "&*", "+@all"], "--user", "default", "off")
    with redis_server(tmp_path / "redis", *acl) as server:
        works(server, tmp_path / "a", f"redis://relay:pass%40word@127.0.0.1:{server.port}/0")


def test_a_wrong_password_is_said_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        shared = opened_shared(server, tmp_path / "a", url=f"redis://:MARKx-wrong@127.0.0.1:{server.port}/0")
        reaching = asyncio.ensure_future(shared.reach())
        async with asyncio.timeout(10):
            while not caplog.text:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert not reaching.done()
        reaching.cancel()
        await shared.finish()

    with redis_server(tmp_path / "redis", "--requirepass", "MARKx-right") as server:
        asyncio.run(scenario())
    assert "WRONGPASS" in caplog.text or "invalid" in caplog.text
    assert "MARKx" not in caplog.text


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "localhost")
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate.cert), "--tls-key-file", str(certificate.key))
    with redis_server(tmp_path / "redis", *tls, "--tls-auth-clients", "no") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
        works(server, tmp_path / "a", f"rediss://localhost:{port}/0")
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(TimeoutError):
            works(server, tmp_path / "b", f"rediss://localhost:{port}/0", 1)


def test_sentinels_name_the_master(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
        with sentinel(config, port):
            works(server, tmp_path / "a", f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/mymaster/2")


@contextlib.contextmanager
def sentinel(config: Path, port: int) -> Iterator[None]:
    process = subprocess.Popen([str(PROGRAM), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not RedisServer.answers_at(port):
            assert time.monotonic() < end
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


# What is lost on it


def test_sessions_bear_lost_replies(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with CuttingProxy(redis.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with reached(opened_shared(redis, tmp_path, next(prefixes), url=url)) as store:
                key, owner = store.key("sk-key", "s")
                for number in range(5):
                    proxy.cut_next = 1
                    lease = await store.lease(key, 0)
                    proxy.cut_next = 1
                    await store.save(lease, owner, Session((Turn(str(number), ""),)))
                    proxy.cut_next = 1
                    assert (await store.load(key, TTL)).turns[0].user == str(number)
                    lease.release()
                async with store.lease(key, 9) as lease:
                    proxy.cut_next = 1
                    assert await store.delete(lease) is True, "the second call knows that the first has done it"
                assert proxy.cuts >= 8  # a cut may meet what a process says of itself

    asyncio.run(scenario())


def test_calls_fail_soon_and_go_on_as_soon_as_redis_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_link, "_PATIENCE", 0.5)

    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            shared = opened_shared(server, tmp_path / "a")
            async with reached(shared):
                await asyncio.to_thread(server.kill)
                for _ in range(3):
                    begun = time.monotonic()
                    with pytest.raises(StoreError, match="can't be reached"):
                        await shared.link.command("PING")
                    assert time.monotonic() - begun < 1.2
                await asyncio.to_thread(server.start)
                assert await shared.link.command("PING")

    asyncio.run(scenario())


def test_a_redis_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            shared = opened_shared(server, tmp_path / "a")
            async with reached(shared):
                server.signal(signal.SIGSTOP)
                begun = time.monotonic()
                with pytest.raises(StoreError):
                    await shared.link.command("PING")
                assert time.monotonic() - begun < 6
                server.signal(signal.SIGCONT)
                await asyncio.sleep(0.2)
                assert await shared.link.command("PING")

    asyncio.run(scenario())


# Sessions


def test_who_slept_past_its_lease_overwrites_nothing(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_sessions, "LEASE", 0.3)
    monkeypatch.setattr(shared_sessions, "RENEW", 60.0)

    async def scenario() -> None:
        prefix = next(prefixes)
        async with (
            reached(opened_shared(redis, tmp_path / "a", prefix)) as one,
            reached(opened_shared(redis, tmp_path / "b", prefix)) as other,
        ):
            key, owner = one.key("sk-key", "s")
            asleep = await one.lease(key, 9)
            begun = time.monotonic()
            async with other.lease(key, 9) as lease:
                assert 0.2 < time.monotonic() - begun < 1.0
                assert lease.fence > asleep.fence
                await other.save(lease, owner, SAID)
                for call in (one.save(asleep, owner, OTHER), one.delete(asleep)):
                    with pytest.raises(LeaseLost):
                        await call
                asleep.release()  # of no effect on whoever has it now
                await other.save(lease, owner, SAID)
            assert await one.load(key, TTL) == SAID

    asyncio.run(scenario())


def test_who_is_awake_keeps_its_lease(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sessions, "LEASE", 0.5)
    monkeypatch.setattr(shared_sessions, "RENEW", 0.1)

    async def scenario() -> None:
        async with reached(opened_shared(redis, tmp_path, next(prefixes))) as store:
            key, owner = store.key("sk-key", "s")
            lease = await store.lease(key, 9)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.ensure_future(store.lease(key, 9)), 1.2)
            await store.save(lease, owner, SAID)
            lease.release()
            (await store.lease(key, 0)).release()

    asyncio.run(scenario())


class Leaving(dict[str, tuple[str, int]]):
    """Leases of which one is given back as soon as somebody has looked which there are."""

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield "given back"


def test_leases_are_renewed_whatever_is_given_back_meanwhile(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_sessions, "LEASE", 0.5)
    monkeypatch.setattr(shared_sessions, "RENEW", 0.1)

    async def scenario() -> None:
        opened = opened_shared(redis, tmp_path, next(prefixes))
        opened.kept.leases = Leaving()
        async with reached(opened) as store:
            key, owner = store.key("sk-key", "s")
            lease = await store.lease(key, 9)
            await asyncio.sleep(0.8)
            await store.save(lease, owner, SAID)
            lease.release()

    asyncio.run(scenario())


def test_what_was_given_back_while_redis_was_away_is_free_when_it_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        with redis_server(tmp_path / "redis") as server:
            opened = opened_shared(server, tmp_path, next(prefixes))
            async with reached(opened) as store:
                key, owner = store.key("sk-key", "s")
                lease = await store.lease(key, 9)
                await store.save(lease, owner, SAID)
                server.kill()
                lease.release()
                await asyncio.sleep(4)  # calls wait no more
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(2):
                    (await store.lease(key, 9)).release()

    asyncio.run(scenario())


def test_a_process_that_is_gone_keeps_no_place_in_the_queue(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_sessions, "_PATIENCE", 0.5)

    async def scenario() -> None:
        async with reached(opened_shared(redis, tmp_path, next(prefixes))) as store:
            key, _ = store.key("sk-key", "s")
            lease = await store.lease(key, 9)
            names = store._names.session(key)
            dead = ("dead.ticket", 9, 15_000, 500)
            await store._link.function("take", (names.lease, names.queue, names.seen, names.fences), dead)
            waits = asyncio.ensure_future(store.lease(key, 9))
            await asyncio.sleep(0.05)
            lease.release()
            begun = time.monotonic()
            (await waits).release()
            assert time.monotonic() - begun < 1.5

    asyncio.run(scenario())


def test_those_unused_for_longest_make_room(redis: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        bounds = {"max_sessions": 4, "max_sessions_per_key": 2}
        async with reached(opened_shared(redis, tmp_path, next(prefixes), **bounds)) as store:
            for owner_key in ("sk-a", "sk-b", "sk-c"):
                for name in ("1", "2", "3"):
                    key, owner = store.key(owner_key, name)
                    await keep(store, key, owner, SAID)
                    await asyncio.sleep(0.02)
                assert await store.load(store.key(owner_key, "1")[0], TTL) == Session()
                assert await store.load(store.key(owner_key, "3")[0], TTL) == SAID
            await asyncio.sleep(0.1)
            assert await store._link.command("ZCARD", store._names.sessions) == 4
            left = [await store.load(store.key(key, name)[0], TTL) for key in ("sk-a", "sk-b", "sk-c") for name in "23"]
            assert left.count(SAID) == 4 and left[-1] == SAID

    asyncio.run(scenario())
