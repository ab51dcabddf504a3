"""The numbers of workers, as their parent keeps them."""

import asyncio
import json
import time

import pytest

from addons.core.metrics import Numbers
from addons.workers import gathering
from addons.workers.gathering import Gathering


def told(count: int, model: str = "m") -> bytes:
    numbers = Numbers()
    numbers.count("relay_requests", ("files", "one", "2xx", "ok"), count)
    numbers.count("relay_tokens", (model, "one", "input"), count)
    numbers.set("relay_clients", 1)
    return json.dumps(numbers.to_json()).encode()


def sums(found: bytes) -> tuple[float, float]:
    """Requests and clients."""
    numbers = Numbers.of_json(json.loads(found))
    return sum(numbers.counters["relay_requests"].values()), sum(numbers.gauges.get("relay_clients", {}).values())


def gather(made: Gathering, asker: object, numbers: bytes) -> bytes:
    return asyncio.run(made.all(asker, numbers))


def nothing(_what: object) -> None:
    pass


def test_who_asks_sees_the_sum_and_the_others_newest() -> None:
    asked: list[object] = []

    def ask(asker: object) -> None:
        asked.append(asker)
        made.told("b", told(7))

    made = Gathering(nothing, ask)
    made.told("b", told(2))
    assert sums(gather(made, "a", told(1))) == (8, 2)
    assert asked == ["a"]


def test_one_that_is_silent_counts_with_what_it_told_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    made = Gathering(nothing, nothing)
    made.told("b", told(2))
    begun = time.monotonic()
    assert sums(gather(made, "a", told(1))) == (3, 2)
    assert time.monotonic() - begun < 1


def test_what_is_gone_has_left_its_counts_and_no_gauges() -> None:
    made = Gathering(nothing, nothing)
    made.told("b", told(2))
    made.gone("b")
    made.gone("b")
    made.gone("never seen")
    assert sums(gather(made, "a", told(1))) == (3, 1)


def test_nobody_waits_for_one_that_dies_meanwhile() -> None:
    made = Gathering(nothing, lambda _asker: made.gone("b"))
    made.told("b", told(2))
    assert sums(gather(made, "a", told(1))) == (3, 1)


def test_names_of_models_are_bounded_however_many_workers_come_and_go() -> None:
    made = Gathering(nothing, nothing)
    before = 0.0
    for number in range(1000):
        made.told(number, told(1, f"model-{number}"))
        made.gone(number)
    numbers = Numbers.of_json(json.loads(gather(made, "a", told(1))))
    series = numbers.counters["relay_tokens"]
    assert len(series) <= 202 and sum(series.values()) == 1001 > before


def test_numbers_that_cannot_be_read_cost_themselves_alone() -> None:
    def broken(_numbers: object) -> None:
        raise RuntimeError("no ledger")

    made = Gathering(broken, nothing)
    made.told("b", b"{not json")
    made.told("c", json.dumps({"counters": {"relay_tokens": [[[], 1]]}}).encode())
    made.gone("c")
    made.gone("b")
    assert sums(gather(made, "a", told(1))) == (1, 1)
