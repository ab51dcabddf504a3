"""Whether a request may go up: what is spent and held never passes the budget, whatever comes at the same time."""

from copy import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from addons.core.accounts import Accounts, Claim, Refused, Terms, claim_of, claim_to_json

NOON = 1_764_504_000.0  # 2025-11-30 12:00 UTC
DAY = 86_400


def claim(request: str, amount: int = 10, **terms: object) -> Claim:
    return Claim(request, "alice", amount, 5, Terms(**{"budget": 100, **terms}))  # type: ignore[arg-type]


def limited(request: str, **terms: int) -> Claim:
    """One of a key without a budget."""
    return replace(claim(request), terms=Terms(**terms))  # type: ignore[arg-type]


def test_exactly_as_many_are_admitted_as_fit() -> None:
    accounts = Accounts()
    refused = [accounts.reserve(claim(str(n), 10, budget=279), NOON) for n in range(200)]
    assert [each for each in refused if each is None] == [None] * 27
    assert refused[-1] == Refused("budget", 9)


def test_a_settlement_makes_room_for_what_was_not_used() -> None:
    accounts = Accounts()
    assert accounts.reserve(claim("a", 90), NOON) is None
    assert accounts.reserve(claim("b", 20), NOON) == Refused("budget", 10)
    assert accounts.settle("a", 30, 0, NOON) == ("2025-11-30", 30)
    assert accounts.balance("alice", "total", NOON) == (30, 0)
    assert accounts.reserve(claim("b", 70), NOON) is None
    assert accounts.reserve(claim("c", 1), NOON) == Refused("budget", 0)


def test_each_request_is_settled_once() -> None:
    accounts = Accounts()
    accounts.reserve(claim("a"), NOON)
    with pytest.raises(ValueError):
        accounts.reserve(claim("a"), NOON)
    assert accounts.settle("a", 4, 0, NOON) is not None
    assert accounts.settle("a", 4, 0, NOON) is None
    assert accounts.settle("never asked", 4, 0, NOON) is None
    assert accounts.balance("alice", "total", NOON) == (4, 0)


def test_what_is_not_known_costs_what_was_held() -> None:
    accounts = Accounts()
    accounts.reserve(claim("a", 40), NOON)
    assert accounts.settle("a", None, None, NOON) == ("2025-11-30", 40)


def test_more_than_was_held_is_counted_and_nothing_more_admitted() -> None:
    accounts = Accounts()
    accounts.reserve(claim("a", 40), NOON)
    accounts.settle("a", 150, 0, NOON)
    assert accounts.balance("alice", "total", NOON) == (150, 0)
    assert accounts.reserve(claim("b", 0), NOON) == Refused("budget", -50)


def test_an_empty_budget_admits_not_even_what_is_free() -> None:
    assert Accounts().reserve(claim("a", 0, budget=0), NOON) == Refused("budget", 0)


@pytest.mark.parametrize(("per", "later"), [("day", DAY), ("month", 20 * DAY)])
def test_a_budget_begins_anew(per: str, later: int) -> None:
    accounts = Accounts()
    accounts.reserve(claim("a", 100, per=per), NOON)
    accounts.settle("a", 100, 0, NOON)
    assert accounts.reserve(claim("b", 1, per=per), NOON) == Refused("budget", 0)
    assert accounts.reserve(claim("b", 100, per=per), NOON + later) is None
    assert accounts.balance("alice", "total", NOON + later) == (100, 100)


def test_a_request_counts_for_the_day_on_which_it_was_admitted() -> None:
    accounts = Accounts()
    accounts.reserve(claim("late", 60, per="day"), NOON)
    tomorrow = NOON + DAY
    assert accounts.reserve(claim("b", 100, per="day"), tomorrow) is None, "yesterday's hold is yesterday's"
    assert accounts.settle("late", 50, 0, tomorrow) == ("2025-11-30", 50)
    assert accounts.balance("alice", "day", tomorrow) == (0, 100)


def test_what_was_spent_before_is_known() -> None:
    accounts = Accounts()
    accounts.load([("alice", "2025-09-01", 50), ("alice", "2025-11-30", 40), ("bob", "2025-11-30", 1)])
    assert accounts.balance("alice", "total", NOON) == (90, 0)
    assert accounts.balance("alice", "month", NOON) == (40, 0)
    assert accounts.reserve(claim("a", 11), NOON) == Refused("budget", 10)


def test_requests_a_minute() -> None:
    accounts = Accounts()
    terms = {"requests": 3}
    assert [accounts.reserve(limited(f"{n}", **terms), NOON + n) for n in range(4)] == [
        None, None, None, Refused("requests", retry_after=57)
    ]  # fmt: skip
    assert accounts.reserve(limited("later", **terms), NOON + 60) is None


def test_tokens_a_minute_are_those_that_were_used() -> None:
    accounts = Accounts()
    terms = {"tokens": 100}
    assert accounts.reserve(limited("a", **terms), NOON) is None  # 5 by estimate
    accounts.settle("a", 0, 120, NOON + 1)
    refused = accounts.reserve(limited("b", **terms), NOON + 2)
    assert refused is not None and (refused.why, refused.retry_after) == ("tokens", 59)
    assert accounts.reserve(limited("b", **terms), NOON + 62) is None


def test_parallel_requests() -> None:
    accounts = Accounts()
    terms = {"parallel": 2}
    assert accounts.reserve(limited("a", **terms), NOON) is None
    assert accounts.reserve(limited("b", **terms), NOON) is None
    assert accounts.reserve(limited("c", **terms), NOON) == Refused("parallel")
    accounts.cancel("a")
    assert accounts.reserve(limited("c", **terms), NOON) is None


def test_several_that_hold_nothing() -> None:
    accounts = Accounts()
    for request in ("a", "b"):
        assert accounts.reserve(claim(request, 0, budget=None), NOON) is None
    for request in ("a", "b"):
        assert accounts.settle(request, 0, 0, NOON) is not None
    assert accounts._account("alice").under_way == 0


def test_a_claim_travels_between_processes() -> None:
    whole = replace(claim("a", requests=4), name="alice", upstream="u", model="m", path="/v1/x")
    assert claim_of(claim_to_json(whole)) == whole


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), max_size=150))
def test_the_days_that_are_told_apart_are_few(history: list[tuple[int, int]]) -> None:
    accounts = Accounts()
    for day, amount in sorted(history):
        accounts.spend("alice", amount, 0, NOON + day * DAY)
    assert accounts.balance("alice", "total", NOON)[0] == sum(amount for _, amount in history)
    assert len(accounts._account("alice").days) <= 64


class Histories(RuleBasedStateMachine):
    """Any history of claims, ends and days: the books agree with a list of what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = Accounts()
        self.now = NOON
        self.number = 0
        self.held: dict[str, int] = {}
        self.spent = 0

    @rule(amount=st.integers(0, 60), hours=st.integers(0, 30))
    def ask(self, amount: int, hours: int) -> None:
        self.now += hours * 3600
        self.number += 1
        fits = self.spent + sum(self.held.values()) + amount <= 100 and self.spent + sum(self.held.values()) < 100
        refused = self.accounts.reserve(claim(str(self.number), amount), self.now)
        assert (refused is None) == fits, "refused exactly where it does not fit"
        if refused is None:
            self.held[str(self.number)] = amount

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.held:
            request = data.draw(st.sampled_from(sorted(self.held)))
            cost = data.draw(st.none() | st.integers(0, self.held[request]))
            settled = self.accounts.settle(request, cost, 0, self.now)
            assert settled is not None
            hold = self.held.pop(request)
            self.spent += hold if cost is None else cost

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.held:
            request = data.draw(st.sampled_from(sorted(self.held)))
            self.accounts.cancel(request)
            del self.held[request]

    @invariant()
    def never_over(self) -> None:
        spent, held = self.accounts.balance("alice", "total", self.now)
        assert (spent, held) == (self.spent, sum(self.held.values()))
        assert spent + held <= 100


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_was_spent_without_a_hold_counts_for_the_minute() -> None:
    accounts, terms = Accounts(), Terms(tokens=100)
    accounts.spend("alice", 5, 250, NOON)
    refused = accounts.reserve(Claim("a", "alice", 0, 1, terms), NOON + 1)
    assert refused is not None and refused.why == "tokens"
    assert accounts.reserve(Claim("a", "alice", 0, 1, terms), NOON + 61) is None
    for second in range(10_000):
        accounts.spend("bob", 0, 1, NOON + second)
    assert len(accounts._account("bob").tokens.seconds) <= 61
