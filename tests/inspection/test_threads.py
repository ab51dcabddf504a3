"""When calls are placed in their threads: in the order in which they were asked, and never at a client's cost."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import view
from mitmproxy.test import taddons

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
        exchange_of(flow).record.saved = saved
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
