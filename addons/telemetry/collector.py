"""Collector: posts spans to the address of `telemetry.otlp`, by connections of relay's own pool's making.

One connection a batch: batches are few. Whatever the collector does, it takes `SECONDS` at most, and what it says is
read up to 64 KiB and thrown away.
"""

import asyncio

import h11
from mitmproxy import ctx

from addons.core.urls import Address
from addons.engine.pool import dialing
from addons.engine.pool.places import Place
from addons.engine.pool.tls import TlsOptions

SECONDS = 10.0
TRACES = "/v1/traces"
_MOST_READ = 64 << 10


async def post(address: Address, body: bytes) -> int:
    """The status that the collector answers with. Raises OSError, a TimeoutError among them, where there is none."""
    async with asyncio.timeout(SECONDS):
        place = Place(address.host, address.port, address.scheme == "https")
        connection = await dialing.dial(place, TlsOptions.of(ctx.options))
        try:
            return await _ask(connection.reader, connection.writer, address, body)
        except h11.ProtocolError as error:
            raise OSError(f"no HTTP: {error}") from error
        finally:
            connection.discard("relay: told")


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address, body: bytes) -> int:
    connection = h11.Connection(h11.CLIENT)
    # An address may have been written with the path at its end.
    target = address.path(TRACES) if not address.prefix.endswith("/traces") else address.prefix
    headers = [
        ("Host", address.authority),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        ("User-Agent", "relay"),
    ]
    said = [
        connection.send(h11.Request(method="POST", target=target, headers=headers)),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    ]
    writer.write(b"".join(each or b"" for each in said))
    await writer.drain()
    read = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            chunk = await reader.read(4096)
            read += len(chunk)
            if read > _MOST_READ:
                raise OSError("it says too much")
            connection.receive_data(chunk)
        elif isinstance(event, h11.Response):
            return event.status_code
        elif not isinstance(event, h11.InformationalResponse):
            raise OSError("it has not answered")
