"""How much work a JSON text is, counted before it is parsed."""

import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import bounded_json
from addons.core.bounded_json import MAX_DEPTH, MAX_MARKS, TooComplex, TooDeep, Whole, loads, measuring
from addons.core.slices import at_once

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='",:[]{}\\a中'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='",:[]{}\\b'), inner, max_size=4),
    max_leaves=20,
)


def marks_of(value: object) -> int:
    """What `measuring` has to count, from the value itself."""
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(marks_of, value))
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + len(value) + sum(map(marks_of, value.values()))
    return 0


def depth_of(value: object) -> int:
    """How deep it nests."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.booleans())
def test_marks_inside_strings_do_not_count(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    found = marks_of(value)
    at_once(measuring(text, marks=found))
    if found:
        with pytest.raises(TooComplex):
            at_once(measuring(text, marks=found - 1))


@given(JSON, st.booleans(), st.integers(2, 7), st.integers(0, 4))
def test_slices_may_end_anywhere(value: object, ascii_only: bool, size: int, depth: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    with patch.object(bounded_json, "_SLICE", size):
        at_once(bounded_json._counting(text, marks_of(value), depth_of(value)))
        if found := marks_of(value):
            with pytest.raises(TooComplex):
                at_once(bounded_json._counting(text, found - 1, depth_of(value)))
        if depth < depth_of(value):
            with pytest.raises(TooDeep):
                at_once(bounded_json._counting(text, marks_of(value), depth))


@given(JSON)
def test_what_is_within_the_bounds_reads_as_json_does(value: object) -> None:
    assert loads(json.dumps(value)) == value


@given(st.text(alphabet='"\\[]{},: a1', max_size=200))
def test_broken_texts_end(text: str) -> None:
    try:
        assert loads(text) == json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            json.loads(text)


@pytest.mark.parametrize("unit", ["[],", "{},", '{"a":1},', "1,", '"a",'])
def test_too_many_values_are_refused_before_they_are_built(unit: str) -> None:
    text = "[" + unit * (MAX_MARKS) + "1]"
    with pytest.raises(TooComplex):
        loads(text, parse=lambda _: pytest.fail("it was parsed"))


@pytest.mark.parametrize("deep", ["[" * (MAX_DEPTH + 1), '{"a":' * (MAX_DEPTH + 1)])
def test_nesting_is_refused_before_it_is_built(deep: str) -> None:
    with pytest.raises(TooComplex):
        loads(deep, parse=lambda _: pytest.fail("it was parsed"))


@pytest.mark.parametrize(
    "text",
    ['"' + "a, b: [c] {d} " * 100_000 + '"', '["' + "\\\\" * 200_000 + '"]', '["' + '\\"' * 200_000 + '"]'],
    ids=["prose", "backslashes", "escaped quotes"],
)
def test_a_long_text_is_no_problem(text: str) -> None:
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("text", ['"' + "\\" * 100_001, '"' + "[" * 100_000, '"' * 100_001, "\\" * 100_000])
def test_what_never_ends_is_counted_to_its_end(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text)


@pytest.mark.parametrize("unit", ["]", "}", '"', '""', '"" ', '""]', "[]]", '"a"1'])
def test_what_is_seen_to_be_broken_is_not_looked_through(unit: str) -> None:
    text = '{"a":"' + "[" * 70 + '","b":[' + unit * ((1 << 20) // len(unit))
    assert sum(1 for _ in measuring(text)) <= 2
    with pytest.raises(ValueError):
        loads(text)


def test_others_get_their_turn_every_few_milliseconds() -> None:
    turns = sum(1 for _ in measuring('"' + "[" * 1_000_000 + '"'))
    assert turns >= 30


@given(JSON.filter(lambda value: isinstance(value, dict | list)), st.booleans(), st.integers(1, 9))
def test_the_end_of_a_value_is_its_last_bracket(value: object, escaped: bool, size: int) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode()
    whole = Whole()
    said = [whole.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert said[-1] and not any(said[:-1])
