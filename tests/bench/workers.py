"""Workers: relay with one process beside relay with two, under the same load, in turn.

Where there are few cores, the generator and the upstream run on those that the workers would have. So beside what came
there is what would have come with their CPU put aside (`aside`). Only idle cores speak against relay then.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import load, targets
from tests.bench.load import Ask, Load
from tests.bench.processes import Child
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import mb, ms, table, times, us
from tests.bench.targets import Starter, Target

AIM = 1.6
"""How many times one worker two of them have to be, on two cores, the generator put aside."""
NOTE = (
    "`workers: 1` beside `workers: 2`, in turn. Load and upstream run on the same cores: {cores} here. *Aside* puts "
    "their CPU aside: requests/s x w / min(w, cores - their cores), where w is the cores that the workers can use, no "
    "more than there are, and *their cores* is the CPU of generator and upstream divided by the time of the run. A "
    "core that was left to relay and stayed idle counts against it. CPU and memory are those of all relay's processes."
)

_CLIENTS = 32
_HEAD = [
    "",
    "requests/s",
    "x one",
    "aside/s",
    "x one",
    "relay's cores",
    "their cores",
    "CPU us/request",
    "p99 ms",
    "MB",
    "errors",
]


@dataclass(frozen=True)
class Run:
    """One load on relay with so many workers."""

    load: Load
    workers: int
    others: float
    """Cores that generator and upstream kept busy."""

    @property
    def rate(self) -> float:
        """Requests a second, as they came."""
        return self.load.rate

    @property
    def aside(self) -> float:
        """Requests a second, the CPU of generator and upstream put aside."""
        return aside(self.load.rate, self.workers, self.others, cores())

    @property
    def own(self) -> float:
        """Cores that relay kept busy."""
        return self.load.cpu / self.load.seconds if self.load.seconds else 0.0


def aside(rate: float, workers: int, others: float, cores: int) -> float:
    """Requests a second, had the workers had all the cores that they can use.

    `rate` is what came while `others` of the machine's `cores` were taken from them.
    """
    wanted = min(workers, cores)
    left = min(wanted, cores - others)
    return rate * wanted / left if left > 0 else 0.0


def cores() -> int:
    """Cores that this process may use, and so all that it starts."""
    return os.process_cpu_count() or 1


def name(workers: int) -> str:
    """What relay with so many workers is called."""
    return f"workers: {workers}"


def starters() -> dict[str, Starter]:
    """relay with one worker, and with two."""
    return {name(workers): _starter(workers) for workers in (1, 2)}


def _starter(workers: int) -> Starter:
    @contextlib.contextmanager
    def start(folder: Path, upstream_port: int) -> Iterator[Target]:
        with targets.relay(folder, upstream_port, name=name(workers), workers=workers) as target:
            yield target

    return start


def section(running: Sequence[Target], seconds: float, rounds: int) -> str:
    """One table and what it comes to; `running` is the upstream and what `starters` start."""
    upstream, relays = running[0].child, running[1:]
    for target in relays:
        target.load(load.COMPLETION, _CLIENTS, 1)  # else the second worker meets its first request in a round
    completions = rotate(relays, rounds, lambda target: _run(target, upstream, load.COMPLETION, seconds))
    chats = rotate(relays, rounds, lambda target: _run(target, upstream, _chat(), seconds))
    rows = [*_rows("completions", completions, relays), *_rows("/chat", chats, relays)]
    return f"{table(_HEAD, rows)}\n\n{_verdict(completions)}"


def _chat() -> Ask:
    return load.chat(f"{time.monotonic_ns():x}")


def _run(target: Target, upstream: Child, ask: Ask, seconds: float) -> Run:
    before = upstream.usage().cpu
    found = target.load(ask, _CLIENTS, seconds)
    others = found.generator + upstream.usage().cpu - before
    workers = 2 if target.name == name(2) else 1
    return Run(found, workers, others / found.seconds if found.seconds else 0.0)


def _rows(title: str, found: dict[str, list[Run]], relays: Sequence[Target]) -> Iterator[list[str]]:
    memory = {target.name: target.loaded for target in relays}
    for each, runs in found.items():
        yield [
            f"{title}, {each}",
            f"{middle(runs, lambda run: run.rate):,.0f}",
            times(ratio(found, each, name(1), lambda run: run.rate)),
            f"{middle(runs, lambda run: run.aside):,.0f}",
            times(ratio(found, each, name(1), lambda run: run.aside)),
            times(middle(runs, lambda run: run.own)),
            times(middle(runs, lambda run: run.others)),
            us(middle(runs, lambda run: run.load.cpu_each)),
            ms(middle(runs, lambda run: run.load.p99)),
            mb(memory[each]),
            str(sum(run.load.errors for run in runs)),
        ]


def _verdict(found: dict[str, list[Run]]) -> str:
    plain = ratio(found, name(2), name(1), lambda run: run.rate)
    put_aside = ratio(found, name(2), name(1), lambda run: run.aside)
    if put_aside is None:
        return "Nothing to compare."
    return f"Two workers / one: {times(plain)}, generator aside **{times(put_aside)}** (aim {AIM:g} on two cores)."
