"""What each key has spent and what is held for it: who decides whether a request may go up.

A request is admitted only where all of what it may cost still fits: spent + held + its own hold <= budget. Its hold
stays until it is settled, and is then replaced by what it has cost. Both count for the day on which the request was
admitted. So whatever happens at the same time, spent never passes the budget, as long as nothing costs more than its
hold; where something does, the truth is counted, and nothing more is admitted.

Amounts are whole nano-dollars. Times are seconds since the epoch. One caller at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from addons.core.minute import Minute
from addons.core.relay_keys import Per, begins, day_of

_DAYS = 64
"""That are told apart: a month, and whatever was admitted before and is settled now."""


class Terms(NamedTuple):
    """The limits that a request is admitted under; None is none."""

    budget: int | None = None
    per: Per = "total"
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None


class Claim(NamedTuple):
    """A request that wants to be admitted."""

    request: str
    key: str
    amount: int
    """The most that it may cost."""
    tokens: int
    """An estimate of its input, for the limit of tokens a minute; what it really was is counted when it is settled."""
    terms: Terms
    name: str = ""
    upstream: str = ""
    model: str = ""
    path: str = ""
    kept: bool = True
    """It will be settled, so a ledger writes it down before it goes up; False for what is only limited."""


def claim_to_json(claim: Claim) -> list[object]:
    """As a worker sends it."""
    terms = claim.terms
    return [
        *(claim.request, claim.key, claim.amount, claim.tokens),
        [terms.budget, terms.per, terms.requests, terms.tokens, terms.parallel],
        *(claim.name, claim.upstream, claim.model, claim.path, claim.kept),
    ]


def claim_of(values: Sequence[Any]) -> Claim:
    """The reverse."""
    request, key, amount, tokens, terms, *about = values
    return Claim(request, key, amount, tokens, Terms(*terms), *about)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it was not admitted: `budget`, `requests`, `tokens` or `parallel`."""

    why: str
    left: int = 0
    """Of the budget."""
    retry_after: int = 1
    """Seconds."""


class Hold(NamedTuple):
    """What is held for a request."""

    claim: Claim
    day: str
    """Of its admission, for which it counts."""


@dataclass(slots=True)
class _Account:
    total: int = 0
    days: dict[str, int] = field(default_factory=dict)
    """Spent by day, of the last two months."""
    held: dict[str, int] = field(default_factory=dict)
    """By day."""
    under_way: int = 0
    requests: Minute = field(default_factory=Minute)
    tokens: Minute = field(default_factory=Minute)

    def spent(self, since: str) -> int:
        """From a day on; "" from the beginning."""
        return sum(amount for day, amount in self.days.items() if day >= since) if since else self.total

    def holding(self, since: str) -> int:
        """What is held of those days."""
        return sum(amount for day, amount in self.held.items() if day >= since)


class Accounts:
    """All keys."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self.holds: dict[str, Hold] = {}
        """By request."""

    def load(self, spent: Iterable[tuple[str, str, int]]) -> None:
        """Begin with what was spent before: key, day and nano-dollars."""
        for key, day, amount in spent:
            self._spend(key, day, amount)

    def reserve(self, claim: Claim, now: float) -> Refused | None:
        """Admit a request, or say why not. A request is known by its id: a second claim of the same one is a mistake
        and raises ValueError."""
        if claim.request in self.holds:
            raise ValueError("this request has a hold already")
        account, terms = self._account(claim.key), claim.terms
        if terms.parallel is not None and account.under_way >= terms.parallel:
            return Refused("parallel")
        for why, limit, minute in (
            ("requests", terms.requests, account.requests),
            ("tokens", terms.tokens, account.tokens),
        ):
            if limit is not None and minute.at(now) >= limit:
                return Refused(why, retry_after=minute.retry_after(now, limit))
        if terms.budget is not None:
            since = begins(terms.per, now)
            left = terms.budget - account.spent(since) - account.holding(since)
            if claim.amount > left or left <= 0:
                return Refused("budget", left)
        day = day_of(now)
        self.holds[claim.request] = Hold(claim, day)
        account.held[day] = account.held.get(day, 0) + claim.amount
        account.under_way += 1
        if terms.requests is not None:
            account.requests.add(now, 1)
        if terms.tokens is not None:
            account.tokens.add(now, claim.tokens)
        return None

    def settle(self, request: str, amount: int | None, tokens: int | None, now: float) -> tuple[str, int] | None:
        """Replace a hold by what the request has cost; None for `amount` is all of the hold. Its day and that amount;
        None where there is no such hold: it is settled already."""
        hold = self.holds.pop(request, None)
        if hold is None:
            return None
        account = self._release(hold)
        if tokens is not None and account.tokens.seconds:
            account.tokens.add(now, tokens - hold.claim.tokens)
        cost = hold.claim.amount if amount is None else amount
        self._spend(hold.claim.key, hold.day, cost)
        return hold.day, cost

    def spend(self, key: str, amount: int, tokens: int, now: float) -> None:
        """Count what was spent without a hold; a key's tokens a minute count it, too."""
        self._spend(key, day_of(now), amount)
        self._account(key).tokens.add(now, tokens)

    def cancel(self, request: str) -> None:
        """Forget a hold whose request never went up."""
        hold = self.holds.pop(request, None)
        if hold is not None:
            self._release(hold)

    def balance(self, key: str, per: Per, now: float) -> tuple[int, int]:
        """Spent and held in the span that a budget holds for now."""
        account = self._accounts.get(key)
        if account is None:
            return 0, 0
        since = begins(per, now)
        return account.spent(since), account.holding(since)

    def _release(self, hold: Hold) -> _Account:
        account = self._account(hold.claim.key)
        account.under_way -= 1
        left = account.held.get(hold.day, 0) - hold.claim.amount
        if left:
            account.held[hold.day] = left
        else:
            account.held.pop(hold.day, None)  # there may be others that hold nothing
        return account

    def _account(self, key: str) -> _Account:
        return self._accounts.setdefault(key, _Account())

    def _spend(self, key: str, day: str, amount: int) -> None:
        account = self._account(key)
        account.total += amount
        account.days[day] = account.days.get(day, 0) + amount
        while len(account.days) > _DAYS:
            del account.days[min(account.days)]
