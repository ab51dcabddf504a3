"""Upstreams that fail as they are told, and count what they accepted: a request is *accepted* when all of it was read,
and it was not refused.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

REFUSALS: Mapping[str, tuple[int, Mapping[str, str], Mapping[str, Any]]] = {
    "401": (401, {}, {"code": "invalid_api_key", "message": "Incorrect API key provided."}),
    "403 key": (403, {}, {"code": "api_key_disabled", "message": "This key is disabled."}),
    "403": (403, {}, {"code": "unsupported_value", "message": "Not for you."}),
    "402": (402, {}, {"code": "insufficient_balance", "message": "Insufficient Balance"}),
    "429": (429, {}, {"code": "rate_limit_exceeded", "message": "Rate limit reached."}),
    "429 for 0 s": (429, {"retry-after": "0"}, {"code": "rate_limit_exceeded", "message": "Rate limit reached."}),
    "429 for 1 s": (429, {"retry-after": "1"}, {"code": "rate_limit_exceeded", "message": "Rate limit reached."}),
    "429 for 2 s": (429, {"retry-after": "2"}, {"code": "rate_limit_exceeded", "message": "Rate limit reached."}),
    "429 for 9 s": (429, {"retry-after": "9"}, {"code": "rate_limit_exceeded", "message": "Rate limit reached."}),
    "quota": (429, {}, {"code": "insufficient_quota", "message": "You exceeded your current quota."}),
    "503": (503, {}, {"code": "unavailable", "message": "Down."}),
    "503 for 1 s": (503, {"retry-after": "1"}, {"code": "unavailable", "message": "Down."}),
    "529": (529, {}, {"code": "overloaded_error", "message": "Overloaded"}),
    "400": (400, {}, {"code": "bad", "message": "No."}),
    "500": (500, {}, {"code": "server_error", "message": "The server had an error."}),
    "502": (502, {}, {"code": "bad_gateway", "message": "Bad gateway"}),
    "504": (504, {}, {"code": "timeout", "message": "Gateway timeout"}),
}
"""By name: what is answered, and with which headers."""
SLOWLY = "Rate limit reached, said slowly."
"""What is said to whom is told `slow 429`, which takes 2.75 s to the end."""
UNBILLED = (
    "401",
    "403 key",
    "403",
    "402",
    "429",
    "429 for 1 s",
    "429 for 0 s",
    "429 for 2 s",
    "429 for 9 s",
    "slow 429",
    "quota",
    "503 for 1 s",
    "529",
    "400",
)
"""Those of which nothing was worked on."""


@dataclass(frozen=True)
class Asked:
    """A request that has come."""

    place: str
    key: str
    said: str
    """What tells it from others: `user` of its body, or its path."""
    before: int
    """How often it had come already, to whichever place."""
    body: bytes
    head: str


Plan = Callable[[Asked], str]


@dataclass
class FailingUpstream:
    """Several upstreams, each at a port of its own, in one thread."""

    plan: Plan = lambda _asked: "ok"
    asked: list[Asked] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)
    """When each of them came, on the monotonic clock, by its `id`."""
    accepted: Counter[str] = field(default_factory=Counter)
    streamed: Counter[str] = field(default_factory=Counter)
    """Answers of which a byte was sent."""
    ports: dict[str, int] = field(default_factory=dict)
    connections: Counter[str] = field(default_factory=Counter)
    on_connect: Callable[[str], str] = lambda _place: "serve"
    """What becomes of a connection: `serve`, `reset`, or `garbage` in place of TLS."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _servers: dict[str, asyncio.Server] = field(default_factory=dict)
    _writers: dict[str, set[asyncio.StreamWriter]] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)

    def url(self, place: str, scheme: str = "http") -> str:
        """As relay.yaml wants it."""
        return f"{scheme}://127.0.0.1:{self.ports[place]}"

    def keys_of(self, said: str) -> list[str]:
        """The keys that a request came with, in their order."""
        return [each.key for each in self.asked if each.said == said]

    def forget(self) -> None:
        """Begin anew."""
        self.plan, self.on_connect = lambda _asked: "ok", lambda _place: "serve"
        for each in (self.asked, self.times, self.accepted, self.streamed, self._seen, self.connections):
            each.clear()

    def listen(self, place: str) -> None:
        """Take connections (again)."""
        asyncio.run_coroutine_threadsafe(self._listen(place), self._loop).result(5)

    def deafen(self, place: str) -> None:
        """Take no connections any more: whoever tries is refused."""
        asyncio.run_coroutine_threadsafe(self._deafen(place), self._loop).result(5)

    async def _listen(self, place: str) -> None:
        if place not in self._servers:
            port = self.ports.get(place, 0)
            server = await asyncio.start_server(
                lambda reader, writer: self._serve(place, reader, writer), "127.0.0.1", port, backlog=512
            )
            self._servers[place] = server
            self.ports[place] = server.sockets[0].getsockname()[1]

    async def _deafen(self, place: str) -> None:
        server = self._servers.pop(place, None)
        if server is not None:
            server.close()
            for writer in self._writers.pop(place, ()):
                writer.transport.abort()  # a kept connection, which would go on being served

    async def _serve(self, place: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections[place] += 1
        self._writers.setdefault(place, set()).add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            how = self.on_connect(place)
            if how == "reset":
                _reset_on_close(writer)
            elif how == "garbage":
                writer.write(b"this is no TLS\r\n")
                await writer.drain()
            else:
                async for asked in self._requests(place, reader):
                    if not await self._answer(asked, writer):
                        break
        self._writers.get(place, set()).discard(writer)
        writer.close()

    async def _requests(self, place: str, reader: asyncio.StreamReader) -> AsyncIterator[Asked]:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = dict(
                (name.strip().lower(), value.strip())
                for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
            )
            chunked = "transfer-encoding" in lines
            body = await (_unchunked(reader) if chunked else reader.readexactly(int(lines.get("content-length", "0"))))
            said = str(json.loads(body).get("user", "")) if body else head.split(" ")[1]
            key = lines.get("authorization", "").removeprefix("Bearer ")
            asked = Asked(place, key, said, self._seen[said], body, head)
            self._seen[said] += 1
            self.asked.append(asked)
            self.times[id(asked)] = time.monotonic()
            yield asked

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Answer one; whether its connection stays."""
        how = self.plan(asked)
        if how not in UNBILLED:
            self.accepted[asked.said] += 1
        if how in REFUSALS:
            status, more, error = REFUSALS[how]
            writer.write(_whole(status, {"error": {"type": "x", **error}}, **more))
        elif how == "hang up":
            return False
        elif how == "half a head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-")
            return False
        elif how.startswith("wait "):
            await asyncio.sleep(float(how.split()[1]))
            writer.write(_whole(200, _completion(asked)))
        elif how == "endless 429":
            writer.write(b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                await writer.drain()
        elif how == "slow 429":
            whole = _whole(429, {"error": {"type": "x", "code": "rate_limit_exceeded", "message": SLOWLY}})
            for piece in (whole[:-10], *(whole[at : at + 1 or None] for at in range(-10, 0))):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.25)
        elif how == "silent 429":
            writer.write(b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            await asyncio.sleep(20)
            return False
        elif how in ("head", "middle", "stream"):
            return await self._stream(asked, writer, how)
        elif how == "close":
            writer.write(_whole(200, _completion(asked)))
            await writer.drain()
            await asyncio.sleep(0.005)
            return False
        else:
            assert how == "ok", how
            writer.write(_whole(200, _completion(asked)))
        await writer.drain()
        return True

    async def _stream(self, asked: Asked, writer: asyncio.StreamWriter, how: str) -> bool:
        self.streamed[asked.said] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(0 if how == "head" else 3):
            event = {"id": "x", "object": "chat.completion.chunk", "choices": [{"delta": {"content": f"{number}"}}]}
            writer.write(_chunk(f"data: {json.dumps(event)}\n\n".encode()))
            await writer.drain()
        if how != "stream":
            return False
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True


async def _unchunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _end_all() -> None:
    for each in asyncio.all_tasks() - {asyncio.current_task()}:
        each.cancel()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _completion(asked: Asked) -> Mapping[str, Any]:
    said = {"role": "assistant", "content": f"{asked.place} says hello"}
    model = json.loads(asked.body).get("model", "m") if asked.body else "m"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def _whole(status: int, value: Mapping[str, Any], **headers: str) -> bytes:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {said}" for name, said in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def running(*places: str) -> Iterator[FailingUpstream]:
    """Upstreams by these names, on free ports."""
    upstream = FailingUpstream()
    thread = threading.Thread(target=upstream._loop.run_forever, daemon=True)
    thread.start()
    try:
        for place in places:
            upstream.listen(place)
        yield upstream
    finally:
        for place in list(upstream._servers):
            upstream.deafen(place)
        asyncio.run_coroutine_threadsafe(_end_all(), upstream._loop).result(5)
        upstream._loop.call_soon_threadsafe(upstream._loop.stop)
        thread.join(5)
