"""SOCKS: a connection that leads by such a proxy is made by it, and all that follows is as without one."""

import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy import commands, context, server, tunnel
from mitmproxy.proxy.layers.http import _upstream_proxy
from python_socks import ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from addons.config.settings import Upstream
from addons.engine.wrapping import wrap

FAILED = "SOCKS proxy "
"""How the reason of a connect begins that such a proxy has failed (addons/core/failures.py reads it)."""
_LONGEST = 600.0
"""Seconds: `limits.connect` ends a connect long before."""

type _Way = tuple[str, tuple[str, int]]
"""As mitmproxy has it in `Server.via`: scheme, and address of the proxy."""

_logins: dict[tuple[_Way, tuple[str, int]], str | None] = {}
"""`user:password` for a proxy, by it and the upstream's address: what mitmproxy keeps of a connection is shown."""
_through: ContextVar[Server | None] = ContextVar("through", default=None)


def install(upstreams: Iterable[Upstream]) -> None:
    """Make the changes of this room, for connections to these upstreams."""
    for upstream in upstreams:
        if upstream.way is not None:
            _logins[upstream.way, (upstream.host, upstream.port)] = upstream.proxy_auth
    wrap(_upstream_proxy.HttpUpstreamProxy, "make", _make)
    wrap(server.ConnectionHandler, "open_connection", _open_connection)


def _make(stock: Any, inner: context.Context, send_connect: bool) -> tunnel.LayerStack:
    """mitmproxy 12.2.3 knows HTTP proxies only, and would send CONNECT to a SOCKS proxy; so nobody behind one could
    use it. Here no layer speaks to the proxy: it is done with once the connection is there. Remove when `via` knows
    SOCKS.
    """
    if inner.server.via is not None and _is_socks(inner.server.via[0]):
        return tunnel.LayerStack()
    stack: tunnel.LayerStack = stock(inner, send_connect)
    return stack


async def _open_connection(stock: Any, handler: Any, command: commands.OpenConnection) -> None:
    """mitmproxy 12.2.3 connects to an upstream itself; so a SOCKS proxy has no part in it. As stock, and whom the
    connection leads by is known where it is made. Remove when `via` knows SOCKS.
    """
    via = command.connection.via
    _through.set(command.connection if via is not None and _is_socks(via[0]) else None)
    await stock(handler, command)


def way() -> Server | None:
    """The connection that is made in this task, where that leads by a SOCKS proxy."""
    return _through.get()


def looks_up(wanted: Server) -> bool:
    """Whether its proxy looks up the names of upstreams."""
    return wanted.via is not None and str(wanted.via[0]) == "socks5h"


async def connect(wanted: Server, address: tuple[str, int], host: str) -> socket.socket:
    """A connection by the proxy of `wanted` to the upstream at `address`, asked for as `host`. Raises OSError."""
    assert wanted.via is not None
    place = wanted.via[1]
    user, _, password = (_logins.get((wanted.via, address)) or "").partition(":")
    proxy = Proxy(ProxyType.SOCKS5, *place, username=user or None, password=password or None, rdns=True)
    try:
        return await proxy.connect(host, address[1], timeout=_LONGEST)
    except (ProxyError, ProxyTimeoutError, OSError, ValueError) as error:  # a name that can't be sent is a ValueError
        raise OSError(f"{FAILED}{place[0]}:{place[1]}: {error}") from None


def _is_socks(scheme: str) -> bool:
    return scheme.startswith("socks")
