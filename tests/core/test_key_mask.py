"""A key does not leave with an answer, wherever it stands and however the answer is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.key_mask import KeyMask, without_key

KEY = b"sk-real-sk-real-0123"
KEYS = st.sampled_from([KEY, b"sk-real-MARKx-0123456789", b"aaaaaaaaaaaaaaab", b"abaabaabaabaabaab", b"short"])
PASSES = 8
PIECES = st.lists(st.sampled_from([b"sk-", KEY, KEY[:7], KEY[7:], b"x", b"\n\n", b"sk-real-", b"0123"]), max_size=20)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [piece for start, end in itertools.pairwise(edges) if (piece := data[start:end])]


@given(PIECES, st.lists(st.integers(0, 400), max_size=20))
def test_it_is_hidden_however_it_is_cut(pieces: list[bytes], places: list[int]) -> None:
    data = b"".join(pieces)
    mask = KeyMask(KEY)
    passed = b"".join(mask.feed(chunk) for chunk in [*cut(data, places), b""])
    assert len(passed) == len(data) and KEY not in passed
    shown = without_key(data, KEY)
    # What has passed before it was known may stand where asterisks would: the first few of the key.
    assert all(was == now or now == data[at] for at, (was, now) in enumerate(zip(shown, passed, strict=True)))
    assert KEY[: 8 + 1] not in passed or KEY[: 8 + 1] in shown


def test_nothing_is_held_that_could_be_anything() -> None:
    mask = KeyMask(KEY)
    for event in (b"data: sk-real\n\n", b"data: s\n\n", b": s\r\n\r\n", b"data: s", b"k-r", b"ain\n\n", b"sk-real-"):
        assert mask.feed(event) == event
    assert mask.feed(b"") == b""


def test_of_a_cut_key_no_more_than_its_beginning_passes() -> None:
    mask = KeyMask(KEY)
    assert mask.feed(b"x sk-r") == b"x sk-r"
    assert mask.feed(b"eal-sk-") == b"", "now it is more than a beginning"
    assert mask.feed(b"real-0123 y") == b"*" * 16 + b" y"


def test_what_is_held_leaves_at_the_end() -> None:
    mask = KeyMask(KEY)
    assert mask.feed(b"ends in sk-real-sk-re") == b"ends in " and mask.feed(b"") == b"*" * 13
    mask = KeyMask(KEY)
    assert (mask.feed(b"in sk-re"), mask.feed(b"al-sk-"), mask.feed(b"")) == (b"in sk-re", b"", b"*" * 6)


def regions(data: bytes, key: bytes) -> list[tuple[int, int]]:
    """Where the key stands, and at the end more of its beginning than tells nothing."""
    found, at = [], data.find(key)
    while at >= 0:
        found.append((at, at + len(key)))
        at = data.find(key, at + len(key))
    free = found[-1][1] if found else 0
    cut = next((size for size in range(len(key) - 1, PASSES, -1) if data[free:].endswith(key[:size])), 0)
    return [*found, (len(data) - cut, len(data))] if cut else found


@given(KEYS, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12), st.data())
def test_no_more_than_the_beginning_passes_where_the_key_stood(
    key: bytes, pieces: list[tuple[int, int]], more: st.DataObject
) -> None:
    data = b"".join(key[start : start + size] or b" x" for start, size in pieces)
    data += key[: more.draw(st.integers(0, len(key)))]
    places = more.draw(st.lists(st.integers(0, 400), max_size=30))
    mask = KeyMask(key)
    passed = b"".join(mask.feed(chunk) for chunk in [*cut(data, places), b""])
    hidden = regions(data, key)
    for start, end in hidden:
        begun = len(passed[start:end]) - len(passed[start:end].lstrip(key))
        assert begun <= PASSES and passed[start : start + begun] == key[:begun]
        assert passed[start + begun : end] == b"*" * (end - start - begun)
    inside = {at for start, end in hidden for at in range(start, end)}
    assert len(passed) == len(data)
    assert all(passed[at] == data[at] for at in range(len(data)) if at not in inside), "all else is as it was"
    text = KeyMask(key.decode())
    assert "".join(text.feed(chunk.decode()) for chunk in [*cut(data, places), b""]) == passed.decode()


def test_of_a_whole_text_a_cut_key_is_hidden_too() -> None:
    assert without_key("你 sk-real-sk-real-0123 sk-real-sk-real-012", KEY.decode()) == f"你 {'*' * 20} {'*' * 19}"
    assert without_key("sk-real-", KEY.decode()) == "sk-real-"
    assert without_key(b"", KEY) == b"" and without_key(b"x", b"") == b"x"


def test_no_key_hides_nothing() -> None:
    assert KeyMask(b"").feed(b"anything") == b"anything"


@pytest.mark.parametrize("key", ["none", "EMPTY", "lm-studio", "ollama"])
def test_words_that_stand_for_no_key_are_hidden_nowhere(key: str) -> None:
    said = f"there is {key} {key}"
    assert without_key(said, key) == said
    assert without_key(said.encode(), key.encode()) == said.encode()
