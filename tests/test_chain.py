import asyncio
import logging
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from addons.chain import HOOKS, Chain, fail_closed
from addons.exchange import Kind
from addons.proxy.failures import Failures
from addons.proxy.streaming import Streaming
from tests.support import flows

FLOW_HOOKS = ("requestheaders", "request", "responseheaders", "response", "error")


class Raising:
    """Raises in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._raise)

    def _raise(self, data: object) -> None:
        raise RuntimeError("a bug")


class RaisingLater(Raising):
    """Raises after it has waited."""

    async def _raise(self, data: object) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        raise RuntimeError("a bug")


class Watching(Raising):
    """Raises as well, but only looks on."""

    optional = True


class Noting:
    """Notes that its hook was called."""

    def __init__(self, hook: str, seen: list[Any], mark: Any = None) -> None:
        async def note(data: object) -> None:
            await asyncio.sleep(0)
            seen.append(data if mark is None else mark)

        setattr(self, hook, note)


def run(name: str, flow: Any, *addons: object) -> None:
    asyncio.run(Chain(addons).run(name, flow))


def before(hook: str, kind: Kind = Kind.PASS, streamed: bool = False) -> http.HTTPFlow:
    """A flow as it comes to `hook`."""
    flow, exchange = flows.attached(kind)
    if streamed:
        flow.request.stream = True
    if hook in ("responseheaders", "response"):
        flows.respond(flow, 200, b"raw")
        exchange.committed = streamed and hook == "response"
    if hook == "error":
        flows.fail(flow, "server closed connection")
    return flow


def test_hooks_run_one_after_the_other_in_order() -> None:
    seen: list[Any] = []
    run("request", before("request"), *(Noting("request", seen, mark) for mark in "abc"))
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize("raising", [Raising, RaisingLater], ids=["raised at once", "raised while awaited"])
@pytest.mark.parametrize("kind", [Kind.PASS, Kind.CHAT, Kind.BALANCE, Kind.OWN], ids=lambda kind: kind.value)
@pytest.mark.parametrize("hook", ["requestheaders", "request", "response"])
def test_a_raising_hook_is_told_while_an_answer_can_be_sent(hook: str, kind: Kind, raising: type[Raising]) -> None:
    flow = before(hook, kind)
    run(hook, flow, raising(hook))
    assert flow.error is None
    answer = flows.answer_of(flow)
    if kind in (Kind.CHAT, Kind.BALANCE):
        assert answer.status_code == 200
        assert flows.json_of(flow)["code"] == 503
    else:
        assert answer.status_code == 503
        assert flows.json_of(flow)["error"]["code"] == "relay_unavailable"
    assert b"raw" not in (answer.raw_content or b"")
    assert b"bug" not in (answer.raw_content or b"")


@pytest.mark.parametrize(
    ("hook", "streamed"),
    [("request", True), ("responseheaders", False), ("responseheaders", True)],
    ids=["after a streamed upload", "at the head of an answer", "at the head of an answer to a streamed upload"],
)
def test_a_raising_hook_breaks_off_where_nothing_can_be_sent_by_hook(hook: str, streamed: bool) -> None:
    flow = before(hook, streamed=streamed)
    run(hook, flow, Raising(hook))
    assert flow.error is not None
    assert not flow.live
    # What mitmproxy's error hook then leaves for the client tells whose fault it was.
    run("error", flow, Failures())
    substitute = flows.exchange(flow).failure.substitute
    assert substitute is not None
    assert substitute.status_code == 503


def test_an_answer_on_its_way_is_left_alone() -> None:
    flow = before("response", streamed=True)
    run("response", flow, Raising("response"))
    assert flows.answer_of(flow).raw_content == b"raw"
    assert flow.error is None


def test_a_failed_flow_stays_failed() -> None:
    flow = before("error")
    run("error", flow, Raising("error"), Failures())
    assert flow.error is not None
    assert flow.error.msg == "server closed connection"
    substitute = flows.exchange(flow).failure.substitute
    assert substitute is not None  # those who come later still have their turn
    assert substitute.status_code == 502


@pytest.mark.parametrize("hook", ["response", "error"])
def test_at_the_end_the_addons_behind_one_that_raises_still_run(hook: str) -> None:
    seen: list[Any] = []
    flow = before(hook)
    run(hook, flow, Raising(hook), Raising(hook), Noting(hook, seen))
    assert seen == [flow]  # they free what they hold


@pytest.mark.parametrize("hook", ["requestheaders", "request", "responseheaders"])
def test_on_the_way_the_addons_behind_one_that_raises_do_not_run(hook: str) -> None:
    seen: list[Any] = []
    flow = before(hook)
    run(hook, flow, Raising(hook), Noting(hook, seen))
    assert seen == []


@pytest.mark.parametrize("hook", FLOW_HOOKS)
def test_an_addon_that_only_looks_on_costs_a_log_line(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    flow = before(hook)
    response, error = flow.response, flow.error
    run(hook, flow, Watching(hook))
    assert (flow.response, flow.error, flow.live) == (response, error, True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"{hook} of Watching failed" in caplog.text


@pytest.mark.parametrize("hook", sorted(set(HOOKS) - set(FLOW_HOOKS)))
def test_what_is_no_flow_costs_a_log_line(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    run(hook, tflow.tclient_conn(), Raising(hook), Noting(hook, seen))
    assert len(seen) == 1
    assert f"{hook} of Raising failed" in caplog.text


def test_before_a_flow_is_judged_nothing_passes_either() -> None:
    flow = flows.request("GET", "/v1/models")
    run("requestheaders", flow, Raising("requestheaders"), Streaming())
    assert flows.answer_of(flow).status_code == 503
    assert flow.request.host == "relay.invalid"
    assert not flow.request.stream


def test_an_answer_that_is_there_stays() -> None:
    flow = before("request")
    flows.respond(flow, 403, b"refused")
    run("request", flow, Raising("request"))
    assert flows.answer_of(flow).status_code == 403


@pytest.mark.parametrize("hook", FLOW_HOOKS)
def test_a_sub_request_is_not_answered(hook: str) -> None:
    flow = before(hook)
    flow.is_replay = "request"
    response = flow.response
    fail_closed(hook, flow)
    assert flow.response is response
    assert flow.live


def test_being_cancelled_is_no_bug() -> None:
    class Waits:
        async def request(self, flow: http.HTTPFlow) -> None:
            await asyncio.sleep(60)

    async def cancelled() -> None:
        flow = before("request")
        task = asyncio.ensure_future(Chain([Waits()]).run("request", flow))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert flow.response is None

    asyncio.run(cancelled())


def test_done_reaches_every_addon_that_has_it() -> None:
    seen: list[str] = []

    class Ends:
        def done(self) -> None:
            seen.append("done")

    Chain([Ends(), object(), Ends()]).done()
    assert seen == ["done", "done"]
