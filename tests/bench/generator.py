"""The project's own load generator, for where wrk is not installed: one process, asyncio.Protocol.

    echo '{"port": 9000, "clients": 32, "seconds": 3, "requests": ["..."]}' | python -m tests.bench.generator

Prints one line of JSON: requests, seconds, errors, p50, p99 and its own CPU, times in seconds.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any, cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Tally:
    """What all clients together have seen."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.asked = 0
        self.times: list[float] = []
        self.errors = 0
        self.running = True

    def next(self) -> bytes:
        """The next request, from all of them in turn."""
        self.asked += 1
        return self.requests[self.asked % len(self.requests)]


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered."""

    def __init__(self, tally: Tally, done: asyncio.Future[None], began: float) -> None:
        self.tally, self.done, self.began = tally, done, began
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.tally.next())

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer; ask again."""
        self.buffer += data
        head, closes = whole(self.buffer)
        if head is None:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.tally.errors += 1
        elif self.tally.running:
            self.tally.times.append(time.perf_counter() - self.began)
        self.buffer.clear()
        self.began = time.perf_counter()
        if closes or not self.tally.running:
            self.transport.close()
        else:
            self.transport.write(self.tally.next())

    def connection_lost(self, exc: Exception | None) -> None:
        """Count an answer that is missing."""
        if self.buffer:
            self.tally.errors += 1
        if not self.done.done():
            self.done.set_result(None)


def whole(buffer: bytearray) -> tuple[bytes | None, bool]:
    """The head of the answer in `buffer` if that is complete, and whether its connection is over then."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None, False
    head = bytes(buffer[:end])
    if (length := _LENGTH.search(head)) is not None:
        complete = len(buffer) >= end + 4 + int(length[1])
    else:
        complete = not _CHUNKED.search(head) or buffer.endswith(b"0\r\n\r\n")
    return (head if complete else None), _CLOSES.search(head) is not None


async def _client(port: int, tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    while tally.running:
        done: asyncio.Future[None] = loop.create_future()
        began = time.perf_counter()
        try:
            transport, _ = await loop.create_connection(lambda: Client(tally, done, began), "127.0.0.1", port)  # noqa: B023
        except OSError:
            tally.errors += 1
            await asyncio.sleep(0.01)
            continue
        try:
            await done
        finally:
            transport.abort()


async def run(spec: dict[str, Any]) -> dict[str, float]:
    """Load as `spec` says."""
    tally = Tally([request.encode() for request in spec["requests"]])
    began, cpu = time.perf_counter(), time.process_time()
    clients = [asyncio.create_task(_client(spec["port"], tally)) for _ in range(spec["clients"])]
    await asyncio.sleep(spec["seconds"])
    tally.running = False
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    times = sorted(tally.times) or [0.0]
    return {
        "requests": len(tally.times),
        "seconds": seconds,
        "errors": tally.errors,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
        "cpu": cpu,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
