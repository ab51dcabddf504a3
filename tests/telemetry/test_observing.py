"""What is told of an exchange that is over."""

from typing import Any

import pytest
from mitmproxy import flow as flows_of_mitmproxy
from mitmproxy import http

from addons import errors
from addons.core.generations import Generation
from addons.core.metered import Metered
from addons.core.observed import Observed, Outcome
from addons.exchange import Exchange, Kind, secrets_of
from addons.flow.answers import error_response, refuse
from addons.flow.capture import ANSWER, BEAT, Copy
from addons.proxy.streaming import Events
from addons.store.settlements import Settlement
from addons.telemetry.counting import Counting
from addons.telemetry.observing import REQUEST_ID, Arrivals, Observer, Observing
from addons.upstreams.attempts import Attempts, Pool, attempts_for
from addons.upstreams.health import UpstreamHealth
from tests.support import flows

SECRET = b"secret"


class Watched:
    """An exchange that is seen from its beginning to its end."""

    def __init__(self, kind: Kind = Kind.PASS, *, texts: bool = False, asked: bool = True, **state: Any) -> None:
        self.observing = Observing(Counting(), SECRET)
        self.told: list[Observed] = []
        self.observer = Observer(self.observing, [self.told.append], texts=texts)
        self.flow, self.exchange = flows.attached(kind, **state)
        Arrivals(self.observing, lambda text: f"hash-of-{text}").requestheaders(self.flow)
        if asked:
            self.attempts.begin()

    @property
    def attempts(self) -> Attempts:
        return attempts_for(Pool(UpstreamHealth(SECRET)), self.flow, self.exchange)

    def over(self, hook: str = "response") -> Observed:
        getattr(self.observer, hook)(self.flow)
        [seen] = self.told
        return seen

    def broken(self, message: str) -> Observed:
        self.flow.error = flows_of_mitmproxy.Error(message)
        return self.over("error")


def settlement(exchange: Exchange, model: str = "gpt-4o", usage: Metered | None = None) -> Settlement:
    about = {"at": 0.0, "key": "0123456789abcdef", "name": None, "upstream": "test", "asked": {}, "path": "/v1/x"}
    more: dict[str, Any] = {**about, "request": exchange.id, "model": model, "usage": usage}
    return Settlement(**more, reason="finished", amount=5)


def test_an_answer() -> None:
    watched = Watched()
    flows.respond(watched.flow, 200, {})
    seen = watched.over()
    assert (seen.outcome, seen.error, seen.status, seen.upstream) == (Outcome.OK, "", 200, "test")
    assert seen.asked_times == 1 and seen.upstream_seconds is not None and seen.overhead is not None
    assert watched.flow.metadata[REQUEST_ID] == seen.id == watched.exchange.id


def test_it_is_told_of_once() -> None:
    watched = Watched()
    flows.respond(watched.flow, 200, {})
    watched.over()
    assert not watched.observing.under_way
    watched.observer.error(watched.flow)
    assert len(watched.told) == 1


def test_a_sink_that_fails_keeps_no_other_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    told: list[Observed] = []
    watched.observer = Observer(watched.observing, [lambda _seen: 1 / 0, told.append])
    flows.respond(watched.flow, 200, {})
    watched.observer.response(watched.flow)
    assert len(told) == 1 and "not told of" in caplog.text


def test_what_relay_refuses() -> None:
    watched = Watched(asked=False)
    refuse(watched.flow, watched.exchange, errors.TooLarge("大。", "Large."))
    seen = watched.over()
    assert (seen.outcome, seen.error, seen.status) == (Outcome.REFUSED, "request_too_large", 413)
    assert seen.upstream == "" and seen.upstream_seconds is None and seen.overhead is None


def test_a_code_that_nobody_knows_is_no_label() -> None:
    watched = Watched(asked=False)
    refuse(watched.flow, watched.exchange, errors.Forbidden("不。", "No.", code="invented_by_a_stranger"))
    assert watched.over().error == "other"


def test_an_upstream_s_error() -> None:
    watched = Watched()
    flows.respond(watched.flow, 429, {"error": {"code": "whatever"}})
    seen = watched.over()
    assert (seen.outcome, seen.error, seen.status) == (Outcome.UPSTREAM_ERROR, "http_429", 429)


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (errors.UpstreamTimeout("慢。", "Slow."), Outcome.UPSTREAM_ERROR, "http_408"),
        (errors.RateLimited("快。", "Fast."), Outcome.UPSTREAM_ERROR, "http_429"),
    ],
)
def test_an_envelope_says_more_than_its_status(error: errors.RelayError, outcome: Outcome, kind: str) -> None:
    watched = Watched(Kind.CHAT)
    watched.flow.response = error_response(Kind.CHAT, error)
    seen = watched.over()
    assert (seen.outcome, seen.error, seen.status, seen.code) == (outcome, kind, 200, error.envelope_code)


def test_an_envelope_at_the_end_of_a_stream() -> None:
    watched = Watched(Kind.CHAT)
    failed = errors.UpstreamFailed("断。", "Broken.").envelope()
    watched.flow.response = http.Response.make(200, b'data: {"delta": "{\\"code\\": 200"}\n\ndata: ' + failed + b"\n\n")
    seen = watched.over()
    assert (seen.code, seen.error) == (502, "http_502")


@pytest.mark.parametrize(
    ("message", "committed", "outcome", "kind"),
    [
        ("Client disconnected.", True, Outcome.LEFT, "client_left"),
        ("Client disconnected.", False, Outcome.LEFT, "client_left"),
        ("[Errno 111] Connect call failed", False, Outcome.FAILED, "refused"),
        ("peer closed connection without sending complete message body", True, Outcome.BROKEN, "cut"),
    ],
)
def test_what_breaks_off(message: str, committed: bool, outcome: Outcome, kind: str) -> None:
    watched = Watched()
    watched.exchange.committed = committed
    seen = watched.broken(message)
    assert (seen.outcome, seen.error) == (outcome, kind)


def test_what_relay_cuts_off_is_not_the_client_s_leaving() -> None:
    watched = Watched()
    watched.exchange.failure.fault = errors.UpstreamTimeout("慢。", "Slow.")
    watched.exchange.failure.substitute = error_response(Kind.PASS, watched.exchange.failure.fault)
    seen = watched.broken("Client disconnected.")
    assert (seen.outcome, seen.error, seen.status) == (Outcome.FAILED, "upstream_timeout", 504)


def test_a_websocket_is_over_when_it_is_closed() -> None:
    watched = Watched()
    flows.respond(watched.flow, 101, {})
    watched.flow.websocket = object()  # type: ignore[assignment]
    watched.observer.response(watched.flow)
    assert not watched.told and watched.flow in watched.observing.under_way
    for _ in range(2):
        watched.observing.settled(
            watched.flow, watched.exchange, settlement(watched.exchange, usage=Metered(3, 4)), None
        )
    seen = watched.over("websocket_end")
    assert (seen.operation, seen.used.usage, seen.used.cost, seen.stream) == ("realtime", Metered(6, 8), 10, True)


def test_a_stream_has_times() -> None:
    watched = Watched()
    copy = ANSWER.keep(watched.exchange, Copy(100))
    make = BEAT.of(watched.exchange)
    assert make is not None
    events = Events(watched.exchange, copy, "")
    watched.exchange.stream.ended = events.ended
    for chunk in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n", b""):
        events(chunk)
    watched.observing.settled(
        watched.flow, watched.exchange, settlement(watched.exchange, usage=Metered(1, 3)), Generation.CHAT
    )
    flows.respond(watched.flow, 200, {})
    seen = watched.over()
    assert seen.stream and seen.first_byte is not None and seen.streamed is not None and seen.streamed >= 0
    [gaps] = watched.observing.counting.numbers.histograms[
        "gen_ai_client_operation_time_per_output_chunk_seconds"
    ].values()
    assert sum(gaps.counts) == 2, "of three chunks, and the end is none"


def test_texts_have_no_keys() -> None:
    watched = Watched(texts=True)
    secrets_of(watched.flow, SECRET).add(b"key-of-no-known-shape")
    watched.exchange.path = "/v1/files/key-of-no-known-shape/sk-0123456789abcdef0123"
    watched.observing.settled(
        watched.flow, watched.exchange, settlement(watched.exchange, "key-of-no-known-shape"), Generation.CHAT
    )
    flows.respond(watched.flow, 200, {})
    seen = watched.over()
    assert "shape" not in seen.path + seen.used.model and "0123456789" not in seen.path
    assert seen.path.startswith("/v1/files/")
    assert seen.key == "01234567", "of what its use is counted under"
