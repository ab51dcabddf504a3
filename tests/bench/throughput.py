"""Requests: small chat completions with and without keep-alive, /chat, /pro/balance, and the memory they take."""

import time
from collections.abc import Sequence

from tests.bench import load, targets
from tests.bench.load import Ask, Load
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import mb, ms, table, times, us
from tests.bench.targets import DIRECT, PLAIN, RELAY, STOCK, Target

_HEAD = ["", "requests/s", "x mitmdump", "relay x", "added p50 ms", "added p99 ms", "CPU us/request", "errors"]


def keep_alive(
    running: Sequence[Target], clients: int, seconds: float, rounds: int
) -> tuple[str, dict[str, list[Load]]]:
    """One table: `clients` clients that keep their connections."""
    found = rotate(running, rounds, lambda target: target.load(load.COMPLETION, clients, seconds))
    return _table(found), found


def connections(running: Sequence[Target], clients: int, seconds: float, rounds: int) -> str:
    """One table: a connection for each request."""
    return _table(rotate(running, rounds, lambda target: target.load(load.CONNECTION, clients, seconds)))


def own(running: Sequence[Target], kind: str, clients: int, seconds: float, rounds: int) -> str:
    """One table for what relay answers itself: `chat` or `balance`. Beside it pass-through in the same rounds."""
    relays = [target for target in running if target.name in (RELAY, STOCK)]
    passed = rotate(
        relays, rounds, lambda target: (_own(target, kind, clients, seconds), _passed(target, clients, seconds))
    )
    rows = []
    for name, pairs in passed.items():
        loads = [one for one, _ in pairs]
        share = middle(pairs, lambda pair: pair[0].rate / pair[1].rate if pair[1].rate else 0.0)
        rows.append(
            [
                name,
                f"{middle(loads, _rate):,.0f}",
                times(share),
                ms(middle(loads, lambda each: each.p50)),
                ms(middle(loads, lambda each: each.p99)),
                us(middle(loads, lambda each: each.cpu_each)),
                str(sum(each.errors for each in loads)),
            ]
        )
    return table(["", "requests/s", "x pass-through", "p50 ms", "p99 ms", "CPU us/request", "errors"], rows)


def _own(target: Target, kind: str, clients: int, seconds: float) -> Load:
    asked: Ask = load.BALANCE if kind == "balance" else load.chat(f"{time.monotonic_ns():x}")
    return target.load(asked, clients, seconds)


def _passed(target: Target, clients: int, seconds: float) -> Load:
    return target.load(load.COMPLETION, clients, seconds)


def memory(running: Sequence[Target]) -> str:
    """One table: what each took before and after all that came so far."""
    rows = [[each.name, mb(each.at_rest), mb(each.loaded)] for each in running if each.name != DIRECT]
    return table(["", "at rest MB", "under load MB"], rows)


def _rate(each: Load) -> float:
    return each.rate


def _table(found: dict[str, list[Load]]) -> str:
    direct = found.get(DIRECT, [])
    rows = []
    for name, loads in found.items():
        p50 = _added(loads, direct, "p50") if name != DIRECT else 0.0
        p99 = _added(loads, direct, "p99") if name != DIRECT else 0.0
        rows.append(
            [
                name,
                f"{middle(loads, _rate):,.0f}",
                times(ratio(found, name, PLAIN, _rate)),
                times(ratio(found, RELAY, name, _rate)),
                ms(p50) if name != DIRECT else "",
                ms(p99) if name != DIRECT else "",
                us(middle(loads, lambda each: each.cpu_each)),
                str(sum(each.errors for each in loads)),
            ]
        )
    return table(_HEAD, rows)


def _added(loads: Sequence[Load], direct: Sequence[Load], name: str) -> float:
    pairs = zip(loads, direct, strict=False)
    return middle([getattr(one, name) - getattr(two, name) for one, two in pairs] or [0.0], float)


def generator(upstream_port: int, clients: int, seconds: float) -> str:
    """One table: what the generator gets from the upstream itself, wrk and our own."""
    rows = []
    for name, tool in (("wrk", load.wrk()), ("own", "own")):
        if tool:
            with load.only(name):
                found = load.run(upstream_port, load.COMPLETION, clients, seconds, {})
            rows.append([name, f"{found.rate:,.0f}", ms(found.p50), ms(found.p99)])
    return table(["generator", "requests/s", "p50 ms", "p99 ms"], rows)


def upstream_name() -> str:
    """What answers behind everything."""
    return "nginx, a static answer" if targets.nginx() else "our own upstream (tests/bench/upstream.py)"
