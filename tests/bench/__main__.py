"""`./run.sh bench`: measures relay beside others, in turn, and writes tests/bench/RESULTS.md.

Everything stays on this machine's loopback, and everything started is ended.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from tests.bench import (
    ablation,
    cluster,
    far,
    flame,
    idle,
    leases,
    load,
    meter,
    others,
    sessions,
    soak,
    sse,
    throughput,
    watched,
    workers,
)
from tests.bench.load import Load
from tests.bench.others import Peer
from tests.bench.processes import Failed, more_files
from tests.bench.report import PLACE, Report
from tests.bench.rounds import ratio
from tests.bench.tables import times
from tests.bench.targets import (
    DIRECT,
    NGINX,
    PLAIN,
    RELAY,
    STOCK,
    Starter,
    Target,
    nginx_proxy,
    peer,
    plain,
    plain_streams,
    relay,
    running,
    stock,
)
from tests.support import histories, outages
from tests.support.cluster import driver

SECTIONS = (
    "requests",
    "connections",
    "workers",
    "chat",
    "balance",
    "memory",
    "sse",
    "sessions",
    "leases",
    "cluster",
    "meter",
    "watched",
    "far",
)

_A_MINUTE = 60.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float
    clients: tuple[int, ...]
    streams: tuple[int, ...]
    stores: tuple[int, ...]
    closing: int
    """Requests before an upstream that closes its connections."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Size":
        """As the command line says."""
        size = cls(5, 3, (1, 8, 32, 128), (200,), (1_000, 10_000, 100_000), 10_000)
        if given.quick:
            size = cls(2, 1, (1, 32), (100,), (1_000, 10_000), 1_000)
        if given.long:
            size = cls(7, 4, size.clients, (200, 1000), (*size.stores, 1_000_000), size.closing)
        return replace(size, rounds=given.rounds or size.rounds, seconds=given.seconds or size.seconds)


def main() -> int:
    """The command line."""
    given = _arguments()
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C: whatever was started is ended
    if given.generator:
        os.environ["RELAY_BENCH_GENERATOR"] = given.generator
    try:
        if given.profile:
            return flame.profile(given.profile, given.seconds or 15, given.clients)
        if given.soak:
            return soak.main(given.soak)
        if given.histories:
            return histories.main(given.histories, given.seed)
        if given.outages:
            return outages.main(given.outages, given.seed)
        if given.cluster:
            return driver.main(given.seed, given.seconds or _A_MINUTE)
        if given.idle:
            return idle.main(given.idle, given.seconds or idle.SECONDS)
        return _ablate(given) if given.ablate else _bench(given)
    except KeyboardInterrupt:
        return 130


def _bench(given: argparse.Namespace) -> int:
    more_files()  # for the targets, too: 1000 streams take 2000
    report, missing, began = Report(), dict[str, str](), time.monotonic()
    size, wanted = Size.of(given), set(given.only or SECTIONS)
    peers = _peers(given, missing)
    starters = _starters(peers)
    headline = ""
    if wanted - {"workers", "sse", "sessions", "leases", "cluster", "meter", "watched", "far"}:
        with running(starters, streams=False, missing=missing) as there:
            headline = _requests(report, there, size, wanted)
    if "workers" in wanted:
        # By themselves: the cores are scarce here.
        with running(workers.starters(), streams=False, missing=missing) as there:
            note = workers.NOTE.format(cores=workers.cores())
            report.add("Two workers beside one", workers.section(there, size.seconds, size.rounds), note)
    if "sse" in wanted:
        for number in size.streams:
            # Started anew: memory that an earlier load has taken would hide what the streams take.
            with running(starters | {PLAIN: plain_streams}, streams=True, missing=missing) as there:
                note = (
                    "All streams begin at once; the time to the first event counts the connection. mitmdump has the "
                    "one addon that lets it stream (peers/). The upstream is tests/bench/upstream.py."
                )
                report.add(
                    f"{number} streams of 20 events/s", sse.section(there, number, size.seconds + 1, _few(size)), note
                )
    if "sessions" in wanted:
        report.add("The session store by itself", sessions.section(list(size.stores)))
    if "leases" in wanted:
        report.add("Two processes and one store", leases.section(size.seconds, _few(size)), leases.NOTE)
    if "cluster" in wanted:
        try:
            report.add(cluster.TITLE, cluster.section(size.seconds, size.rounds), cluster.note())
        except Failed as error:
            missing[cluster.TITLE] = str(error)
    if "meter" in wanted:
        streams = meter.LONG if given.long else meter.Streams()
        note = meter.NOTE.format(streams=streams.number, rate=streams.rate)
        report.add("What metering costs", meter.section(size.seconds, size.rounds, streams), note)
    if "watched" in wanted:
        with running(watched.starters(), streams=False, missing=missing) as there:
            report.add(watched.TITLE, watched.section(there, size.seconds, size.rounds), watched.NOTE)
    if "far" in wanted:
        _far(report, size, peers, missing)
    if missing:
        report.add("Not measured", "\n".join(f"- {name}: {why}" for name, why in missing.items()))
    if headline:
        report.first("In short", headline)
    print(f"\n{time.monotonic() - began:.0f} s")
    if given.output or not (given.quick or given.only):
        report.write(given.output or PLACE, " ".join(["./run.sh bench", *sys.argv[1:]]))
    return 0


def _ablate(given: argparse.Namespace) -> int:
    more_files()
    report, missing, began = Report(), dict[str, str](), time.monotonic()
    seconds, rounds = given.seconds or 1, given.rounds or 20
    with running(ablation.starters(), streams=False, missing=missing) as there:
        asked = ablation.requests(there, seconds, rounds)
    with running(ablation.starters(), streams=True, missing=missing) as there:
        told = ablation.events(there, 2 * seconds, max(2, rounds // 2))
    report.add(ablation.TITLE, ablation.section(asked, told), ablation.NOTE.format(rounds=rounds))
    print(f"\n{time.monotonic() - began:.0f} s", *(f"\n{name}: {why}" for name, why in missing.items()))
    if given.output or not (given.rounds or given.seconds):
        report.replace(given.output or PLACE, ablation.TITLE)
    return 0


def _few(size: Size) -> int:
    return max(1, size.rounds // 2 + 1)


def _requests(report: Report, there: list[Target], size: Size, wanted: set[str]) -> str:
    """The sections of requests; returns what they come to."""
    note = (
        f"Upstream: {throughput.upstream_name()}. Load: {'wrk' if load.wrk() else 'our own generator'}. Medians of "
        f"{size.rounds} rounds of {size.seconds:g} s; ratios are medians of ratios within a round. relay and mitmdump "
        "both write their flow lines to /dev/null."
    )
    report.add("The generator against the upstream itself", throughput.generator(there[0].port, 32, size.seconds), note)
    loads: dict[int, dict[str, list[Load]]] = {}
    if "requests" in wanted:
        for clients in size.clients:
            text, loads[clients] = throughput.keep_alive(there, clients, size.seconds, size.rounds)
            report.add(f"Small chat completions, {clients} client(s), keep-alive", text)
    if "connections" in wanted:
        text = throughput.connections(there, 8, size.seconds, size.rounds)
        report.add("A new connection for each request, 8 clients", text)
    for kind, title in (("chat", "/chat, 32 clients, 1000 sessions"), ("balance", "/pro/balance, 32 clients")):
        if kind in wanted:
            report.add(title, throughput.own(there, kind, 32, size.seconds, _few(size)))
    if "memory" in wanted:
        report.add("Memory", throughput.memory(there))
    return _headline(loads)


def _headline(loads: dict[int, dict[str, list[Load]]]) -> str:
    if not loads:
        return ""
    clients = min(loads, key=lambda number: abs(number - 32))
    found = loads[clients]
    lines = []
    for name in found:
        rate = ratio(found, RELAY, name, lambda each: each.rate)
        cpu = ratio(found, name, RELAY, lambda each: each.cpu_each)
        if name not in (RELAY, DIRECT) and rate is not None:
            lines.append(f"- relay / {name}: **{times(rate)}** (in requests per second of CPU: {times(cpu)})")
    title = f"Requests a second with {clients} clients that keep their connections, one process each:"
    return "\n".join([title, "", *lines])


def _far(report: Report, size: Size, peers: Sequence[Peer], missing: dict[str, str]) -> None:
    note = far.FIRST_BYTE.format(count=far.samples(size.rounds))
    report.add("Far from the upstream: a new client's first byte", far.first_byte(size.rounds, peers, missing), note)
    text = far.new_connection(size.seconds, size.rounds)
    report.add("A new connection for each request, TLS to the upstream", text, far.NEW_CONNECTION)
    report.add("Connections that upstream closes", far.closed(size.closing), far.CLOSED)


def _peers(given: argparse.Namespace, missing: dict[str, str]) -> list[Peer]:
    found: list[Peer] = []
    if given.peers or "far" in (given.only or ()):
        for name, install in others.ALL.items():
            print(f"bench: {name}: looking into {given.cache}", file=sys.stderr)
            try:
                found.append(install(given.cache))
            except others.Unavailable as error:
                missing[name] = str(error)
    return found


def _starters(peers: Sequence[Peer]) -> dict[str, Starter]:
    own: dict[str, Starter] = {NGINX: nginx_proxy, RELAY: relay, STOCK: stock, PLAIN: plain}
    return own | {each.name: peer(each) for each in peers}


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run.sh bench",
        description="Measures relay beside plain mitmdump, nginx and, with --peers, other relays; writes RESULTS.md.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="about two minutes, rough; writes nothing without --output"
    )
    parser.add_argument(
        "--long", action="store_true", help="1000 streams, 2000 metered ones and a million sessions, too"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="LiteLLM, Portkey and openai-forward, installed on first use; --only far too",
    )
    parser.add_argument("--cache", type=Path, default=others.cache(), help="where peers are installed (%(default)s)")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section only; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often all of them have their turn")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--output", type=Path, help="write the results here")
    parser.add_argument("--generator", choices=["wrk", "own"], help="what makes the load (wrk where it is installed)")
    parser.add_argument(
        "--profile", nargs="?", type=Path, const=flame.PLACE, metavar="SVG", help="write a flame graph instead (py-spy)"
    )
    parser.add_argument("--clients", type=int, default=32, help="of the profile (%(default)s)")
    parser.add_argument(
        "--ablate", action="store_true", help="what each change for speed brings, each taken back alone (40 minutes)"
    )
    parser.add_argument(
        "--soak",
        nargs="?",
        type=int,
        const=200_000,
        metavar="N",
        help="N mixed requests instead (%(const)s): no leaks?",
    )
    parser.add_argument(
        "--idle",
        nargs="?",
        type=int,
        const=1000,
        metavar="N",
        help="N streams instead (%(const)s) that are silent for --seconds (600): is one lost?",
    )
    parser.add_argument(
        "--histories",
        nargs="?",
        type=int,
        const=10_000,
        metavar="N",
        help="N random histories of money instead (%(const)s): does every budget hold?",
    )
    parser.add_argument(
        "--outages",
        nargs="?",
        type=int,
        const=20_000,
        metavar="N",
        help="N requests instead (%(const)s) to upstreams that fail in every phase: is one asked twice?",
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="three relays behind HAProxy and one Redis instead, with faults, for --seconds (60): does all of it hold?",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the histories and faults (the time)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
