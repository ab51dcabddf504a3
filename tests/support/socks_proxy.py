"""A small SOCKS5 proxy for tests (RFC 1928, RFC 1929), as Clash and v2ray listen on 127.0.0.1:1080."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.connect_proxy import join, listening, serve

NOBODY = "upstream.nowhere.invalid"
"""A name that no resolver knows; the proxy leads it to 127.0.0.1."""


@dataclass
class SocksProxy:
    """A running proxy and what it was asked."""

    port: int
    login: tuple[str, str] | None = None
    """User and password that it wants, if it wants any."""
    refuse: int = 0
    """A reply code of RFC 1928 to answer with: 5 is a connection refused."""
    mute: bool = False
    """Accept, and never answer."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Hosts and ports, a name where a name was sent."""
    logins: list[tuple[str, str]] = field(default_factory=list)

    def url(self, scheme: str = "socks5h", login: str = "") -> str:
        """As relay.yaml wants it."""
        return f"{scheme}://{login}{'@' if login else ''}127.0.0.1:{self.port}"


@contextlib.contextmanager
def running() -> Iterator[SocksProxy]:
    """A proxy on a free port."""
    with listening() as listener:
        proxy = SocksProxy(listener.getsockname()[1])
        serve(listener, lambda client: _tunnel(client, proxy))
        yield proxy


def _tunnel(client: socket.socket, proxy: SocksProxy) -> None:
    with client, contextlib.suppress(OSError):
        if proxy.mute:
            while client.recv(100):
                pass
            return
        if not _greet(client, proxy):
            return
        host, port = _asked(client)
        proxy.asked.append((host, port))
        client.sendall(bytes([5, proxy.refuse, 0, 1, 0, 0, 0, 0, 0, 0]))
        if proxy.refuse:
            return
        with socket.create_connection(("127.0.0.1" if host == NOBODY else host, port)) as upstream:
            join(client, upstream)


def _greet(client: socket.socket, proxy: SocksProxy) -> bool:
    """Agree on a method; whether the client may go on."""
    methods = _read(client, _read(client, 2)[1])
    method = 2 if proxy.login else 0
    client.sendall(bytes([5, method if method in methods else 255]))
    if method not in methods or not proxy.login:
        return method in methods
    user = _read(client, _read(client, 2)[1]).decode()
    password = _read(client, _read(client, 1)[0]).decode()
    proxy.logins.append((user, password))
    fits = (user, password) == proxy.login
    client.sendall(bytes([1, 0 if fits else 1]))
    return fits


def _asked(client: socket.socket) -> tuple[str, int]:
    kind = _read(client, 4)[3]
    if kind == 3:
        host = _read(client, _read(client, 1)[0]).decode()
    else:
        host = socket.inet_ntop(
            *((socket.AF_INET, _read(client, 4)) if kind == 1 else (socket.AF_INET6, _read(client, 16)))
        )
    return host, int.from_bytes(_read(client, 2))


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (chunk := client.recv(size - len(data))):
            raise ConnectionError
        data += chunk
    return data
