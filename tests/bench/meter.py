"""What metering costs: relay without its meter, relay that counts a caller's own key, and relay that admits and settles
a key of its own with a budget."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import load
from tests.bench.load import Load
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import table, times, us
from tests.bench.targets import Starter, Target, _prove, fast_upstream, relay

_SCRIPT = Path(__file__).with_name("unmetered.py")
_KEY = "rk-bench-0123456789abcdef0123456789abcdef"
_BUDGET = {"amount": 10**8}
_EVENTS = 100
_STREAMS = 40
"""At a time."""
_RATE = 50.0
UNMETERED, OWN, BUDGET = "without the meter", "a caller's own key", "a relay key with a budget"

NOTE = (
    "CPU of relay for one small chat completion (32 clients that keep their connections) and for one stream of "
    f"{_EVENTS} events ({_STREAMS} at a time, {_RATE:g} events/s each). `{UNMETERED}` is the same relay with that "
    f"addon taken out; `{BUDGET}` reads each request, writes its hold, asks the stream for its usage, takes the extra "
    "chunk out and writes the settlement."
)


def section(seconds: float, rounds: int) -> str:
    """The table."""
    asks = {
        "request": (load.COMPLETION, 32, seconds),
        "stream": (load.stream(max_tokens=_EVENTS), _STREAMS, max(8 * _EVENTS / _RATE, 2 * seconds)),
    }
    found: dict[str, dict[str, list[Load]]] = {}
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(fast_upstream(streams=True, rate=_RATE))
        targets = []
        for start in _starters().values():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
            targets.append(stack.enter_context(start(folder, up.port)))
            _prove(targets[-1])
        for kind, (ask, clients, long) in asks.items():
            found[kind] = rotate(targets, rounds, partial(_measured, ask, clients, long))
    return table(["", "CPU a request", "x without", "CPU a stream", "x without", "streams"], _rows(found))


def _measured(ask: load.Ask, clients: int, seconds: float, target: Target) -> Load:
    return target.load(ask, clients, seconds)


def _rows(found: Mapping[str, Mapping[str, list[Load]]]) -> list[list[str]]:
    rows = []
    for name in (UNMETERED, OWN, BUDGET):
        cells = [name]
        for kind in ("request", "stream"):
            each = found[kind].get(name, [])
            # Those that are under way at the end have no answer yet.
            assert each and all(one.errors <= _STREAMS for one in each), f"{name}, {kind}: {each}"
            cells.append(f"{us(middle(each, lambda one: one.cpu_each))} us")
            cells.append(times(ratio(found[kind], name, UNMETERED, lambda one: one.cpu_each)))
        cells.append(f"{sum(one.requests for one in found['stream'][name]):,}")
        rows.append(cells)
    return rows


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
    def budget(folder: Path, upstream_port: int) -> Iterator[Target]:
        upstreams = [{"name": "bench", "url": f"http://127.0.0.1:{upstream_port}", "keys": ["sk-real"]}]
        keys = {"list": [{"name": "bench", "key": _KEY, "budget": _BUDGET}]}
        with relay(folder, upstream_port, name=BUDGET, upstreams=upstreams, keys=keys) as target:
            yield replace(target, headers={"Authorization": f"Bearer {_KEY}"})

    return {UNMETERED: without, OWN: own, BUDGET: budget}
