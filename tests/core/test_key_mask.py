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
    assert mask.feed(b"ends in sk-real-sk-re") == b"ends in " and mask.feed(b"") == b"sk-real-sk-re"


def test_no_key_hides_nothing() -> None:
    assert KeyMask(b"").feed(b"anything") == b"anything"
