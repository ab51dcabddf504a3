"""Many streams through one target, each to its end: what one of them costs from its first byte to its last.

    python -m tests.bench.whole_streams '{"port": 9000, "pid": 9, "streams": 200, "spread": 5, "request": "POST ..."}'

They begin one after the other within `spread` seconds. What is counted is the CPU of process `pid` from before the
first until it is at rest behind the last. Prints one line of JSON (`Finished`).
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from tests.bench.load import requests, stream, told
from tests.bench.processes import more_files, usage
from tests.bench.streams import rest
from tests.support.live import ROOT, environment

_LAST = 60.0
"""Seconds that the last stream may take beyond its time."""
_MARK = b"[DONE]"


@dataclass(frozen=True)
class Finished:
    """What came of it. `cpu` in seconds."""

    streams: int
    finished: int
    cpu: float

    @property
    def cpu_each(self) -> float:
        """CPU of the target for one stream."""
        return self.cpu / self.finished if self.finished else 0.0


class _Reader(asyncio.Protocol):
    """One stream, read until `[DONE]`."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.over = asyncio.get_running_loop().create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        if _MARK in self._tail + data and not self.over.done():
            self.over.set_result(True)
        self._tail = data[-len(_MARK) :]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(False)


async def _one(port: int, request: bytes, wait: float) -> bool:
    await asyncio.sleep(wait)
    try:
        transport, reader = await asyncio.get_running_loop().create_connection(
            lambda: _Reader(request), "127.0.0.1", port
        )
    except OSError:
        return False
    finished: bool = await reader.over
    transport.abort()
    return finished


async def watch(spec: Mapping[str, Any]) -> Finished:
    """Do as `spec` says."""
    request, number = spec["request"].encode(), spec["streams"]
    before = usage(spec["pid"])
    ends = await asyncio.gather(
        *(_one(spec["port"], request, spec["spread"] * each / number) for each in range(number))
    )
    await rest(spec["pid"])
    return Finished(number, sum(ends), usage(spec["pid"]).cpu - before.cpu)


def run(port: int, pid: int, number: int, events: int, rate: float, headers: Mapping[str, str]) -> Finished:
    """Watch from another process: so many streams of so many events, `rate` a second each. Raises
    subprocess.SubprocessError."""
    (request,) = requests(port, stream(max_tokens=events), told(headers))
    lasts = events / rate
    spec = {"port": port, "pid": pid, "streams": number, "spread": lasts, "request": request}
    command = [sys.executable, "-m", "tests.bench.whole_streams", json.dumps(spec)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=2 * lasts + 2 * _LAST
    )
    return Finished(**json.loads(done.stdout))


if __name__ == "__main__":
    more_files()
    print(json.dumps(asdict(asyncio.run(watch(json.loads(sys.argv[1]))))))
