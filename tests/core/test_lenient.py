import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addons.core.bounded_json import MAX_DEPTH, MAX_DIGITS, MAX_MARKS
from addons.core.lenient import NotJson, NotObject, NotUtf8, Unreadable, loads_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_reads_every_json_object(value: dict[str, object], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert loads_object(text.encode()) == value


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\ \n1e-.ntu\ufeff', max_size=200).map(str.encode))
@example(b"[" * 65536)
@example(b'{"a":' * 20000)
@example(b'"\\')
def test_any_body_is_an_object_or_unreadable(body: bytes) -> None:
    try:
        assert isinstance(loads_object(body), dict)
    except Unreadable as error:
        assert error.reason != Unreadable.reason
        assert str(error)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": "x"}', {"a": "x"}),
        (b'{"a": "x\ny\r\n\tz\x00\x0b"}', {"a": "x\ny\r\n\tz\x00\x0b"}),
        (b' \r\n\t{"a": "x"}\n\n', {"a": "x"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": "你是谁? 🎉\u2028"}'.encode(), {"a": "你是谁? 🎉\u2028"}),
        (rb'{"a": "\ud83c\udf89 \ud83c"}', {"a": "🎉 \ud83c"}),
        (b'{"a": "' + b"[{" * 5000 + b'"}', {"a": "[{" * 5000}),
        (rb'{"a": "\"[\\", "b": "' + b"[" * 500 + b'"}', {"a": '"[\\', "b": "[" * 500}),
        (b'{"a": ' + b"1" * MAX_DIGITS + b"}", {"a": int("1" * MAX_DIGITS)}),
        (b'{"a": 1e-999}', {"a": 0.0}),
    ],
    ids=[
        "a byte order mark",
        "raw control characters in a string",
        "white space around",
        "a doubled key: the last one",
        "unescaped unicode",
        "surrogates, paired and alone",
        "brackets in a string are not nesting",
        "nor after an escaped quote",
        "the longest whole number",
        "a tiny number",
    ],
)
def test_reads_what_callers_send(body: bytes, value: dict[str, object]) -> None:
    assert loads_object(body) == value


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"a": "你"}'.encode("gbk"), "not_utf8"),
        ('{"a": "x"}'.encode("utf-16"), "not_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
        (b"", "not_json"),
        (b"\xef\xbb\xbf", "not_json"),
        (b"apiKey=sk-x&content=hi", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": 1} x', "not_json"),
        (b'{"a": "x', "not_json"),
        (b'["a"]', "not_object"),
        (b"null", "not_object"),
        (nested(MAX_DEPTH + 1), "too_deep"),
        (b"[" * 65536, "too_deep"),
        (b'{"":' * 16000, "too_deep"),
        (b'{"a": [' + b"1," * MAX_MARKS + b"1]}", "too_many"),
        (b'{"a": NaN}', "bad_number"),
        (b'{"a": -Infinity}', "bad_number"),
        (b'{"a": 1e999}', "bad_number"),
        (b'{"a": ' + b"1" * 60000 + b"}", "bad_number"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:24]),
)
def test_refuses_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        loads_object(body)
    assert caught.value.reason == reason


def test_deep_but_bounded_nesting_is_read() -> None:
    assert loads_object(nested(MAX_DEPTH))


def test_errors_say_where() -> None:
    with pytest.raises(NotJson, match="line 2, column 6") as json_error:
        loads_object(b'{\n"a": x}')
    assert (json_error.value.line, json_error.value.column) == (2, 6)
    with pytest.raises(NotUtf8) as utf8_error:
        loads_object(b'{"a": "\xff"}')
    assert utf8_error.value.position == 7


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("[]", "an array"),
        ('"x"', "a string"),
        ("1", "a number"),
        ("1.5", "a number"),
        ("true", "true"),
        ("null", "null"),
    ],
)
def test_names_what_it_found(body: str, found: str) -> None:
    with pytest.raises(NotObject) as caught:
        loads_object(body.encode())
    assert caught.value.found == found


@pytest.mark.parametrize("piece", ["[", '"', '"\\', "[]", '"[', '{"a":', "1", "\n", "[1,"], ids=repr)
def test_time_is_linear(piece: str) -> None:
    body = (piece * (1 << 22))[: 1 << 22].encode()
    began = time.process_time()
    with pytest.raises(Unreadable):
        loads_object(body)
    assert time.process_time() - began < 20
