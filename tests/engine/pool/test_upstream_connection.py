"""Whether a connection is clean, seen by a connection in TLS with a real server."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

from mitmproxy.connection import ConnectionState, Server

from addons.engine.pool import dialing, tls
from addons.engine.pool.places import Place
from addons.engine.pool.upstream_connection import Seat, UpstreamConnection
from tests.support import certificates

SAID = 2_000_000


async def _lent(connection: UpstreamConnection) -> Any:
    server = Server(address=("127.0.0.1", connection.place.port))
    server.state = ConnectionState.OPEN
    return connection.lend(Seat(connection.place, server, object(), fresh=False))


def test_what_tls_has_in_hand_has_come_although_nobody_was_given_it(tmp_path: Path) -> None:
    """A reader that holds much has TLS pause; what that holds is behind what looks like the end of an answer."""
    pair = certificates.self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(SAID))

    async def life() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
            port = listener.sockets[0].getsockname()[1]
            made = await dialing.dial(Place("127.0.0.1", port, True), tls.TlsOptions(ssl_insecure=True))
            patient = await _lent(made)
            await asyncio.sleep(0.3)
            held = made.received
            assert held < SAID, "TLS pauses"
            while held:
                held -= len(await patient.read(65536))
            assert not patient.has_more
            made.rest(float("inf"))
            made.kernel.waiting = lambda: None  # type: ignore[method-assign]  # else the kernel has some, too
            assert not made.may_rest() and not made.is_fit(0.0)
            made.writer.transport.abort()

    asyncio.run(life())
