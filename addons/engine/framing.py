"""Framing: where messages begin and end on the wire, in the cases that mitmproxy gets wrong or leaves open."""

import functools
import re
from collections.abc import Callable
from typing import Any

import h11
import wsproto
from h11._readers import ChunkedReader
from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import websocket
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import RequestHeaders
from wsproto.frame_protocol import CloseReason

from addons import errors
from addons.engine.wrapping import Commands, wrap

_BINARY = ("HTTP/2", "HTTP/3")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1\d\d")


def install(header_size: int, on_head: Callable[[Client], None]) -> None:
    """Make the changes of this room; the arguments are those of `engine.install`."""
    wrap(_http1, "make_body_reader", _without_trailers)
    wrap(_http1.Http1Client, "send", _frame_http2_bodies)
    wrap(_http1.Http1Client, "read_headers", _skip_interim_answers)
    wrap(websocket.WebsocketConnection, "send2", _break_websockets)
    wrap(_http1.Http1Server, "read_headers", functools.partial(_bound_heads, header_size, on_head))


# Trailers


class _ChunkedReader(ChunkedReader):
    def __call__(self, buf: Any) -> Any:
        event = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event


def _without_trailers(stock: Any, expected_size: int | None) -> Any:
    return _ChunkedReader() if expected_size is None else stock(expected_size)


# Requests in HTTP/2


def _frame_http2_bodies(stock: Any, client: Any, event: Any) -> Commands:
    if isinstance(event, RequestHeaders) and not event.end_stream and event.request.http_version.startswith(_BINARY):
        headers = event.request.headers
        if "content-length" not in headers:
            headers["Transfer-Encoding"] = "chunked"
    return (yield from stock(client, event))


# Interim answers


def _skip_interim_answers(stock: Any, client: Any, event: Any) -> Commands:
    if isinstance(event, events.DataReceived) and client.request is not None:
        while _INTERIM.match(head := bytes(client.buf)[:12]) and head[9:12] != b"101":
            if client.buf.maybe_extract_lines() is None or not client.buf:
                return
    yield from stock(client, event)


# Websockets


def _break_websockets(stock: Any, peer: Any, event: Any) -> Any:
    if isinstance(event, wsproto.events.CloseConnection) and event.code == CloseReason.ABNORMAL_CLOSURE:
        return commands.SendData(peer.conn, b"")  # 1006 says that no close frame came: so none is sent
    return stock(peer, event)


# Heads


def _bound_heads(size: int, on_head: Callable[[Client], None], stock: Any, server: Any, event: Any) -> Commands:
    yield from stock(server, event)
    if not isinstance(event, events.DataReceived):
        return
    waiting = server.state == server.read_headers
    if waiting and len(server.buf) > size:
        error = errors.BadRequest(
            f"请求头超过 {size} 字节。", f"The request's headers are over {size} bytes.", code="headers_too_large"
        )
        headers = {"Content-Type": "application/json; charset=utf-8", "Connection": "close"}
        yield commands.SendData(
            server.conn, http1.assemble_response(http.Response.make(error.status, error.openai_body(), headers))
        )
        yield commands.CloseConnection(server.conn)
        server.state = server.done
    elif waiting and server.buf:
        on_head(server.conn)
