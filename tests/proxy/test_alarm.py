import asyncio
from typing import Any

import pytest

from addons.proxy.alarm import Alarm

MOMENT = 0.02


def rung(*deeds: Any, patience: float = 8 * MOMENT) -> list[str]:
    """What an alarm has said, after deeds that are done to it or seconds that pass between them."""
    heard: list[str] = []

    async def run() -> None:
        alarm = Alarm(heard.append)
        for deed in deeds:
            if isinstance(deed, float):
                await asyncio.sleep(deed)
            else:
                deed(alarm)
        await asyncio.sleep(patience)

    asyncio.run(run())
    return heard


@pytest.mark.parametrize(
    ("deeds", "heard"),
    [
        pytest.param([], [], id="never set"),
        pytest.param([lambda alarm: alarm.set(MOMENT, "a")], ["a"], id="set"),
        pytest.param(
            [lambda alarm: alarm.set(MOMENT, "a"), lambda alarm: alarm.set(4 * MOMENT, "b")], ["b"], id="set for later"
        ),
        pytest.param(
            [lambda alarm: alarm.set(60, "a"), lambda alarm: alarm.set(MOMENT, "b")], ["b"], id="set for sooner"
        ),
        pytest.param([lambda alarm: alarm.set(MOMENT, "a"), Alarm.put_off], [], id="put off"),
        pytest.param(
            [lambda alarm: alarm.set(MOMENT, "a"), Alarm.put_off, 2 * MOMENT, lambda alarm: alarm.set(MOMENT, "b")],
            ["b"],
            id="put off past its time, and set again",
        ),
        pytest.param([lambda alarm: alarm.set(MOMENT, "a"), Alarm.cancel], [], id="cancelled"),
        pytest.param(
            [lambda alarm: alarm.set(MOMENT, "a"), 3 * MOMENT, lambda alarm: alarm.set(MOMENT, "b")],
            ["a", "b"],
            id="set again after it rang",
        ),
    ],
)
def test_it_rings_when_it_was_set_last(deeds: list[Any], heard: list[str]) -> None:
    assert rung(*deeds) == heard


def test_it_does_not_ring_early() -> None:
    assert rung(lambda alarm: alarm.set(60, "a"), patience=MOMENT) == []


def test_the_loop_keeps_one_timer_of_it() -> None:
    async def timers() -> tuple[int, int]:
        loop: Any = asyncio.get_running_loop()
        alarm = Alarm(lambda why: None)
        for _ in range(100):
            alarm.set(60, "")
            alarm.put_off()
        kept = len(loop._scheduled)
        alarm.cancel()
        return kept, sum(not timer.cancelled() for timer in loop._scheduled)

    assert asyncio.run(timers()) == (1, 0)
