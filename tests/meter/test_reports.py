"""Reports sum up what the ledger has: together what has the same rates, and to the same sum."""

import asyncio
import random
from collections.abc import Iterator
from copy import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from addons.config.settings import Settings, load_settings
from addons.core.metered import Metered
from addons.core.relay_keys import RelayKey, day_of
from addons.meter import reports
from addons.meter.gate import Gate
from addons.meter.prices import Prices
from addons.store import StoreError
from addons.store.ledger import NAME
from addons.store.ledger_file import BROKE, FAILURES, FINISHED, REFUSED, SETTLEMENT, open_file
from addons.store.ledger_reader import Stopped, used
from addons.store.settlements import Settlement, row_of
from tests.support.metering import PRICES, MemoryLedger, a_gate

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
NOW = NOON + 2 * 86400
TEXT = "sk-0123456789abcdef"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    PRICES.load()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "relay.yaml"
    upstreams = [
        {"name": "openai", "url": "https://api.openai.com", "price": 1.5},
        {"name": "d", "url": "https://api.deepseek.com"},
    ]
    prices = {"half": {"input": 1}, "each": {"input": 1, "output": 2, "request": 0.25}}
    path.write_text(yaml.safe_dump({"upstreams": upstreams, "prices": prices, "store": {"path": str(tmp_path)}}))
    return load_settings(path, {})


@pytest.fixture
def gate(settings: Settings, tmp_path: Path) -> Gate:
    kept = MemoryLedger()
    kept.path = tmp_path / NAME
    return a_gate(settings, kept, tmp_path)


class Writing:
    """Settlements, written as the book writes them."""

    def __init__(self, path: Path) -> None:
        self.sql = open_file(path)
        self.written: list[Settlement] = []

    def add(self, **more: object) -> None:
        plain = Settlement(
            f"r{len(self.written)}", NOON, "", None, "openai", "gpt-4o", {}, CHAT, FINISHED, Metered(9, 4), None
        )
        entry = replace(plain, **more)  # type: ignore[arg-type]
        self.written.append(entry)
        self.sql.execute(SETTLEMENT, row_of(entry, day_of(entry.at), entry.amount))


@pytest.fixture
def book(gate: Gate) -> Iterator[Writing]:
    writing = Writing(gate.ledger.path)
    yield writing
    writing.sql.close()


def some_usage(chance: random.Random) -> Metered | None:
    given = chance.choice((0, 7, 1200, 150_000, 200_000, 200_001, 300_000))
    said = chance.choice((0, 5, 4000))
    usages = [
        Metered(given, said),
        Metered(given, said, cached=given // 2, cache_write=given // 3, reasoning=said // 2),
        Metered(given, said, cached=given // 2, cache_write_1h=given // 4),
        Metered(given, said, cached=given + 5),
        Metered(given, said, reasoning=said + 5),
        Metered(given, said, cached=given, cache_write=given),
        Metered(given, said, input_audio=given // 2, output_audio=said),
        Metered(given, said, output_image=said, searches=2),
        Metered(milliseconds=3200),
        Metered(1 << 31, said),
        None,
    ]
    return chance.choice(usages)


def test_what_is_summed_up_first_costs_what_each_has_cost(gate: Gate, book: Writing) -> None:
    chance = random.Random(7)
    models = ["gpt-4o", "gpt-4.1", "o3", "gpt-4o-audio-preview", "claude-sonnet-4-5", "half", "each", "nobody-knows"]
    places = (
        [("openai", model) for model in models]
        + [("anywhere", model) for model in models]
        + [("d", "deepseek-chat"), ("gone", "gpt-4o")]
    )
    tiers: list[dict[str, str]] = [{}, {"service_tier": "flex"}, {"service_tier": "x" * 50}]
    for _ in range(3000):
        upstream, model = chance.choice(places)
        usage, reason = some_usage(chance), chance.choice((FINISHED, FINISHED, BROKE, REFUSED))
        at = NOON + chance.random() * 86400 * 2
        amount = chance.choice((None, None, 0, 5, 123_456_789, 1 << 45))
        about = {"upstream": upstream, "model": model, "asked": chance.choice(tiers), "key": chance.choice("abc")}
        book.add(at=at, usage=usage, reason=reason, amount=amount, estimated=chance.random() < 0.1, **about)
    for key in ("a", None):
        for by_key in (True, False):
            entries = list(used(gate.ledger.path, "2026-11-28", key, gate.prices, by_key=by_key))
            mine = [each for each in book.written if key in (None, each.key)]
            assert sum(each.rows for each in entries) == len(mine)
            found = reports.summed(entries, gate.prices, lambda each: f"{each.upstream} {each.model} {each.day}")
            wanted: dict[str, reports.Sum] = {}
            for each in mine:
                name = f"{each.upstream} {each.model} {day_of(each.at)}"
                add(wanted.setdefault(name, reports.Sum()), each, gate.prices)
            assert found.keys() == wanted.keys()
            for name, sum_ in found.items():
                assert abs(sum_.amount - wanted[name].amount) <= sum_.requests, "each was rounded by itself"
                assert replace(sum_, amount=0) == replace(wanted[name], amount=0), name


def add(found: reports.Sum, each: Settlement, prices: Prices) -> None:
    """What a report is: settlement by settlement."""
    found.requests += 1
    found.failures += each.reason in FAILURES
    found.estimated += each.estimated
    amount = each.amount
    if each.usage is not None:
        found.input += each.usage.input
        found.output += each.usage.output
        found.cached += each.usage.cached
        if amount is None:
            amount = prices.cost(each.usage, each.upstream, each.model, each.asked, each.at)
    elif amount is None and each.reason in FAILURES:
        amount = 0
    found.unpriced += amount is None
    found.amount += amount or 0


def test_the_balance_of_a_callers_own_key(gate: Gate, book: Writing, settings: Settings) -> None:
    caller = gate.keyring.caller(TEXT)
    for usage in (Metered(1_000_000, 0), Metered(0, 1_000_000), None):
        book.add(key=caller, usage=usage)
    book.add(key="another", usage=Metered(1_000_000))
    book.add(key=caller, upstream="d", usage=Metered(1_000_000))
    told = asyncio.run(reports.of_caller(gate, settings.upstreams[0], TEXT, settings, NOW))
    assert told.balance.used is not None and told.balance.used * 2 == 3 * 12 + 3 * 0.5
    assert told.more == {"estimated": True, "since": "2026-09-01", "requests": 3, "unpriced_requests": 1}


def test_what_changes_with_the_hour_is_summed_up_by_the_hour(gate: Gate, book: Writing) -> None:
    costs = []
    for number in range(96):
        at = NOON - 12 * 3600 + number * 900
        book.add(at=at, key="k", upstream="d", model="deepseek-chat", usage=Metered(1_000_000, 1_000_000))
        book.add(at=at, key="k")
        costs.append(gate.prices.cost(Metered(1_000_000, 1_000_000), "d", "deepseek-chat", {}, at) or 0)
    assert len(set(costs)) > 1
    found = reports.summed(used(gate.ledger.path, "", "k", gate.prices), gate.prices, lambda each: each.model)
    assert found["deepseek-chat"].amount == sum(costs)
    assert [each.requests for each in found.values()] == [96, 96]


def test_a_bound_that_is_met_is_told(
    gate: Gate, book: Writing, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = gate.keyring.caller(TEXT)
    for number in range(10):
        book.add(key=caller, at=NOON - number * 86400, amount=1 << number)
    key = RelayKey(caller, "alice")
    for most, whole in ((10, True), (9, False)):
        monkeypatch.setattr(reports, "_MOST", most)
        told = asyncio.run(reports.of_caller(gate, settings.upstreams[0], TEXT, settings, NOW))
        days = asyncio.run(reports.daily(gate, key, NOW, 31))
        assert days.whole is whole and ("incomplete" in told.more) is not whole
    monkeypatch.setattr(reports, "_MOST", 2)
    newest = asyncio.run(reports.daily(gate, key, NOW, 31))
    assert newest.amounts == {
        "2026-11-28": {"gpt-4o": 1},
        "2026-11-27": {"gpt-4o": 2},
        "2026-11-26": {"gpt-4o": 4},
    }


def test_a_report_ends_when_it_is_told_so(gate: Gate, book: Writing) -> None:
    book.sql.execute("BEGIN")
    for number in range(20_000):
        book.add(key="k", at=NOON + number)
    book.sql.execute("COMMIT")
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks > 2

    with pytest.raises(Stopped):
        list(used(gate.ledger.path, "", "k", gate.prices, stop=stop))
    assert looks <= 4


def test_a_file_that_is_damaged_is_no_report_that_was_stopped(gate: Gate) -> None:
    gate.ledger.path.write_bytes(b"x" * 5000)
    with pytest.raises(StoreError):
        list(used(gate.ledger.path, "", "k", gate.prices))


def test_rows_that_cost_the_same_a_token_are_summed_up_by_sqlite(gate: Gate, book: Writing) -> None:
    for number in range(1000):
        book.add(key="k", at=NOON + number, usage=Metered(1000 + number, number))
    entries = sorted(used(gate.ledger.path, "", "k", gate.prices), key=lambda entry: entry.requests)
    assert [(each.requests, each.usage) for each in entries] == [
        (1, Metered(1000)),
        (999, Metered(sum(range(1001, 2000)), sum(range(1000)))),
    ]
