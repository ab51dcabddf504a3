"""Print an excerpt of made-up agent runs: `python -m tests.support.agent_runs --seed 1 --calls 20`."""

import argparse
from collections import Counter
from contextlib import suppress

from tests.support.agent_runs import Call, agent_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument(
        "--counts", action="store_true", help="print how often each reason, scenario and dialect occurs instead"
    )
    given = parser.parse_args()
    calls = agent_runs(given.seed, given.calls)
    if given.counts:
        return _print_counts(list(calls))
    with suppress(BrokenPipeError):
        for call in calls:
            print(_told(call))


def _told(call: Call) -> str:
    truth, usage = call.truth, call.usage
    who = f"{call.program} {call.dialect} {call.model} @{call.upstream}"
    head = f"{call.index:>4}  {call.at:>10.1f}s  {who}  {call.scenario}"
    billed = (
        f"in {usage.input}, cached {usage.cached}, written {usage.written}, out {usage.output}" if usage else "no usage"
    )
    parent = f" (of {truth.parent})" if truth.parent else ""
    part = f" ({truth.part})" if truth.part else ""
    unsure = "  ambiguous" if truth.ambiguous else ""
    lines = [
        head,
        f"      {call.status} {call.outcome}: {billed}; body {len(call.body)} bytes, answer {len(call.answer)}",
    ]
    lines.append(f"      {truth.thread}{parent}, before it {truth.previous}: {truth.reason}{part}{unsure}")
    if truth.path is not None:
        lines.append(f"      {truth.path}: {truth.before!r:.70} -> {truth.after!r:.70}")
    if truth.tokens and truth.cost is not None:
        lines.append(f"      {truth.tokens} tokens not from the cache: ${truth.cost / 10**9:.6f}")
    return "\n".join(lines)


def _print_counts(calls: list[Call]) -> None:
    for name, values in (
        ("reason", [f"{each.truth.reason} {each.truth.part or ''}" for each in calls]),
        ("ambiguous", [str(each.truth.ambiguous) for each in calls]),
        ("outcome", [each.outcome for each in calls]),
        ("dialect", [each.dialect for each in calls]),
        ("program", [each.program for each in calls]),
        ("scenario", [each.scenario for each in calls]),
    ):
        print(name)
        for value, number in Counter(values).most_common():
            print(f"  {number:>5}  {value}")


if __name__ == "__main__":
    main()
