import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.summary import summary, way_of

texts = st.none() | st.text()
numbers = st.none() | st.integers(0, 1 << 62)


def test_a_plain_exchange() -> None:
    line = summary(model="gpt-4o-mini", tokens_in=12, tokens_out=48, first_byte_ms=310, duration_ms=2400, status=200)
    assert line == "gpt-4o-mini · 12→48 tok · first byte 0.31 s · 2.4 s"


def test_a_message_of_a_session() -> None:
    line = summary(model="gpt-3.5-turbo", session="4f1c2a9e", tokens_in=1200, tokens_out=48, cached=1024)
    assert line == "gpt-3.5-turbo · session 4f1c2a9e · 1,200 (1,024 cached)→48 tok"


def test_who_asked_stands_behind_the_model_and_what_came_of_it_last() -> None:
    line = summary(
        model="gpt-4o", who="alice", thread="4f1c2a9e", tokens_out=2, cost="0.00487", duration_ms=3, way="one 503 → two"
    )
    assert line == "gpt-4o · alice · #4f1c2a9e · ?→2 tok · $0.0049 · 3 ms · one 503 → two"
    assert summary(session="aa", thread="bb") == "session aa"


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("0", "$0.00"),
        ("0.0000185", "$0.000019"),
        ("~0.002", "~$0.002"),
        ("0.0995", "$0.1"),
        ("0.42049", "$0.42"),
        ("~12.345", "~$12.35"),
        ("0.004", "$0.004"),
    ],
)
def test_a_cost_is_rounded(cost: str, shown: str) -> None:
    assert summary(cost=cost) == shown


@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        ({"reason": "first_turn", "tokens": None}, ""),
        ({"reason": "new_turn", "tokens": 0}, ""),
        ({"reason": "new_turn", "tokens": 2048}, "new turn: 2,048 tok lost"),
        ({"reason": "retry", "tokens": None}, "retry"),
        (
            {"reason": "prefix_changed", "path": "tools[2].name", "tokens": 12288},
            "prefix changed at tools[2].name: 12,288 tok lost",
        ),
        ({"reason": "settings_changed", "path": "model", "tokens": 0}, "settings changed"),
    ],
)
def test_a_cause_is_said_where_it_is_more_than_a_turn(cause: dict[str, object], shown: str) -> None:
    assert summary(cause=cause) == shown


def test_an_embedding_has_no_answer_in_tokens() -> None:
    assert summary(model="e", tokens_in=5) == "e · 5 tok"


def test_refusals_and_breaks_say_why() -> None:
    line = summary(session="4f", status=413, error="too_large", reason="The body is over 65536 bytes.", duration_ms=3)
    assert line == "session 4f · 3 ms · 413 too_large: The body is over 65536 bytes."
    assert summary(model="m", status=200, reason="the client left") == "m · 200: the client left"
    assert summary(status=502) == "502"


def test_nothing_is_known() -> None:
    assert summary() == ""


@given(
    texts,
    texts,
    texts,
    texts,
    numbers,
    numbers,
    numbers,
    numbers,
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(0, 1e12),
)
def test_always_one_short_line(
    model: str | None,
    session: str | None,
    error: str | None,
    reason: str | None,
    tokens_in: int | None,
    tokens_out: int | None,
    cached: int | None,
    status: int | None,
    first_byte_ms: float | None,
    duration_ms: float | None,
) -> None:
    line = summary(
        model=model,
        session=session,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cached=cached,
        first_byte_ms=first_byte_ms,
        duration_ms=duration_ms,
        status=status,
        error=error,
        reason=reason,
    )
    assert len(line) < 250
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize(
    ("attempts", "passed_over", "expected"),
    [
        pytest.param([], [], None, id="nothing is noted"),
        pytest.param([{"upstream": "one", "status": 200}], [], None, id="all went well"),
        pytest.param([{"upstream": "one", "status": 400}], [], None, id="an answer like any other"),
        pytest.param(
            [{"upstream": "one", "status": 429, "reason": "rate limited"}, {"upstream": "two", "status": 200}],
            [],
            "one rate limited → two",
            id="another has answered",
        ),
        pytest.param(
            [{"upstream": "one", "reason": "rate limited"}] * 2 + [{"upstream": "two", "error": "reset"}],
            [],
            "one rate limited ×2 → two broke",
            id="nobody has",
        ),
        pytest.param([{"upstream": "two", "status": 200}], ["one overloaded"], "one overloaded → two", id="left alone"),
        pytest.param(
            [{"upstream": "one", "status": 502}, "junk"], [], "one 502", id="what can't be read is passed over"
        ),
    ],
)
def test_what_a_request_met_on_its_way(attempts: list[object], passed_over: list[object], expected: str | None) -> None:
    assert way_of(attempts, passed_over) == expected
    assert len(summary(way=expected)) < 100
