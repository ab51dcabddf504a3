"""Numbers, and how those of several processes become one."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.metrics import ALL, BY_NAME, MODEL_LABELS, Histogram, Models, Numbers

COUNTERS = [metric for metric in ALL if metric.kind == "counter"]


def again(numbers: Numbers) -> Numbers:
    return Numbers.of_json(json.loads(json.dumps(numbers.to_json())))


def some(*amounts: int, model: str = "m") -> Numbers:
    numbers = Numbers()
    for amount in amounts:
        numbers.count("relay_tokens", (model, "one", "input"), amount)
        numbers.observe("relay_overhead_seconds", (), amount / 1000)
    numbers.set("relay_clients", len(amounts))
    numbers.set("relay_upstream_down", max(amounts, default=0), ("one",))
    return numbers


def test_names_and_labels_are_prometheus_own_kind() -> None:
    assert len(BY_NAME) == len(ALL)
    for metric in ALL:
        assert re.fullmatch(r"(gen_ai|relay)_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert metric.help.endswith(".") and bool(metric.bounds) == (metric.kind == "histogram")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert not {"key", "path", "caller", "session"} & set(metric.labels)
        assert sum(name in MODEL_LABELS for name in metric.labels) <= 1


def test_a_value_at_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1] and histogram.sum == 14.0


@given(st.lists(st.lists(st.integers(0, 1000), max_size=5), max_size=5))
def test_the_sum_of_several_is_what_one_would_have_counted(parts: list[list[int]]) -> None:
    found, models = Numbers(), Models()
    for part in parts:
        found.add_all(again(some(*part)), models)
    whole = some(*[each for part in parts for each in part])
    assert found.counters == {
        name: {("other" if labels[0] == "m" and models.asked("m") != "m" else labels[0], *labels[1:]): value}
        for name, series in whole.counters.items()
        for labels, value in series.items()
    }
    if whole.histograms:
        mine = found.histograms["relay_overhead_seconds"][()]
        theirs = whole.histograms["relay_overhead_seconds"][()]
        assert mine.counts == theirs.counts and mine.sum == pytest.approx(theirs.sum)
    if parts:
        assert found.gauges["relay_clients"][()] == sum(map(len, parts))
        assert found.gauges["relay_upstream_down"][("one",)] == max(max(part, default=0) for part in parts)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"counters": {}, "gauges": {}, "histograms": {}},
        {"counters": {"relay_tokens": [[["m"], 1]]}, "gauges": {}, "histograms": {}, "named": []},
        {"counters": {}, "gauges": {}, "histograms": {"relay_overhead_seconds": [[[], [1, 2], 3]]}, "named": []},
        {"counters": {"relay_tokens": [["m", "one", "input"]]}, "gauges": {}, "histograms": {}, "named": []},
    ],
)
def test_what_is_none_is_refused(told: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Numbers.of_json(told)


def test_what_another_version_counts_is_left_out() -> None:
    told = some(3).to_json()
    told["counters"]["relay_of_tomorrow"] = [[["x"], 1]]
    told["gauges"]["relay_tokens"] = [[["m", "one", "input"], 1]]
    found = Numbers.of_json(told)
    assert found.counters.keys() == {"relay_tokens"} and "relay_tokens" not in found.gauges


def test_models_that_nobody_serves_have_no_label() -> None:
    models = Models(["mine"])
    assert [models.asked(f"m{number}") for number in range(10_000)] == ["other"] * 10_000
    assert models.asked("mine") == "mine" and models.asked("") == ""


def test_served_models_have_one_while_there_is_room() -> None:
    models = Models(["mine"], most=3)
    assert [models.served(f"m{number}") for number in range(5)] == ["m0", "m1", "m2", "other", "other"]
    assert [models.served(f"gpt-{number}", listed=True) for number in range(4)] == ["gpt-0", "gpt-1", "gpt-2", "other"]
    assert models.served("x" * 1000) == models.served("a\nb") == "other"
    assert models.served("m1") == "m1" and models.asked("gpt-2") == "gpt-2"


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh"))))
def test_a_label_once_given_stays(asked: list[tuple[bool, str]]) -> None:
    models, given_to = Models(most=3), dict[str, str]()
    for served, name in asked:
        label = models.served(name) if served else models.asked(name)
        assert label in (name, "other")
        if given_to.get(name) == name:
            assert label == name
        given_to[name] = label
    assert len({label for label in given_to.values() if label != "other"}) <= 3
