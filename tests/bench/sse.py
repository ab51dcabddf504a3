"""Streams: many at once, 20 events a second each."""

from collections.abc import Sequence

from tests.bench import streams
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.streams import Seen
from tests.bench.tables import kb, ms, table, times, us
from tests.bench.targets import PLAIN, Target

RATE = 20.0


def section(running: Sequence[Target], number: int, seconds: float, rounds: int) -> str:
    """One table: `number` streams that begin at once, watched for `seconds` when they run."""

    def measure(target: Target) -> Seen:
        return streams.run(target.port, target.child.pid, number, seconds, RATE, target.headers)

    found = rotate(running, rounds, measure)
    rows = []
    for name, seen in found.items():
        rows.append(
            [
                name,
                ms(middle(seen, lambda each: each.first_p50)),
                ms(middle(seen, lambda each: each.first_p99)),
                times(ratio(found, name, PLAIN, lambda each: each.first_p50)),
                us(middle(seen, lambda each: each.cpu_each)),
                times(ratio(found, name, PLAIN, lambda each: each.cpu_each)),
                # What the first round has left behind is used again by the others.
                kb(seen[0].memory_each),
                f"{middle(seen, lambda each: each.delivered):.0%}",
                str(sum(each.lost for each in seen)),
            ]
        )
    head = [
        "",
        "first p50 ms",
        "first p99 ms",
        "x mitmdump",
        "CPU us/event",
        "x mitmdump",
        "kB/stream",
        "events",
        "lost",
    ]
    return table(head, rows)
