"""A cluster in a minute: three relays behind HAProxy that share a Redis, clients, and faults by a seed.

What has to hold, whatever fails when:
1. Of each conversation every turn that was answered is there, once and in order.
2. No budget is passed, and every request is settled once: Redis, each machine's copy and the invoice agree.
3. Of 200 requests at once on a budget for 27 exactly 27 are admitted, on whichever relay they are, and while answers of
   Redis get lost.
4. Nobody has an error but who was on a relay that was killed or stood still until HAProxy has seen that, or who asked
   while Redis was away. Replies that get lost and a rolling restart cost nobody one.
5. Within 5 s everything has recovered, and nobody waits longer than that.
"""

import asyncio
import http.client
import itertools
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from addons.core.redis_address import parse_redis
from addons.store.keys_file import StoredKey, hash_of
from addons.store.shared.keys import changing
from addons.store.shared.names import Names
from tests.support.cluster import books, checks
from tests.support.cluster.clients import Clients, hold_of, request_of
from tests.support.cluster.cutting import Cutting
from tests.support.cluster.faults import Faults
from tests.support.cluster.haproxy import HAProxy
from tests.support.cluster.history import Fault, History, Told, on
from tests.support.cluster.relays import Relay
from tests.support.invoice import Invoice
from tests.support.redis_server import RedisServer, redis_server

TALKERS, SPENDERS, STREAMERS = 8, 3, 3
_REAL = "sk-real-cluster-0123456789abcdef"
_PREFIX = "cluster"
_AT_ONCE, _ADMITTED, _WAIT = 200, 27, 4.0
_CALM = 1.0
_START = 90.0
_MOST_SHOWN = 12


@dataclass
class Keys:
    """What is handed out before the relays start."""

    names: dict[str, str] = field(default_factory=dict)
    """By the keys themselves."""
    budgets: dict[str, int] = field(default_factory=dict)
    """Nano-dollars by name."""

    def named(self, kind: str) -> Iterator[str]:
        """Those of a kind, for ever."""
        return itertools.cycle([key for key, name in self.names.items() if name.startswith(kind)])

    def hand_out(self, redis: RedisServer, chance: random.Random, count: int) -> None:
        """Keep them in Redis."""
        amounts = {f"spend{n}": chance.choice([0, 1_000, 20_000, 60_000, 200_000, 1_000_000]) for n in range(count)}
        amounts |= {f"talk{n}": 100 * 10**9 for n in range(50)}
        for tag in ("calm", "cut"):
            hold = hold_of(request_of(f"once-{tag}", _WAIT))
            amounts[f"once-{tag}"] = _ADMITTED * hold + hold - 1
        secret = secrets.token_bytes(32)
        with Redis(port=redis.port) as client:
            client.set(Names(_PREFIX).secret, secret)
        with changing(parse_redis(redis.url), Names(_PREFIX)) as kept:
            for name, amount in amounts.items():
                key = f"rk-{name}-{chance.randrange(10**20):020d}-0123456789"
                self.names[key], self.budgets[name] = name, amount
                kept.append(StoredKey(name, name, hash_of(secret, key), "now", amount=f"{amount / 10**9:.9f}"))
                assert kept[-1].key().budget == amount


@dataclass
class Played:
    """What came of it."""

    seed: int
    seconds: float = 0.0
    rest: float = 0.0
    """Seconds until nothing was held any more."""
    history: History = field(default_factory=History)
    wrong: list[str] = field(default_factory=list)
    turns: int = 0
    settled: int = 0
    checks: list[tuple[float, str]] = field(default_factory=list)
    """What HAProxy has found, by seconds since the beginning."""

    def figures(self) -> str:
        """In a few lines."""
        told = self.history.told
        kinds = Counter(each.how if each.kind == "completion" else each.kind for each in told)
        streams = sum(each.how in ("stream", "last", "none") for each in told)
        faults = Counter(fault.kind.lstrip("0123456789 ") for fault in self.history.faults)
        recovery = max((fault.recovery for fault in self.history.faults), default=0.0)
        lines = (
            f"seed {self.seed}: {len(told)} requests in {self.seconds:.0f} s, {streams} of them streams, "
            f"{kinds['chat']} messages, {self.turns} turns kept, {sum(each.refused for each in told)} refused for "
            f"their budget, {sum(each.heard.left for each in told)} left, {self.settled} settlements",
            f"faults: {', '.join(f'{n} x {kind}' for kind, n in faults.items())}",
            f"errors: {', '.join(f'{n} x {cause}' for cause, n in self.history.errors.items()) or 'none'}",
            f"longest recovery {recovery:.1f} s; longest wait {self.history.slowest:.1f} s; "
            f"at rest after {self.rest:.1f} s",
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        if not self.wrong:
            return self.figures()
        seen = [(when, f"{when:8.2f}   HAProxy: {what}") for when, what in self.checks]
        line = "\n".join(text for _, text in sorted([*((f.begun, str(f)) for f in self.history.faults), *seen]))
        more = f"\n... and {len(self.wrong) - _MOST_SHOWN} more" if len(self.wrong) > _MOST_SHOWN else ""
        return f"{self.figures()}\n{line}\nwrong:\n" + "\n".join(self.wrong[:_MOST_SHOWN]) + more


class Cluster:
    """All of its parts, running."""

    def __init__(self, folder: Path, seed: int, seconds: float, stack: ExitStack) -> None:
        self.seed, self.seconds = seed, seconds
        chance = random.Random(seed)
        self.invoice = stack.enter_context(Invoice.running())
        self.redis = stack.enter_context(redis_server(folder / "redis"))
        self.cutting = stack.enter_context(Cutting(self.redis.port, random.Random(seed + 1)))
        self.keys = Keys()
        self.keys.hand_out(self.redis, chance, min(2000, int(8 * seconds)))
        settings = _settings(self.invoice, self.cutting)
        self.relays = [Relay(f"relay{number}", folder / f"relay{number}", settings) for number in range(3)]
        for relay in self.relays:
            stack.callback(relay.kill)
            relay.start()
            _await_ready(relay)  # one after another: the first compiles what all need
        self.haproxy = stack.enter_context(HAProxy(folder, {relay.name: relay.port for relay in self.relays}))
        self.clients = Clients(self.haproxy.port, seed, self.keys.named("spend"), self.keys.named("talk"))
        self.faults = Faults(self.relays, self.haproxy, self.redis, self.cutting, chance)

    def play(self) -> Played:
        """All of it, then the checks."""
        played = Played(self.seed)
        begun = time.monotonic()
        try:
            asyncio.run(self._play(played))
        except* AssertionError as group:
            played.wrong += [str(error) for error in group.exceptions]
        played.seconds = time.monotonic() - begun
        played.checks = [(when - begun, what) for when, what in self.haproxy.said]
        _count_from(begun, self.clients.told, self.faults.done)
        self._check(played)
        return played

    async def _play(self, played: Played) -> None:
        async with asyncio.timeout(self.seconds + 120):
            await self._exactly(played, "once-calm")
            self.cutting.share = 0.3
            await self._exactly(played, "once-cut")
            self.cutting.share = 0.0
            await asyncio.sleep(_CALM)  # what was answered is written down
            clients = asyncio.create_task(self.clients.run(TALKERS, SPENDERS, STREAMERS))
            try:
                await self.faults.play(self.seconds - 15)
            finally:
                self.clients.over.set()
                await clients
            await self.clients.show()

    async def _exactly(self, played: Played, tag: str) -> None:
        [key] = [key for key, name in self.keys.names.items() if name == tag]
        told = await self.clients.all_at_once(tag, key, _AT_ONCE, _WAIT)
        counts = Counter(each.heard.status for each in told)
        if counts != {200: _ADMITTED, 429: _AT_ONCE - _ADMITTED} or len(self.invoice.billed[tag]) != _ADMITTED:
            played.wrong.append(f"{tag}: {dict(counts)}, {len(self.invoice.billed.get(tag, ()))} billed")

    def _check(self, played: Played) -> None:
        history = played.history
        history.told, history.faults = self.clients.told, self.faults.done
        for told in history.told:
            told.server = on(told, self.haproxy.served_by.get(told.tag))
        played.wrong += history.judge()
        played.wrong += checks.conversations(self.clients.talks, self.invoice.bodies)
        played.turns = sum(len(talk.shown) for talk in self.clients.talks)
        names = Names(_PREFIX)
        with Redis(port=self.redis.port) as redis:
            kept, played.rest = books.at_rest(redis, names, self.relays)
        played.settled = len(kept.rows)
        said = {relay.name: relay.usage() for relay in self.relays}
        alone = [each for each in history.told if not each.tag.startswith("once-")]
        budgets, known = self.keys.budgets, self.keys.names
        billed = {tag: each for tag, each in self.invoice.billed.items() if not tag.startswith("once-")}
        once = {name: budget for name, budget in budgets.items() if name.startswith("once-")}
        played.wrong += checks.money(alone, kept, billed, budgets, known, history.faults)
        played.wrong += _once(kept, once, self.invoice)
        played.wrong += checks.reports(said, kept)
        for relay in self.relays:
            if "Traceback" in relay.log or _REAL in relay.log:
                where = max(relay.log.find("Traceback"), relay.log.find(_REAL))
                played.wrong.append(f"{relay.name} has printed: {relay.log[max(0, where - 300) : where + 2500]}")


def _once(kept: books.Books, budgets: Mapping[str, int], invoice: Invoice) -> list[str]:
    wrong = []
    for name in budgets:
        amounts = [row["amount"] for row in kept.rows if row["name"] == name]
        billed = [each.nano for each in invoice.billed.get(name, ())]
        if sorted(amounts) != sorted(billed):
            wrong.append(f"{name}: settled {sum(amounts)} in {len(amounts)}, billed {sum(billed)} in {len(billed)}")
    return wrong


def _settings(invoice: Invoice, cutting: Cutting) -> dict[str, Any]:
    return {
        "upstreams": [{"name": "test", "url": invoice.url, "keys": [_REAL]}],
        "store": {
            "kind": "redis",
            "url": f"redis://127.0.0.1:{cutting.port}/0",
            "prefix": _PREFIX,
            "path": "store",
        },
        "keys": {"open": True},
        "chat": {"model": "gpt-4o-mini", "context": {"max_turns": 100, "max_tokens": 1_000_000}},
        "limits": {"drain": "10s"},
    }


def _await_ready(relay: Relay) -> None:
    end = time.monotonic() + _START
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        assert time.monotonic() < end, f"{relay.name} did not start:\n{relay.log[-3000:]}"
        time.sleep(0.1)


def _count_from(begun: float, told: Sequence[Told], faults: Sequence[Fault]) -> None:
    for request in told:
        request.begun, request.ended = request.begun - begun, request.ended - begun
    for fault in faults:
        fault.begun, fault.ended, fault.seen = fault.begun - begun, fault.ended - begun, fault.seen - begun


def play(folder: Path, seed: int, seconds: float) -> Played:
    """Play for about so many seconds."""
    with ExitStack() as stack:
        return Cluster(folder, seed, seconds, stack).play()


def main(seed: int, seconds: float) -> int:
    """The command: prints what came of it."""
    print(f"a cluster for {seconds:.0f} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        played = play(Path(folder), seed, seconds)
    print(played)
    return 1 if played.wrong else 0
