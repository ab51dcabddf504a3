"""Memory of relay in mitmweb over many requests: `python -m tests.bench.memory [REQUESTS]`, 100,000 by default.

A mix of completions, streams, embeddings and messages to /chat goes through a few kept-alive connections, with the
look-alike upstream behind. mitmweb keeps the newest flows (`inspect.keep_flows`), so once those are there its resident
memory should stay where it is. Exit code 1 where it grew by more than a tenth over the second half.
"""

import http.client
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from addons.cli.fake_openai.server import Upstream
from tests.support import web
from tests.support.live import Live

REQUESTS = 100_000
CLIENTS = 8
KEEP = 1000
STEPS = 20
GROWTH = 1.1
KEY = "sk-bench-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def bodies(client: int) -> Iterator[tuple[str, bytes]]:
    """Path and body of one request after the other."""
    for number in itertools.count():
        content = f"{client}/{number}: " + "你好, hello. " * (number % 40)
        chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}]}
        message = {"apiKey": KEY, "sessionId": f"{client}-{number % 50}", "content": content[:900]}
        yield "/v1/chat/completions", json.dumps(chat).encode()
        yield "/v1/chat/completions", json.dumps({**chat, "stream": True}).encode()
        yield "/v1/embeddings", json.dumps({"model": "text-embedding-3-small", "input": content}).encode()
        yield "/chat", json.dumps(message).encode()


def ask(live: Live, client: int, count: int, failed: list[str]) -> None:
    """`count` requests, one after the other, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    for path, body in itertools.islice(bodies(client), count):
        try:
            connection.request("POST", path, body, HEADERS)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed.append(f"{path}: {response.status}")
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{path}: {error!r}")
            connection.close()
    connection.close()


def batch(live: Live, count: int) -> list[str]:
    """`count` requests over all connections; what went wrong."""
    failed: list[str] = []
    shares = [count // CLIENTS + (client < count % CLIENTS) for client in range(CLIENTS)]
    threads = [threading.Thread(target=ask, args=(live, client, share, failed)) for client, share in enumerate(shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def main(requests: int = REQUESTS) -> int:
    """Measure and print."""
    print(f"{requests:,} requests, mitmweb with keep_flows {KEEP}")
    print(f"{'requests':>10} {'MB':>7} {'flows':>6} {'req/s':>6}")
    with (
        tempfile.TemporaryDirectory() as folder,
        Upstream.running() as upstream,
        web.mitmweb(Path(folder), upstream.url, inspect={"keep_flows": KEEP}) as page,
    ):
        print(f"{0:>10,} {page.live.memory() / 1e6:>7.1f}")
        resident: list[float] = []
        done = 0
        for step in range(1, STEPS + 1):
            count = requests * step // STEPS - done
            begun = time.monotonic()
            failed = batch(page.live, count)
            if failed:
                print(f"{len(failed)} failed, the first: {failed[0]}", file=sys.stderr)
                return 1
            done += count
            resident.append(page.live.memory() / 1e6)
            rate = count / (time.monotonic() - begun)
            print(f"{done:>10,} {resident[-1]:>7.1f} {len(page.flows()):>6} {rate:>6.0f}", flush=True)
    growth = max(resident[STEPS // 2 :]) / resident[STEPS // 2 - 1]
    print(f"over the second half: {(growth - 1) * 100:+.1f} %")
    return int(growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
