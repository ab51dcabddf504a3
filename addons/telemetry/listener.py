"""Listener: `/metrics` at an address of its own, `metrics.listen`, where nothing else is served.

A small server beside mitmproxy's: few clients, short heads, little time. With several workers the parent binds the
address and each of them may be the one that answers.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence

import h11

from addons import addresses, errors
from addons.config.settings import MetricsSettings
from addons.core.paths import METRICS
from addons.telemetry.scraping import Scraper, shows_token, wrong_token

logger = logging.getLogger(__name__)

_MOST_CLIENTS = 16
_LONGEST_HEAD = 16 << 10
_HEAD_SECONDS = 10.0
"""For a request, and for an answer to be taken."""
_IDLE_SECONDS = 75.0
_READ = 4096


class MetricsListener:
    """Serves until it is closed. `settings` tells the metrics' settings in force."""

    def __init__(self, scraper: Scraper, settings: Callable[[], MetricsSettings]) -> None:
        self._scraper = scraper
        self._settings = settings
        self._servers: list[asyncio.Server] = []
        self._clients = 0

    async def open(self, address: str, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen at `address`, or at the sockets that a parent has passed. Raises Refusal."""
        copies = [socket.socket(fileno=os.dup(each.fileno())) for each in inherited]
        for sock in copies or addresses.listen_at(address, addresses.METRICS_HINT):
            self._servers.append(await asyncio.start_server(self._serve, sock=sock))

    def close(self) -> None:
        """Take no more clients."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _MOST_CLIENTS:
                await self._talk(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # who does not speak HTTP, or not in time, has no answer
        except Exception:
            logger.exception("a scrape failed")
        finally:
            self._clients -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        while True:
            async with asyncio.timeout(_HEAD_SECONDS if connection.trailing_data[0] else _IDLE_SECONDS):
                request = await _next(connection, reader)
                if not isinstance(request, h11.Request):
                    return
                while not isinstance(await _next(connection, reader), h11.EndOfMessage):
                    pass
            status, headers, body = await self._answer(request)
            data = connection.send(h11.Response(status_code=status, headers=[*headers, *_framing(body)]))
            if request.method != b"HEAD":
                data = (data or b"") + (connection.send(h11.Data(data=body)) or b"")
            writer.write((data or b"") + (connection.send(h11.EndOfMessage()) or b""))
            async with asyncio.timeout(_HEAD_SECONDS):
                await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], bytes]:
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            if request.target.partition(b"?")[0] != METRICS.encode():
                raise errors.NotFound("此地址只提供 /metrics。", "This address serves /metrics alone.")
            if request.method not in (b"GET", b"HEAD"):
                raise errors.MethodNotAllowed(request.method.decode("latin-1"), "GET")
            if not shows_token(self._settings(), named.get("authorization", "")):
                raise wrong_token()
            body, content_type = await self._scraper.scrape(named.get("accept", ""))
        except errors.RelayError as error:
            return error.status, [("Content-Type", "application/json; charset=utf-8")], error.openai_body()
        return 200, [("Content-Type", content_type), ("Cache-Control", "no-store")], body


def _framing(body: bytes) -> list[tuple[str, str]]:
    return [("Content-Length", str(len(body)))]


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_READ))
    return event
