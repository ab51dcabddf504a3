import decimal
import json
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import money
from addons.core.money import Balance, from_billing, parse, to_json, window

amounts = st.decimals(0, 10**9, places=6)


def billing(total: str, cents: str) -> Balance:
    return from_billing(parse(f'{{"hard_limit_usd": {total}}}'.encode()), parse(f'{{"total_usage": {cents}}}'.encode()))


@pytest.mark.parametrize(
    ("total", "cents", "text"),
    [
        ("18", "8", '{"total": 18.00, "balance": 17.92, "used": 0.08}'),
        ("18.0", "8.4999", '{"total": 18.00, "balance": 17.92, "used": 0.08}'),
        ("120", "0", '{"total": 120.00, "balance": 120.00, "used": 0.00}'),
        ("0", "-0.0", '{"total": 0.00, "balance": 0.00, "used": 0.00}'),
        ("1.005", "0.5", '{"total": 1.01, "balance": 1.00, "used": 0.01}'),
        ("5", "620", '{"total": 5.00, "balance": -1.20, "used": 6.20}'),
        ("0.1", "10.000000000000002", '{"total": 0.10, "balance": 0.00, "used": 0.10}'),
        ("1e8", "1E+2", '{"total": 100000000.00, "balance": 99999999.00, "used": 1.00}'),
        ("1e-999999", "1e-30", '{"total": 0.00, "balance": 0.00, "used": 0.00}'),
    ],
    ids=["issue", "down", "unused", "zero", "half up", "overdrawn", "float dust", "exponents", "tiny"],
)
def test_a_balance_is_rounded_and_written_with_two_places(total: str, cents: str, text: str) -> None:
    assert to_json(billing(total, cents)) == text


@given(amounts, amounts)
def test_the_three_amounts_add_up(total: Decimal, cents: Decimal) -> None:
    balance = from_billing({"hard_limit_usd": total}, {"total_usage": cents})
    written = json.loads(to_json(balance), parse_float=Decimal)
    assert list(written) == ["total", "balance", "used"]
    assert written["total"] - written["used"] == written["balance"] == balance.balance
    assert all(-amount.as_tuple().exponent == 2 for amount in written.values())
    assert abs(written["total"] - total) <= Decimal("0.005")
    assert abs(written["used"] - cents / 100) <= Decimal("0.005")


def test_floats_and_whole_numbers_are_amounts_too() -> None:
    assert from_billing({"hard_limit_usd": 1.005}, {"total_usage": 250}) == Balance(Decimal("1.01"), Decimal("2.50"))


def test_the_threads_decimal_context_does_not_matter() -> None:
    with decimal.localcontext(prec=2, rounding=decimal.ROUND_DOWN):
        assert to_json(billing("123456.785", "1.5")) == '{"total": 123456.79, "balance": 123456.77, "used": 0.02}'


@pytest.mark.parametrize(("total", "unlimited"), [("100000000", True), ("100000001.5", True), ("99999999.99", False)])
def test_an_unlimited_key_is_told(total: str, unlimited: bool) -> None:
    assert billing(total, "0").unlimited is unlimited


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "not a number"),
        (True, "not a number"),
        ("18.00", "not a number"),
        ([1], "not a number"),
        (Decimal("NaN"), "not a finite"),
        (Decimal("sNaN"), "not a finite"),
        (float("nan"), "not a finite"),
        (float("inf"), "not a finite"),
        (Decimal("-0.01"), "negative"),
        (-1, "negative"),
        (Decimal("1e999999"), "too large"),
        (1e300, "too large"),
        (10**600, "too large"),
        (-(10**600), "too large"),
        (10**15 + 1, "too large"),
        (Decimal("0." + "1" * 41), "too many digits"),
    ],
    ids=repr,
)
def test_what_is_no_amount_is_refused(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=f"subscription.hard_limit_usd is {problem}|has {problem}"):
        from_billing({"hard_limit_usd": value}, {"total_usage": 0})
    with pytest.raises(ValueError, match=f"usage.total_usage is {problem}|has {problem}"):
        from_billing({"hard_limit_usd": 1}, {"total_usage": value})


@pytest.mark.parametrize("answer", [None, [], "x", 1, True])
def test_an_answer_that_is_no_object_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="subscription is not a JSON object"):
        from_billing(answer, {"total_usage": 0})


def test_a_missing_field_is_never_a_zero() -> None:
    with pytest.raises(ValueError, match=r"usage.total_usage is missing$"):
        from_billing({"hard_limit_usd": 1}, {})
    with pytest.raises(ValueError, match=r"hard_limit_usd is missing, there is an error instead$") as caught:
        from_billing({"error": {"message": "bad key sk-secret"}}, {"total_usage": 0})
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e30"])
def test_a_balance_cannot_be_built_of_nonsense(value: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        Balance(Decimal(value), Decimal(0))


def test_fractions_are_read_exactly() -> None:
    assert parse(b'\xef\xbb\xbf{"a": [0.1, 1, 12345678901234567890.123456789]}') == {
        "a": [Decimal("0.1"), 1, Decimal("12345678901234567890.123456789")]
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"NaN",
        b'{"a": Infinity}',
        b"{} {}",
        b"[" * 100000,
        b"1" * 5000,
        b"-" + b"1" * 100000,
        b"1." + b"1" * 5000,
        b"1e" + b"9" * 30,
        b"1e-" + b"9" * 30,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bad_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(body)


def test_a_window_ends_tomorrow_and_holds_at_most_100_days() -> None:
    assert window(date(2024, 3, 1), 90) == (date(2023, 12, 2), date(2024, 3, 2))
    assert window(date(2024, 2, 28), 1) == (date(2024, 2, 27), date(2024, 2, 29))
    start, end = window(date(2024, 3, 1), money.MAX_WINDOW)
    assert (end - start).days == 100


@pytest.mark.parametrize("days", [0, -1, 100])
def test_a_window_of_other_lengths_is_refused(days: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 99"):
        window(date(2024, 3, 1), days)
