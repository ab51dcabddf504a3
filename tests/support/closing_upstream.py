"""An upstream that closes kept connections at moments of its own, and counts the requests that it has read whole."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.connect_proxy import listening, serve

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class ClosingUpstream:
    """What it does, and what it has seen."""

    port: int
    after: tuple[float, float] = (0.0, 0.02)
    """Seconds after an answer, at random between these, after which a connection is closed without reading."""
    only_read: bool = False
    """The second request of a connection is read whole, and then the connection is closed without an answer."""
    say_first: bytes = b""
    """Said in place of the second answer, before the connection is closed."""
    accepted: list[bytes] = field(default_factory=list)
    """The bodies of requests that were read whole."""
    connections: int = 0
    closed: int = 0

    @property
    def url(self) -> str:
        """As relay.yaml wants it."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(seed: int = 1) -> Iterator[ClosingUpstream]:
    """One on a free port."""
    chance = random.Random(seed)
    with listening() as listener:
        upstream = ClosingUpstream(listener.getsockname()[1])
        with _first():
            serve(listener, lambda client: _talk(client, upstream, random.Random(chance.random())))
        yield upstream


@contextlib.contextmanager
def _first() -> Iterator[None]:
    """Threads that are started meanwhile, and those that they start, go before all others, where that is allowed.

    A busy machine would else let one sleep so long that its kernel acknowledges what it has not read (after 40 ms,
    TCP_DELACK_MIN in Linux), which nobody can tell from what was read.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):  # no Linux, or not allowed
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _talk(client: socket.socket, upstream: ClosingUpstream, chance: random.Random) -> None:
    upstream.connections += 1
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(OSError):
        body = _read(client)
        if body is None:
            return
        upstream.accepted.append(body)
        client.sendall(_ANSWER)
        if upstream.only_read or upstream.say_first:
            if (body := _read(client)) is not None:
                upstream.accepted.append(body)
                client.sendall(upstream.say_first)
            return
        time.sleep(chance.uniform(*upstream.after))
        upstream.closed += 1


def _read(client: socket.socket) -> bytes | None:
    """The body of the next request."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := client.recv(65536)):
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        if not (chunk := client.recv(65536)):
            return None
        body += chunk
    return body
