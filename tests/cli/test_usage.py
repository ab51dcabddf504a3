"""What `./run.sh usage` prints is what docs/balance.md shows."""

import re

import pytest

from addons.cli.usage import _BY, _sum, _table
from addons.meter.reports import Sum
from addons.store.ledger_reader import Used
from tests.support.pages import commands


def test_the_page_shows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        "alice": Sum(41, 2, 9120, 3377, 2048, 59_100_000, 0, 1),
        "own key 5f0c21aa": Sum(7, 0, 1204, 880, 0, 11_800_000, 1, 0),
    }
    _table("key", "2026-11-24", rows)
    [shown] = commands("./run.sh usage")
    assert re.sub(r" +\n", "\n", capsys.readouterr().out).rstrip() == shown.output.rstrip()


def test_nothing_is_said_to_be_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _table("key", "2026-11-24", {})
    assert capsys.readouterr().out == "nothing was used since 2026-11-24\n"
    _table("key", "2026-11-24", {"a": Sum(requests=1, unpriced=1)})
    assert "unknown" in capsys.readouterr().out


def test_small_sums_have_more_places() -> None:
    assert [_sum(nano) for nano in (0, 2_100, 9_999_999, 10_000_000, 12_345_678_900)] == [
        "$0.0000",
        "$0.0000021",
        "$0.0100000",
        "$0.0100",
        "$12.3457",
    ]


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [("id1", "alice", "alice"), ("0123456789abcdef", None, "own key 01234567"), ("", None, "keys not taken")],
)
def test_whose_use_it_is(key: str, name: str | None, said: str) -> None:
    entry = Used("2026-11-24", None, key, name, "openai", "", {}, 0, 0, 0, 0, None)
    assert _BY["key"](entry) == said
