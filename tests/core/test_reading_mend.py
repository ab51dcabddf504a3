import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.reading.mend import mend

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)
containers = st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=5), values, max_size=5)


@given(containers, st.booleans(), st.integers(1, 500), st.sampled_from([None, 1]))
def test_whatever_is_cut_is_json_again(value: object, ascii_only: bool, cut: int, indent: int | None) -> None:
    whole = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    text = whole[: min(cut, len(whole) - 1)]
    assert isinstance(json.loads(mend(text)[0]), type(value))


@pytest.mark.parametrize(
    ("cut", "mended"),
    [
        ('{"a": [1, {"b": "你好, w', {"a": [1, {"b": "你好, w"}]}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\u4f6', {"a": "x"}),
        ('{"a": "x\\\\', {"a": "x\\"}),
        ('{"a": "x\\"', {"a": 'x"'}),
        ('{"a": "x\\\\u12', {"a": "x\\u12"}),
        ('{"a": 1, "b": tr', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, ', {"a": 1}),
        ('{"a": [0.5, 0.2', {"a": [0.5]}),
        ('{"a": {"b": 1}', {"a": {"b": 1}}),
        ("[12", []),
        ("{", {}),
        ('{"a": 1}', {"a": 1}),
    ],
)
def test_what_there_is_stays(cut: str, mended: object) -> None:
    if cut == '{"a": 1}':
        with pytest.raises(ValueError):
            mend(cut)  # whole already: if it can't be read, its end is not to blame
        return
    assert json.loads(mend(cut)[0]) == mended


@pytest.mark.parametrize("text", ["", "hello", '"a', "]", "[}", "[" * 1000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        mend(text)


def test_what_has_too_many_pieces_is_cut_there() -> None:
    text = '{"a": [' + "{}," * 100_000
    mended, left_out = mend(text)
    assert 0 < left_out < len(text)
    assert len(json.loads(mended)["a"]) > 13_000
