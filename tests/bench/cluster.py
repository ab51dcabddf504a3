"""Relays that share a Redis, behind HAProxy: what one carries, and two, and four, under the same load, in turn.

On few cores four relays can't be faster than two, and the generator, HAProxy, Redis and the upstream run on the same
ones. So beside what came stands what each request took of the relays' own CPU, which is what capacity is made of.
"""

import contextlib
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from addons.core.redis_address import parse_redis
from addons.store.keys_file import StoredKey, hash_of
from addons.store.shared.keys import changing
from addons.store.shared.names import Names
from tests.bench import load, targets
from tests.bench.load import Ask, Load
from tests.bench.processes import Child, Failed, usage
from tests.bench.rounds import middle
from tests.bench.tables import ms, table, times, us
from tests.bench.workers import aside, cores
from tests.support.cluster.haproxy import PROGRAM as HAPROXY
from tests.support.cluster.haproxy import HAProxy
from tests.support.redis_server import PROGRAM as REDIS
from tests.support.redis_server import RedisServer, redis_server

TITLE = "Several relays and one Redis"
COUNTS = (1, 2, 4)
AIM, CPU_AIM = 1.7, 1.1
"""How many times one relay two of them have to be, generator and upstream aside; and how much CPU a request may take
where there are four, beside one."""
NOTE = (
    "Relays behind HAProxy ({haproxy}) that share a Redis, in turn; {cores} cores, on which generator, HAProxy, Redis "
    "and the upstream run as well; {clients} clients for each relay. A completion is one of a relay key with a budget: "
    "it is held before and settled after, in Redis (appendonly, appendfsync everysec). *Aside* puts the CPU of all "
    "others aside, as for workers above: requests/s x w / min(w, cores - their cores). *Capacity* is relays / CPU of a "
    "request: what they carry with a core each that is theirs alone. Where more processes want the cores than there "
    "are, each request takes more of them, whatever it does: so relays that share nothing, each with its own store, "
    "stand beside."
)
_KEY = "rk-cluster-0123456789abcdef0123456789abcdef"
_PREFIX = "bench"
_CLIENTS = 32
_HEAD = ["", "requests/s", "x one", "aside/s", "x one", "relays' cores", "their cores", "CPU us/request", "x one"]
_HEAD += ["capacity/s", "p99 ms", "errors"]


@dataclass
class Group:
    """So many relays behind one HAProxy."""

    relays: Sequence[targets.Target]
    haproxy: HAProxy
    redis: RedisServer
    upstream: Child

    def others(self) -> float:
        """Seconds of CPU of HAProxy, Redis and the upstream."""
        return sum(usage(pid).cpu for pid in (self.haproxy.pid, self.redis.pid, self.upstream.pid))

    def cpu(self) -> float:
        """Seconds of CPU of the relays."""
        return sum(relay.child.usage().cpu for relay in self.relays)

    def load(self, ask: Ask, seconds: float) -> "Run":
        """Load it, and see what that took."""
        cpu, others = self.cpu(), self.others()
        found = load.run(
            self.haproxy.port, ask, _CLIENTS * len(self.relays), seconds, {"Authorization": f"Bearer {_KEY}"}
        )
        others = self.others() - others + found.generator
        return Run(found, len(self.relays), self.cpu() - cpu, others / found.seconds if found.seconds else 0.0)


@dataclass(frozen=True)
class Run:
    """One load on it."""

    load: Load
    relays: int
    cpu: float
    others: float
    """Cores that all others kept busy."""

    @property
    def aside(self) -> float:
        """Requests a second, the CPU of all others put aside."""
        return aside(self.load.rate, self.relays, self.others, cores())

    @property
    def each(self) -> float:
        """Seconds of the relays' CPU for one request."""
        return self.cpu / self.load.requests if self.load.requests else 0.0


def missing() -> str:
    """What is not installed; empty where nothing is missing."""
    lacking = [name for name, program in (("haproxy", HAPROXY), ("redis-server", REDIS)) if program is None]
    return f"{' and '.join(lacking)} not installed: apt install {' '.join(lacking)}" if lacking else ""


def section(seconds: float, rounds: int) -> str:
    """The table, and what it comes to. Raises processes.Failed."""
    if lacking := missing():
        raise Failed(lacking)
    with _groups(shared=True) as groups:
        shared = _measure(groups, load.COMPLETION, seconds, rounds)
        chats = _measure(groups, None, seconds, rounds)
    with _groups(shared=False) as groups:
        apart = _measure(groups, load.COMPLETION, seconds, rounds)
    found = {"completions": shared, "/chat": chats, "completions, sharing nothing": apart}
    rows = [row for title, runs in found.items() for row in _rows(title, runs)]
    return f"{table(_HEAD, rows)}\n\n{_verdict(shared, apart)}"


def note() -> str:
    """What stands before it."""
    said = subprocess.run([str(HAPROXY), "-v"], capture_output=True, text=True, check=False).stdout.split()
    return NOTE.format(haproxy=" ".join(said[2:3]) or "not installed", cores=cores(), clients=_CLIENTS)


def _hand_out(redis: RedisServer) -> None:
    secret = secrets.token_bytes(32)
    with Redis(port=redis.port) as client:
        client.set(Names(_PREFIX).secret, secret)
    with changing(parse_redis(redis.url), Names(_PREFIX)) as kept:
        kept.append(StoredKey("bench", "bench", hash_of(secret, _KEY), "now", amount="1000000"))


@contextlib.contextmanager
def _groups(*, shared: bool) -> Iterator[dict[int, Group]]:
    """Four relays, and a HAProxy before each number of them: those that are not asked rest."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        redis = stack.enter_context(redis_server(home / "redis", "--appendfsync", "everysec"))
        _hand_out(redis)
        up = stack.enter_context(targets.fast_upstream(streams=False))
        settings: dict[str, Any] = {
            "upstreams": [
                {"name": "bench", "url": f"http://127.0.0.1:{up.port}", "keys": ["sk-real-0123456789abcdef"]}
            ],
            "keys": {"open": True},
            "store": {"kind": "redis", "url": redis.url, "prefix": _PREFIX, "path": "store"},
        }
        if not shared:
            listed = {"name": "bench", "key": _KEY, "budget": {"amount": 1_000_000}}
            settings |= {"keys": {"open": True, "list": [listed]}, "store": {"path": "store"}}
        relays = []
        for number in range(max(COUNTS)):
            (folder := home / f"relay{number}").mkdir()
            relays.append(stack.enter_context(targets.relay(folder, up.port, name=f"relay{number}", **settings)))
            targets.prove(relays[-1])
        groups = dict[int, Group]()
        for count in COUNTS:
            (place := home / f"haproxy{count}").mkdir()
            servers = {relay.name: relay.port for relay in relays[:count]}
            haproxy = stack.enter_context(HAProxy(place, servers, measured=True))
            groups[count] = Group(relays[:count], haproxy, redis, up)
        yield groups


def _measure(groups: dict[int, Group], ask: Ask | None, seconds: float, rounds: int) -> dict[int, list[Run]]:
    """Each in turn, there and back; without `ask`, messages to sessions that are new each time."""
    found: dict[int, list[Run]] = {count: [] for count in groups}
    for group in groups.values():
        group.load(ask or _chat(), 1)
    for number in range(rounds):
        for count in found if number % 2 == 0 else reversed(found):
            found[count].append(groups[count].load(ask or _chat(), seconds))
    return found


def _chat() -> Ask:
    return load.chat(f"{time.monotonic_ns():x}")


def _against_one(found: dict[int, list[Run]], count: int, value: Callable[[Run], float]) -> float:
    pairs = zip(found[count], found[1], strict=True)
    return middle([value(run) / value(one) if value(one) else 0.0 for run, one in pairs], float)


def _rows(title: str, found: dict[int, list[Run]]) -> Iterator[list[str]]:
    for count, runs in found.items():
        yield [
            f"{title}, {count} relay(s)",
            f"{middle(runs, lambda run: run.load.rate):,.0f}",
            times(_against_one(found, count, lambda run: run.load.rate)),
            f"{middle(runs, lambda run: run.aside):,.0f}",
            times(_against_one(found, count, lambda run: run.aside)),
            times(middle(runs, lambda run: run.cpu / run.load.seconds)),
            times(middle(runs, lambda run: run.others)),
            us(middle(runs, lambda run: run.each)),
            times(_against_one(found, count, lambda run: run.each)),
            f"{middle(runs, lambda run: 1 / run.each if run.each else 0.0) * count:,.0f}",
            ms(middle(runs, lambda run: run.load.p99)),
            str(sum(run.load.errors for run in runs)),
        ]


def _verdict(shared: dict[int, list[Run]], apart: dict[int, list[Run]]) -> str:
    two = _against_one(shared, 2, lambda run: run.aside)
    capacity = 2 / _against_one(shared, 2, lambda run: run.each)
    four, plain = (_against_one(found, 4, lambda run: run.each) for found in (shared, apart))
    return (
        f"Two relays / one: generator, HAProxy, Redis and upstream aside **{times(two)}**, by the CPU of a request "
        f"**{times(capacity)}** (aim {AIM:g}). CPU of a request with four relays / with one: **{times(four)}** (at "
        f"most {CPU_AIM:g}), where they share nothing {times(plain)}: sharing takes **{times(four / plain)}** times "
        "as much."
    )
