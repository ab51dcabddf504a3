"""What each change for speed brings: relay with all of them, beside relays that lack one each.

CPU is counted, for rates on a shared machine say more of the neighbours. A figure is the median over the rounds of
(without it / with all) - 1, and beside it the interval that holds that median in 19 of 20 cases (order statistics).
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.bench import load, streams, without
from tests.bench.load import Load
from tests.bench.rounds import rotate
from tests.bench.sse import RATE
from tests.bench.tables import table, us
from tests.bench.targets import RELAY, Starter, Target, relay

_SCRIPT = Path(__file__).with_name("without.py")
_STREAMS = 60
_SURE = 0.05

TITLE = "What each change for speed brings"
NOTE = (
    "CPU of relay for one request of 32 clients that keep their connections, for one request on a connection of its "
    f"own (8 clients), and for one event of {_STREAMS} streams, without one change each: how much more it is than with "
    "all, and between what bounds in 19 of 20 cases. {rounds} rounds, all in turn in each."
)


def starters() -> dict[str, Starter]:
    """relay, and relays without something."""
    found: dict[str, Starter] = {RELAY: _starter("")}
    return found | {name: _starter(name) for name in without.CHANGES}


def _starter(name: str) -> Starter:
    @contextlib.contextmanager
    def start(folder: Path, upstream_port: int) -> Iterator[Target]:
        arguments, environ = ["-s", str(_SCRIPT)], {"RELAY_BENCH_WITHOUT": name}
        with relay(folder, upstream_port, arguments, environ, name or RELAY) as target:
            yield target

    return start


def requests(running: Sequence[Target], seconds: float, rounds: int) -> dict[str, list[list[Load]]]:
    """Requests with and without keep-alive: by target, a list for each kind."""
    there = [each for each in running if each.name in starters()]
    kinds = ((load.COMPLETION, 32), (load.CONNECTION, 8))

    def measured(ask: load.Ask, clients: int) -> dict[str, list[Load]]:
        return rotate(there, rounds, lambda target: target.load(ask, clients, seconds))

    found = [measured(*kind) for kind in kinds]
    return {name: [each[name] for each in found] for name in found[0] if name in found[1]}


def events(running: Sequence[Target], seconds: float, rounds: int) -> dict[str, list[float]]:
    """CPU for an event of a stream."""
    there = [each for each in running if each.name in starters()]
    return rotate(there, rounds, lambda target: _event(target, seconds))


def _event(target: Target, seconds: float) -> float:
    return streams.run(target.port, target.child.pid, _STREAMS, seconds, RATE, target.headers).cpu_each


def section(asked: dict[str, list[list[Load]]], told: dict[str, list[float]]) -> str:
    """The table."""
    rows = []
    cpu = {name: [[each.cpu_each for each in kind] for kind in kinds] for name, kinds in asked.items()}
    for name, (kept, new) in cpu.items():
        cells = [_cell(each, whole) for each, whole in zip((kept, new), cpu[RELAY], strict=True)]
        cells.append(_cell(told.get(name, []), told[RELAY]))
        if name == RELAY:
            cells = [f"{us(median(each))} us" for each in (kept, new, told[RELAY])]
        rate = f"{median(each.rate for each in asked[name][0]):,.0f}"
        rows.append([name if name == RELAY else f"without {name}", rate, *cells])
    return table(["", "requests/s", "CPU a request", "a new connection", "an event"], rows)


def _cell(these: Sequence[float], whole: Sequence[float]) -> str:
    more = sorted(one / two - 1 for one, two in zip(these, whole, strict=False) if two)
    if not more:
        return ""
    low, high = _bounds(len(more))
    return f"{median(more):+.1%} ({more[low]:+.1%} to {more[high]:+.1%})"


def _bounds(number: int) -> tuple[int, int]:
    """The places, in a sorted list of so many, between which their median lies in all but `_SURE` of the cases."""
    below = itertools.accumulate(math.comb(number, each) / 2**number for each in range(number // 2))
    place = max(0, sum(2 * each <= _SURE for each in below) - 1)
    return place, number - 1 - place
