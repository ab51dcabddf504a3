"""A key does not leave with an answer, wherever it stands and however the answer is cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from addons.core.key_mask import KeyMask, without_key

KEY = b"sk-real-sk-real-0123"
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
    assert passed == without_key(data, KEY)


def test_whole_events_are_not_held() -> None:
    mask = KeyMask(KEY)
    for event in (b"data: sk-real\n\n", b"data: s\n\n", b": s\r\n\r\n"):
        assert mask.feed(event) == event
    assert mask.feed(b"data: sk-r") == b"data: "
    assert mask.feed(b"ain\n\n") == b"sk-rain\n\n"
    assert mask.feed(b"") == b""


def test_what_is_held_leaves_at_the_end() -> None:
    mask = KeyMask(KEY)
    assert mask.feed(b"ends in sk-re") == b"ends in " and mask.feed(b"") == b"sk-re"


def test_no_key_hides_nothing() -> None:
    assert KeyMask(b"").feed(b"anything") == b"anything"
