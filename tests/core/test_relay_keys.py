"""What a key may do, and until when."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.relay_keys import RelayKey, begins, day_of, is_name, owner_of, renews

LAST_SECOND = 1_767_225_599.0  # 2025-12-31 23:59:59 UTC


def test_names() -> None:
    assert all(is_name(name) for name in ("alice", "a", "team-1", "a.b@c_d", "A" * 64))
    assert not any(is_name(name) for name in ("", "a b", "-a", "../x", "A" * 65, "爱丽丝", "a\n"))


def test_models_by_name_and_by_pattern() -> None:
    key = RelayKey("1", "alice", models=("gpt-4o*", "o3"))
    assert key.allows_model("gpt-4o") and key.allows_model("gpt-4o-mini") and key.allows_model("o3")
    assert not key.allows_model("o3-mini") and not key.allows_model("GPT-4O") and not key.allows_model("xgpt-4o")
    assert RelayKey("1", "alice").allows_model("anything")


def test_paths_and_what_lies_below_them() -> None:
    key = RelayKey("1", "alice", paths=("/v1/chat/completions", "/v1/files", "/v1/audio/*"))
    assert key.allows_path("/v1/chat/completions") and key.allows_path("/v1/files/f/content")
    assert key.allows_path("/v1/audio/speech")
    assert not key.allows_path("/v1/chat/completionsX") and not key.allows_path("/v1/embeddings")
    assert RelayKey("1", "alice").allows_path("/v1/anything") and not RelayKey("1", "a").names_path("/v1/anything")


def test_the_last_day_is_a_whole_one() -> None:
    key = RelayKey("1", "alice", expires=date(2025, 12, 31))
    assert not key.expired(LAST_SECOND) and key.expired(LAST_SECOND + 1)
    assert not RelayKey("1", "alice").expired(LAST_SECOND)


def test_spans() -> None:
    assert day_of(LAST_SECOND) == "2025-12-31"
    assert (begins("day", LAST_SECOND), renews("day", LAST_SECOND)) == ("2025-12-31", "2026-01-01")
    assert (begins("month", LAST_SECOND), renews("month", LAST_SECOND)) == ("2025-12-01", "2026-01-01")
    assert (begins("total", LAST_SECOND), renews("total", LAST_SECOND)) == ("", None)


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_ends_on_the_first_of_the_next(month: int) -> None:
    from datetime import UTC, datetime

    for day in (1, 15, 28):
        now = datetime(2024, month, day, tzinfo=UTC).timestamp()
        following = date(2024 + month // 12, month % 12 + 1, 1)
        assert renews("month", now) == following.isoformat()


def test_sessions_stay_when_a_key_is_replaced() -> None:
    key = RelayKey("1", "alice")
    assert owner_of(key, "rk-old") == owner_of(key, "rk-new")
    assert owner_of(None, "sk-mine") == "sk-mine"


@given(st.floats(0, 4e9))
def test_days_are_those_of_the_calendar(now: float) -> None:
    assert day_of(now) == datetime.fromtimestamp(now, UTC).date().isoformat()
