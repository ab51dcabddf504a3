"""What metering costs: relay without its meter, relay that counts a caller's own key, and relay that admits and settles
a key of its own with a budget."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench import load, whole_streams
from tests.bench.load import Load
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import table, times, us
from tests.bench.targets import Starter, Target, fast_upstream, prove, relay
from tests.bench.whole_streams import Finished

_SCRIPT = Path(__file__).with_name("unmetered.py")
_KEY = "rk-bench-0123456789abcdef0123456789abcdef"
_BUDGET = {"amount": 10**8}
_EVENTS = 100
UNMETERED, OWN, BUDGET = "without the meter", "a caller's own key", "a relay key with a budget"
UNCOUNTED = "a caller's own key, without metrics"

NOTE = (
    "CPU of relay for one small chat completion (32 clients that keep their connections), and for one stream of "
    f"{_EVENTS} events from its request to its end ({{streams:,}} under way at a time, {{rate:g}} events/s each). "
    f"`{UNMETERED}` is the same relay with that addon taken out, `{UNCOUNTED}` one with `metrics.enabled: false`; "
    f"`{BUDGET}` reads each request, writes its hold, asks "
    "the stream for its usage, takes the extra chunk out and writes the settlement."
)


@dataclass(frozen=True)
class Streams:
    """How many are under way at a time, and how many events a second each of them has."""

    number: int = 200
    rate: float = 20.0


LONG = Streams(2000, 4.0)


def section(seconds: float, rounds: int, streams: Streams) -> str:
    """The table."""
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(fast_upstream(streams=True, rate=streams.rate))
        targets = []
        for start in _starters().values():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
            targets.append(stack.enter_context(start(folder, up.port)))
            prove(targets[-1])
        requests = rotate(targets, rounds, lambda target: target.load(load.COMPLETION, 32, seconds))
        whole = rotate(targets, rounds, partial(_finished, streams))
    return table(["", "CPU a request", "x without", "CPU a stream", "x without"], _rows(requests, whole))


def _finished(streams: Streams, target: Target) -> Finished:
    return whole_streams.run(target.port, target.child.pid, streams.number, _EVENTS, streams.rate, target.headers)


def _rows(requests: Mapping[str, list[Load]], streams: Mapping[str, list[Finished]]) -> list[list[str]]:
    rows = []
    for name in (UNMETERED, UNCOUNTED, OWN, BUDGET):
        assert not any(each.errors for each in requests[name]), f"{name}: {requests[name]}"
        assert all(each.finished == each.streams for each in streams[name]), f"{name}: {streams[name]}"
        rows.append([name, *_cells(requests, name), *_cells(streams, name)])
    return rows


def _cells[Seen: (Load, Finished)](found: Mapping[str, list[Seen]], name: str) -> tuple[str, str]:
    return (
        f"{us(middle(found[name], lambda one: one.cpu_each))} us",
        times(ratio(found, name, UNMETERED, lambda one: one.cpu_each)),
    )


def _starters() -> dict[str, Starter]:
    @contextlib.contextmanager
    def without(folder: Path, upstream_port: int) -> Iterator[Target]:
        with relay(folder, upstream_port, ["-s", str(_SCRIPT)], name=UNMETERED) as target:
            yield target

    @contextlib.contextmanager
    def own(folder: Path, upstream_port: int) -> Iterator[Target]:
        with relay(folder, upstream_port, name=OWN) as target:
            yield target

    @contextlib.contextmanager
    def uncounted(folder: Path, upstream_port: int) -> Iterator[Target]:
        with relay(folder, upstream_port, name=UNCOUNTED, metrics={"enabled": False}) as target:
            yield target

    @contextlib.contextmanager
    def budget(folder: Path, upstream_port: int) -> Iterator[Target]:
        upstreams = [{"name": "bench", "url": f"http://127.0.0.1:{upstream_port}", "keys": ["sk-real"]}]
        keys = {"list": [{"name": "bench", "key": _KEY, "budget": _BUDGET}]}
        with relay(folder, upstream_port, name=BUDGET, upstreams=upstreams, keys=keys) as target:
            yield replace(target, headers={"Authorization": f"Bearer {_KEY}"})

    return {UNMETERED: without, UNCOUNTED: uncounted, OWN: own, BUDGET: budget}
