"""Reports run in threads of their own, equal ones once, and as long as somebody waits."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from addons import errors
from addons.meter.runs import Runs, Stop
from addons.store.ledger_reader import Stopped


class Work:
    """A report that takes until somebody lets it end, or stops it."""

    def __init__(self) -> None:
        self.begun = 0
        self.stopped = 0
        self.end = threading.Event()

    def __call__(self, stop: Stop) -> str:
        self.begun += 1
        while not self.end.wait(0.005):
            if stop():
                self.stopped += 1
                raise Stopped
        return "told"


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.end.set()


async def until(condition: Stop) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_equal_questions_share_a_run(work: Work) -> None:
    async def life() -> None:
        runs = Runs()
        asked = [asyncio.ensure_future(runs.run("a", work)) for _ in range(20)]
        await until(lambda: work.begun == 1)
        work.end.set()
        assert await asyncio.gather(*asked) == ["told"] * 20
        assert work.begun == 1 and not runs._runs
        assert await runs.run("a", work) == "told" and work.begun == 2, "what is over is asked anew"

    asyncio.run(life())


def test_whoever_leaves_costs_the_others_nothing(work: Work) -> None:
    async def life() -> None:
        runs = Runs()
        one, other = (asyncio.ensure_future(runs.run("a", work)) for _ in range(2))
        await until(lambda: work.begun == 1)
        one.cancel()
        await asyncio.sleep(0.05)
        assert not work.stopped
        work.end.set()
        assert await other == "told"

    asyncio.run(life())


def test_a_run_that_nobody_waits_for_ends_and_one_that_has_not_begun_never_does(work: Work) -> None:
    async def life() -> None:
        runs = Runs()
        asked = [asyncio.ensure_future(runs.run(number, work)) for number in range(12)]
        await until(lambda: work.begun == 2)
        for each in reversed(asked):  # those that wait first: a thread that is free takes the next
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await until(lambda: work.stopped == 2)
        work.end.set()
        assert await runs.run("somebody else", work) == "told"
        assert work.begun == 3 and not runs._runs

    asyncio.run(life())


def test_what_is_asked_again_while_its_run_is_stopping_is_a_new_one(work: Work) -> None:
    async def life() -> None:
        runs = Runs()
        gone = asyncio.ensure_future(runs.run("a", work))
        await until(lambda: work.begun == 1)
        gone.cancel()
        await asyncio.sleep(0)
        asked = asyncio.ensure_future(runs.run("a", work))
        await until(lambda: work.begun == 2)
        work.end.set()
        assert await asked == "told"

    asyncio.run(life())


def test_all_end_when_relay_does(work: Work) -> None:
    async def life() -> None:
        runs = Runs()
        asked = [asyncio.ensure_future(runs.run(number, work)) for number in range(5)]
        await until(lambda: work.begun == 2)
        runs.stop()
        for each in asked:
            with pytest.raises(errors.Unavailable):
                await each

    asyncio.run(life())


def test_errors_reach_whoever_waits() -> None:
    def fail(_stop: Stop) -> None:
        raise ValueError("x")

    async def life() -> None:
        runs = Runs()
        with pytest.raises(ValueError, match="x"):
            await runs.run("a", fail)
        assert not runs._runs

    asyncio.run(life())
