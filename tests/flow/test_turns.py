"""Work in slices has one turn in each round of the loop, however many do such work."""

import asyncio
import time

import pytest

from addons.core.slices import Sliced
from addons.flow.turns import in_turns


def work(slices: int, seconds: float = 0.0, name: str = "", order: list[str] | None = None) -> Sliced[str]:
    """So many slices of so many seconds."""
    for _ in range(slices):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        if order is not None:
            order.append(name)
        yield
    return name


async def longest_wait(*works: Sliced[str]) -> float:
    """Seconds that others waited at most for a turn."""
    tasks = asyncio.gather(*map(in_turns, works))
    worst, before = 0.0, time.monotonic()
    while not tasks.done():
        await asyncio.sleep(0)
        now = time.monotonic()
        worst, before = max(worst, now - before), now
    await tasks
    return worst


def test_the_result_is_what_the_work_returns() -> None:
    assert asyncio.run(in_turns(work(3, name="done"))) == "done"
    assert asyncio.run(in_turns(work(0, name="at once"))) == "at once"


def test_many_share_what_one_may_take() -> None:
    """Forty slices of 4 ms would be 160 ms in a row. The least of three: the machine does other things, too."""
    assert min(asyncio.run(longest_wait(*(work(3, 0.004) for _ in range(40)))) for _ in range(3)) < 0.05


def test_short_work_is_not_kept_waiting_by_long_work() -> None:
    order: list[str] = []

    async def both() -> None:
        long = asyncio.create_task(in_turns(work(30, 0.006, "long", order)))
        await asyncio.sleep(0)
        await in_turns(work(2, 0.006, "short", order))
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)

    asyncio.run(both())
    assert order.count("long") <= 5


def test_what_is_cancelled_or_raises_keeps_nobody_waiting() -> None:
    def fails() -> Sliced[str]:
        yield
        raise ValueError("in the work")

    async def all_of_it() -> str:
        first = asyncio.create_task(in_turns(work(50, 0.006)))
        second = asyncio.create_task(in_turns(work(50, 0.006)))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        with pytest.raises(ValueError, match="in the work"):
            await in_turns(fails())
        return await asyncio.wait_for(in_turns(work(3, name="done")), 5)

    assert asyncio.run(all_of_it()) == "done"
