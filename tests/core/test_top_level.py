"""The members of a JSON object where they stand, and changing no other byte."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import top_level
from addons.core.top_level import NoObject, Repeated, finding, members

BROKEN = {
    "an array": "[]",
    "nothing": "",
    "a comma too many": '{"a": 1,}',
    "no colon": '{"a" 1}',
    "something behind it": '{"a": 1} x',
    "a string that does not end": '{"a": "x',
    "an object that does not end": '{"a": {"b": [1, 2',
    "no value": '{"a": }',
    "a name that is none": "{a: 1}",
    "a name with a line break in it": '{"a\nb": 1}',
    "a name that is too long": '{"' + "a" * 5000 + '": 1}',
    "UTF-16 read as UTF-8": '{\0"\0a\0"\0:\x001\0}\0',
    "too many fields": "{" + ", ".join(f'"{n}": 1' for n in range(1001)) + "}",
    "nested too deep": '{"a": ' + "[" * 100 + "]" * 100 + "}",
    "a backslash at its end": '{"a": "\\',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(NoObject):
        members(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "a", "model": "b"}',
        '{"model": "a", "mod\\u0065l": "b"}',
        '{"a": {"model": 1}, "model": 1, "model": 2}',
    ],
)
def test_a_name_that_stands_twice_is_refused_however_it_is_written(text: str) -> None:
    with pytest.raises(Repeated) as caught:
        members(text)
    assert caught.value.name == "model"


def test_names_within_values_are_nobody_s_business() -> None:
    found = members('{"a": {"x": 1, "x": 2}, "b": "\\"c\\": 1, \\"a\\": 2", "c": ["}", "]"]}')
    assert list(found.spans) == ["a", "b", "c"]
    assert found.raw("c") == '["}", "]"]'
    assert found.value("b") == '"c": 1, "a": 2'
    assert found.value("missing", 7) == 7


def test_changes_leave_every_other_byte() -> None:
    text = ' {"model" : "gpt-4o",\n\t"stream":true, "n": 1e0 , "messages":[ {"content":"\\u4f60 {}"} ] } '
    assert members(text).put({"stream_options": {"include_usage": True}}) == text.replace(
        " ] } ", ' ] , "stream_options": {"include_usage": true}} '
    )
    assert members(text).put({"n": 2, "stream": False}) == text.replace("1e0", "2").replace("true", "false")
    assert members("{}").put({"a": 1, "b": 2}) == '{"a": 1, "b": 2}'
    assert members(text).put({}) == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=10), _JSON, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_any_object_is_taken_apart_as_a_parser_does(value: dict[str, Any], indent: int | None, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    found = members(text)
    assert {name: json.loads(found.raw(name)) for name in found.spans} == value
    changed = json.loads(found.put({"added": [1], **dict.fromkeys(list(value)[:1], "new")}))
    assert changed == {**value, "added": [1], **dict.fromkeys(list(value)[:1], "new")}


def test_more_values_than_anybody_sends_are_refused() -> None:
    """32 MB of them, which 32 KB unpack to, would take ten seconds."""
    begun = time.process_time()
    with pytest.raises(NoObject, match="more than"):
        members('{"a": [' + "[],{}," * 5_000_000 + "0]}")
    assert time.process_time() - begun < 5
    assert members('{"a": [' + "[]," * 500_000 + '0], "b": 1}').raw("b") == "1"


def test_a_large_body_is_gone_through_in_slices() -> None:
    many = '{"messages": [' + ",".join('{"role":"user","content":"x\\"y"}' for _ in range(50_000)) + '], "n": 1}'
    assert sum(1 for _ in finding(many)) > 20
    assert list(members('{"a": "' + "x\\\\" * 1_000_000 + '", "b": 1}').spans) == ["a", "b"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=6), _JSON, max_size=6),
    st.booleans(),
    st.sampled_from([None, 1, " \t"]),
    st.integers(0, 60),
    st.sampled_from(["", "}", '"', ",", "\\", "[", "x"]),
)
def test_what_is_short_is_read_as_what_is_long(
    value: dict[str, Any], ascii_: bool, indent: int | str | None, at: int, slip: str
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_, indent=indent)
    for each in (text, text[:at] + slip + text[at:], text[:at] + text[at + 1 :]):
        assert _read(each) == _read_slowly(each), each


def _read(text: str) -> object:
    try:
        return members(text).spans
    except ValueError as error:
        return type(error)


def _read_slowly(text: str) -> object:
    never = re.compile(r"(?!)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_level, "_PLAIN", never)
        patch.setattr(top_level, "_SHORT", -1)
        return _read(text)
