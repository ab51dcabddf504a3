"""Copies of bodies: their first bytes, and when each chunk came."""

from addons.flow.capture import Copy


def test_a_copy_with_times_tells_when_each_chunk_came() -> None:
    copy = Copy(3, timed=True)
    for chunk in (b"ab", b"", b"cde"):
        copy(chunk)
    assert [each.split()[1] for each in copy.times.split(", ")] == ["2", "3"]
    assert copy.cut and copy.body() == b"abc"
    assert not Copy(3).times
