"""An upstream that costs next to nothing: fixed answers, no parsing but for where a request ends.

    python -m tests.bench.upstream --port 9000 --rate 20 [--cert CERT --key KEY]

1. A body that asks for a stream gets an event at once, then `--rate` a second, as many as its max_tokens says, and
   their usage if it wants that. Where its "user" is "idle", nothing more comes until SIGUSR1; then the last event does.
2. A path with "billing" in it gets what /pro/balance asks for.
3. A path with "broken" in it gets half an answer, one with "silent" none: for the soak.
4. Everything else gets a small chat completion.

`nginx_static` is the same but for streams, as a configuration for nginx.
"""

import argparse
import asyncio
import contextlib
import re
import signal
import ssl
from pathlib import Path
from typing import cast

from tests.bench.processes import more_files

COMPLETION = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello there, how can I help you today?","refusal":null},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}'
)
SUBSCRIPTION = (
    b'{"object":"billing_subscription","has_payment_method":true,"hard_limit_usd":18.0,"system_hard_limit_usd":18.0}'
)
USAGE = b'{"object":"list","total_usage":8.0}'

_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
_USED = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":100,"total_tokens":112}}\n\n'
)
_BUCKETS = 20
"""Parts of the time between two events of a stream; the streams are spread over them."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAM = re.compile(rb'"stream" ?: ?true')
_IDLE = re.compile(rb'"user" ?: ?"idle"')
_WANTS_USAGE = re.compile(rb'"include_usage" ?: ?true')
_EVENTS = re.compile(rb'"max_(?:completion_)?tokens" ?: ?(\d+)')


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_COMPLETION, _SUBSCRIPTION, _USAGE = _whole(COMPLETION), _whole(SUBSCRIPTION), _whole(USAGE)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT_CHUNK, _LAST_CHUNK = _chunk(_EVENT), _chunk(_LAST) + b"0\r\n\r\n"
_USED_CHUNK = _chunk(_USED)


class Clock:
    """Sends each stream its events; one timer for all of them."""

    def __init__(self, rate: float) -> None:
        self.step = 1 / rate / _BUCKETS
        self.buckets: list[set[Fast]] = [set() for _ in range(_BUCKETS)]
        self.idle: set[Fast] = set()
        self.now = 0
        self.next = 0
        self.due = 0.0

    def add(self, stream: "Fast") -> None:
        """Take up a stream."""
        self.next = (self.next + 1) % _BUCKETS
        self.buckets[self.next].add(stream)
        stream.bucket = self.next

    def release(self) -> None:
        """Let the idle streams come to their end."""
        for stream in tuple(self.idle):
            stream.finish()

    def start(self) -> None:
        """Begin to tick, in the running loop."""
        self.due = asyncio.get_running_loop().time()
        self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = (self.now + 1) % _BUCKETS
        for stream in tuple(self.buckets[self.now]):
            stream.event()
        self.due = max(self.due + self.step, loop.time() - 1)
        loop.call_at(self.due, self._tick)


class Fast(asyncio.Protocol):
    """One connection."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.buffer = bytearray()
        self.bucket = -1
        self.left = 0
        self.tells_usage = False
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A proxy has connected."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._quiet()

    def pause_writing(self) -> None:
        """The proxy doesn't keep up: events wait until it does."""
        self.full = True

    def resume_writing(self) -> None:
        """It does again."""
        self.full = False

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        buffer = self.buffer
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[:end])
            if (length := _LENGTH.search(head)) is not None:
                size = end + 4 + int(length[1])
            elif _CHUNKED.search(head):
                last = buffer.find(b"0\r\n\r\n", end + 2)
                size = last + 5 if last >= 0 else len(buffer) + 1
            else:
                size = end + 4
            if len(buffer) < size:
                return
            body = bytes(buffer[end + 4 : size])
            del buffer[:size]
            self._answer(head.partition(b"\r\n")[0], body)

    def _answer(self, line: bytes, body: bytes) -> None:
        if b"billing" in line:
            self.transport.write(_SUBSCRIPTION if b"subscription" in line else _USAGE)
        elif b"broken" in line:
            self.transport.write(_COMPLETION[:-10])
            self.transport.close()
        elif b"silent" in line:
            pass
        elif _STREAM.search(body):
            asked = _EVENTS.search(body)
            self.left = int(asked[1]) if asked else 100
            self.tells_usage = _WANTS_USAGE.search(body) is not None
            self.transport.write(_STREAM_HEAD + _EVENT_CHUNK)
            if _IDLE.search(body):
                self.clock.idle.add(self)
            else:
                self.clock.add(self)
        else:
            self.transport.write(_COMPLETION)

    def event(self) -> None:
        """The next event is due."""
        if self.full:
            return
        self.left -= 1
        if self.left > 0:
            self.transport.write(_EVENT_CHUNK)
        else:
            self.finish()

    def finish(self) -> None:
        """Send the last event."""
        self._quiet()
        self.transport.write((_USED_CHUNK if self.tells_usage else b"") + _LAST_CHUNK)

    def _quiet(self) -> None:
        self.clock.idle.discard(self)
        if self.bucket >= 0:
            self.clock.buckets[self.bucket].discard(self)
            self.bucket = -1


def nginx_static(port: int, folder: Path) -> str:
    """nginx's configuration for the answers that are whole."""
    answers = "".join(
        f"location {path} {{ default_type application/json; return 200 '{body.decode()}'; }}\n"
        for path, body in (
            ("~ billing/subscription", SUBSCRIPTION),
            ("~ billing/usage", USAGE),
            ("/", COMPLETION),
        )
    )
    return nginx_with(f"server {{ listen 127.0.0.1:{port} backlog=4096;\n{answers} }}", folder)


def nginx_proxy(port: int, upstream: int, folder: Path) -> str:
    """nginx's configuration as a proxy: the limit of what a relay on one core could do."""
    forward = (
        "proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off; "
        "proxy_read_timeout 1h;"
    )
    return nginx_with(
        f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ {forward} }} }}",
        folder,
    )


def nginx_with(servers: str, folder: Path) -> str:
    """A configuration for one nginx process that writes nowhere but in `folder`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return (
        f"daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        "worker_rlimit_nofile 16384; events { worker_connections 8192; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;\n{places}{servers} }}\n"
    )


async def _serve(port: int, rate: float, tls: ssl.SSLContext | None) -> None:
    done, loop, clock = asyncio.Event(), asyncio.get_running_loop(), Clock(rate)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    loop.add_signal_handler(signal.SIGUSR1, clock.release)
    server = await loop.create_server(lambda: Fast(clock), "127.0.0.1", port, backlog=4096, ssl=tls)
    clock.start()
    await done.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=20, help="events a second and stream")
    parser.add_argument("--cert", type=Path, help="speak TLS, with this certificate")
    parser.add_argument("--key", type=Path, help="its key")
    given = parser.parse_args()
    tls = None
    if given.cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.cert, given.key)
    more_files()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(given.port, given.rate, tls))


if __name__ == "__main__":
    main()
