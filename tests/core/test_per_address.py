"""Counts of addresses: what they admit, and that they end."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from addons.core import per_address
from addons.core.minute import MINUTE
from addons.core.per_address import PerAddress


def test_connections_come_and_go() -> None:
    known = PerAddress()
    known.enter("a")
    known.enter("a")
    known.enter("b")
    assert (known.under_way("a"), known.under_way("b"), known.under_way("c")) == (2, 1, 0)
    known.leave("a", 0)
    known.leave("a", 0)
    assert known.under_way("a") == 0 and len(known) == 1


def test_requests_of_a_minute() -> None:
    known = PerAddress()
    assert [known.ask("a", 2, 10.0) for _ in range(3)] == [None, None, MINUTE]
    assert known.ask("b", 2, 10.0) is None
    assert known.ask("a", 2, 69.9) == 1
    assert known.ask("a", 2, 70.0) is None


def test_a_count_outlives_its_connections() -> None:
    known = PerAddress()
    known.enter("a")
    assert known.ask("a", 1, 0) is None
    known.leave("a", 1)
    assert known.ask("a", 1, 2) is not None
    known.enter("a")
    assert known.ask("a", 1, 3) is not None and known.under_way("a") == 1


def test_who_is_silent_is_forgotten() -> None:
    known = PerAddress()
    for number in range(100):
        known.ask(f"a{number}", 1, 0)
    assert len(known) == 100
    known.ask("b", 1, MINUTE)
    assert len(known) == 1


def test_strangers_take_a_bounded_place() -> None:
    known = PerAddress()
    known.enter("here")
    for number in range(per_address.MOST + 10):
        known.ask(str(number), 1, 0)
    assert len(known) == per_address.MOST + 1
    assert known.ask("0", 1, 0) is None, "the oldest made room"
    assert known.ask(str(per_address.MOST + 9), 1, 0) is not None
    assert known.under_way("here") == 1, "who is connected did not"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), max_size=60), st.integers(1, 5))
def test_no_minute_has_more_than_its_limit(steps: list[tuple[str, int]], limit: int) -> None:
    known, now = PerAddress(), 0
    admitted: dict[str, deque[int]] = {"a": deque(), "b": deque()}
    for address, later in steps:
        now += later
        again = known.ask(address, limit, now)
        recent = [at for at in admitted[address] if at > now - MINUTE]
        assert (again is None) == (len(recent) < limit)
        if again is None:
            admitted[address].append(now)
        else:
            assert 1 <= again <= MINUTE
            assert len([at for at in recent if at > now + again - MINUTE]) < limit, "it may come back then"


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=100))
def test_the_count_is_what_came_less_what_went(steps: list[tuple[bool, str]]) -> None:
    known: PerAddress = PerAddress()
    there: Counter[str] = Counter()
    for comes, address in steps:
        if comes:
            known.enter(address)
            there[address] += 1
        elif there[address]:
            known.leave(address, 0)
            there[address] -= 1
        assert known.under_way(address) == there[address]
    assert len(known) == len([each for each in there.values() if each])
