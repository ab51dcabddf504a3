"""Clients that keep their connections and pause at random between requests: a process of its own.

    echo '{"port": 9000, "clients": 4, "requests": 99, "pause": 0.02, "request": "..."}' | python -m tests.bench.pausing

`request` has one %d in its body: each goes up with a number of its own, always as wide. Prints one line of JSON: how
often each status was heard, 0 for a connection that broke.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.bench.generator import whole
from tests.bench.load import Ask, requests, told
from tests.support.live import ROOT, environment

WIDTH = 9
"""Digits of the number of a request."""


async def _client(spec: Mapping[str, Any], number: int, heard: Counter[int]) -> None:
    chance, share = random.Random(number), spec["requests"] // spec["clients"]
    kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for each in range(number * share, (number + 1) * share):
        await asyncio.sleep(chance.uniform(0.0, spec["pause"]))
        try:
            kept = kept or await asyncio.open_connection("127.0.0.1", spec["port"])
            kept[1].write((spec["request"] % each).encode())
            status, closes = await _answer(kept[0])
        except OSError:
            status, closes = 0, True
        heard[status] += 1
        if closes and kept is not None:
            kept[1].close()
            kept = None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status, and whether its connection is over. Raises OSError where it breaks off."""
    buffer = bytearray()
    while True:
        data = await reader.read(65536)
        if not data:
            raise ConnectionResetError
        buffer += data
        head, closes = whole(buffer)
        if head is not None:
            return int(head.split(b" ", 2)[1]), closes


async def _all(spec: Mapping[str, Any]) -> Counter[int]:
    heard: Counter[int] = Counter()
    await asyncio.gather(*(_client(spec, number, heard) for number in range(spec["clients"])))
    return heard


def run(port: int, ask: Ask, clients: int, count: int, pause: float) -> Counter[int]:
    """Ask `count` times from another process; `pause` is the longest in seconds, and `%d` stands in the body of `ask`.

    Raises subprocess.SubprocessError.
    """
    body = ask.bodies[0].replace("%d", f"%0{WIDTH}d")
    (request,) = requests(port, Ask(ask.method, ask.path, (body % 0,)), told({}))
    spec = {
        "port": port,
        "clients": clients,
        "requests": count,
        "pause": pause,
        "request": request.replace(body % 0, body),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.pausing"],
        cwd=ROOT,
        env=environment(),
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        check=True,
        timeout=60 + count * (pause + 0.1),
    )
    return Counter({int(status): number for status, number in json.loads(done.stdout).items()})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_all(json.load(sys.stdin)))))
