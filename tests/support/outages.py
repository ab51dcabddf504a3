"""A day of outages in a minute: clients ask a relay whose upstreams fail in every phase, by a seed.

What has to hold, whatever fails when:
1. No request is accepted twice.
2. Nothing is asked again once a byte of an answer was sent.
3. Who can be served is served: an error is heard only where a request may have been worked on.
4. A key that is out of its rate is asked once in the second that it has told, by a probe.
5. Conversations stay with their key while it works.
"""

import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import failing_upstream, live
from tests.support.failing_upstream import Asked, FailingUpstream

KEY = "rk-outages-0123456789abcdefghijkl"
KEYS = {
    "one": [f"sk-real-one-{number}-0123456789" for number in range(4)],
    "two": ["sk-real-two-0123456789"],
    "gone": ["sk-real-gone-0123456789"],
    "busy": ["sk-real-busy-0123456789"],
    "tls": ["sk-real-tls-0123456789"],
}
CHAT = "/v1/chat/completions"
CLIENTS = 24
THREADS = 60
WINDOW = 1.0
"""Seconds that a key that is out of its rate asks for."""
_KNOWN = 0.5
"""Seconds in which a refusal has reached relay, and what was under way before has arrived."""
PHASES = {
    "connect": ("gone", "ok"),
    "TLS": ("tls", "ok"),
    "refused": ("one", "ok"),
    "overloaded": ("busy", "529"),
    "overloaded for a second": ("busy", "503 for 1 s"),
    "sent": ("one", "hang up"),
    "head": ("one", "half a head"),
    "first byte": ("one", "head"),
    "middle": ("one", "middle"),
    "between requests": ("one", "close"),
    "whole": ("one", "ok"),
    "stream": ("one", "stream"),
}
"""Where a request goes, and what happens to it there the first time."""
UNCERTAIN = ("sent", "head", "first byte", "middle")
_WEIGHTS = (4, 3, 0, 2, 2, 2, 2, 2, 2, 8, 60, 13)


@dataclass
class Played:
    """What came of it."""

    requests: int = 0
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    twice: list[str] = field(default_factory=list)
    """Requests that were accepted more than once."""
    after_a_byte: list[str] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)
    """Requests that had an error though nothing uncertain happened to them."""
    outages: int = 0
    probes: Counter[int] = field(default_factory=Counter)
    """How many requests came in a second of an outage, once it was known."""
    on_their_key: int = 0
    conversations: int = 0
    seconds: float = 0.0

    @property
    def sticky(self) -> float:
        """The share of a conversation's requests that went to its key while that worked."""
        return self.on_their_key / max(1, self.conversations)

    def __str__(self) -> str:
        errors = {phase: dict(counts) for phase, counts in self.statuses.items()}
        return (
            f"{self.requests} requests in {self.seconds:.0f} s; accepted twice: {len(self.twice)}; asked again after a "
            f"byte: {len(self.after_a_byte)}; unserved: {len(self.unserved)}; {self.outages} outages of a key, asked "
            f"in each second of them: {dict(self.probes)}; on their key: {self.sticky:.2%}; answers by phase: {errors}"
        )


@dataclass
class _Outages:
    """Which keys are out of their rate, and since when."""

    chance: random.Random
    until: dict[str, float] = field(default_factory=dict)
    seen: list[tuple[str, float, float]] = field(default_factory=list)
    """Key, beginning and end of each."""

    def begin(self) -> None:
        key = self.chance.choice(KEYS["one"])
        now = time.monotonic()
        if sum(until > now for until in self.until.values()) < 2 and self.until.get(key, 0) < now - 2 * WINDOW:
            self.until[key] = now + self.chance.uniform(1.5, 3.5)
            self.seen.append((key, now, self.until[key]))

    def is_out(self, key: str) -> bool:
        return time.monotonic() < self.until.get(key, 0)


class _Client:
    """One that keeps its connection while it may."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: Mapping[str, Any]) -> int:
        """The status; -1 for an answer that breaks off."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = json.dumps(body).encode()
        lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", f"Content-Length: {len(data)}")
        writer.write("\r\n".join((*lines, "Content-Type: application/json", "", "")).encode() + data)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ")[1])
            if "transfer-encoding: chunked" in head:
                while (size := int(await reader.readline(), 16)) or await reader.readexactly(2) == b"":
                    await reader.readexactly(size + 2)
            else:
                length = head.partition("content-length:")[2].partition("\r")[0]
                await reader.readexactly(int(length))
        except (asyncio.IncompleteReadError, OSError, ValueError):
            status = -1
        if status == -1 or "connection: close" in head:
            self.close()
        return status

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def settings(failing: FailingUpstream) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Of a relay before them."""
    upstreams = [
        {
            "name": name,
            "url": failing.url(name, "https" if name == "tls" else "http"),
            "keys": keys,
            "fallback": [] if name == "two" else ["two"],
        }
        for name, keys in KEYS.items()
    ]
    routes = [{"path": f"/{name}", "upstream": name} for name in KEYS]
    more = {
        "routes": routes,
        "keys": {"list": [{"name": "outages", "key": KEY, "budget": {"amount": 100_000}}]},
        "prices": {"m": {"input": 1, "output": 2, "context": 1000}},
        "store": {"path": "store"},
        "limits": {"connect": "2s"},
    }
    return upstreams, more


def play(folder: Path, requests: int, seed: int) -> Played:
    """So many requests, by this seed."""
    chance = random.Random(seed)
    phases = chance.choices(list(PHASES), _WEIGHTS, k=requests)
    outages = _Outages(random.Random(seed + 1))
    served: dict[str, list[Asked]] = defaultdict(list)

    def plan(asked: Asked) -> str:
        if outages.is_out(asked.key):
            return "429 for 1 s"
        phase = phases[int(asked.said)]
        first = not served[asked.said]
        served[asked.said].append(asked)
        place, fault = PHASES[phase]
        return fault if first and asked.place == place else "stream" if phase == "stream" else "ok"

    with failing_upstream.running(*KEYS) as failing:
        failing.plan = plan
        failing.on_connect = lambda place: "garbage" if place == "tls" else "serve"
        upstreams, more = settings(failing)
        with live.relay(folder, upstreams, **more) as relay:
            begun = time.monotonic()
            played = asyncio.run(_play(relay.port, failing, phases, outages))
            played.seconds = time.monotonic() - begun
            assert "Traceback" not in relay.log, relay.log[-3000:]
            assert "sk-real" not in relay.log
        _judge(played, failing, outages)
    return played


async def _play(port: int, failing: FailingUpstream, phases: list[str], outages: _Outages) -> Played:
    played = Played(len(phases))
    numbers = iter(range(len(phases)))
    ended = asyncio.Event()

    async def one() -> None:
        client = _Client(port)
        for number in numbers:
            phase = phases[number]
            thread = f"conversation {number % THREADS}"
            streams = phase in ("first byte", "middle", "stream")
            body = {"model": "m", "user": str(number), "max_tokens": 50, "stream": streams}
            messages = [{"role": "user", "content": thread}, {"role": "assistant", "content": "ok"}]
            path = f"/{PHASES[phase][0]}{CHAT}"
            status = await client.ask(path, {**body, "messages": [*messages, {"role": "user", "content": str(number)}]})
            played.statuses[phase][status] += 1
            if status != 200 and phase not in UNCERTAIN:
                played.unserved.append(f"{number} {phase} {status}")
        client.close()

    async def weather() -> None:
        up, turn = True, 0
        while not ended.is_set():
            turn += 1
            if turn % 4 == 0:
                outages.begin()
            up = not up
            change = failing.listen if up else failing.deafen
            await asyncio.to_thread(change, "gone")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.7)

    turning = asyncio.create_task(weather())
    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    ended.set()
    await turning
    return played


def _judge(played: Played, failing: FailingUpstream, outages: _Outages) -> None:
    played.twice = [said for said, count in failing.accepted.items() if count > 1]
    played.after_a_byte = [said for said, count in failing.streamed.items() if count > 1]
    played.outages = len(outages.seen)
    for key, begin, end in outages.seen:
        arrived = [failing.times[id(each)] for each in failing.asked if each.key == key]
        second = min((moment for moment in arrived if moment >= begin), default=end) + _KNOWN
        while second + WINDOW <= end:
            played.probes[sum(second <= moment < second + WINDOW for moment in arrived)] += 1
            second += WINDOW
    _judge_keys(played, failing, outages)


def _judge_keys(played: Played, failing: FailingUpstream, outages: _Outages) -> None:
    by_thread: dict[int, list[Asked]] = defaultdict(list)
    for each in failing.asked:
        if each.place == "one":
            by_thread[int(each.said) % THREADS].append(each)
    ill = [(key, begin, end + 2 * WINDOW) for key, begin, end in outages.seen]
    for asked in by_thread.values():
        moments = [(each.key, failing.times[id(each)]) for each in asked]
        calm = [key for key, moment in moments if not any(begin <= moment <= end for _, begin, end in ill)]
        if not calm:
            continue
        own = Counter(calm).most_common(1)[0][0]
        for key, moment in moments:
            if not any(each == own and begin <= moment <= end for each, begin, end in ill):
                played.conversations += 1
                played.on_their_key += key == own


def main(requests: int, seed: int) -> int:
    """Play, and say what came of it."""
    print(f"{requests} requests, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        played = play(Path(folder), requests, seed)
    print(played)
    return 0 if holds(played) else 1


def holds(played: Played) -> bool:
    """Whether everything held.

    A connection that upstream closes in the very moment in which a request arrives can't be told from one on which it
    has been read: such a request fails, and a few of those that are the next on a connection that is about to close.
    """
    closed = [each for each in played.unserved if each.endswith(" 502")]
    return (
        not played.twice
        and not played.after_a_byte
        and len(closed) == len(played.unserved) <= played.requests // 200
        and max(played.probes, default=0) <= 2
        and played.sticky >= 0.99
    )
