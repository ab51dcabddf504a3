"""Members by their places, however the bytes are cut and whatever else has their names."""

import json
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.json_member import _MARK, _MOST_AT_ONCE, _MOST_MARKS, MemberCatcher, catching
from addons.core.slices import at_once

WANTED = (("usage",), ("model",), ("response", "usage"), ("response", "model"))


def caught(text: str, size: int = 1 << 20) -> dict[tuple[str, ...], Any]:
    catcher, data = MemberCatcher(WANTED), text.encode()
    for start in range(0, len(data), size):
        catcher.feed(data[start : start + size])
    return catcher.found


FOUND: dict[str, tuple[str, dict[tuple[str, ...], Any]]] = {
    "at the top": ('{"a": [1, {"usage": 5}], "usage": {"x": {"y": 1}}}', {("usage",): {"x": {"y": 1}}}),
    "below a response": ('{"type": "t", "response": {"usage": {"x": 1}}}', {("response", "usage"): {"x": 1}}),
    "the last of two": ('{"usage": 1, "usage": 2}', {("usage",): 2}),
    "blanks and escapes": ('{ "\\u0075sage" \n:\t{"a":"}\\"{"} }', {("usage",): {"a": '}"{'}}),
    "in a string": ('{"text": "\\"usage\\": 5", "b": 1}', {}),
    "deeper": ('{"a": {"b": {"usage": 5}}, "content": [{"usage": 5}]}', {}),
    "below another": ('{"text": {"usage": 5}, "input": {"model": "x"}}', {}),
    "in an array at the top": ('[{"usage": 5}]', {}),
    "a value and not a name": ('{"a": "usage", "b": {"c": "model"}}', {}),
    "text, null and numbers": ('{"model": "m", "usage": null, "x": 1e5}', {("model",): "m", ("usage",): None}),
    "one that does not end": ('{"usage": {"a": 1}', {}),
    "one that is too long": ('{"usage": {"a": "' + "x" * 20_000 + '"}, "model": "m"}', {("model",): "m"}),
}


@pytest.mark.parametrize(("text", "found"), FOUND.values(), ids=FOUND)
def test_members_are_caught_by_their_places(text: str, found: dict[tuple[str, ...], Any]) -> None:
    for size in (1 << 20, 1, 2, 7):
        assert caught(text, size) == found


class Counting(MemberCatcher):
    """Counts what is taken by itself."""

    def __init__(self) -> None:
        super().__init__(WANTED)
        self.taken = 0

    def _take(self, token: bytes) -> None:
        self.taken += 1
        super()._take(token)


PLAIN = {
    "numbers": '"a":1,',
    "texts": '"a": "x\\"\\n",\n',
    "numbers in arrays": '"a":[1,2,3],',
    "flat objects": '"a" : {"b":"}","c":1} ,',
    "objects in arrays": '"a":[{"b":1},{}],',
    "empty ones": '"a":{},"b":[],',
}


@pytest.mark.parametrize("unit", PLAIN.values(), ids=PLAIN)
def test_members_that_nobody_wants_are_passed_over_at_once(unit: str) -> None:
    for before in ('{"usage":1,', '{"usage":1,"response":{'):
        catcher, text = Counting(), before + unit * (200_000 // len(unit)) + '"model":"m"'
        catcher.feed(text.encode())
        catcher.feed(b"}}" if "response" in before else b"}")
        # Where bytes are fed in pieces of 64 KiB, each cut leaves a member that is not whole.
        assert catcher.taken < 60
        place = ("response", "model") if "response" in before else ("model",)
        assert catcher.found == {("usage",): 1, place: "m"}


DENSE = {
    "members that are wanted": '"model":"a",',
    "usage": '"usage":{"a":1},',
    "members that nest deeper": '"a":[[[1]]],',
    "quotation marks": '"',
    "commas": ",",
    "colons": ":",
    "closing brackets": "}",
    "objects": "{}",
    "names that are escaped": '"\\u0061":1,',
}


@pytest.mark.parametrize("unit", DENSE.values(), ids=DENSE)
def test_who_sends_much_that_has_to_be_looked_at_is_not_heard_any_more(unit: str) -> None:
    many = ('{"usage": 1, ' + unit * (100_000 // len(unit))).encode()
    catcher = Counting()
    catcher.feed(many)
    assert catcher.found == {} and catcher.taken <= _MOST_AT_ONCE // _MARK + 1
    catcher.feed(b'"model": "m"}')
    assert catcher.found == {}, "it stays so"

    slow = Counting()
    for start in range(0, len(many), 1000):
        slow.feed(many[start : start + 1000])
    assert slow.taken <= _MOST_MARKS + 1, "nor does it go on where little comes at once"


@pytest.mark.parametrize("unit", ["[[]", "[1[1]", '[""', "[{},["])
def test_who_sends_nothing_but_brackets_is_not_heard_any_more(unit: str) -> None:
    catcher = MemberCatcher(WANTED)
    catcher.feed(('{"usage": 1, "a": [' + "[" * 1000 + unit * (60_000 // len(unit))).encode())
    assert catcher.found == {} and catcher._steps <= _MOST_AT_ONCE + 1


VECTOR = {"object": "embedding", "index": 1, "embedding": [0.0123456, -1e-9] * 700}
PROBABLE = {"token": " a", "logprob": -0.1, "bytes": [32, 97], "top_logprobs": [{"token": "b", "bytes": [98]}] * 5}
LONG: dict[str, Any] = {
    "vectors": {"data": [VECTOR] * 200},
    "one text": {"choices": [{"message": {"content": 'a "usage": {1}, \\' * 200_000}}]},
    "probabilities": {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [PROBABLE] * 10_000}}]},
    "calls": {"output": [{"type": "function_call", "arguments": json.dumps(PROBABLE)}] * 10_000},
    "many members": {f"member {number}": {"a": [number]} if number % 9 else number for number in range(2000)},
    "another response": {"response": {"output": [PROBABLE] * 10_000, "tools": [{"parameters": {"a": {}}}] * 1000}},
}


@pytest.mark.parametrize("size", [1000, 1 << 16, 1 << 24])
@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_long_answers_are_heard_to_their_end(value: dict[str, Any], size: int) -> None:
    said = {"id": "x", "model": "m", **value, "usage": {"prompt_tokens": 8, "details": {"cached_tokens": 1}}}
    expected = {("model",): "m", ("usage",): said["usage"]}
    assert caught(json.dumps(said), size) == expected
    assert caught(json.dumps(said, ensure_ascii=False, separators=(",", ":")), size) == expected


def test_members_of_a_message_are_caught_in_slices() -> None:
    said = {"type": "response.done", "response": {"id": "r", "output": ["x" * 200_000], "usage": {"a": 1}, "model": 5}}
    steps = catching(json.dumps(said).encode(), WANTED)
    assert sum(1 for _ in steps) == 3
    assert at_once(catching(json.dumps(said).encode(), WANTED)) == {"response": {"usage": {"a": 1}, "model": 5}}
    assert at_once(catching(b'{"response": {"usage": 1}, "response": 5, "model": "m"', WANTED)) == {
        "response": {"usage": 1}
    }
    assert at_once(catching(b"", WANTED)) == {}


def test_a_member_within_one_that_was_caught_is_part_of_it() -> None:
    wanted = {("a",), ("a", "b")}
    assert at_once(catching(b'{"a": {"b": 1}, "a": 5}', wanted)) == {"a": 5}


_NAMES = st.sampled_from(["usage", "model", "response", "a", "\\", '"', "é"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('\\"{}[],:u ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(_NAMES, _JSON, max_size=5),
    st.lists(st.integers(1, 40), min_size=1),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_object(value: dict[str, Any], sizes: list[int], indent: int | None, ascii_only: bool) -> None:
    inner = value.get("response")
    expected: dict[tuple[str, ...], Any] = {(name,): value[name] for name in ("usage", "model") if name in value}
    if isinstance(inner, dict):
        expected |= {("response", name): inner[name] for name in ("usage", "model") if name in inner}
    data, catcher, size = (
        json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(),
        MemberCatcher(WANTED),
        cycle(sizes),
    )
    while data:
        most = next(size)
        catcher.feed(data[:most])
        data = data[most:]
    assert catcher.found == expected
