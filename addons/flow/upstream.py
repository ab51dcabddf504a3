"""Aiming a flow at its upstream."""

import sys
from contextvars import ContextVar

from mitmproxy import http

from addons.config.settings import Upstream
from addons.core.headers import Fields
from addons.exchange import aim

gave_up: ContextVar[list[str] | None] = ContextVar("gave_up", default=None)
"""Where a sub-request hears why its connect was given up: mitmproxy connects in tasks that inherit the asker's
context."""


def set_upstream(flow: http.HTTPFlow, upstream: Upstream, path: str) -> None:
    """Send `flow` to `upstream`, asking for `path` (with its query)."""
    aim(flow, upstream)
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
    if upstream.way is not None or flow.server_conn.via is not None:  # a client's earlier request's, to another one
        flow.server_conn.via = upstream.way


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
