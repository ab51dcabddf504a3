"""Many streams at once through one target, seen from outside: a process of its own.

    python -m tests.bench.streams '{"port": 9000, "pid": 9, "streams": 200, ...}'

1. All connect and ask at once: the time from then to each stream's first event.
2. When all have begun (or a while has passed) and things have settled: events and CPU of process `pid` over `seconds`.
3. All are closed, and the process comes to rest, so that the next turn does not pay for this one.

Prints one line of JSON (`Seen`).
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from tests.bench.load import requests, stream, told
from tests.bench.processes import more_files, usage
from tests.support.live import ROOT, environment

_BEGIN = 30.0
"""Seconds in which all streams must have begun, and in which all must be quiet after their end."""
_LOOK = 0.5
"""Seconds between two looks at a process that comes to rest."""
_REST = 0.05
"""The share of a core below which a process is at rest."""


@dataclass(frozen=True)
class Seen:
    """What came of it. Times in seconds."""

    streams: int
    begun: int
    lost: int
    """Those that did not begin, and those that broke off."""
    first_p50: float
    first_p99: float
    events: int
    expected: float
    cpu: float
    rss_before: float
    rss_open: float

    @property
    def cpu_each(self) -> float:
        """CPU of the target for one event."""
        return self.cpu / self.events if self.events else 0.0

    @property
    def memory_each(self) -> float:
        """Bytes for one open stream."""
        return (self.rss_open - self.rss_before) / self.begun if self.begun else 0.0

    @property
    def delivered(self) -> float:
        """Events that came, of those the upstream meant to send: below 1 where the target can't keep up."""
        return self.events / self.expected if self.expected else 0.0


class Listener(asyncio.Protocol):
    """One stream."""

    def __init__(self, request: bytes, counts: list[int], firsts: list[float], began: float) -> None:
        self.request, self.counts, self.firsts, self.began = request, counts, firsts, began
        self.fresh = True
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast(asyncio.Transport, transport).write(self.request)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.gone = True

    def data_received(self, data: bytes) -> None:
        """Count events."""
        events = data.count(b"data:")
        if events:
            self.counts[0] += events
            if self.fresh:
                self.fresh = False
                self.firsts.append(time.perf_counter() - self.began)


async def _open(port: int, listener: Listener) -> asyncio.Transport | None:
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: listener, "127.0.0.1", port)
    except OSError:
        return None
    return transport


async def watch(spec: dict[str, Any]) -> Seen:
    """Do as `spec` says."""
    counts, firsts, number = [0], list[float](), spec["streams"]
    before = usage(spec["pid"])
    began = time.perf_counter()
    request = spec["request"].encode()
    listeners = [Listener(request, counts, firsts, began) for _ in range(number)]
    transports = await asyncio.gather(*(_open(spec["port"], listener) for listener in listeners))
    while len(firsts) < number and time.perf_counter() - began < _BEGIN:
        await asyncio.sleep(0.02)
    await asyncio.sleep(1)
    start, events, first = time.perf_counter(), counts[0], usage(spec["pid"])
    await asyncio.sleep(spec["seconds"])
    last = usage(spec["pid"])
    events, seconds = counts[0] - events, time.perf_counter() - start
    lost = sum(listener.fresh or listener.gone for listener in listeners)
    for transport in transports:
        if transport is not None:
            transport.abort()
    await rest(spec["pid"])
    times = sorted(firsts) or [0.0]
    return Seen(
        number,
        len(firsts),
        lost,
        times[len(times) // 2],
        times[len(times) * 99 // 100],
        events,
        number * spec["rate"] * seconds,
        last.cpu - first.cpu,
        before.rss,
        last.rss,
    )


async def rest(pid: int) -> None:
    """Wait until process `pid` has nothing left to do, or for a while."""
    end, before = time.perf_counter() + _BEGIN, usage(pid).cpu
    while time.perf_counter() < end:
        await asyncio.sleep(_LOOK)
        now = usage(pid).cpu
        if not now - before > _REST * _LOOK:
            return
        before = now


def run(port: int, pid: int, streams: int, seconds: float, rate: float, headers: Mapping[str, str]) -> Seen:
    """Watch from another process. Raises subprocess.SubprocessError."""
    asked = stream(max_tokens=round(rate * (seconds + _BEGIN * 2)))
    (request,) = requests(port, asked, told(headers))
    spec = {"port": port, "pid": pid, "streams": streams, "seconds": seconds, "rate": rate, "request": request}
    command = [sys.executable, "-m", "tests.bench.streams", json.dumps(spec)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=seconds + 4 * _BEGIN
    )
    return Seen(**json.loads(done.stdout))


if __name__ == "__main__":
    more_files()
    print(json.dumps(asdict(asyncio.run(watch(json.loads(sys.argv[1]))))))
