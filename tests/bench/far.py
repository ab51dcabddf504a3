"""Far from the upstream: a new client's first byte, what a new connection costs, and connections that upstream closes.

1. A delaying proxy (tests/support/far.py) makes the upstream a round trip of 50 ms away, with TLS. Each sample is a new
   client that connects, asks for a small chat completion and waits for the first byte; then it reads the rest and goes.
2. Without delay: CPU for a request where each comes on a connection of its own, with TLS to the upstream.
3. Clients that keep their connections, before an upstream that closes its own at random: how many hear an error, and
   whether upstream was asked twice.
"""

import contextlib
import json
import math
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mitmproxy.io import FlowReader

from tests.bench import load, pausing
from tests.bench.generator import whole
from tests.bench.load import Load
from tests.bench.others import Peer
from tests.bench.processes import Failed, started
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import ms, table, times, us
from tests.bench.targets import DIRECT, PLAIN, RELAY, Target, peer, plain, prove, relay
from tests.support import certificates, closing_upstream, far
from tests.support.certificates import Pair
from tests.support.live import environment, free_port

ROUND_TRIP = 0.05
"""Seconds."""
_SAMPLES = 5
"""Of each in a round."""
WARM, UNPOOLED, KEPT = "relay, warm: 4", "relay, upstream_idle: 1ms", f"{DIRECT}, kept connection"
_CLIENTS = 8
_PAUSING = 4
_PAUSE = 0.025
_SAID = load.Ask("POST", "/v1/chat/completions", (json.dumps({"model": "gpt-4o-mini", "messages": [], "user": "%d"}),))

FIRST_BYTE = (
    f"A new client's first byte, in round trips of {ROUND_TRIP * 1e3:.0f} ms between all of these and the upstream "
    "(TLS 1.3); the client is near to them, and as far from the upstream itself. {count} samples of each, in turn. "
    "Aim: 1.3 with a warm pool. With `upstream_idle: 1ms` no connection is at hand, as before there was a pool."
)
NEW_CONNECTION = (
    f"CPU for one request where each comes on a connection of its own ({_CLIENTS} clients), with TLS to an upstream "
    "that is near. Aim: 0.8 of what it is without the pool."
)
CLOSED = (
    f"{_PAUSING} clients that keep their connections and pause for up to {_PAUSE * 1e3:.0f} ms. `unread`: upstream "
    "closes each connection 0 to 20 ms after its first answer, whether or not the next request is there, and reads "
    "none of it; `read`: it reads the second request whole, then closes. `repeated`: relay asked again, on a fresh "
    "one. Upstream's threads go before all others, where that is allowed, so that it closes in time on a busy machine."
)

type Starting = contextlib.AbstractContextManager[Target]


@dataclass(frozen=True)
class Way:
    """What a new client asks."""

    name: str
    port: int
    request: bytes
    tls: ssl.SSLContext | None = None
    kept: ssl.SSLSocket | None = None

    def first_byte(self) -> float:
        """Seconds until the first byte of an answer. Raises Failed where that is no success."""
        began = time.perf_counter()
        with self._connection() as connection:
            connection.sendall(self.request)
            buffer = bytearray(connection.recv(65536))
            took = time.perf_counter() - began
            while whole(buffer)[0] is None and (data := connection.recv(65536)):
                buffer += data
        if not buffer.startswith(b"HTTP/1.1 200"):
            raise Failed(f"{self.name} said {bytes(buffer[:200])!r}")
        return took

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        if self.kept is not None:
            yield self.kept
            return
        with socket.create_connection(("127.0.0.1", self.port), 30) as plain_one:
            plain_one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is None:
                yield plain_one
            else:
                with self.tls.wrap_socket(plain_one, server_hostname="127.0.0.1") as secured:
                    yield secured


# The first byte


def first_byte(rounds: int, peers: Sequence[Peer], missing: dict[str, str]) -> str:
    """The table of new clients, an upstream far away."""
    with contextlib.ExitStack() as stack:
        pair, port = stack.enter_context(_upstream())
        distant = stack.enter_context(far.running(port, ROUND_TRIP))
        starts = [
            _relay(pair, distant, WARM, warm=4),
            _relay(pair, distant, UNPOOLED),
            _mitmdump(pair, distant),
            *(_peer(pair, distant, each) for each in peers),
        ]
        ways = [*_direct(stack, pair, distant), *_ways(stack, starts, missing)]
        found = rotate(ways, rounds, lambda way: [way.first_byte() for _ in range(_SAMPLES)])
    rows = []
    for name, samples in found.items():
        all_of_them = sorted(each for several in samples for each in several)
        late = all_of_them[math.ceil(len(all_of_them) * 0.9) - 1]
        middle_one = middle(all_of_them, float)
        rows.append([name, times(middle_one / ROUND_TRIP), times(late / ROUND_TRIP), ms(middle_one)])
    return table(["", "first byte, round trips", "9 of 10 within", "p50 ms"], rows)


def samples(rounds: int) -> int:
    """How many samples of each there are."""
    return rounds * _SAMPLES


def _direct(stack: contextlib.ExitStack, pair: Pair, port: int) -> Iterator[Way]:
    context = ssl.create_default_context(cafile=str(pair.cert))
    request = _request(port, {})
    yield Way(DIRECT, port, request, context)
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kept = stack.enter_context(context.wrap_socket(connection, server_hostname="127.0.0.1"))
    yield Way(KEPT, port, request, kept=kept)


def _ways(stack: contextlib.ExitStack, starts: Sequence["_Start"], missing: dict[str, str]) -> Iterator[Way]:
    for start in starts:
        try:
            target = stack.enter_context(start.run())
            prove(target)
        except Failed as error:
            missing[f"{start.name}, far from the upstream"] = str(error)
        else:
            yield Way(target.name, target.port, _request(target.port, target.headers))


def _request(port: int, headers: Mapping[str, str]) -> bytes:
    (request,) = load.requests(port, load.COMPLETION, load.told(headers))
    return request.encode()


# What is started


@dataclass(frozen=True)
class _Start:
    """How one of them is started, in a folder of its own."""

    name: str
    begin: Callable[[Path], Starting]

    @contextlib.contextmanager
    def run(self) -> Iterator[Target]:
        """Until the block ends. Raises Failed."""
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, self.begin(Path(folder)) as target:
            yield target


@contextlib.contextmanager
def _upstream() -> Iterator[tuple[Pair, int]]:
    """A certificate, and the port of an upstream that has it."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        pair, port = certificates.self_signed(Path(name)), free_port()
        command = [sys.executable, "-m", "tests.bench.upstream", "--port", str(port)]
        command += ["--cert", str(pair.cert), "--key", str(pair.key)]
        with started("upstream", command, port, Path(name), environment()):
            yield pair, port


def _relay(pair: Pair, port: int, name: str, warm: int = 0) -> _Start:
    upstream = {"name": "bench", "url": f"https://127.0.0.1:{port}", "ca": str(pair.cert), "warm": warm}
    limits = {"upstream_idle": "1ms"} if name == UNPOOLED else {}
    return _Start(name, lambda folder: relay(folder, port, name=name, upstreams=[upstream], limits=limits))


def _mitmdump(pair: Pair, port: int) -> _Start:
    trusting = ("--set", f"ssl_verify_upstream_trusted_ca={pair.cert}")
    return _Start(PLAIN, lambda folder: plain(folder, port, trusting, scheme="https"))


def _peer(pair: Pair, port: int, each: Peer) -> _Start:
    trusting = {"SSL_CERT_FILE": str(pair.cert), "NODE_EXTRA_CA_CERTS": str(pair.cert)}
    return _Start(each.name, lambda folder: peer(each, "https", trusting)(folder, port))


# A new connection for each request


def new_connection(seconds: float, rounds: int) -> str:
    """The table of what it costs, an upstream near by."""
    with contextlib.ExitStack() as stack:
        pair, port = stack.enter_context(_upstream())
        targets = []
        for start in (_relay(pair, port, RELAY), _relay(pair, port, UNPOOLED), _mitmdump(pair, port)):
            targets.append(stack.enter_context(start.run()))
            prove(targets[-1])
        found = rotate(targets, rounds, lambda target: target.load(load.CONNECTION, _CLIENTS, seconds))
    rows = []
    for name, loads in found.items():
        cpu = (f"{us(middle(loads, _cpu))} us", times(ratio(found, name, UNPOOLED, _cpu)))
        rows.append([name, *cpu, times(ratio(found, name, PLAIN, _cpu)), str(sum(each.errors for each in loads))])
    return table(["", "CPU a request", "x without the pool", "x mitmdump", "errors"], rows)


def _cpu(each: Load) -> float:
    return each.cpu_each


# Connections that upstream closes


def closed(count: int) -> str:
    """The table of clients before an upstream that closes its connections."""
    rows = []
    for name, only_read, number in ((RELAY, False, count), (PLAIN, False, count // 10), (RELAY, True, count // 10)):
        with closing_upstream.running() as upstream, tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
            upstream.only_read = only_read
            saved = Path(folder, "repeated.flow")
            with _before(name, Path(folder), upstream.port, saved) as target:
                heard = pausing.run(target.port, _SAID, _PAUSING, number, _PAUSE)
            asked = Counter(json.loads(body)["user"] for body in upstream.accepted)
            repeated = f"{_flows(saved):,}" if name == RELAY else ""
        rows.append([f"{name}, {'read' if only_read else 'unread'}", *_counts(heard, asked), repeated])
    return table(["", "requests", "errors", "accepted", "accepted twice", "repeated"], rows)


def _before(name: str, folder: Path, port: int, saved: Path) -> Starting:
    if name == PLAIN:
        return plain(folder, port)
    keeping = ("--set", "save_stream_filter=~meta relay.repeated", "-w", str(saved))
    return relay(folder, port, keeping)


def _counts(heard: Mapping[int, int], asked: Mapping[str, int]) -> list[str]:
    errors = sum(number for status, number in heard.items() if status != 200)
    twice = sum(number > 1 for number in asked.values())
    return [f"{each:,}" for each in (sum(heard.values()), errors, len(asked), twice)]


def _flows(saved: Path) -> int:
    with saved.open("rb") as file:
        return sum(1 for _ in FlowReader(file).stream())
