"""Preambles: who is asked for one, and how long that may take."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.proxy import mode_specs
from mitmproxy.proxy.mode_servers import ServerInstance

from addons.config.settings import ClientAddressSettings
from addons.engine.corrections import preambles
from addons.engine.wrapping import restore

LINE = b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 8080\r\n"
MODES = {name: mode_specs.ProxyMode.parse(name) for name in ("reverse:http://relay.invalid", "regular")}
BELIEVED = {"source": "proxy_protocol", "trusted": ["127.0.0.0/8"]}


async def served(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], data: bytes, mode: str = "reverse:http://relay.invalid"
) -> tuple[Any, bytes] | None:
    """The address and the first bytes that mitmproxy gets of a client that sends `data`; None where it gets nobody."""
    found: asyncio.Queue[tuple[Any, bytes] | None] = asyncio.Queue()

    async def stock(self: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.put_nowait((writer.get_extra_info("peername"), await reader.read(100)))
        assert writer.get_extra_info("sockname") is not None
        writer.close()

    monkeypatch.setattr(ServerInstance, "handle_stream", stock)
    preambles.install(ClientAddressSettings.model_validate(settings))
    instance = SimpleNamespace(mode=MODES[mode])

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handle: Any = ServerInstance.handle_stream
        await handle(instance, reader, writer)

    try:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(data)
            closed = asyncio.create_task(reader.read())
            got = asyncio.create_task(found.get())
            await asyncio.wait([closed, got], return_when=asyncio.FIRST_COMPLETED, timeout=5)
            got.cancel()
            writer.close()
            await asyncio.gather(closed, got, return_exceptions=True)
            return got.result() if got.done() and not got.cancelled() else None
    finally:
        restore(ServerInstance, "handle_stream")
        preambles.install(ClientAddressSettings())


def test_a_client_is_who_was_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in (BELIEVED, {"source": "proxy_protocol"}):
        assert asyncio.run(served(monkeypatch, settings, LINE + b"GET /")) == (("203.0.113.9", 51000), b"GET /")
    six = b"PROXY TCP6 2001:db8::7 ::1 51000 8080\r\n"
    assert asyncio.run(served(monkeypatch, BELIEVED, six + b"x")) == (("2001:db8::7", 51000, 0, 0), b"x")


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        pytest.param({"source": "peer"}, "reverse:http://relay.invalid", id="nobody asks for one"),
        pytest.param({**BELIEVED, "trusted": ["10.0.0.0/8"]}, "reverse:http://relay.invalid", id="it is no proxy"),
        pytest.param(BELIEVED, "regular", id="another mode"),
    ],
)
def test_who_is_not_asked_keeps_its_address_and_its_bytes(
    settings: dict[str, Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = asyncio.run(served(monkeypatch, settings, LINE, mode))
    assert got is not None and got[0][0] == "127.0.0.1" and got[1] == LINE


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 nonsense\r\n", b"PROXY", b""])
def test_without_one_the_connection_is_closed(
    data: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preambles, "TIME", 0.1)
    monkeypatch.setattr(preambles._taking, "refusals", preambles._Refusals())
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(served(monkeypatch, BELIEVED, data)) is None
    assert len(caplog.records) == 1 and "want of a PROXY preamble" in caplog.text


def test_the_log_is_not_filled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(preambles._taking, "refusals", preambles._Refusals())

    async def many() -> None:
        for _ in range(20):
            await served(monkeypatch, BELIEVED, b"GET / HTTP/1.1\r\n\r\n")

    with caplog.at_level(logging.WARNING):
        asyncio.run(many())
    assert len(caplog.records) == 1
