"""A list is told of exchanges under way together, and of all else at once."""

import asyncio
from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import view
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHook
from mitmproxy.test import taddons, tflow

from addons.engine.corrections import web
from addons.engine.speed import dispatch
from addons.engine.wrapping import restore
from tests.support import flows


@pytest.fixture
def shown() -> Iterator[view.View]:
    """A list that is changed as relay changes it."""
    web.install()
    listed = view.View()
    try:
        with taddons.context(listed):
            yield listed
    finally:
        web.waiting.clear()
        restore(view.View, "update")


class Told:
    """What a page is told."""

    def __init__(self, shown: view.View) -> None:
        self.flows: list[object] = []
        shown.sig_view_update.connect(self.hear)

    def hear(self, flow: object) -> None:
        self.flows.append(flow)


def under_way(shown: view.View) -> http.HTTPFlow:
    flow = flows.opened("GET", "/v1/models")
    flows.exchange(flow).record.later = True
    shown.add([flow])
    return flow


def test_several_hooks_are_told_of_once(shown: view.View) -> None:
    async def scenario() -> None:
        told, first, second = Told(shown), under_way(shown), under_way(shown)
        for _ in range(3):
            shown.update([first])
            shown.update([second])
        assert not told.flows and set(web.waiting) == {first, second}
        await asyncio.sleep(0.1)
        assert told.flows == [first, second] and not web.waiting
        shown.update([first])
        await asyncio.sleep(0.1)
        assert told.flows == [first, second, first]

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["finished", "intercepted", "nobody's"])
def test_all_else_is_told_of_at_once(shown: view.View, kind: str) -> None:
    async def scenario() -> None:
        told = Told(shown)
        flow = under_way(shown)
        if kind == "finished":
            flows.exchange(flow).record.later = False
        elif kind == "intercepted":
            flow.intercepted = True
        else:
            flow = tflow.tflow()
            shown.add([flow])
        shown.update([flow])
        assert told.flows == [flow]

    asyncio.run(scenario())


def test_one_that_fails_costs_no_other(shown: view.View, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        told, first, second = Told(shown), under_way(shown), under_way(shown)

        def failing(flow: object) -> None:
            if flow is first:
                raise ValueError("no page")

        shown.sig_view_update.connect(failing)
        shown.update([first])
        shown.update([second])
        await asyncio.sleep(0.1)
        assert second in told.flows

    asyncio.run(scenario())
    assert "can't be told" in caplog.text


def test_what_an_ended_loop_has_left_is_told_of_by_the_next(shown: view.View) -> None:
    told = Told(shown)
    first, second = under_way(shown), under_way(shown)

    async def leaving() -> None:
        shown.update([first])

    async def going_on() -> None:
        shown.update([second])
        await asyncio.sleep(0.1)

    asyncio.run(leaving())
    asyncio.run(going_on())
    assert told.flows == [first, second]


class Listener:
    """Another addon that wants to hear of each change."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def update(self, changed: list[object]) -> None:
        self.heard += changed


@pytest.mark.parametrize("others", [False, True])
def test_events_of_one_that_is_told_of_soon_go_past_the_list_alone(shown: view.View, others: bool) -> None:
    async def scenario() -> None:
        listener = Listener()
        with taddons.context(shown, *([listener] if others else [])) as context:
            flow = under_way(shown)
            shown.update([flow])
            assert flow in web.waiting
            manager = context.master.addons
            dispatch.begin(manager, HttpRequestHook(flow), (flow,))  # builds the table
            assert dispatch.begin(manager, HttpResponseHook(flow), (flow,)) is None
            assert listener.heard == ([flow, flow] if others else [])

    dispatch.install()
    try:
        asyncio.run(scenario())
    finally:
        dispatch.uninstall()
