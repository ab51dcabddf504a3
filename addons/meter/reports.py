"""Reports: what was used and what is left, summed up from the ledger.

What a caller's own key has used is priced when somebody asks: the rates are those of the time when it was used, the
overrides those that relay.yaml has now.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice

from addons.config.settings import Settings, Upstream
from addons.core.money import UNLIMITED, Balance
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey, day_of, renews
from addons.meter.gate import Gate
from addons.store.ledger import Used, used
from addons.store.ledger_file import Pricer

_A_DAY = 86400.0
_MOST = 1_000_000


@dataclass(frozen=True)
class Told:
    """A balance, who told it and when."""

    balance: Balance
    source: str
    at: float
    """Seconds since the epoch."""
    more: Mapping[str, object] = field(default_factory=dict)
    """What else is worth saying."""

    def detail(self, *, stale: bool = False) -> dict[str, object]:
        """What stands beside the amounts."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        said: dict[str, object] = {"currency": self.balance.currency, "source": self.source, "as_of": at}
        if self.balance.unlimited:
            said["unlimited"] = True
        if stale:
            said["stale"] = True
        return said | dict(self.more)


@dataclass(slots=True)
class Sum:
    """Of some settlements. `amount` in nano-dollars, without what is unpriced."""

    requests: int = 0
    failures: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    amount: int = 0
    unpriced: int = 0
    """Requests whose usage or price is not known."""
    estimated: int = 0

    def add(self, entry: Used, price: Pricer) -> None:
        """Count one more."""
        self.requests += entry.requests
        self.failures += entry.failures
        self.estimated += entry.estimated
        if entry.usage is not None:
            self.input += entry.usage.input
            self.output += entry.usage.output
            self.cached += entry.usage.cached
        amount = priced(entry, price)
        if amount is None:
            self.unpriced += entry.requests
        else:
            self.amount += amount
            self.unpriced += entry.unpriced if entry.at is None else 0


def priced(entry: Used, price: Pricer) -> int | None:
    """What a settlement has cost, in nano-dollars; None where nobody knows."""
    if entry.amount is not None:
        return entry.amount
    if entry.usage is None:
        return 0 if entry.failures else None
    return price(entry.usage, entry.upstream, entry.model, entry.asked, entry.at or 0.0)


def summed(entries: Iterable[Used], price: Pricer, by: Callable[[Used], str]) -> dict[str, Sum]:
    """Sums of the settlements, by what `by` calls them."""
    sums: dict[str, Sum] = {}
    for entry in entries:
        sums.setdefault(by(entry), Sum()).add(entry, price)
    return sums


def day_back(now: float, days: int) -> str:
    """The day so many days ago."""
    return day_of(now - days * _A_DAY)


async def of_relay_key(gate: Gate, key: RelayKey, now: float) -> Told:
    """The balance of a relay key: its budget, what of it is spent and what is left. Raises StoreError."""
    spent, held = await gate.ledger.balance(key.id, key.per)
    more: dict[str, object] = {"key": key.name}
    if held:
        more["held"] = float(dollars(held))
    if key.budget is None:
        return Told(Balance(UNLIMITED, dollars(spent)), "relay", now, more)
    more["per"] = key.per
    if (day := renews(key.per, now)) is not None:
        more["renews"] = day
    return Told(Balance(dollars(key.budget), dollars(spent)), "relay", now, more)


async def of_caller(gate: Gate, upstream: Upstream, text: str, settings: Settings, now: float) -> Told:
    """What relay has seen of a caller's own key at an upstream. Raises StoreError.

    It is no balance of the account: what was used elsewhere is not in it.
    """
    await gate.prices.ready()
    caller, since = gate.keyring.caller(text), day_back(now, settings.balance.window_days)
    entries = used(gate.ledger.path, since, caller)
    found = await asyncio.to_thread(_sum_of, entries, gate.prices.cost, upstream.name)
    spent: Decimal | None = dollars(found.amount)
    more: dict[str, object] = {"estimated": True, "since": since, "requests": found.requests}
    if found.unpriced:
        more["unpriced_requests"] = found.unpriced
    if not found.amount and (found.unpriced or not found.requests):
        spent = None  # nothing is known, which is not nothing
    return Told(Balance(upstream.granted, spent), "ledger", now, more)


def _sum_of(entries: Iterator[Used], price: Pricer, upstream: str) -> Sum:
    found = Sum()
    for entry in entries:
        if entry.upstream == upstream:
            found.add(entry, price)
    return found


async def daily(gate: Gate, key: RelayKey, now: float, days: int) -> dict[str, dict[str, int]]:
    """Nano-dollars of a relay key by day and model. Raises StoreError."""
    entries = used(gate.ledger.path, day_back(now, days), key.id)
    return await asyncio.to_thread(_by_day, entries)


def _by_day(entries: Iterator[Used]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for entry in islice(entries, _MOST):
        if entry.amount:
            models = found.setdefault(entry.day, {})
            models[entry.model] = models.get(entry.model, 0) + entry.amount
    return found
