"""Aiming a flow at its upstream, and reaching mitmproxy's live connections: cutting an upstream off, closing a client.

mitmproxy offers no public way to the latter. What is used here was seen to work with the version the engine names;
where a connection is gone already, nothing happens.
"""

import sys
from contextvars import ContextVar

from mitmproxy import connection, ctx, http
from mitmproxy.proxy import server

from addons.config.settings import Upstream
from addons.core.headers import Fields

asked: ContextVar[Upstream | None] = ContextVar("asked", default=None)
"""The upstream of a sub-request, in the context of its tasks."""
gave_up: ContextVar[list[str] | None] = ContextVar("gave_up", default=None)
"""Where a sub-request hears why its connect was given up: mitmproxy connects in tasks that inherit the asker's
context."""
_HANDLER = "relay_handler"


def point(flow: http.HTTPFlow, upstream: Upstream, path: str) -> None:
    """Send `flow` to `upstream`, asking for `path` (with its query)."""
    request, data = flow.request, flow.request.data
    # The setters for these would each take the Host header apart and put it together again.
    data.scheme = upstream.scheme.encode()
    data.port = upstream.port
    data.host = upstream.host
    if request.is_http2:
        request.host_header = upstream.authority
    else:
        # A request in absolute form (`GET http://host/path`) would go up so, with the client's idea of a host.
        data.authority = b""
        data.headers.fields = _with_host(data.headers.fields, upstream.authority.encode())
    data.path = path.encode("utf-8", "surrogateescape")
    if upstream.via is not None:
        flow.server_conn.via = ("http", upstream.via)


def _with_host(fields: Fields, authority: bytes) -> Fields:
    """As `headers["Host"] = ...`, without its detours."""
    kept, found = [], False
    for field in fields:
        if field[0].lower() != b"host":
            kept.append(field)
        elif not found:
            kept.append((field[0], authority))
            found = True
    return tuple(kept if found else [*kept, (b"Host", authority)])


def declared_length(request: http.Request) -> int | None:
    """Content-Length in bytes, or None where there is none that can be read. Beyond all numbers is `sys.maxsize`."""
    declared = request.headers.get("content-length", "")
    if not (declared.isascii() and declared.isdigit()):
        return None
    return int(declared) if len(declared) < 19 else sys.maxsize


def handler_of(client: connection.Client) -> server.ConnectionHandler | None:
    """The task that serves `client`, while it is connected."""
    proxyserver = ctx.master.addons.get("proxyserver")
    handler: server.ConnectionHandler | None = proxyserver.connections.get(client.id) if proxyserver else None
    return handler


def serve(flow: http.HTTPFlow, handler: server.ConnectionHandler | None) -> None:
    """Note the task that serves a sub-request, while it lasts: it has no client that is connected."""
    setattr(flow, _HANDLER, handler)


def cut_upstream(flow: http.HTTPFlow, why: str) -> None:
    """Close the upstream connection of `flow` now; its `error` hook follows.

    Where it is not established yet, every connection of this client that still is on its way is given up.
    """
    handler = getattr(flow, _HANDLER, None) or handler_of(flow.client_conn)
    if handler is None:
        return
    established = handler.transports.get(flow.server_conn)
    if established is not None:
        doomed = [established]
    else:
        doomed = [
            io for peer, io in handler.transports.items() if isinstance(peer, connection.Server) and not peer.connected
        ]
    for transport in doomed:
        if transport.handler is not None:
            transport.handler.cancel(why)


def close_client(client: connection.Client, why: str) -> None:
    """Close a client's connection, and with it everything that was going on there."""
    handler = handler_of(client)
    transport = handler.transports.get(client) if handler is not None else None
    if transport is not None and transport.handler is not None:
        transport.handler.cancel(why)
