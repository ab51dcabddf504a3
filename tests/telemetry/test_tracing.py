"""Collectors that take spans, hang, refuse, drip or are not there: relay goes on, and little is lost."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.test import taddons

from addons.core.metrics import Numbers
from addons.core.observed import Observed
from addons.core.urls import parse_upstream
from addons.telemetry import collector, tracing
from addons.telemetry.tracing import Tracing

type Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def observed(**more: Any) -> Observed:
    usual: dict[str, Any] = {"id": "req_1", "ended": 1000.0, "seconds": 2.0, "endpoint": "files", "status": 200}
    return Observed(**usual | more)


def counted(numbers: Numbers, result: str) -> float:
    return numbers.counters.get("relay_spans", {}).get((result,), 0)


@contextlib.asynccontextmanager
async def serving(serve: Server) -> AsyncIterator[str]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    """mitmproxy's, those for TLS among them."""
    with taddons.context(TlsConfig()):
        yield


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of what is posted."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    while True:
        writer.write(b"H")
        await writer.drain()
        await asyncio.sleep(0.05)


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)
    await writer.drain()


async def leave(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


def test_a_collector_is_told_in_otlp() -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await request(reader))
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    async def life() -> int:
        async with serving(serve) as url:
            return await collector.post(parse_upstream(f"{url}/prefix"), b"{}")

    assert asyncio.run(life()) == 202
    [(head, body)] = heard
    assert head.startswith(b"POST /prefix/v1/traces HTTP/1.1\r\n") and body == b"{}"
    assert b"Content-Type: application/json" in head


@pytest.mark.parametrize("serve", [hang, drip, babble, leave], ids=lambda each: each.__name__)
def test_a_collector_that_does_not_answer_has_its_time(serve: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "SECONDS", 0.3)

    async def life() -> None:
        async with serving(serve) as url:
            await collector.post(parse_upstream(url), b"{}")

    begun = time.monotonic()
    with pytest.raises(OSError):
        asyncio.run(life())
    assert time.monotonic() - begun < 3


def test_one_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(OSError):
        asyncio.run(collector.post(parse_upstream(url), b"{}"))


class Told:
    """A tracing whose collector does as it is told: statuses, or None where it is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: int | None) -> None:
        self.answers = list(answers)
        self.posted: list[int] = []
        self.numbers = Numbers()
        self.tracing = Tracing(self.numbers)
        self.tracing.address = parse_upstream("http://collector")
        monkeypatch.setattr(tracing, "post", self.post)
        monkeypatch.setattr(tracing, "_SOON", 0.0)
        monkeypatch.setattr(tracing, "_LONGEST_PAUSE", 0.0)

    async def post(self, _address: object, body: bytes) -> int:
        spans = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
        self.posted.append(len(spans))
        answer = self.answers.pop(0) if self.answers else 200
        if answer is None:
            raise OSError("nobody there")
        return answer

    def run(self, exchanges: int, **more: Any) -> None:
        async def life() -> None:
            for _ in range(exchanges):
                self.tracing.over(observed(**more))
            while self.tracing._sending is not None and not self.tracing._sending.done():
                await asyncio.sleep(0.001)

        asyncio.run(life())


def test_spans_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.run(1000)
    assert told.posted == [512, 488]
    assert (counted(told.numbers, "sent"), counted(told.numbers, "dropped")) == (1000, 0)


def test_what_could_not_be_sent_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(monkeypatch, None, 503, 429)
    told.run(10)
    assert told.posted == [10, 10, 10, 10]
    assert (counted(told.numbers, "sent"), counted(told.numbers, "dropped")) == (10, 0)
    assert len([each for each in caplog.messages if "spans" in each]) == 1, "one line, not one a try"


def test_what_is_refused_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, 400)
    told.run(10)
    assert told.posted == [10]
    assert (counted(told.numbers, "sent"), counted(told.numbers, "dropped")) == (0, 10)


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, None)
    monkeypatch.setattr(tracing, "MOST", 700)
    told.run(1000)
    assert (counted(told.numbers, "sent"), counted(told.numbers, "dropped")) == (700, 300)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"endpoint": "relay"}, id="relay's own pages"),
        pytest.param({"parent": f"00-{'a' * 32}-{'b' * 16}-00"}, id="a trace that is not recorded"),
    ],
)
def test_what_nobody_wants(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    told = Told(monkeypatch)
    told.run(3, **more)
    assert told.posted == []
