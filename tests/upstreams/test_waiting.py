"""The lines in which requests wait for a key."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from addons.upstreams import waiting
from addons.upstreams.waiting import Lines


class Places:
    """What can be had, and who has got it."""

    def __init__(self) -> None:
        self.free = 0
        self.went: list[str] = []
        self.given_back = 0

    def take(self, name: str) -> Callable[[], str | None]:
        def take() -> str | None:
            if not self.free:
                return None
            self.free -= 1
            self.went.append(name)
            return name

        return take

    def lost(self, _name: str) -> None:
        self.given_back += 1
        self.free += 1


def waiter(
    lines: Lines[str], places: Places, caller: str, name: str, seconds: float = 5, line: str = "line"
) -> Coroutine[Any, Any, str | None]:
    return lines.wait(line, caller, seconds, places.take(name), lambda: 60.0, places.lost)


def test_callers_have_their_turns_and_their_requests_keep_their_order() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        names = [
            *(("many", f"many {number}") for number in range(5)),
            ("one", "one 0"),
            ("two", "two 0"),
            ("two", "two 1"),
        ]
        tasks = [asyncio.create_task(waiter(lines, places, *name)) for name in names]
        await asyncio.sleep(0)
        places.free = 100
        lines.move(3)
        await asyncio.sleep(0)
        assert places.went == ["many 0", "one 0", "two 0"]
        lines.move(100)
        await asyncio.gather(*tasks)
        assert places.went[3:] == ["many 1", "two 1", "many 2", "many 3", "many 4"]
        assert len(lines) == 0 and not lines.is_waited_for("line")

    asyncio.run(run())


def test_who_has_waited_long_enough_gets_nothing() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        assert await waiter(lines, places, "one", "x", 0.02) is None
        assert len(lines) == 0 and not lines.is_waited_for("line")

    asyncio.run(run())


def test_who_leaves_makes_room_and_loses_no_place() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        leaving = asyncio.create_task(waiter(lines, places, "one", "leaving"))
        staying = asyncio.create_task(waiter(lines, places, "one", "staying"))
        await asyncio.sleep(0)
        places.free = 1
        lines.move(1)
        leaving.cancel()  # in the very turn in which it got one
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert places.given_back == 1
        lines.move(1)
        assert await staying == "staying"
        assert len(lines) == 0

    asyncio.run(run())


def test_too_many_are_sent_away() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        tasks = [
            asyncio.create_task(waiter(lines, places, f"caller {number % 20}", str(number), 1))
            for number in range(waiting.MOST + 5)
        ]
        await asyncio.sleep(0)
        assert len(lines) == waiting.MOST
        assert await tasks[-1] is None
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(lines) == 0

    asyncio.run(run())


def test_and_too_many_of_one_caller() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        tasks = [asyncio.create_task(waiter(lines, places, "one", str(number), 1)) for number in range(105)]
        other = asyncio.create_task(waiter(lines, places, "other", "other", 1))
        await asyncio.sleep(0)
        assert len(lines) == waiting.MOST_A_CALLER + 1
        for each in (*tasks, other):
            each.cancel()
        await asyncio.gather(*tasks, other, return_exceptions=True)

    asyncio.run(run())


def test_a_line_moves_when_its_time_is_over() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        task = asyncio.create_task(lines.wait("line", "one", 5, places.take("x"), lambda: 0.01, places.lost))
        await asyncio.sleep(0)
        places.free = 1
        async with asyncio.timeout(1):
            assert await task == "x"

    asyncio.run(run())


def test_one_line_does_not_stop_another() -> None:
    async def run() -> None:
        lines, places = Lines[str](), Places()
        nobody = asyncio.create_task(lines.wait("a", "one", 1, lambda: None, lambda: 60.0, places.lost))
        task = asyncio.create_task(waiter(lines, places, "one", "x", line="b"))
        await asyncio.sleep(0)
        places.free = 1
        lines.move(1)
        assert await task == "x"
        nobody.cancel()

    asyncio.run(run())
