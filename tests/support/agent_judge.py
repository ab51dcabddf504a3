"""Judges threads and causes by runs of agents whose truth is known: `python -m tests.support.agent_judge --calls 5000`.

The runs (tests/support/agent_runs) are frozen, and were written before what is judged here.
"""

import argparse
import sys
from collections import Counter
from decimal import Decimal

from addons.core.rates import Rates, cost, flat
from addons.core.slices import at_once
from addons.core.threads.call import Call, Outcome, Placed
from addons.core.threads.registry import Threads
from tests.support import agent_runs
from tests.support.agent_runs.prices import PRICES

OUTCOMES = {
    "answered": Outcome.ANSWERED,
    "refused": Outcome.REFUSED,
    "timed_out": Outcome.UNHEARD,
    "left": Outcome.LEFT,
}
WHAT = ("thread", "previous", "reason", "part", "path", "before", "after", "tokens", "cost")
_PROMISED = {"thread": 1.0, "path": 1.0, "reason": 0.98, "cost": 1.0}


def call_of(call: agent_runs.Call) -> Call:
    """A made-up call as relay's core takes it."""
    return Call(
        str(call.index),
        call.at,
        call.path,
        call.headers,
        call.body,
        call.answer,
        call.answer_type == "text/event-stream",
        OUTCOMES[call.outcome],
        call.upstream,
        call.key,
    )


def list_cost(placed: Placed) -> int | None:
    """What was lost, in nano-dollars, by relay's arithmetic and the stub's list."""
    if placed.lost is None:
        return placed.cause.tokens and None
    price = PRICES[placed.model]
    rates = Rates(
        input=flat(Decimal(price.input) / 1000),
        cached=flat(Decimal(price.cached) / 1000),
        cache_write=flat(Decimal(price.written_5m) / 1000),
        cache_write_1h=flat(Decimal(price.written_1h) / 1000),
        output=flat(Decimal(price.output) / 1000),
    )
    return cost(placed.lost, rates)


class Judge:
    """Hears calls in their order, and notes what was found of each and what is true."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._label: dict[str, str] = {}
        self._truth: dict[str, str] = {}
        self.calls = 0
        self.found: list[tuple[agent_runs.Call, dict[str, tuple[object, object]]]] = []
        """Of each call what is not as it should be: what was found, and what is true."""
        self.orphans: list[agent_runs.Call] = []
        """Of subagents and side calls: those whose parent was not found."""

    def hear(self, call: agent_runs.Call) -> None:
        """Place the next call, and compare."""
        self.calls += 1
        placed = at_once(self._threads.placing(call_of(call)))
        assert placed is not None, call.path
        truth, cause = call.truth, placed.cause
        known = self._label.setdefault(truth.thread, placed.thread), self._truth.setdefault(placed.thread, truth.thread)
        pairs: dict[str, tuple[object, object]] = {
            "thread": ((placed.thread, truth.thread), known),
            "previous": (cause.previous, None if truth.previous is None else str(truth.previous)),
            "path": (cause.path, truth.path),
            "before": (cause.before, truth.before),
            "after": (cause.after, truth.after),
            "tokens": (cause.tokens, truth.tokens),
            "cost": (0 if cause.tokens == 0 else list_cost(placed), truth.cost),
        }
        if not truth.ambiguous:
            pairs |= {"reason": (str(cause.reason), truth.reason), "part": (cause.part, truth.part)}
        self.found.append((call, {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}))
        if truth.parent is not None and placed.parent is None:
            self.orphans.append(call)

    def wrong(self, *names: str) -> list[tuple[int, str, str, dict[str, tuple[object, object]]]]:
        """The calls of which one of these is wrong."""
        return [
            (call.index, call.scenario, call.dialect, {name: found[name] for name in names if name in found})
            for call, found in self.found
            if found.keys() & set(names)
        ]


def main() -> int:
    """Print how much is right, and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=agent_runs.CI_SEED)
    parser.add_argument("--calls", type=int, default=5000)
    given = parser.parse_args()
    judge = Judge(Threads(1 << 30))
    for call in agent_runs.agent_runs(given.seed, given.calls):
        judge.hear(call)
    for each in judge.wrong(*WHAT):
        print(*each)
    wrong = Counter(name for _, found in judge.found for name in found)
    judged = sum(not call.truth.ambiguous for call, _ in judge.found)
    for name in WHAT:
        of = judged if name in ("reason", "part") else judge.calls
        print(f"{name:<9} {100 * (1 - wrong[name] / of):6.2f} % right of {of} calls")
    return int(any(1 - wrong[name] / judge.calls < least for name, least in _PROMISED.items()))


if __name__ == "__main__":
    sys.exit(main())
