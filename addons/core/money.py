"""Balance arithmetic, in Decimal throughout: what was granted, what was used, what is left, in US dollars.

What is missing or absurd raises ValueError: a refused query shown as a zero makes people top up an account that was
full. Error texts name the field but never quote strings of the upstream, which may hold a key.
"""

import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import NoReturn

from addons.core import bounded_json
from addons.core.bounded_json import MAX_DIGITS
from addons.core.slices import Sliced, at_once

UNLIMITED = Decimal(100_000_000)
"""What one-api and its like give as `hard_limit_usd` of a token without a limit."""
MAX_WINDOW = 99
"""OpenAI answers at most 100 days of usage in one call, and one of them is today."""

_CENT = Decimal("0.01")
_MAX_AMOUNT = Decimal(10) ** 15  # dollars or cents; more is a mistake
_MAX_FIGURES = 40  # significant digits; a float written out in full has 17, Go's JSON writes up to 21


@dataclass(frozen=True, slots=True)
class Balance:
    """Money granted and used, None where that is not known, and `left` where it is told by itself.

    Each is rounded half up to two places on construction. Raises ValueError for NaN, infinity and amounts nobody has.
    """

    total: Decimal | None
    used: Decimal | None
    left: Decimal | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("total", "used", "left"):
            value: Decimal | None = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _round(value))

    @property
    def balance(self) -> Decimal | None:
        """What is left: the difference of the rounded amounts, so that the three always add up. May be negative."""
        if self.total is None or self.used is None:
            return self.left
        return _context().subtract(self.total, self.used)

    @property
    def unlimited(self) -> bool:
        """Whether the key has no limit: `total` is then a sign, not an amount."""
        return self.total is not None and self.total >= UNLIMITED


def parse(body: bytes) -> object:
    """`parsing` without a pause."""
    return at_once(parsing(body))


def parsing(body: bytes) -> Sliced[object]:
    """Read a JSON body of an upstream with fractions as Decimal, in slices. Raises ValueError if it is not UTF-8 JSON,
    holds NaN or Infinity, is nested too deep or has too many values, or has numbers no machine should read."""
    value: object = yield from bounded_json.loading(body.decode("utf-8").removeprefix("\ufeff"), _parse)
    return value


def _parse(text: str) -> object:
    return json.loads(text, parse_int=_integer, parse_float=_fraction, parse_constant=_refuse_constant)


def from_billing(subscription: object, usage: object) -> Balance:
    """The balance from the answers of `/v1/dashboard/billing/subscription` and `/v1/dashboard/billing/usage`.

    `hard_limit_usd` is in dollars, `total_usage` in **cents** (OpenAI's billing API, as one-api and new-api copy it).
    Raises ValueError that names the field which is missing or no amount.
    """
    total = amount("subscription", subscription, "hard_limit_usd")
    cents = amount("usage", usage, "total_usage")
    return Balance(total, _context().scaleb(cents, -2))


def to_json(balance: Balance) -> str:
    """`{"total": 18.00, "balance": 17.92, "used": 0.08}`: JSON numbers that keep their decimals, null for unknown."""
    amounts = {"total": balance.total, "balance": balance.balance, "used": balance.used}
    fields = (f'"{name}": {"null" if value is None else format(value, "f")}' for name, value in amounts.items())
    return f"{{{', '.join(fields)}}}"


def window(today: date, days: int) -> tuple[date, date]:
    """The start date and the exclusive end date (tomorrow) to ask for the usage of the last `days` days and today.
    Raises ValueError unless days is 1 to 99."""
    if not 1 <= days <= MAX_WINDOW:
        raise ValueError(f"days is {days}, expected 1 to {MAX_WINDOW}")
    return today - timedelta(days=days), today + timedelta(days=1)


def _context() -> Context:
    """An own context: the thread's one may be set to anything."""
    return Context(prec=80, rounding=ROUND_HALF_UP)


def _round(amount: Decimal) -> Decimal:
    if not amount.is_finite() or abs(amount) > _MAX_AMOUNT:
        raise ValueError("not an amount of money")
    return amount.quantize(_CENT, context=_context())


def amount(where: str, answer: object, field: str, *, negative: bool = False, text: bool = False) -> Decimal:
    """A number from an upstream's answer, with `text` also one in quotes; at least 0 unless it may be `negative`.

    Raises ValueError that names the field and quotes nothing.
    """
    name = f"{where}.{field}"
    if not isinstance(answer, dict):
        raise ValueError(f"{where} is not a JSON object")
    if field not in answer:
        raise ValueError(f"{name} is missing" + (", there is an error instead" if answer.get("error") else ""))
    value = answer[field]
    if text and isinstance(value, str):
        value = _of_text(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{name} is not a number")
    if isinstance(value, int) and value.bit_length() > 64:  # before Decimal() writes it out
        raise ValueError(f"{name} is too large")
    found = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not found.is_finite():
        raise ValueError(f"{name} is not a finite number")
    if found < 0 and not negative:
        raise ValueError(f"{name} is negative")
    if abs(found) > _MAX_AMOUNT:
        raise ValueError(f"{name} is too large")
    if len(found.as_tuple().digits) > _MAX_FIGURES:
        raise ValueError(f"{name} has too many digits")
    return found if found else found.copy_abs()  # -0 is 0


_TEXT = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")


def _of_text(name: str, text: str) -> Decimal:
    """DeepSeek and SiliconFlow write amounts as text."""
    if _TEXT.fullmatch(text.strip()) is None:
        raise ValueError(f"{name} is not a number")
    return Decimal(text.strip())


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _fraction(digits: str) -> Decimal:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent beyond any machine's; no ValueError by itself
        raise ValueError("a number is too large") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
