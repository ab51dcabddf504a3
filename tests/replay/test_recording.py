"""Recording's hooks on flows without a wire: what a flow file gets beyond what a person sees."""

import asyncio
from collections.abc import Awaitable

import pytest
from mitmproxy import http

from addons.exchange import Kind, RecordState
from addons.flow.capture import Copy
from addons.replay.recording import Recording
from tests.support import flows

JSON = {"content-type": "application/json", "x-ok": "1"}


def without_keys(flow: http.HTTPFlow) -> None:
    """A cleaner that finds one key."""
    assert flow.response is not None and flow.response.raw_content is not None
    flow.response.raw_content = flow.response.raw_content.replace(b"sk-test", b"***")


def ended(recording: Recording, flow: http.HTTPFlow, *, broken: bool = False) -> None:
    """Let the flow end as mitmproxy would."""
    rest = recording.error(flow) if broken else recording.response(flow)
    if rest is not None:
        asyncio.run(_awaited(rest))


async def _awaited(rest: Awaitable[None]) -> None:
    await rest


def message(body: bytes = b"") -> tuple[http.HTTPFlow, Recording]:
    """A message to /chat whose upstream has begun to answer, and who records it."""
    flow, _ = flows.attached(Kind.CHAT, record=RecordState(watched=True, saved=True))
    flows.respond(flow, 201, body, JSON)
    recording = Recording(without_keys)
    recording.responseheaders(flow)
    return flow, recording


def test_what_upstream_said_to_a_message_is_kept_without_keys() -> None:
    flow, recording = message(b'{"key": "sk-test"}')
    tap = flows.exchange(flow).answer.tap
    assert tap is not None
    tap(b'{"key": ')
    tap(b'"sk-test"}')
    flows.respond(flow, 200, {"code": 200})  # the envelope, in its place
    ended(recording, flow)
    heard = flow.metadata["relay.heard"]
    assert (heard["status"], heard["body"]) == (201, b'{"key": "***"}')
    assert [b"x-ok", b"1"] in heard["headers"]
    assert [each.split()[1] for each in heard["chunks"].split(", ")] == ["8", "10"]


def test_an_answer_that_was_read_whole_is_kept_whole() -> None:
    flow, recording = message(b'{"key": "sk-test"}')
    ended(recording, flow)
    assert flow.metadata["relay.heard"]["body"] == b'{"key": "***"}'


def test_of_an_answer_that_breaks_off_there_is_what_came() -> None:
    flow, recording = message()
    tap = flows.exchange(flow).answer.tap
    assert tap is not None
    tap(b"data: 1\n\n")
    flows.fail(flow, "server closed connection")
    ended(recording, flow, broken=True)
    assert flow.metadata["relay.heard"]["body"] == b"data: 1\n\n"


def test_an_answer_that_is_not_held_whole_is_not_kept(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("addons.replay.recording.new_copy", lambda _exchange: Copy(4))
    flow, recording = message()
    tap = flows.exchange(flow).answer.tap
    assert tap is not None
    tap(b"12345")
    ended(recording, flow)
    assert "relay.heard" not in flow.metadata
    assert "can't be replayed" in caplog.text


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        pytest.param(Kind.OWN, False, id="a path of relay's"),
        pytest.param(Kind.BALANCE, False, id="a balance"),
        pytest.param(Kind.PASS, True, id="a refusal"),
    ],
)
def test_what_relay_answers_by_itself_is_marked(kind: Kind, refused: bool) -> None:
    flow, exchange = flows.attached(kind, record=RecordState(watched=True, saved=True))
    exchange.refused = refused
    flows.respond(flow, 200, {})
    recording = Recording(without_keys)
    recording.responseheaders(flow)
    ended(recording, flow)
    assert flow.metadata["relay.own"] is True and "relay.heard" not in flow.metadata


def test_what_passes_needs_nothing_more() -> None:
    flow, _ = flows.attached(Kind.PASS, record=RecordState(watched=True, saved=True))
    flows.respond(flow, 200, {})
    recording = Recording(without_keys)
    recording.responseheaders(flow)
    ended(recording, flow)
    assert not flow.metadata
