"""Names and addresses: one that hangs, or leads nowhere, costs the others nothing."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from addons.engine.pool import dialing
from addons.engine.pool import names as naming
from addons.engine.pool.names import Names

Found = list[tuple[int, int, int, str, Any]]


def address(host: str, port: int) -> tuple[int, int, int, str, Any]:
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)


class Resolver:
    """One that answers what it is told to, and notes what it is asked."""

    def __init__(self, **told: Found | Exception) -> None:
        self.told = told
        self.asked: list[str] = []
        self.hangs = threading.Event()

    def __call__(self, host: str, port: int, **_: Any) -> Found:
        self.asked.append(host)
        if host == "hangs":
            self.hangs.wait(10)
        found = self.told.get(host, [address("127.0.0.1", port)])
        if isinstance(found, Exception):
            raise found
        return found


@contextlib.contextmanager
def nowhere() -> Iterator[int]:
    """A port where connects are neither taken nor refused: its backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_name_is_looked_up_once_at_a_time_and_kept_for_a_while() -> None:
    now, resolver = 0.0, Resolver()
    names = Names(resolver, lambda: now)

    async def life() -> None:
        nonlocal now
        found = await asyncio.gather(*(names.look_up("one", 1) for _ in range(20)))
        assert found == [[address("127.0.0.1", 1)]] * 20
        now = 29.0
        await names.look_up("one", 1)
        assert resolver.asked == ["one"]
        now = 31.0
        await names.look_up("one", 1)
        assert resolver.asked == ["one", "one"]
        names.forget("one", 1)
        await names.look_up("one", 1)
        assert len(resolver.asked) == 3

    asyncio.run(life())


def test_a_resolver_that_hangs_over_one_name_delays_no_other() -> None:
    resolver = Resolver()
    names = Names(resolver)

    async def life() -> None:
        hanging = [asyncio.ensure_future(names.look_up("hangs", 1)) for _ in range(50)]
        await asyncio.sleep(0)
        begin = time.monotonic()
        for number in range(20):
            await names.look_up(f"other{number}", 1)
        assert time.monotonic() - begin < 2
        assert not any(each.done() for each in hanging) and resolver.asked.count("hangs") == 1
        hanging[0].cancel()
        resolver.hangs.set()
        assert await hanging[1] == [address("127.0.0.1", 1)], "who leaves takes nothing from who stays"

    asyncio.run(life())


@pytest.mark.parametrize(
    "told", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"), []], ids=repr
)
def test_failures_are_told_to_all_and_not_kept(told: Found | Exception) -> None:
    resolver = Resolver(bad=told)
    names = Names(resolver)

    async def life() -> None:
        for count in (1, 2):
            for failed in await asyncio.gather(*(names.look_up("bad", 1) for _ in range(3)), return_exceptions=True):
                assert isinstance(failed, OSError)
            assert len(resolver.asked) == count

    asyncio.run(life())


def test_too_many_names_at_once_are_refused() -> None:
    resolver = Resolver()
    names = Names(lambda *place, **more: resolver("hangs", 1))

    async def life() -> None:
        waiting = [asyncio.ensure_future(names.look_up(f"name{n}", 1)) for n in range(naming._MOST_AT_ONCE)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="too many"):
            await names.look_up("one more", 1)
        resolver.hangs.set()
        await asyncio.gather(*waiting)
        assert await names.look_up("one more", 1)

    asyncio.run(life())


@pytest.mark.parametrize("eager", [False, True], ids=["tasks", "eager tasks"])
def test_an_address_that_leads_nowhere_costs_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    with nowhere() as port, socket.create_server(("127.0.0.1", 0)) as good:
        there = [address("127.0.0.1", port), address("127.0.0.1", good.getsockname()[1])]
        monkeypatch.setattr(dialing, "names", Names(Resolver(name=there)))

        async def life() -> float:
            if eager:
                asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            begin = time.monotonic()
            with await dialing._connect("name", 1) as sock:
                assert sock.getpeername() == good.getsockname()
            return time.monotonic() - begin

        assert 0.2 < asyncio.run(life()) < 3


def test_what_can_t_be_reached_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    resolver = Resolver(name=[address("127.0.0.1", port), address("127.0.0.2", port)])
    monkeypatch.setattr(dialing, "names", Names(resolver))

    async def life() -> None:
        for _ in range(2):
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await dialing._connect("name", port)

    asyncio.run(life())
    assert len(resolver.asked) == 2


def test_without_a_thread_a_look_up_fails_and_the_next_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(Resolver())

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def life() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="no thread"):
                await names.look_up("one", 1)
        assert await names.look_up("one", 1)

    asyncio.run(life())


def test_of_very_many_names_not_all_are_kept() -> None:
    names = Names(Resolver())

    async def life() -> None:
        for number in range(3 * naming._MOST_KEPT):
            await names.look_up(f"name{number}", 1)
        assert len(names._kept) <= naming._MOST_KEPT

    asyncio.run(life())
