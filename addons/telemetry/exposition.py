"""Exposition: numbers in the form that Prometheus reads."""

from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from addons.core.metrics import ALL, Histogram, Metric, Numbers


def exposition(numbers: Numbers, accept: str) -> tuple[bytes, str]:
    """The body of an answer to a scrape, and its content type: OpenMetrics where `accept` asks for it."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(numbers))
    return encode(registry), content_type


class _Collected(Collector):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Family]:
        """One family for each metric that has a value."""
        for metric in ALL:
            if (family := _family(metric, self._numbers)) is not None:
                yield family

    def describe(self) -> Iterable[Family]:
        """Nothing: there is one collector, so no names that could clash."""
        return ()


def _family(metric: Metric, numbers: Numbers) -> Family | None:
    if metric.kind == "histogram":
        if not (histograms := numbers.histograms.get(metric.name)):
            return None
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, histogram in sorted(histograms.items()):
            family.add_metric(labels, _buckets(metric, histogram), histogram.sum)
        return family
    held = numbers.counters if metric.kind == "counter" else numbers.gauges
    if not (series := held.get(metric.name)):
        return None
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    simple = made(metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted(series.items()):
        simple.add_metric(labels, value)
    return simple


def _buckets(metric: Metric, histogram: Histogram) -> list[tuple[str, float]]:
    names = [*map(floatToGoString, metric.bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True))
