"""A worker's numbers on their way to its parent, and the times of its store."""

import asyncio
import json

import pytest

from addons.core.metrics import Numbers
from addons.core.sessions import Session
from addons.store import StoreError
from addons.telemetry import sharing
from addons.telemetry.counting import Counting
from addons.telemetry.loop_lag import PERIOD, LoopLag
from addons.telemetry.sharing import Sharing
from addons.telemetry.timed_store import TimedStore


def test_a_worker_tells_when_something_was_counted_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PERIOD", 0.02)
    told: list[bytes] = []
    counting = Counting()
    shared = Sharing(counting, told.append)

    async def life() -> tuple[int, int, int]:
        shared.start()
        shared.start()
        await asyncio.sleep(0.1)
        idle = len(told)
        counting.numbers.count("relay_requests", ("files", "one", "2xx", "ok"))
        await asyncio.sleep(0.1)
        busy = len(told)
        shared.stop()
        return idle, busy, len(told)

    idle, busy, ended = asyncio.run(life())
    assert idle <= 2 and busy == idle + 1 and ended == busy + 1
    numbers = Numbers.of_json(json.loads(told[-1]))
    assert sum(numbers.counters["relay_requests"].values()) == 1


def test_numbers_that_can_t_be_told_cost_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def gone(_numbers: bytes) -> None:
        raise OSError("the parent is gone")

    Sharing(Counting(), gone).tell()
    assert "not told" in caplog.text
    Sharing(Counting()).tell()


class Store:
    """One that answers as it is told."""

    secret = b"secret"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    async def load(self, _key: str, _ttl: float) -> Session:
        if self.error is not None:
            raise self.error
        return Session()


@pytest.mark.parametrize(
    ("error", "result"), [(None, "ok"), (StoreError("gone"), "failed"), (asyncio.CancelledError(), "given_up")]
)
def test_the_store_s_times(error: BaseException | None, result: str) -> None:
    numbers = Numbers()
    timed = TimedStore(Store(error), numbers)  # type: ignore[arg-type]
    try:
        asyncio.run(timed.load("key", 1.0))
    except (StoreError, asyncio.CancelledError) as raised:
        assert error is not None and type(raised) is type(error)
    assert list(numbers.histograms["relay_store_seconds"]) == [("load", result)]


def test_a_loop_that_is_kept_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers()
    lag = LoopLag(numbers.histogram("relay_loop_lag_seconds"))

    async def life() -> None:
        import time

        lag.start()
        await asyncio.sleep(0)
        time.sleep(PERIOD + 0.3)
        await asyncio.sleep(0.05)
        lag.stop()

    asyncio.run(life())
    assert 0.2 < numbers.histogram("relay_loop_lag_seconds").sum < 2
