"""An upstream that keeps its own invoice: what it tells of usage, and what it bills for each answer.

A request says in its message how it is to be answered: `{"tag": ..., "how": ..., "in": 12, "cached": 4, "out": 8}`.
Prices are written down here once more, by hand, so that they are not relay's own.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

RATES = {
    # dollars a million: input, cached, cache write, output
    "gpt-4o": ("2.5", "1.25", "2.5", "10"),
    "gpt-4o-mini": ("0.15", "0.075", "0.15", "0.6"),
    "gpt-4.1": ("2", "0.5", "2", "8"),
    "claude-sonnet-4-5": ("3", "0.3", "3.75", "15"),
    "text-embedding-3-small": ("0.02", "0.02", "0.02", "0"),
    "my-model": ("1", "0.25", "1", "2"),
}
PRIORITY = {"gpt-4.1": ("3.5", "0.875", "3.5", "14")}


@dataclass
class Billed:
    """What was billed for one answer."""

    model: str
    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    tier: str = "default"

    @property
    def nano(self) -> int:
        """Billionths of a dollar."""
        rates = (PRIORITY if self.tier == "priority" else RATES)[self.model]
        text, cached, written, output = (Decimal(rate) * 1000 for rate in rates)
        plain = self.input - self.cached - self.written
        amount = plain * text + self.cached * cached + self.written * written + self.output * output
        return int(amount.to_integral_value("ROUND_HALF_UP"))


@dataclass
class Invoice:
    """The upstream, in a thread of its own."""

    port: int = 0
    billed: dict[str, list[Billed]] = field(default_factory=dict)
    """By tag."""
    asked: int = 0
    under_way: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def total(self) -> int:
        """All of it, in billionths of a dollar."""
        return sum(each.nano for answers in self.billed.values() for each in answers)

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[Self]:
        """Serve until the end of the block."""
        invoice, ready = cls(), threading.Event()
        stop: list[asyncio.Event] = []

        async def life() -> None:
            server = await asyncio.start_server(invoice._serve, "127.0.0.1", 0, backlog=1000)
            invoice.port = server.sockets[0].getsockname()[1]
            stop.append(asyncio.Event())
            invoice._loop = asyncio.get_running_loop()
            ready.set()
            await stop[0].wait()
            server.close()

        thread = threading.Thread(target=lambda: asyncio.run(life()), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield invoice
        finally:
            if invoice._loop is not None:
                invoice._loop.call_soon_threadsafe(stop[0].set)
            thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = [line.lower() for line in head.split("\r\n")]
                length = next((int(line[15:]) for line in fields if line.startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                self.asked += 1
                self.under_way += 1
                try:
                    await self._answer(head, body, writer)
                finally:
                    self.under_way -= 1
        writer.close()

    async def _answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        self.heads.append(head)
        if head.startswith("GET"):
            _send(writer, {"object": "list", "data": [{"id": name} for name in RATES]})
            return
        asked = json.loads(body)
        self.bodies.append(asked)
        plan = _plan(asked)
        answer = _Answer(self, asked, plan, writer)
        await answer.give(path)


def _plan(asked: dict[str, Any]) -> dict[str, Any]:
    content = asked["messages"][-1]["content"] if "messages" in asked else asked.get("input", "")
    try:
        plan: dict[str, Any] = json.loads(content)
    except ValueError:
        return {"tag": content, "how": "json"}
    return plan


def _send(writer: asyncio.StreamWriter, value: object, status: int = 200) -> None:
    body = json.dumps(value).encode()
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


class _Answer:
    def __init__(
        self, invoice: Invoice, asked: dict[str, Any], plan: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        self.invoice, self.asked, self.plan, self.writer = invoice, asked, plan, writer
        self.model = asked["model"]
        self.tier = plan.get("tier", "default")
        self.used = Billed(
            self.model, plan.get("in", 10), plan.get("cached", 0), plan.get("written", 0), plan.get("out", 5), self.tier
        )

    def bill(self) -> None:
        self.invoice.billed.setdefault(self.plan["tag"], []).append(self.used)

    @property
    def usage(self) -> dict[str, Any]:
        """As chat completions tell it."""
        used = self.used
        return {
            "prompt_tokens": used.input,
            "completion_tokens": used.output,
            "total_tokens": used.input + used.output,
            "prompt_tokens_details": {"cached_tokens": used.cached},
        }

    @property
    def response_usage(self) -> dict[str, Any]:
        """As responses tell it."""
        used = self.used
        details = {"cached_tokens": used.cached}
        return {"input_tokens": used.input, "output_tokens": used.output, "input_tokens_details": details}

    async def give(self, path: str) -> None:
        how = self.plan.get("how", "json")
        await asyncio.sleep(self.plan.get("wait", 0))
        if how == "refuse":
            _send(self.writer, {"error": {"message": "no", "code": "bad"}}, 400)
            return
        if how == "overloaded":
            _send(self.writer, {"error": {"message": "later"}}, 503)
            return
        if how == "hang up":
            self.writer.close()
            return
        if "/messages" in path:
            await self._message(how)
        elif "/responses" in path:
            await self._response(how)
        elif "/embeddings" in path:
            self.bill()
            _send(self.writer, {"model": self.model, "data": [], "usage": {"prompt_tokens": self.used.input}})
        elif self.asked.get("stream"):
            await self._stream(how)
        else:
            self.bill()
            tokens = self.usage if how != "silent" else None
            choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
            answer = {"id": "x", "model": self.model, "choices": [choice], "service_tier": self.tier}
            _send(self.writer, {**answer, "usage": tokens} if tokens else answer)
        await self.writer.drain()

    def begin(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def event(self, value: object, name: str = "") -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        data = (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()
        await asyncio.sleep(self.plan.get("pace", 0))

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def chunk(self, words: str | None, **more: Any) -> dict[str, Any]:
        delta = {"content": words} if words is not None else {}
        choice = {"index": 0, "delta": delta, "finish_reason": None if words is not None else "stop"}
        return {"id": "x", "model": self.model, "choices": [choice], "service_tier": self.tier, **more}

    async def _stream(self, how: str) -> None:
        wanted = (self.asked.get("stream_options") or {}).get("include_usage")
        self.begin()
        for number in range(self.used.output):
            in_middle = how == "middle" and number == self.used.output // 2
            await self.event(self.chunk("hi ", usage=self.usage) if in_middle else self.chunk("hi "))
            if how in ("break", "error") and number == self.used.output // 2:
                if how == "error":
                    await self.event({"error": {"message": "overloaded", "type": "server_error"}})
                    self.end()
                self.writer.close()
                return  # a failed stream is not billed
        self.bill()
        await self.event(self.chunk(None))
        if wanted and how not in ("middle", "none"):
            last = {"id": "x", "model": self.model, "choices": [], "usage": self.usage}
            await self.event({**last, "service_tier": self.tier})
        await self.event("[DONE]")
        self.end()

    async def _response(self, how: str) -> None:
        self.bill()
        kind = "incomplete" if how == "incomplete" else "completed"
        response = {"id": "r", "status": kind, "model": self.model, "usage": self.response_usage}
        if not self.asked.get("stream"):
            _send(self.writer, {"object": "response", **response})
            return
        self.begin()
        await self.event({"type": "response.created", "response": {"id": "r", "usage": None}}, "response.created")
        for _ in range(self.used.output):
            await self.event({"type": "response.output_text.delta", "delta": "hi"}, "response.output_text.delta")
        await self.event({"type": f"response.{kind}", "response": response}, f"response.{kind}")
        self.end()

    async def _message(self, how: str) -> None:
        self.bill()
        used = self.used
        counted = {
            "input_tokens": used.input - used.cached - used.written,
            "cache_read_input_tokens": used.cached,
            "cache_creation_input_tokens": used.written,
        }
        if not self.asked.get("stream"):
            message = {"type": "message", "model": self.model, "content": []}
            message["usage"] = {**counted, "output_tokens": used.output}
            _send(self.writer, message)
            return
        self.begin()
        start = {"model": self.model, "usage": {**counted, "output_tokens": 1}}
        await self.event({"type": "message_start", "message": start}, "message_start")
        for _ in range(used.output):
            await self.event({"type": "content_block_delta", "delta": {"text": "hi"}}, "content_block_delta")
        await self.event({"type": "message_delta", "usage": {"output_tokens": used.output}}, "message_delta")
        await self.event({"type": "message_stop"}, "message_stop")
        self.end()
