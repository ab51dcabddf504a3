"""When calls are placed in their threads: in the order in which they were asked, and never at a client's cost."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import view
from mitmproxy.test import taddons

from addons.core.threads.call import Call
from addons.core.threads.registry import Threads
from addons.exchange import Exchange, of
from addons.inspection.ending import Ending
from addons.inspection.threads import ThreadNotes
from addons.meter.prices import PriceList, Prices
from tests.support import flows

LONG = "x" * 20_000


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """Somebody looks."""
    with taddons.context(view.View()):
        yield


class Notes:
    """What notes threads, and what has been told of."""

    def __init__(self) -> None:
        self.told: list[http.HTTPFlow] = []
        settings = flows.settings()
        self.notes = ThreadNotes(settings, Threads(1 << 24), Prices(settings, PriceList()), self.told.append)
        self.ending = Ending(self.notes.line_up)

    def asked(self, *said: str, saved: bool = False) -> http.HTTPFlow:
        """A call whose answer has begun."""
        roles = ("user", "assistant")
        talk = [{"role": roles[at % 2], "content": each} for at, each in enumerate(said)]
        body = json.dumps({"model": "m", "messages": talk}).encode()
        flow = flows.opened("POST", "/v1/chat/completions", {"authorization": "Bearer k"}, body)
        answer = {"choices": [{"message": {"role": "assistant", "content": f"Said {len(said)}."}}]}
        flows.respond(flow, 200, answer)
        exchange_of(flow).record.saved, exchange_of(flow).record.later = saved, False
        self.ending.responseheaders(flow)
        return flow

    async def over(self, flow: http.HTTPFlow) -> None:
        """It has ended, and its record is clean."""
        self.ending.response(flow)
        if (rest := self.notes.response(flow)) is not None:
            await rest


def exchange_of(flow: http.HTTPFlow) -> Exchange:
    exchange = of(flow)
    assert exchange is not None
    return exchange


def thread(flow: http.HTTPFlow) -> object:
    return flow.metadata.get("relay.thread")


def test_a_small_call_is_placed_at_once() -> None:
    notes = Notes()
    flow = notes.asked("hi")
    notes.ending.response(flow)
    assert notes.notes.response(flow) is None and thread(flow) and not notes.told


def test_nobody_waits_for_a_large_one_but_a_file() -> None:
    async def scenario() -> None:
        notes = Notes()
        large, saved = notes.asked(LONG), notes.asked(LONG + "y", saved=True)
        notes.ending.response(large)
        assert notes.notes.response(large) is None and thread(large) is None
        await notes.over(saved)
        assert thread(saved) and saved not in notes.told
        await asyncio.sleep(0.05)
        assert thread(large) and notes.told == [large]

    asyncio.run(scenario())


@pytest.mark.parametrize("saved", [True, False])
def test_one_that_goes_on_before_the_other_s_record_is_clean_is_compared_with_it(saved: bool) -> None:
    async def scenario() -> None:
        notes = Notes()
        first = notes.asked("hi", saved=saved)
        notes.ending.response(first)  # and is being cleaned
        second = notes.asked("hi", "Said 1.", "And?", saved=saved)
        rest = asyncio.ensure_future(notes.over(second))
        await asyncio.sleep(0.02)
        assert thread(second) is None
        await notes.over(first)
        await rest
        await asyncio.sleep(0.02)
        assert thread(second) == thread(first) is not None
        assert second.metadata["relay.cause"]["previous"] == first.id

    asyncio.run(scenario())


def test_a_call_that_still_goes_on_is_not_waited_for() -> None:
    notes = Notes()
    going = notes.asked("hi")
    other = notes.asked("ho")
    notes.ending.response(other)
    assert notes.notes.response(other) is None and thread(other) and thread(going) is None


def test_one_that_can_t_be_placed_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    broken, next_one = notes.asked("hi"), notes.asked("ho")
    notes.ending.response(broken)
    with monkeypatch.context() as patch:
        patch.setattr(Threads, "placing", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            notes.notes.response(broken)
    notes.ending.response(next_one)
    assert notes.notes.response(next_one) is None and thread(next_one)


async def behind_one_that_is_being_cleaned(notes: Notes, number: int) -> tuple[http.HTTPFlow, list[http.HTTPFlow]]:
    """The one, and those that were asked after it and wait for it, the last one first."""
    first = notes.asked("hi")
    notes.ending.response(first)
    others = [notes.asked(f"No. {at}") for at in range(number)]
    for each in reversed(others):
        await notes.over(each)
    await asyncio.sleep(0.02)
    assert not notes.told
    return first, others


def test_those_that_wait_are_placed_in_the_order_in_which_they_were_asked() -> None:
    async def scenario() -> None:
        notes = Notes()
        first, others = await behind_one_that_is_being_cleaned(notes, 300)
        await notes.over(first)
        behind = notes.asked("last")
        await notes.over(behind)
        assert thread(behind) is None
        async with asyncio.timeout(10):
            while thread(behind) is None:
                await asyncio.sleep(0.01)
        assert notes.told == [first, *others, behind]

    asyncio.run(scenario())


def test_one_whose_record_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addons.inspection.call_queue._PATIENCE", 0.05)

    async def scenario() -> None:
        notes = Notes()
        _, others = await behind_one_that_is_being_cleaned(notes, 3)
        await asyncio.sleep(0.1)
        assert notes.told == others
        small = notes.asked("behind them")
        notes.ending.response(small)
        assert notes.notes.response(small) is None and thread(small)

    asyncio.run(scenario())


def test_beyond_a_bound_none_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        notes = Notes()
        with monkeypatch.context() as patch:
            first, others = await behind_one_that_is_being_cleaned(notes, 2)
            patch.setattr("addons.inspection.call_queue._MOST", 2)
            late = notes.asked("late")
            await notes.over(late)
        await notes.over(first)
        await asyncio.sleep(0.1)
        assert notes.told == [first, *others] and thread(late) is None

    asyncio.run(scenario())


def test_one_that_can_t_be_placed_in_its_turn_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    placing = Threads.placing

    def failing(threads: Threads, call: Call) -> object:
        return 1 / 0 if b"No. 1" in call.body else placing(threads, call)

    monkeypatch.setattr(Threads, "placing", failing)

    async def scenario() -> None:
        notes = Notes()
        first, others = await behind_one_that_is_being_cleaned(notes, 3)
        await notes.over(first)
        await asyncio.sleep(0.1)
        assert [bool(thread(each)) for each in others] == [True, False, True]

    asyncio.run(scenario())
    assert "can't be placed" in caplog.text
