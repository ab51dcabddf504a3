"""Members by their places, however the bytes are cut and whatever else has their names."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.json_member import MemberCatcher

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


def test_who_sends_nothing_but_members_at_once_is_not_heard_any_more() -> None:
    text = '{"usage": 1, ' + '"a":1,' * 50_000 + '"model": "m"}'
    assert caught(text, 1 << 24) == {}
    assert caught(text, 1 << 14) == {("usage",): 1, ("model",): "m"}, "in chunks as they come it is"


_NAMES = st.sampled_from(["usage", "model", "response", "a", "\\", '"', "é"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('\\"{}[],:u ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_NAMES, _JSON, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]))
def test_any_object(value: dict[str, Any], size: int, indent: int | None) -> None:
    inner = value.get("response")
    expected: dict[tuple[str, ...], Any] = {(name,): value[name] for name in ("usage", "model") if name in value}
    if isinstance(inner, dict):
        expected |= {("response", name): inner[name] for name in ("usage", "model") if name in inner}
    assert caught(json.dumps(value, indent=indent), size) == expected
