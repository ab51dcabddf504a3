"""The soak: many requests of all kinds, broken ones among them; relay must end with what it began with.

The first part of the requests warms everything up and is not judged. Then memory, file descriptors, threads and relay's
own counts (counts.py) are taken, the rest of the requests follows, and all of it is taken again.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import targets
from tests.bench.load import KEY
from tests.bench.processes import Failed, descriptors, threads
from tests.bench.tables import table
from tests.bench.targets import Target, fast_upstream

CLIENTS = 32
_PATIENCE = 30.0
"""Seconds that one request may take."""

_IDLE = 1
_LIMITS = {"upstream_idle": f"{_IDLE}s"}
"""Connections to upstream that rest are gone when descriptors are counted: how many there are is chance."""
_KEPT = {"keep_threads": 300_000}
"""What is kept on purpose has come to its bound before anything is judged."""

Counts = dict[str, float]


@dataclass(frozen=True)
class Bound:
    """By how much a count may grow."""

    most: float


# Steady things come back to what they were; memory and objects may grow by what is kept on purpose (sessions' caches,
# names of the newest exchanges) and by what an allocator doesn't give back.
_STEADY = Bound(3)
BOUNDS = {
    "memory MB": Bound(16),
    "descriptors": _STEADY,
    "threads": _STEADY,
    "tasks": _STEADY,
    "locks": Bound(0),
    "timers": _STEADY,
    "connections": Bound(0),
    "HTTPFlow": _STEADY,
    "Exchange": _STEADY,
    "HttpStream": _STEADY,
    "objects": Bound(5000),
}


@dataclass
class Soaked:
    """What came of it."""

    before: Counts
    after: Counts
    said: Counter[str]
    seconds: float

    @property
    def grown(self) -> dict[str, float]:
        """What grew by more than it may: the name, and by how much."""
        growth = {name: self.after[name] - self.before[name] for name in BOUNDS if name in self.before}
        return {name: more for name, more in growth.items() if more > BOUNDS[name].most}


def main(number: int) -> int:
    """Print what came of it; 1 if something leaks."""
    try:
        soaked = run(number, loud=True)
    except Failed as error:
        print(f"bench: {error}")
        return 1
    names = [name for name in soaked.before if name in soaked.after]
    rows = [
        [
            name,
            f"{soaked.before[name]:,.1f}",
            f"{soaked.after[name]:,.1f}",
            f"+{BOUNDS[name].most:g}" if name in BOUNDS else "",
            "GREW" if name in soaked.grown else "",
        ]
        for name in names
    ]
    print(f"{number:,} requests in {soaked.seconds:.0f} s\n")
    print(table(["what came", "times"], [[name, f"{times:,}"] for name, times in sorted(soaked.said.items())]) + "\n")
    print(table(["", "before", "after", "may", ""], rows))
    return 1 if soaked.grown else 0


def run(number: int, *, loud: bool = False) -> Soaked:
    """Soak a relay of its own in `number` requests. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, fast_upstream(streams=True, rate=200) as upstream:
        folder = Path(name)
        place = folder / "counts.json"
        script = ["-s", str(Path(__file__).with_name("counts.py"))]
        variables = {"RELAY_BENCH_COUNTS": str(place)}
        with targets.relay(folder, upstream.port, script, variables, inspect=_KEPT, limits=_LIMITS) as relay:
            said, began = Counter[str](), time.monotonic()
            warm = max(200, number // 3 if number < 30_000 else number // 10)
            asyncio.run(_ask(relay.port, warm, said))
            before = _settled(relay, place)
            for done in range(0, number - warm, 20_000):
                asyncio.run(_ask(relay.port, min(20_000, number - warm - done), said))
                if loud:
                    print(f"{warm + done:,} requests, {relay.child.usage().rss / 1e6:.1f} MB", flush=True)
            after = _settled(relay, place)
            return Soaked(before, after, said, time.monotonic() - began)


def _settled(relay: Target, place: Path) -> Counts:
    """Counts once nothing is under way any more, or after a while."""
    end = time.monotonic() + 15
    counts = taken(relay, place)
    while time.monotonic() < end and counts["connections"]:
        time.sleep(0.5)
        counts = taken(relay, place)
    time.sleep(2 * _IDLE)
    return taken(relay, place)


def taken(relay: Target, place: Path) -> Counts:
    """What a target that runs counts.py counts now, by way of the file `place`, and /proc's counts. Raises Failed."""
    place.unlink(missing_ok=True)
    end, asked = time.monotonic() + 30, 0.0
    while not place.exists():
        if time.monotonic() > end or relay.child.process.poll() is not None:
            raise Failed(f"{relay.name} tells no counts: {relay.child.said()}")
        if time.monotonic() > asked + 1:  # again: it may listen before its addons run, and ignores the signal till then
            asked = time.monotonic()
            os.kill(relay.child.pid, signal.SIGUSR1)
        time.sleep(0.02)
    own: Counts = json.loads(place.read_text())
    pid = relay.child.pid
    outside = {"memory MB": relay.child.usage().rss / 1e6, "descriptors": descriptors(pid), "threads": threads(pid)}
    return {**outside, **own}


# -- the requests


class Peer:
    """A client: one connection that is kept, and others for what breaks them."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.port, self.chance = port, chance
        self.kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Another connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def completion(self) -> str:
        """On the connection that is kept."""
        if self.kept is None:
            self.kept = await self.open()
        try:
            return await _exchange(*self.kept, _post("/v1/chat/completions", _body()))
        except BaseException:
            self.close()
            raise

    async def fresh(self) -> str:
        """On a connection of its own."""
        return await self._once(_post("/v1/chat/completions", _body()))

    async def stream(self) -> str:
        """A short stream to its end."""
        return await self._once(_post("/v1/chat/completions", _body(stream=True, max_tokens=5)))

    async def chat(self) -> str:
        """A message of one of fifty sessions."""
        said = {"apiKey": KEY, "sessionId": str(self.chance.randrange(50)), "content": "你是谁?"}
        return await self._once(_post("/chat", json.dumps(said).encode()))

    async def balance(self) -> str:
        """The balance."""
        return await self._once(f"GET /pro/balance?apiKey={KEY} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())

    async def mistake(self) -> str:
        """Something that relay refuses."""
        wrong = (
            _post("/nothing/here", b"{}"),
            _post("/chat", b"{not json"),
            b"GET /v1/models HTTP/9.9 what\r\n\r\n",
            _post("/v1/chat/completions", b"zz\r\n", "Transfer-Encoding: chunked"),
        )
        return await self._once(self.chance.choice(wrong))

    async def broken(self) -> str:
        """The upstream breaks off."""
        return await self._once(_post("/v1/broken", _body()))

    async def leave_stream(self) -> str:
        """Leave in the middle of a stream."""
        return await self._left(_post("/v1/chat/completions", _body(stream=True, max_tokens=1000)), wait=True)

    async def leave_silence(self) -> str:
        """Leave before the upstream has said anything."""
        return await self._left(_post("/v1/silent", _body()), wait=False)

    async def leave_chat(self) -> str:
        """Leave with a message under way, others perhaps waiting behind it."""
        said = {"apiKey": KEY, "sessionId": str(self.chance.randrange(50)), "content": "你是谁?"}
        return await self._left(_post("/chat", json.dumps(said).encode()), wait=False)

    async def leave_upload(self) -> str:
        """Leave in the middle of a request."""
        return await self._left(_post("/v1/chat/completions", _body())[:-20], wait=False)

    async def _once(self, request: bytes) -> str:
        reader, writer = await self.open()
        try:
            return await _exchange(reader, writer, request)
        finally:
            writer.transport.abort()

    async def _left(self, request: bytes, *, wait: bool) -> str:
        reader, writer = await self.open()
        try:
            writer.write(request)
            await writer.drain()
            if wait:
                await reader.readuntil(b"data:")
            else:
                await asyncio.sleep(self.chance.random() * 0.01)
        finally:
            writer.transport.abort()
        return "left"

    def close(self) -> None:
        """Let the kept connection go."""
        if self.kept is not None:
            self.kept[1].transport.abort()
            self.kept = None

    def mixture(self) -> Callable[[], Awaitable[str]]:
        """The next request."""
        kinds = (
            (60, self.completion),
            (8, self.fresh),
            (6, self.stream),
            (5, self.chat),
            (3, self.balance),
            (6, self.mistake),
            (2, self.broken),
            (4, self.leave_stream),
            (2, self.leave_silence),
            (2, self.leave_chat),
            (2, self.leave_upload),
        )
        (kind,) = self.chance.choices([each for _, each in kinds], [weight for weight, _ in kinds])
        return kind


async def _ask(port: int, number: int, said: Counter[str]) -> None:
    left = iter(range(number))

    async def client(seed: int) -> None:
        peer = Peer(port, random.Random(seed))
        for _ in left:
            kind = peer.mixture()
            try:
                answer = await asyncio.wait_for(kind(), _PATIENCE)
            except TimeoutError:
                answer = "no answer in time"
            except (OSError, EOFError, asyncio.LimitOverrunError):
                answer = "broken off"
            said[f"{kind.__name__}: {answer}"] += 1
        peer.close()

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))


def _body(**more: object) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], **more}).encode()


def _post(path: str, body: bytes, framing: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    return (head + (framing or f"Content-Length: {len(body)}") + "\r\n\r\n").encode() + body


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> str:
    """Ask, read the answer to its end; its status."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head.split(maxsplit=2)[1]
    _, found, length = head.partition("content-length:")
    if found:
        await reader.readexactly(int(length.partition("\r\n")[0]))
    elif "transfer-encoding: chunked" in head:
        await reader.readuntil(b"0\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    return status
