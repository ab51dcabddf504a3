"""What is added to the numbers, and what a label may be."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from addons.core.known_secrets import KnownSecrets
from addons.core.metered import Metered
from addons.core.metrics import ALL
from addons.core.observed import Observed, Outcome, Used
from addons.store.ledger_file import BROKE, FINISHED, REFUSED
from addons.store.settlements import Settlement
from addons.telemetry import counting
from addons.telemetry.counting import Counting
from tests.support import flows

KNOWN = KnownSecrets(b"")
USED = Metered(9, 14)


class Prices:
    """Of one model: a dollar a million tokens of input."""

    def __init__(self, *, loaded: bool = True) -> None:
        self.loaded = loaded

    async def ready(self) -> None:
        self.loaded = True

    def knows(self, _upstream: str, model: str) -> bool:
        return model.startswith("listed")

    def cost(self, usage: Metered, _upstream: str, model: str, _asked: object, _at: float) -> int | None:
        return usage.input * 1000 if model == "listed" else None


def made(prices: Prices | None = None) -> Counting:
    found = Counting()
    gate: Any = SimpleNamespace(prices=prices or Prices())
    found.adopt(flows.settings(), gate)
    return found


def settlement(model: str = "listed", usage: Metered | None = USED, **more: Any) -> Settlement:
    usual = {"reason": FINISHED, "amount": None}
    about: dict[str, Any] = {"request": "r", "at": 0.0, "key": "hash", "name": None, "upstream": "test", "asked": {}}
    return Settlement(**about | {"model": model, "path": "/v1/x", "usage": usage} | usual | more)


def series(found: Counting, name: str) -> dict[tuple[str, ...], float]:
    return dict(found.numbers.counters.get(name, {}))


def observed(**more: Any) -> Observed:
    usual: dict[str, Any] = {"id": "req_1", "ended": 1000.0, "seconds": 2.0, "endpoint": "files", "status": 200}
    return Observed(**usual | more)


@pytest.mark.parametrize(
    ("settled", "cost", "unpriced"),
    [
        pytest.param(settlement(), 9000, None, id="a caller's own key is priced here"),
        pytest.param(settlement(amount=77), 77, None, id="a relay key is already"),
        pytest.param(settlement(amount=0), 0, None, id="what costs nothing has cost nothing"),
        pytest.param(settlement("strange"), None, "price", id="nobody knows a price"),
        pytest.param(settlement(usage=None), None, "usage", id="nobody knows what was used"),
        pytest.param(settlement(usage=None, reason=BROKE, amount=0), None, "usage", id="it broke off"),
        pytest.param(settlement(usage=None, reason=REFUSED, amount=0), None, None, id="nothing was worked on"),
        pytest.param(settlement(at_hold=True), None, "held", id="billed as held"),
        pytest.param(settlement(usage=None, at_hold=True), None, "held", id="billed as held, of unknown use"),
    ],
)
def test_a_cost_is_counted_or_said_to_be_missing(settled: Settlement, cost: int | None, unpriced: str | None) -> None:
    found = made()
    found.settled(settled, KNOWN)
    assert list(series(found, "relay_cost_nanodollars").values()) == ([] if cost is None else [cost])
    assert [labels[2] for labels in series(found, "relay_unpriced_requests")] == ([unpriced] if unpriced else [])


def test_what_came_before_the_price_list_is_priced_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_MOST_UNPRICED", 2)
    found = made(Prices(loaded=False))
    for model in ("listed", "strange", "listed"):
        found.settled(settlement(model), KNOWN)
    assert found.waits_for_prices and series(found, "relay_cost_nanodollars") == {}
    assert sum(series(found, "relay_unpriced_requests").values()) == 1, "there is room for so many"
    asyncio.run(found.price())
    assert sum(series(found, "relay_cost_nanodollars").values()) == 9000
    assert sum(series(found, "relay_unpriced_requests").values()) == 2
    assert not found.waits_for_prices


def test_ten_thousand_names_that_nobody_serves_add_no_series() -> None:
    found = made()
    for number in range(10_000):
        found.settled(settlement(f"invented-{number}", None, reason=REFUSED, amount=0), KNOWN)
        used = Used(model=f"invented-{number}")
        found.over(observed(operation="chat", used=used, outcome=Outcome.UPSTREAM_ERROR, error="http_404"))
    numbers = found.numbers
    assert all(len(each) == 1 for each in numbers.counters.values())
    assert all(len(each) == 1 for each in numbers.histograms.values())
    for number in range(10_000):  # an upstream that answers for any name
        found.settled(settlement(f"invented-{number}"), KNOWN)
    assert len({model for model, *_ in series(found, "relay_tokens")}) == 101
    found.settled(settlement("listed-too"), KNOWN)
    assert ("listed-too", "test", "input") in series(found, "relay_tokens"), "others have not taken its room"


def test_a_key_is_no_model() -> None:
    found, known = made(), KnownSecrets(b"")
    known.add(b"a-key-of-no-known-shape")
    found.settled(settlement("a-key-of-no-known-shape"), known)
    found.settled(settlement("sk-0123456789abcdefghij"), known)
    assert {model for model, *_ in series(found, "relay_tokens")} == {"other"}


def test_tokens_are_sorted() -> None:
    found = made()
    found.settled(settlement(usage=Metered(9, 14, cached=4, reasoning=3, searches=2, milliseconds=5)), KNOWN)
    told = {kind: count for (_, _, kind), count in series(found, "relay_tokens").items()}
    assert told == {"input": 9, "output": 14, "cached": 4, "reasoning": 3}


def test_a_stream() -> None:
    found = made()
    used = Used(model="gpt-3.5-turbo", usage=Metered(9, 11))
    times = {"first_byte": 0.5, "asked": 0.1, "upstream_seconds": 1.9, "streamed": 1.0, "overhead": 0.1}
    found.over(observed(operation="chat", upstream="test", used=used, stream=True, asked_times=1, **times))
    histograms = found.numbers.histograms
    sums = {name: sum(each.sum for each in found.values()) for name, found in histograms.items()}
    assert sums["gen_ai_server_time_to_first_token_seconds"] == 0.5
    assert sums["gen_ai_client_operation_time_to_first_chunk_seconds"] == pytest.approx(0.4)
    assert sums["gen_ai_server_time_per_output_token_seconds"] == pytest.approx(0.1)
    assert sums["gen_ai_client_operation_duration_seconds"] == 1.9
    assert sums["gen_ai_client_token_usage"] == 20 and sums["relay_overhead_seconds"] == 0.1
    assert series(found, "relay_upstream_attempts") == {("test", "ok"): 1}
    assert series(found, "relay_errors") == {}


def test_attempts_have_words_of_a_list() -> None:
    found = made()
    attempts = [
        {"upstream": "one", "reason": "rate limited", "status": 429},
        {"upstream": "one", "reason": "whatever a stranger says", "status": 503},
        {"upstream": "two", "error": "[Errno 104] reset", "reason": ""},
        {"upstream": "two", "status": 200, "reason": ""},
    ]
    found.over(observed(attempts=attempts, asked_times=4))
    found.over(observed(upstream="two", asked_times=1, outcome=Outcome.BROKEN, error="cut"))
    assert series(found, "relay_upstream_attempts") == {
        ("one", "rate_limited"): 1,
        ("one", "http_5xx"): 1,
        ("two", "broken"): 2,
        ("two", "ok"): 1,
    }
    assert series(found, "relay_errors") == {("cut", "two"): 1}


def test_whatever_is_counted_stands_in_the_list() -> None:
    found = made()
    found.settled(settlement(), KNOWN)
    found.over(observed(operation="chat", stream=True, first_byte=0.1, asked=0.0, overhead=0.0))
    known = {metric.name: len(metric.labels) for metric in ALL}
    counted = [(name, labels) for name, each in found.numbers.counters.items() for labels in each]
    counted += [(name, labels) for name, histograms in found.numbers.histograms.items() for labels in histograms]
    assert len(counted) > 8 and all(len(labels) == known[name] for name, labels in counted)
