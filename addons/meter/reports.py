"""Reports: what was used and what is left, summed up from the ledger.

What a caller's own key has used is priced when somebody asks: the rates are those of the time when it was used, the
overrides those that relay.yaml has now.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core.money import UNLIMITED, Balance
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey, begins, day_of, renews
from addons.meter.gate import Gate
from addons.meter.prices import Prices
from addons.meter.runs import Runs, Stop
from addons.store.ledger_reader import Stopped, Used, unknown, used

_A_DAY = 86400.0
UNPRICED = "unpriced_requests"
"""What is said beside a balance: so many requests have cost what nobody knows."""
_MOST = 1_000_000
"""Settlements that an answer to a client is summed up from, the newest ones: some seconds of work."""

_LOOK = 1000
"""Entries between two looks at whether somebody waits."""

RUNS = Runs()
"""Those of this process: its clients wait for them."""
_SHORT = Runs(1)
"""Those that take no more than a few milliseconds: they don't wait behind the others."""


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

    def add(self, entry: Used, prices: Prices) -> None:
        """Count one more."""
        self.requests += entry.requests
        self.failures += entry.failures
        self.estimated += entry.estimated
        if entry.usage is not None:
            self.input += entry.usage.input
            self.output += entry.usage.output
            self.cached += entry.usage.cached
        amount = priced(entry, prices)
        if amount is None:
            self.unpriced += entry.requests
        else:
            self.amount += amount
            self.unpriced += entry.unpriced if entry.at is None else 0


def priced(entry: Used, prices: Prices) -> int | None:
    """What settlements have cost, in nano-dollars; None where nobody knows."""
    if entry.amount is not None or entry.usage is None:
        return entry.amount
    about = (entry.upstream, entry.model, entry.asked, entry.at or 0.0)
    return prices.cost_of_sum(entry.usage, *about, entry.requests, entry.above)


def summed(entries: Iterable[Used], prices: Prices, by: Callable[[Used], str]) -> dict[str, Sum]:
    """Sums of the settlements, by what `by` calls them."""
    sums: dict[str, Sum] = {}
    for entry in entries:
        sums.setdefault(by(entry), Sum()).add(entry, prices)
    return sums


def day_back(now: float, days: int) -> str:
    """The day so many days ago."""
    return day_of(now - days * _A_DAY)


async def of_relay_key(gate: Gate, key: RelayKey, now: float) -> Told:
    """The balance of a relay key: its budget, what of it is spent and what is left. Raises StoreError.

    Where nothing is known of what was spent, that is None and not nothing.
    """
    spent, held = await gate.ledger.balance(key.id, key.per)
    path, since = gate.ledger.path, begins(key.per, now)
    unpriced = await _SHORT.run((unknown, path, key.id, since), lambda stop: unknown(path, key.id, since, stop))
    more: dict[str, object] = {"key": key.name}
    if held:
        more["held"] = float(dollars(held))
    if unpriced:
        more[UNPRICED] = unpriced
    if key.budget is None:
        return Told(Balance(UNLIMITED, dollars(spent) if spent or not unpriced else None), "relay", now, more)
    more["per"] = key.per
    if (day := renews(key.per, now)) is not None:
        more["renews"] = day
    return Told(Balance(dollars(key.budget), dollars(spent)), "relay", now, more)


async def of_caller(gate: Gate, upstream: Upstream, text: str, settings: Settings, now: float) -> Told:
    """What relay has seen of a caller's own key at an upstream. Raises StoreError.

    It is no balance of the account: what was used elsewhere is not in it.
    """
    prices, path = gate.prices, gate.ledger.path
    await prices.ready()
    caller, since = gate.keyring.caller(text), day_back(now, settings.balance.window_days)

    def read(stop: Stop) -> tuple[Sum, bool]:
        return _sum_of(used(path, since, caller, prices, most=_MOST + 1, stop=stop), prices, upstream.name, stop)

    found, whole = await RUNS.run((of_caller, path, caller, since, upstream.name, prices), read)
    spent: Decimal | None = dollars(found.amount)
    more: dict[str, object] = {"estimated": True, "since": since, "requests": found.requests}
    if found.unpriced:
        more[UNPRICED] = found.unpriced
    if not whole:
        more["incomplete"] = True
    if not found.amount and (found.unpriced or not found.requests):
        spent = None  # nothing is known, which is not nothing
    return Told(Balance(upstream.granted, spent), "ledger", now, more)


def _sum_of(entries: Iterator[Used], prices: Prices, upstream: str, stop: Stop) -> tuple[Sum, bool]:
    """The sum, and whether nothing is left out of it."""
    found, rows = Sum(), 0
    for entry in _until(stop, entries):
        rows += entry.rows
        if entry.upstream == upstream:
            found.add(entry, prices)
    return found, rows <= _MOST


@dataclass(frozen=True)
class Days:
    """Nano-dollars by day and model."""

    amounts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    whole: bool = True
    """Whether nothing is left out."""


async def daily(gate: Gate, key: RelayKey, now: float, days: int) -> Days:
    """What a relay key has cost by day. Raises StoreError."""
    path, since = gate.ledger.path, day_back(now, days)

    def read(stop: Stop) -> Days:
        return _by_day(used(path, since, key.id, most=_MOST + 1, stop=stop), stop)

    return await RUNS.run((daily, path, key.id, since), read)


def _by_day(entries: Iterator[Used], stop: Stop) -> Days:
    found: dict[str, dict[str, int]] = {}
    rows = 0
    for entry in _until(stop, entries):
        rows += entry.rows
        if entry.amount:
            models = found.setdefault(entry.day, {})
            models[entry.model] = models.get(entry.model, 0) + entry.amount
    return Days(found, rows <= _MOST)


def _until(stop: Stop, entries: Iterator[Used]) -> Iterator[Used]:
    for number, entry in enumerate(entries):
        if number % _LOOK == 0 and stop():
            raise Stopped
        yield entry


def unreadable() -> errors.RelayError:
    """What a caller is told where there is a ledger that can't be read."""
    return errors.Unavailable("无法读取账目，请稍后再试。", "The ledger can't be read: try again later.")
