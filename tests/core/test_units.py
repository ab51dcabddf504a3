"""Durations and sizes: what is read, what is refused, and that writing and reading agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.units import LARGEST, LONGEST, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30m", 1800.0),
        ("10s", 10.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("100ms", 0.1),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1d1h1m1s1ms", 90061.001),
        ("1.5h", 5400.0),
        (" 5m ", 300.0),
        ("90", 90.0),
        ("0.25", 0.25),
        ("1e-3", 0.001),
        (90, 90.0),
        (1.5, 1.5),
        ("0", 0.0),
        (0, 0.0),
        ("36500d", float(LONGEST)),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds
    assert type(parse_duration(written)) is float


@pytest.mark.parametrize(
    "written",
    [
        *[
            "",
            " ",
            "s",
            "m5",
            "5 m",
            "-5m",
            "+5m",
            "5M",
            "5min",
            "1,5s",
            "30m1h",
            "5m5m",
            "1h30",
            "1_000",
            "٣s",
            "５s",
            ".5s",
        ],
        *["nan", "inf", "-inf", "1e999", "1h\n1m", "36501d", -1, -0.5, math.nan, math.inf, True, False, None, [], {}],
        *["9" * 30, "9" * 5000 + "s", 10**400],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_nonsense_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a duration "):
        parse_duration(written)


@given(st.floats(0, LONGEST))
def test_a_duration_reads_back_as_it_was(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, LONGEST * 1000))
def test_milliseconds_are_written_in_units(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000
    assert format_duration(milliseconds / 1000)[-1] in "dhms"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (30, "30s"),
        (75, "1m15s"),
        (1800, "30m"),
        (5400, "1h30m"),
        (172800, "2d"),
        (1e-5, "1e-05"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64k", 65536),
        ("512m", 512 * 1024**2),
        ("1g", 1024**3),
        ("1t", 1024**4),
        ("64K", 65536),
        ("64kb", 65536),
        ("1GiB", 1024**3),
        ("100b", 100),
        ("1.5k", 1536),
        ("0", 0),
        (0, 0),
        ("1000", 1000),
        (1000, 1000),
        (LARGEST, LARGEST),
    ],
)
def test_sizes(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    [
        *[
            "",
            "k",
            "lots",
            "64 k",
            "-1",
            "-64k",
            "+1k",
            "1e3",
            "0x10",
            "1,5m",
            "64kk",
            "64p",
            "0.3",
            "0.0001k",
            "nan",
            "inf",
        ],
        *[-1, 1.0, 1.5, math.nan, math.inf, True, None, [], {}, LARGEST + 1, "8388608t", "9" * 5000, 10**5000],
    ],
    ids=lambda value: "10**5000" if isinstance(value, int) and value > LARGEST else repr(value)[:20],
)
def test_nonsense_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a size "):
        parse_size(written)


@given(st.integers(0, LARGEST))
def test_a_size_reads_back_as_it_was(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_any_text_is_a_number_of_seconds_and_bytes_or_refused_in_words(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith("expected ")
