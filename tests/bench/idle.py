"""Idle streams: many that have begun and are silent then, as while a model thinks. None may be lost, nothing may stay.

1. relay and plain mitmdump start before one upstream, and a few streams warm both up. Counts are taken: `before`.
2. Each has its streams opened; counts are taken once all have had their first event: `opened`.
3. Both hold theirs for so long, at the same time: the CPU of each.
4. Counts again (`held`); then the upstream sends all of them the last event, and each has to come to its end.
5. The clients close; counts are taken once descriptors are back, or after a while: `after`.
"""

import asyncio
import contextlib
import functools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.bench import load, targets
from tests.bench.processes import Child, Failed, descriptors, files, more_files
from tests.bench.soak import Counts, taken
from tests.bench.tables import kb, table
from tests.bench.targets import Target, fast_upstream

SECONDS = 600.0
"""How long streams are held if nothing else is said."""
LEFT = 3
"""Descriptors that may be more than before: none of them stands for a stream."""

_SPARE = 100
"""Descriptors for all but the streams."""
_WARM = 20
_AT_ONCE = 50
_OPENING = 10.0
"""Seconds that a stream has until its first event."""
_ENDING = 60.0
"""Seconds that all streams together have for their last one, and that descriptors have to be back."""
_TOLD = 60.0
"""Seconds between two lines that say it goes on."""
_COUNTS = Path(__file__).with_name("counts.py")
# mitmdump's own default, 600 s, would end the streams; relay's limits.idle is an hour.
_PATIENT = ["--set", "tcp_timeout=3600"]


class Stream(asyncio.Protocol):
    """One stream: all that came of it."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.came = bytearray()
        self.answered = asyncio.Event()
        """The first event is there, or there will be none."""
        self.over = asyncio.Event()
        """So is the last one."""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.came += data
        if self.begun or not b"HTTP/1.1 200 ".startswith(self.came[:13]):
            self.answered.set()
        if self.whole:
            self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is no more to come."""
        self.answered.set()
        self.over.set()

    def close(self) -> None:
        """Leave."""
        if self.transport is not None:
            self.transport.close()

    @property
    def begun(self) -> bool:
        """Whether its first event came."""
        return b"data:" in self.came

    @property
    def whole(self) -> bool:
        """Whether all of it came: first event, last event, `[DONE]` and the end of the body."""
        return all(part in self.came for part in (b" word", b'"finish_reason":"stop"', b"data: [DONE]")) and (
            self.came.endswith(b"\r\n0\r\n\r\n")
        )


@dataclass
class Held:
    """One target and its streams. CPU in seconds."""

    target: Target
    place: Path
    """Where it writes its counts."""
    streams: list[Stream] = field(default_factory=list)
    before: Counts = field(default_factory=dict)
    opened: Counts = field(default_factory=dict)
    held: Counts = field(default_factory=dict)
    after: Counts = field(default_factory=dict)
    cpu: float = 0.0
    """CPU for each second in which all streams were silent."""
    begun: int = 0
    lost: int = 0
    """Streams that did not begin, or did not come to their end."""

    @property
    def left(self) -> float:
        """Descriptors that are more than before."""
        return self.after["descriptors"] - self.before["descriptors"]

    @property
    def fails(self) -> list[str]:
        """What is wrong, in words."""
        lost = [f"{self.lost:,} of {len(self.streams):,} streams were lost"] if self.lost else []
        return lost + ([f"{self.left:,.0f} descriptors were left behind"] if self.left > LEFT else [])

    def each(self, counts: Counts) -> float:
        """Bytes of memory for one stream at the time of `counts`."""
        return (counts["memory MB"] - self.before["memory MB"]) * 1e6 / self.begun if self.begun else 0.0

    async def take(self) -> Counts:
        """What there is now. Raises Failed."""
        return await asyncio.to_thread(taken, self.target, self.place)


def main(number: int, seconds: float) -> int:
    """Print what came of it; 1 if relay lost a stream or left descriptors behind."""
    if sys.platform != "linux":
        print("bench: --idle reads /proc, so it runs on Linux only", file=sys.stderr)
        return 1
    try:
        found = run(number, seconds, loud=True)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"{number:,} streams each, silent for {seconds:g} s\n")
    print(report(found))
    return 1 if found[0].fails else 0


def report(found: Sequence[Held]) -> str:
    """A table, and a line for each target."""
    head = [
        "",
        "streams",
        "lost",
        "kB/stream",
        "after the hold",
        "idle CPU ms/s",
        "fds before",
        "open",
        "after",
        "tasks before",
        "open",
        "after",
    ]
    lines = [f"{each.target.name}: {' and '.join(each.fails) or 'none lost, none left behind'}" for each in found]
    return "\n".join([table(head, [_row(each) for each in found]), "", *lines])


def _row(each: Held) -> list[str]:
    steps = (each.before, each.opened, each.after)
    return [
        each.target.name,
        f"{len(each.streams):,}",
        f"{each.lost:,}",
        kb(each.each(each.opened)),
        kb(each.each(each.held)),
        f"{each.cpu * 1e3:.2f}",
        *(f"{counts[name]:,.0f}" for name in ("descriptors", "tasks") for counts in steps),
    ]


def run(number: int, seconds: float, *, loud: bool = False) -> list[Held]:
    """Have relay and plain mitmdump hold `number` streams for so long, relay first. Raises Failed."""
    with fast_upstream(streams=True) as upstream, _started(upstream.port) as holders:
        for each in holders:
            _fits(each.target, number)
        asyncio.run(_measure(holders, upstream, number, seconds, loud))
        return holders


@contextlib.contextmanager
def _started(upstream_port: int) -> Iterator[list[Held]]:
    with contextlib.ExitStack() as stack:
        holders = []
        # Else connections to the upstream rest there for a minute, and are no descriptors that were left behind.
        relay = functools.partial(targets.relay, limits={"upstream_idle": "500ms"})
        for start, arguments in ((relay, []), (targets.plain, [*targets.STREAMS, *_PATIENT])):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
            place = folder / "counts.json"
            counting = [*arguments, "-s", str(_COUNTS)]
            target = stack.enter_context(start(folder, upstream_port, counting, {"RELAY_BENCH_COUNTS": str(place)}))
            holders.append(Held(target, place))
            more_files()  # for mitmdump and the clients here; relay has been started and keeps what it was given
        yield holders


def _fits(target: Target, number: int) -> None:
    """Raises Failed where that many streams cannot go well: each takes a descriptor on either side."""
    needed, limit = number * 2 + _SPARE, files(target.child.pid)
    if limit < needed:
        raise Failed(
            f"{target.name} may open {limit} files, and {number} streams take {needed}: "
            f"`ulimit -Hn {needed}` before this, or fewer streams"
        )


async def _measure(holders: Sequence[Held], upstream: Child, number: int, seconds: float, loud: bool) -> None:
    for each in holders:
        await _warm(each, upstream)
    for each in holders:
        each.before = await each.take()
        each.streams = await _open(each.target.port, number)
        each.begun = sum(stream.begun for stream in each.streams)
        await asyncio.sleep(1)
        each.opened = await each.take()
    await _hold(holders, seconds, loud)
    for each in holders:
        each.held = await each.take()
    _release(upstream)
    for each in holders:
        await _end(each.streams)
        each.lost = sum(not stream.whole for stream in each.streams)
    for each in holders:
        await _close(each)


async def _warm(holder: Held, upstream: Child) -> None:
    """A few streams to their end, so that what is made once for all is there."""
    holder.before = await holder.take()
    holder.streams = await _open(holder.target.port, _WARM)
    _release(upstream)
    await _end(holder.streams)
    await _close(holder)


async def _open(port: int, number: int) -> list[Stream]:
    """So many streams, a few at a time; each has had its first event, or it failed."""
    (text,) = load.requests(port, load.stream(user="idle"), load.told({}))
    request, loop, gate = text.encode(), asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)

    async def one() -> Stream:
        stream = Stream(request)
        async with gate:
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(_OPENING):
                    await loop.create_connection(lambda: stream, "127.0.0.1", port)
                    await stream.answered.wait()
        return stream

    return list(await asyncio.gather(*(one() for _ in range(number))))


async def _hold(holders: Sequence[Held], seconds: float, loud: bool) -> None:
    """Nothing but silence for so long, and the CPU that it takes."""
    began, before = time.monotonic(), [each.target.child.usage().cpu for each in holders]
    while (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, _TOLD))
        if loud:
            there = ", ".join(f"{each.target.name} {_there(each):,}" for each in holders)
            print(f"{time.monotonic() - began:.0f} s, streams there: {there}", file=sys.stderr)
    lasted = time.monotonic() - began
    for each, cpu in zip(holders, before, strict=True):
        each.cpu = (each.target.child.usage().cpu - cpu) / lasted if lasted else 0.0


def _there(holder: Held) -> int:
    return sum(stream.begun and not stream.over.is_set() for stream in holder.streams)


def _release(upstream: Child) -> None:
    os.kill(upstream.pid, signal.SIGUSR1)


async def _end(streams: Sequence[Stream]) -> None:
    """Wait until all that have begun are over, or for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING):
            for stream in streams:
                if stream.begun:
                    await stream.over.wait()


async def _close(holder: Held) -> None:
    """Close all, and count when that has been noticed."""
    for stream in holder.streams:
        stream.close()
    end, pid = time.monotonic() + _ENDING, holder.target.child.pid
    while time.monotonic() < end and descriptors(pid) > holder.before["descriptors"]:
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)  # tasks end a little later
    holder.after = await holder.take()
