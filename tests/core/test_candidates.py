"""Which key a conversation prefers."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from addons.core.candidates import Candidate, choose, key_hash, preferred

KEYS = [key_hash(f"sk-{number}") for number in range(5)]


def test_the_same_conversation_prefers_the_same_key_whatever_order_they_stand_in() -> None:
    for number in range(50):
        first = preferred(f"conversation {number}", "one", KEYS)
        assert first == preferred(f"conversation {number}", "one", reversed(KEYS))
        assert {each.key for each in first} == set(KEYS)


def test_conversations_are_spread_evenly() -> None:
    firsts = Counter(preferred(f"conversation {number}", "one", KEYS)[0].key for number in range(5000))
    assert all(850 < count < 1150 for count in firsts.values()), firsts


def test_when_a_key_goes_only_its_own_conversations_move() -> None:
    for number in range(200):
        order = preferred(f"conversation {number}", "one", KEYS)
        left = preferred(f"conversation {number}", "one", [key for key in KEYS if key != KEYS[0]])
        assert left == [each for each in order if each.key != KEYS[0]]


@given(st.lists(st.sampled_from([True, None, False]), max_size=6), st.sets(st.integers(0, 5)))
def test_the_first_that_is_free_and_was_not_tried(states: list[bool | None], tried: set[int]) -> None:
    order = [Candidate("one", str(number)) for number in range(len(states))]
    chosen = choose(order, [each for each in order if int(each.key) in tried], lambda each: states[int(each.key)])
    left = [number for number in range(len(states)) if number not in tried]
    expected = next((n for n in left if states[n] is True), next((n for n in left if states[n] is None), None))
    assert chosen == (None if expected is None else order[expected])
