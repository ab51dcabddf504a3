"""Numbers that are counted, and how those of several processes become one.

1. `ALL` lists every metric with its labels: whatever is counted stands here, and nothing else is shown.
2. Counters and histograms only ever rise. A process that is gone leaves what it had counted (`Numbers.add_all`).
3. Gauges are looked at when somebody asks; those of several processes are summed, or the largest one counts.
4. Labels come from fixed lists and from relay.yaml. The one that strangers write is a model's name: `Models` bounds it.

Names that begin with `gen_ai` are OpenTelemetry's, in the form that Prometheus gives them: dots become underscores, a
unit of seconds is written out. relay is both sides there: `gen_ai_server_*` is what its callers see, from the request's
arrival on; `gen_ai_client_*` what relay sees of the upstream, from the moment in which that is asked.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

SEMANTIC_CONVENTIONS = "1.41.1"
"""Of OpenTelemetry, the last version that has GenAI in the main repository; names in metrics and spans are its own:
https://github.com/open-telemetry/semantic-conventions/blob/v1.41.1/docs/gen-ai/gen-ai-metrics.md"""

type Labels = tuple[str, ...]
type Kind = Literal["counter", "histogram", "gauge"]

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Of what should take no time at all."""

_OPERATION = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
MODEL_LABELS = ("gen_ai_request_model", "model")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is what stands before Prometheus' own `_total` and `_bucket`."""

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets, but for the last, which has none."""
    largest: bool = False
    """Of a gauge in several processes the largest one counts; else they are summed."""

    @property
    def model(self) -> int | None:
        """Where among the labels a model's name stands."""
        return next((at for at, name in enumerate(self.labels) if name in MODEL_LABELS), None)


ALL = (
    Metric(
        "gen_ai_server_request_duration_seconds",
        "histogram",
        "Time of a request to a model, from its arrival to the last byte of its answer.",
        (*_OPERATION, "error_type"),
        _SECONDS,
    ),
    Metric(
        "gen_ai_server_time_to_first_token_seconds",
        "histogram",
        "Time from a request's arrival to the first byte of its streamed answer.",
        _OPERATION,
        _FIRST,
    ),
    Metric(
        "gen_ai_server_time_per_output_token_seconds",
        "histogram",
        "Time of a streamed answer behind its first byte, divided by its tokens behind the first.",
        _OPERATION,
        _PER_TOKEN,
    ),
    Metric(
        "gen_ai_client_operation_duration_seconds",
        "histogram",
        "Time that the upstream takes, from being asked to the last byte of its answer; all attempts together.",
        _OPERATION,
        _SECONDS,
    ),
    Metric(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "histogram",
        "Time from asking the upstream to the first byte of its streamed answer.",
        _OPERATION,
        _SECONDS,
    ),
    Metric(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "histogram",
        "Time between two chunks of an event stream, as they come from the upstream.",
        ("gen_ai_provider_name",),
        _SECONDS,
    ),
    Metric(
        "gen_ai_client_token_usage",
        "histogram",
        "Tokens of a request, as the upstream tells them.",
        (*_OPERATION, "gen_ai_token_type"),
        _TOKENS,
    ),
    Metric(
        "relay_requests",
        "counter",
        "Requests that are over, by what they asked for, where they went and what became of them.",
        ("endpoint", "upstream", "status", "outcome"),
    ),
    Metric("relay_errors", "counter", "Requests that failed, by why.", ("kind", "upstream")),
    Metric(
        "relay_upstream_attempts",
        "counter",
        "Attempts at upstreams, by what became of them; several of one request, where it failed before.",
        ("upstream", "result"),
    ),
    Metric(
        "relay_tokens",
        "counter",
        "Tokens that upstreams have told. All types but input and output are parts of these two.",
        ("model", "upstream", "type"),
    ),
    Metric(
        "relay_cost_nanodollars",
        "counter",
        "What requests of known price have cost, in 10^-9 US dollars: a whole number, exact up to 9 million dollars.",
        ("model", "upstream"),
    ),
    Metric(
        "relay_unpriced_requests",
        "counter",
        "Generations that are not in relay_cost_nanodollars, since their usage or their price is not known.",
        ("model", "upstream", "reason"),
    ),
    Metric(
        "relay_request_duration_seconds",
        "histogram",
        "Time of a request of any kind, from its arrival to the last byte of its answer.",
        ("endpoint",),
        _SECONDS,
    ),
    Metric(
        "relay_overhead_seconds",
        "histogram",
        "Time that relay adds to a request that goes upstream: all of it, less the upstream's and its own body's.",
        (),
        _SHORT,
    ),
    Metric("relay_store_seconds", "histogram", "Time that the session store takes.", ("operation", "result"), _SHORT),
    Metric("relay_loop_lag_seconds", "histogram", "How late a timer comes that is set every half second.", (), _SHORT),
    Metric("relay_cpu_seconds", "counter", "Time of the processor that the serving processes have taken."),
    Metric("relay_log_lines_lost", "counter", "Lines of `log: json` that could not be made."),
    Metric("relay_spans", "counter", "Spans, by what became of them.", ("result",)),
    Metric("relay_requests_in_flight", "gauge", "Requests under way."),
    Metric("relay_streams_open", "gauge", "Event streams and websockets under way."),
    Metric("relay_clients", "gauge", "Connections of clients."),
    Metric("relay_queue", "gauge", "Requests that wait for a key of relay's own."),
    Metric("relay_holds", "gauge", "Requests that money or a rate is held for."),
    Metric("relay_held_nanodollars", "gauge", "What is held for them, in 10^-9 US dollars."),
    Metric("relay_sessions", "gauge", "Sessions that are kept for /chat."),
    Metric("relay_upstream_connections", "gauge", "Connections to an upstream.", ("upstream", "state")),
    Metric(
        "relay_upstream_down",
        "gauge",
        "1 where an upstream is left alone or none of its keys works, in one process at least.",
        ("upstream",),
        largest=True,
    ),
    Metric(
        "relay_upstream_cooldown_seconds",
        "gauge",
        "Seconds until an upstream that is left alone is tried again, in the process where that is longest.",
        ("upstream",),
        largest=True,
    ),
    Metric(
        "relay_upstream_keys",
        "gauge",
        "relay's own keys there: all, and those left alone.",
        ("upstream", "state"),
        largest=True,
    ),
    Metric("relay_memory_bytes", "gauge", "Resident memory of the serving processes."),
    Metric("relay_open_files", "gauge", "Open files of the process that has most.", largest=True),
    Metric("relay_open_files_limit", "gauge", "How many it may have.", largest=True),
    Metric("relay_processes", "gauge", "Processes that serve."),
)
BY_NAME = {metric.name: metric for metric in ALL}


class Histogram:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...], counts: Sequence[int] = (), total: float = 0.0) -> None:
        self._bounds = bounds
        self.counts = list(counts) or [0] * (len(bounds) + 1)
        self.sum = total

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


@dataclass
class Numbers:
    """What has been counted, by metric and labels."""

    counters: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, Histogram]] = field(default_factory=dict)
    gauges: dict[str, dict[Labels, float]] = field(default_factory=dict)
    named: frozenset[str] = frozenset()
    """Models that relay.yaml names: their labels are never taken away."""

    def count(self, name: str, labels: Labels = (), amount: float = 1) -> None:
        """Add to a counter."""
        series = self.counters.setdefault(name, {})
        series[labels] = series.get(labels, 0) + amount

    def histogram(self, name: str, labels: Labels = ()) -> Histogram:
        """The histogram with these labels."""
        series = self.histograms.setdefault(name, {})
        found = series.get(labels)
        if found is None:
            found = series[labels] = Histogram(BY_NAME[name].bounds)
        return found

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """One more value of a histogram."""
        self.histogram(name, labels).observe(value)

    def set(self, name: str, value: float, labels: Labels = ()) -> None:
        """Note a gauge."""
        self.gauges.setdefault(name, {})[labels] = value

    # Between processes

    def to_json(self) -> dict[str, Any]:
        """As it goes to another process."""
        return {
            "counters": {name: [[*item] for item in each.items()] for name, each in self.counters.items()},
            "histograms": {
                name: [[labels, found.counts, found.sum] for labels, found in each.items()]
                for name, each in self.histograms.items()
            },
            "gauges": {name: [[*item] for item in each.items()] for name, each in self.gauges.items()},
            "named": sorted(self.named),
        }

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Self:
        """The reverse. What is not known here, as of another version, is left out. Raises ValueError, TypeError or
        KeyError for what is none."""
        found = cls(named=frozenset(map(str, told["named"])))
        for metric, rows in _known(told["counters"], "counter"):
            found.counters[metric.name] = {_labels(metric, labels): float(value) for labels, value in rows}
        for metric, rows in _known(told["gauges"], "gauge"):
            found.gauges[metric.name] = {_labels(metric, labels): float(value) for labels, value in rows}
        for metric, rows in _known(told["histograms"], "histogram"):
            series = found.histograms[metric.name] = {}
            for labels, counts, total in rows:
                if len(counts) != len(metric.bounds) + 1:
                    raise ValueError("a histogram with other buckets")
                series[_labels(metric, labels)] = Histogram(metric.bounds, [int(each) for each in counts], float(total))
        return found

    def add_all(self, other: "Numbers", models: "Models", *, gauges: bool = True) -> None:
        """Add what another process has; `models` bounds the names of all of them together."""
        for name in other.named:
            models.name(name)
        for name, series in other.counters.items():
            for labels, value in series.items():
                self.count(name, _bounded(BY_NAME[name], labels, models), value)
        for name, found in other.histograms.items():
            for labels, histogram in found.items():
                mine = self.histogram(name, _bounded(BY_NAME[name], labels, models))
                mine.counts = [a + b for a, b in zip(mine.counts, histogram.counts, strict=True)]
                mine.sum += histogram.sum
        if gauges:
            self._add_gauges(other)

    def _add_gauges(self, other: "Numbers") -> None:
        for name, series in other.gauges.items():
            mine = self.gauges.setdefault(name, {})
            for labels, value in series.items():
                before = mine.get(labels)
                if before is None:
                    mine[labels] = value
                else:
                    mine[labels] = max(before, value) if BY_NAME[name].largest else before + value


def _known(told: Mapping[str, Any], kind: Kind) -> Iterator[tuple[Metric, Any]]:
    for name, rows in told.items():
        metric = BY_NAME.get(name)
        if metric is not None and metric.kind == kind:
            yield metric, rows


def _labels(metric: Metric, values: Sequence[object]) -> Labels:
    if len(values) != len(metric.labels):
        raise ValueError("other labels")
    return tuple(map(str, values))


def _bounded(metric: Metric, labels: Labels, models: "Models") -> Labels:
    at = metric.model
    if at is None:
        return labels
    return (*labels[:at], models.served(labels[at]), *labels[at + 1 :])


class Models:
    """Which names of models may stand in labels: those of relay.yaml, and `most` of the others that were served.

    A name never loses its place, and one that found none has none for ever: what is counted under it can't go back.
    """

    OTHER = "other"
    UNKNOWN = ""
    """No model was named."""

    def __init__(self, named: Iterable[str] = (), most: int = 100, longest: int = 100) -> None:
        self._named = {name for name in named if name}
        self._served: tuple[set[str], set[str]] = (set(), set())
        self._most = most
        self._longest = longest

    @property
    def named(self) -> frozenset[str]:
        """Those of relay.yaml."""
        return frozenset(self._named)

    def name(self, model: str) -> None:
        """relay.yaml names it."""
        self._named.add(model)

    def asked(self, model: str) -> str:
        """The label for a model that was asked for, whatever came of it."""
        others, listed = self._served
        if model in self._named or model in listed or model in others or model in (self.UNKNOWN, self.OTHER):
            return model
        return self.OTHER

    def served(self, model: str, *, listed: bool = False) -> str:
        """The label for one that an upstream has answered for: from now on it has one, where there is room. Those of
        the price list (`listed`) have room of their own, since some upstreams answer for any name."""
        label = self.asked(model)
        known = self._served[listed]
        if label != self.OTHER or len(known) >= self._most or len(model) > self._longest or not model.isprintable():
            return label
        known.add(model)
        return model
