"""Records that only a list shows are finished behind their exchanges, and show no secret before."""

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import view
from mitmproxy.test import taddons

from addons.core.known_secrets import KnownSecrets
from addons.exchange import of
from addons.inspection.finishing import Finishing
from addons.inspection.redaction import Redaction
from tests.support import flows

KEY = "sk-proj-0123456789abcdef"
COOKIE = "session=0123456789abcdef0123"


@pytest.fixture
def shown() -> Iterator[view.View]:
    """The list in which a person looks."""
    listed = view.View()
    with taddons.context(listed):
        yield listed


class Behind:
    """What finishes records, and what it has told of."""

    def __init__(self, shown: view.View, **sections: object) -> None:
        self.shown = shown
        self.sections = sections
        self.hooked: list[http.HTTPFlow] = []
        self.dropped: list[http.HTTPFlow] = []
        self.redact = Redaction(flows.settings(**sections), b"0" * 32)
        self.finishing = Finishing((self.hook,), self.dropped.append)

    def hook(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        self.hooked.append(flow)
        return None

    def answered(self, path: str = "/v1/chat/completions") -> http.HTTPFlow:
        """An exchange whose answer has been sent."""
        body = json.dumps({"model": "m", "api_key": KEY, "messages": []}).encode()
        flow = flows.opened("POST", path, {"authorization": f"Bearer {KEY}"}, body, **self.sections)
        flow.metadata["relay.attempts"] = [{"error": KEY}]
        flows.respond(flow, 200, {"echo": KEY}, {"set-cookie": COOKIE, "x-echo": KEY, "content-type": "text/plain"})
        flow.live = False
        flows.exchange(flow).stream.sent = True
        self.shown.add([flow])
        return flow

    def over(self, flow: http.HTTPFlow) -> None:
        """It has come to its end."""
        assert self.redact.responseheaders(flow) is None
        assert self.redact.response(flow) is None
        self.finishing.response(flow)


def told(flow: http.HTTPFlow) -> str:
    return json.dumps(flow.get_state(), default=repr)


def test_nothing_is_shown_before_it_is_clean(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered()
        response = flow.response
        assert response is not None
        behind.over(flow)
        assert flow.response is response and response.status_code == 200
        assert flow.request.raw_content is None and response.raw_content is None
        assert [name.lower() for name in response.headers] == ["content-type", "content-length"]
        assert KEY not in told(flow) and "0123456789abcdef" not in told(flow) and not behind.hooked
        await asyncio.sleep(0.05)
        assert behind.hooked == [flow] and not behind.dropped
        assert b'"model": "m"' in (flow.request.raw_content or b"") and b"echo" in (response.raw_content or b"")
        assert response.headers["set-cookie"].startswith("session=") and "x-echo" in response.headers
        assert flow.metadata["relay.attempts"]
        assert KEY not in told(flow) and "0123456789abcdef" not in told(flow)

    asyncio.run(scenario())


def test_what_stays_of_an_answer_s_head_is_clean(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered()
        response = flow.response
        assert response is not None
        response.headers["server"], response.headers["connection"], response.reason = f"nginx {KEY}", "close", KEY
        behind.redact.begin(flow)
        behind.over(flow)
        assert KEY not in told(flow) and KEY not in response.reason
        assert response.headers["connection"] == "close" and response.headers["server"].startswith("nginx ")
        await asyncio.sleep(0.05)
        assert behind.hooked == [flow] and KEY not in told(flow) and KEY not in response.reason

    asyncio.run(scenario())


def test_what_is_still_to_be_sent_stays_whole_beside_it(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered()
        flows.exchange(flow).stream.sent = False
        response = flow.response
        assert response is not None
        behind.over(flow)
        assert flows.exchange(flow).record.wire is response is not flow.response
        assert KEY in (response.text or "") and response.headers["x-echo"] == KEY
        assert KEY not in told(flow)
        await asyncio.sleep(0.05)
        assert behind.hooked == [flow] and KEY in (response.text or "") and KEY not in told(flow)

    asyncio.run(scenario())


def test_they_are_finished_in_their_order(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        made = [behind.answered() for _ in range(50)]
        for each in made:
            behind.over(each)
        await asyncio.sleep(0.5)
        assert behind.hooked == made

    asyncio.run(scenario())


def test_what_is_not_in_the_list_any_more_is_dropped(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        gone, there = behind.answered(), behind.answered()
        behind.over(gone)
        behind.over(there)
        shown.remove([gone])
        await asyncio.sleep(0.05)
        assert behind.hooked == [there] and behind.dropped == [gone]
        assert gone.request.raw_content is None

    asyncio.run(scenario())


def test_what_cant_be_cleaned_is_emptied(
    shown: view.View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        broken, sound = behind.answered(), behind.answered()
        for each in (broken, sound):
            behind.over(each)
        mask = KnownSecrets.mask
        first = iter([True])

        def failing(known: KnownSecrets, text: str) -> str:
            return mask(known, text) if not next(first, False) else str(1 / 0)

        monkeypatch.setattr(KnownSecrets, "mask", failing)
        await asyncio.sleep(0.05)
        assert behind.dropped == [broken] and behind.hooked == [sound]
        assert KEY not in told(broken) and not broken.request.headers

    asyncio.run(scenario())
    assert "can't be finished" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda record: setattr(record.record, "later", False), id="read at once"),
        pytest.param(lambda record: setattr(record.record, "watched", False), id="read by nobody"),
    ],
)
def test_all_others_are_finished_before_the_hook_is_over(shown: view.View, change: Callable[[object], None]) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered()
        change(of(flow))
        behind.over(flow)
        assert flows.exchange(flow).record.cleaning is None and not flows.exchange(flow).record.later
        await asyncio.sleep(0.02)
        assert not behind.hooked and not behind.dropped

    asyncio.run(scenario())


def test_without_redaction_only_the_hooks_wait(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown, inspect={"redact": False})
        flow = behind.answered()
        behind.over(flow)
        assert flow.request.raw_content and not behind.hooked
        await asyncio.sleep(0.05)
        assert behind.hooked == [flow]

    asyncio.run(scenario())


def test_others_come_first(shown: view.View) -> None:
    """While the loop is busy, a twentieth of its time goes to records at most."""

    async def scenario() -> None:
        behind = Behind(shown)
        for each in [behind.answered() for _ in range(400)]:
            behind.over(each)
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.5
        while loop.time() < end:
            until = loop.time() + 0.002
            while loop.time() < until:
                pass
            await asyncio.sleep(0)
        assert len(behind.hooked) < 300
        async with asyncio.timeout(20):
            while len(behind.hooked) < 400:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_nothing_holds_a_record_that_is_finished(shown: view.View) -> None:
    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered()
        seen = weakref.ref(flow)
        behind.over(flow)
        await asyncio.sleep(0.05)
        shown.remove([flow])
        behind.hooked.clear()
        del flow
        gc.collect()
        assert seen() is None

    asyncio.run(scenario())


def test_tasks_may_begin_at_once(shown: view.View) -> None:
    """As mitmproxy has them."""

    async def scenario() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        behind = Behind(shown)
        made = [behind.answered() for _ in range(3)]
        for each in made:
            behind.over(each)
            assert each not in behind.hooked
            await asyncio.sleep(0.05)
        assert behind.hooked == made

    asyncio.run(scenario())


def test_one_whose_request_is_not_clean_does_not_wait(shown: view.View) -> None:
    """As those that relay answers itself."""

    async def scenario() -> None:
        behind = Behind(shown)
        flow = behind.answered("/pro/balance?apiKey=" + KEY)
        assert behind.redact.response(flow) is None
        behind.finishing.response(flow)
        assert flow.request.raw_content is not None and KEY not in told(flow) and not behind.hooked

    asyncio.run(scenario())
