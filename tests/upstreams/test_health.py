"""Who is left alone, for how long, and who may try."""

from collections.abc import Callable

import pytest

from addons.config.settings import Upstream
from addons.core.candidates import Candidate
from addons.core.unbilled import Refusal, Scope
from addons.upstreams.health import Ticket, UpstreamHealth

A, B = Candidate("one", "a"), Candidate("one", "b")
C = Candidate("two", "c")
RATE = Refusal("rate limited", Scope.MODEL, 10)
KEY = Refusal("key refused", Scope.KEY, 600)
OVERLOADED = Refusal("overloaded", Scope.UPSTREAM, None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> UpstreamHealth:
    return UpstreamHealth(b"secret", clock)


def taken(health: UpstreamHealth, model: str = "m", order: tuple[Candidate, ...] = (A, B, C)) -> Ticket:
    ticket = health.take(order, model)
    assert ticket is not None
    return ticket


def test_the_preferred_one_is_taken_as_long_as_it_works(health: UpstreamHealth) -> None:
    for _ in range(3):
        ticket = taken(health)
        assert ticket.candidate == A
        health.answered(ticket)


def test_a_key_that_is_limited_is_so_for_that_model_alone(health: UpstreamHealth, clock: Clock) -> None:
    health.refused(taken(health), RATE)
    assert taken(health).candidate == B and taken(health, "another").candidate == A
    clock.now += 9.9
    assert taken(health).candidate == B
    clock.now += 0.2
    assert taken(health).candidate == A


def test_a_key_that_is_refused_is_so_for_all(health: UpstreamHealth) -> None:
    health.refused(taken(health), KEY)
    assert taken(health, "another").candidate == B


def test_an_upstream_that_is_overloaded_takes_all_its_keys_along(health: UpstreamHealth) -> None:
    health.refused(taken(health), OVERLOADED)
    assert taken(health).candidate == C


def test_when_the_time_is_over_one_goes_and_the_others_wait(health: UpstreamHealth, clock: Clock) -> None:
    health.refused(taken(health, order=(A,)), RATE)
    clock.now += 10
    probe = taken(health, order=(A,))
    assert health.take((A,), "m") is None
    health.answered(probe)
    assert taken(health, order=(A,)).candidate == A


def test_a_probe_that_is_long_in_coming_is_not_waited_for(health: UpstreamHealth, clock: Clock) -> None:
    health.refused(taken(health, order=(A,)), RATE)
    clock.now += 10
    slow = taken(health, order=(A,))
    clock.now += 14.9
    assert health.take((A,), "m") is None
    clock.now += 0.2
    second = taken(health, order=(A,))
    assert health.take((A,), "m") is None, "one at a time"
    health.unknown(slow)
    assert health.take((A,), "m") is None
    health.answered(second)
    assert taken(health, order=(A,)).candidate == A


def test_a_probe_that_is_refused_begins_the_time_anew(health: UpstreamHealth, clock: Clock) -> None:
    health.refused(taken(health, order=(A,)), RATE)
    clock.now += 10
    health.refused(taken(health, order=(A,)), RATE)
    clock.now += 9.9
    assert health.take((A,), "m") is None
    clock.now += 0.2
    assert health.take((A,), "m") is not None


ENDS: dict[str, tuple[Callable[[UpstreamHealth, Ticket], None], float]] = {
    "without an answer": (UpstreamHealth.unknown, 1.0),
    "before it began": (UpstreamHealth.given_back, 0.0),
    "without a connection": (UpstreamHealth.unreached, 1.0),
}


@pytest.mark.parametrize(("end", "wait"), ENDS.values(), ids=ENDS)
def test_a_probe_that_ends(
    health: UpstreamHealth, clock: Clock, end: Callable[[UpstreamHealth, Ticket], None], wait: float
) -> None:
    health.refused(taken(health, order=(A,)), RATE)
    clock.now += 10
    end(health, taken(health, order=(A,)))
    if wait:
        assert health.take((A,), "m") is None
    clock.now += wait
    assert health.take((A,), "m") is not None


def test_refusals_that_say_nothing_count_once_however_many_hear_them(health: UpstreamHealth, clock: Clock) -> None:
    silent = Refusal("rate limited", Scope.MODEL)
    for ticket in [taken(health, order=(A,)) for _ in range(20)]:
        health.refused(ticket, silent)
    clock.now += 1.01
    health.refused(taken(health, order=(A,)), silent)
    clock.now += 1.9
    assert health.take((A,), "m") is None, "twice as long, and not a million times"
    clock.now += 0.2
    assert health.take((A,), "m") is not None


def test_an_answer_to_what_was_asked_before_ends_nothing(health: UpstreamHealth, clock: Clock) -> None:
    early = taken(health, order=(A,))
    clock.now += 1
    health.refused(taken(health, order=(A,)), RATE)
    health.answered(early)
    assert health.take((A,), "m") is None


def test_who_could_not_be_reached_is_asked_where_there_is_no_better_one(health: UpstreamHealth, clock: Clock) -> None:
    health.unreached(taken(health))
    assert taken(health).candidate == C
    assert taken(health, order=(A, B)).candidate == A
    health.answered(taken(health, order=(A,)))
    assert taken(health).candidate == A


def test_who_has_not_been_tried(health: UpstreamHealth) -> None:
    assert health.take((A, B), "m", [A, B]) is None
    ticket = health.take((A, B), "m", [A])
    assert ticket is not None and ticket.candidate == B


def test_the_soonest(health: UpstreamHealth, clock: Clock) -> None:
    assert health.soonest((A, B), "m") is None
    health.refused(taken(health, order=(A,)), RATE)
    assert health.soonest((A, B), "m") is None and health.soonest((A,), "m") == 10
    health.refused(taken(health, order=(B,)), KEY)
    clock.now += 4
    assert health.soonest((A, B), "m") == 6 and health.reasons((A, B), "m") == {"rate limited", "key refused"}


def test_models_that_callers_name_don_t_fill_the_memory(health: UpstreamHealth) -> None:
    for number in range(10_500):
        health.refused(health.ask(A, f"m{number}"), RATE)
    assert len(health._places) == 10_000


def test_what_is_told_of_them(health: UpstreamHealth, clock: Clock) -> None:
    one = Upstream(name="one", url="https://one.example", keys=("sk-a-0123456789", "sk-b-0123456789"))
    two = Upstream(name="two", url="https://two.example")
    a, b = (Candidate("one", health.hash_of(key)) for key in one.keys)
    assert health.report([one, two]) == [
        {"name": "one", "state": "ok", "keys": {"all": 2, "aside": 0}},
        {"name": "two", "state": "ok"},
    ]
    health.refused(health.ask(a, "m"), KEY)
    [told, _] = health.report([one, two])
    assert told == {"name": "one", "state": "ok", "keys": {"all": 2, "aside": 1}, "why": ["key refused"]}
    health.refused(health.ask(b, "m"), RATE)
    assert health.report([one])[0]["state"] == "no key works"
    health.unreached(health.ask(a, "m"))
    assert health.report([one])[0]["state"] == "not reached" and health.report([one])[0]["for"] == 1
    assert "sk-" not in repr(health.report([one])) and "sk-" not in health.shown(one.keys[0])
    assert health.shown(one.keys[0]) != UpstreamHealth(b"another").shown(one.keys[0])


def test_who_was_preferred_and_is_left_alone(health: UpstreamHealth, clock: Clock) -> None:
    assert health.passed_over((A, B, C), C, "m") == []
    health.refused(taken(health), OVERLOADED)
    assert health.passed_over((A, B, C), C, "m") == ["one overloaded"]
    assert health.passed_over((A, B, C), B, "m") == [], "another key of the same upstream is no other upstream"
    clock.now += 100
    assert health.passed_over((A, B, C), C, "m") == []
