"""How a connection to an upstream is made: by a proxy where one is named, then TLS where that is wanted.

The addresses of a name are tried 250 ms apart and alternating by family (RFC 8305, sections 4 and 5): one that leads
nowhere costs that much and not `limits.connect`.
"""

import asyncio
import socket
import time

from aiohappyeyeballs import start_connection

from addons.core.urls import is_address
from addons.engine.pool import proxies, tls
from addons.engine.pool.names import names
from addons.engine.pool.places import Place
from addons.engine.pool.upstream_connection import UpstreamConnection

_DELAY = 0.25


async def dial(place: Place, options: tls.TlsOptions) -> UpstreamConnection:
    """A fresh connection. Raises OSError, and nothing else: mitmproxy would leave the client waiting."""
    begun = time.time()
    sock = await _reach(place)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    made = UpstreamConnection(place)
    made.begun_at, made.connected_at = begun, time.time()
    if place.secure:
        transport = await tls.secure(sock, place, options, made, lambda: made.kernel.close())
    else:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: made, sock=sock)
    made.opened(transport)
    return made


async def _reach(place: Place) -> socket.socket:
    if place.way is None:
        return await _connect(place.host, place.port)
    scheme, proxy = place.way
    if scheme != "http":
        return await proxies.by_socks(place, names)
    with proxies.named(proxies.CONNECT_FAILED, place):
        sock = await _connect(*proxy)
        await proxies.ask_for_tunnel(sock, place)
    return sock


async def _connect(host: str, port: int) -> socket.socket:
    if is_address(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return await start_connection([(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))])
    addresses = await names.look_up(host, port)
    try:
        return await start_connection(addresses, happy_eyeballs_delay=_DELAY)
    except OSError:
        names.forget(host, port)
        raise
