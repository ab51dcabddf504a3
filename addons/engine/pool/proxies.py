"""Proxies on the way out: a connection that leads by one is made by it, and all that follows is as without one."""

import asyncio
import contextlib
import errno
import re
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator

from python_socks import ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from addons.core.urls import is_address
from addons.engine.pool.names import Names
from addons.engine.pool.places import Place

SOCKS_FAILED = "SOCKS proxy "
CONNECT_FAILED = "Upstream proxy "
"""How the reason of a connect begins that such a proxy has failed (addons/core/failures.py reads it)."""
_LONGEST = 600.0
"""Seconds: `limits.connect` ends a connect long before."""
_MOST_HEAD = 1 << 14
"""Bytes of a proxy's answer."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


async def by_socks(place: Place, names: Names) -> socket.socket:
    """A connection to `place` by its SOCKS proxy. Raises OSError."""
    assert place.way is not None
    scheme, proxy = place.way
    host = place.host
    if not (is_address(host) or scheme == "socks5h"):
        host = await _address(names, host, place.port)
    user, _, password = (place.login or "").partition(":")
    with named(SOCKS_FAILED, place):
        address = await _address(names, *proxy)
        made = Proxy(ProxyType.SOCKS5, address, proxy[1], username=user or None, password=password or None, rdns=True)
        return await made.connect(host, place.port, timeout=_LONGEST)


@contextlib.contextmanager
def named(failed: str, place: Place) -> Iterator[None]:
    """Have whatever fails begin with `failed` and the proxy's address. That no descriptor is left is not its fault."""
    assert place.way is not None
    host, port = place.way[1]
    try:
        yield
    except (ProxyError, ProxyTimeoutError, OSError, ValueError) as error:  # a name that can't be sent is a ValueError
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise OSError(f"{failed}{host}:{port}: {error}") from None


async def _address(names: Names, host: str, port: int) -> str:
    if is_address(host):
        return host
    found: str = (await names.look_up(host, port))[0][4][0]
    return found


async def ask_for_tunnel(sock: socket.socket, place: Place) -> None:
    """Have the HTTP proxy behind `sock` lead on to `place` (RFC 9110, 9.3.6). Raises OSError."""
    loop = asyncio.get_running_loop()
    async with _whole(sock):
        await loop.sock_sendall(sock, _connect(place))
        head = await _head(sock)
        status = _STATUS.match(head)
        if status is None:
            raise OSError("it does not answer in HTTP")
        if not status[1].startswith(b"2"):
            raise OSError(f"it refused CONNECT: {status[1].decode()}")


def _connect(place: Place) -> bytes:
    target = f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if place.login is not None:
        lines.append(f"Proxy-Authorization: Basic {b64encode(place.login.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _head(sock: socket.socket) -> bytes:
    """All of an answer's head, and no byte more: what follows is the upstream's."""
    loop = asyncio.get_running_loop()
    head = bytearray()
    while not head.endswith((b"\r\n\r\n", b"\n\n")):
        piece = await loop.sock_recv(sock, 1)
        if not piece or len(head) > _MOST_HEAD:
            break
        head += piece
    return bytes(head)


@contextlib.asynccontextmanager
async def _whole(sock: socket.socket) -> AsyncIterator[None]:
    """Close it where what it is for does not come about."""
    try:
        yield
    except BaseException:
        sock.close()
        raise
