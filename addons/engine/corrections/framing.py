"""Framing: where messages begin and end on the wire, in the cases that mitmproxy gets wrong or leaves open."""

import functools
import re
from collections.abc import Callable
from typing import Any

import h11
from h11._readers import ChunkedReader
from mitmproxy.connection import Client
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseProtocolError,
    ResponseTrailers,
)

from addons import errors
from addons.core import headers
from addons.engine.corrections import attempts
from addons.engine.pool import repeats
from addons.engine.wrapping import Commands, wrap, wrap_inner

_BINARY = ("HTTP/2", "HTTP/3")
_NOTHING: tuple[Any, ...] = ()
_READ = 1 << 16  # what one read brings at most
_INTERIM = re.compile(rb"HTTP/1\.[01] 1\d\d")
_KNOWN_INTERIM = (b"100", b"102", b"103")


def install(header_size: int, on_head: Callable[[Client], None]) -> None:
    """Make the changes of this room; the arguments are those of `engine.install`."""
    wrap(_http1, "make_body_reader", _without_trailers)
    wrap_inner(_http1.Http1Client, "send", _frame_http2_bodies)
    wrap_inner(_http1.Http1Server, "send", _drop_trailers_down)
    for peer in (_http1.Http1Client, _http1.Http1Server):
        wrap_inner(peer, "_handle_event", functools.partial(_bound_buffers, header_size))
    wrap_inner(_http1.Http1Client, "read_headers", _skip_interim_answers)
    wrap_inner(_http1.Http1Server, "read_headers", functools.partial(_watch_heads, on_head))


# Trailers


class _ChunkedReader(ChunkedReader):
    def __call__(self, buf: Any) -> Any:
        event = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event


def _without_trailers(stock: Any, expected_size: int | None) -> Any:
    """mitmproxy 12.2.3 raises NotImplementedError over trailers in HTTP/1; so the exchange hangs until a timeout. Here
    they are dropped. Remove when mitmproxy reads trailers of HTTP/1 (issue #2474).
    """
    return _ChunkedReader() if expected_size is None else stock(expected_size)


# Requests in HTTP/2


def _frame_http2_bodies(stock: Any, client: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 sends the body of an HTTP/2 request without a length over HTTP/1 without any framing, and raises
    over its trailers; so upstream takes the body for the next request. Here it gets chunks, and trailers are dropped.
    Remove when Http1Client.send adds Transfer-Encoding itself and takes RequestTrailers.
    """
    if isinstance(event, RequestProtocolError) and event.stream_id != client.stream_id:
        return _NOTHING  # its answer is over, and the connection may be at work for another one
    repeats.note(client.conn, event)
    if isinstance(event, attempts.LeftAlone):
        return attempts.leave_alone(client)
    if isinstance(event, RequestHeaders) and not event.end_stream and event.request.http_version.startswith(_BINARY):
        fields = event.request.headers
        if "content-length" not in fields:
            fields["Transfer-Encoding"] = "chunked"
    return _NOTHING if isinstance(event, RequestTrailers) else stock(client, event)


def _drop_trailers_down(stock: Any, server: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 raises where an HTTP/2 upstream sends trailers to a client of HTTP/1; so the answer has no end.
    Remove when Http1Server.send takes ResponseTrailers (issue #2474).
    """
    return _NOTHING if isinstance(event, ResponseTrailers) else stock(server, event)


# Interim answers


def _skip_interim_answers(stock: Any, client: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 takes a 103 or an unasked 100 for the answer; so the client gets that, and the real answer is
    taken for unasked data. Remove when Http1Client.read_headers reads on behind a 1xx (issue #2229).
    """
    if isinstance(event, events.DataReceived) and client.request is not None:
        repeats.settle(client.conn)
        while _INTERIM.match(head := _beginning(client.buf)) and head[9:12] != b"101":
            if head[9:12] not in _KNOWN_INTERIM:
                repeats.spoil(client.conn)
            if client.buf.maybe_extract_lines() is None or not client.buf:
                return _NOTHING
    return stock(client, event)


def _beginning(buf: Any) -> bytes:
    return bytes(buf._data[:12])  # `bytes(buf)` copies all of it, for each of a thousand interim answers


# Buffers


def _bound_buffers(size: int, _stock: Any, peer: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 keeps what comes of a head, of a chunk's length, of trailers or of a next request without a
    bound ("FIXME: protect against header size DoS"); so one client takes all memory. Here who fills such a buffer is
    closed. Remove when Http1Connection bounds its `buf` by an option.

    Between two events a sound peer leaves at most an unfinished line there, or a head.
    """
    if peer.state == peer.passthrough or peer.state == peer.done:
        pass
    elif len(peer.buf) > size + _READ:
        return _close_over_buffer(_over_size(size), peer)
    elif peer.state == peer.read_headers and isinstance(event, events.DataReceived) and _is_wide(peer.buf, event.data):
        return _close_over_buffer(_over_lines(), peer)
    return _http1.Http1Connection._handle_event(peer, event)  # which may be a faster one than `stock`


def _is_wide(buf: Any, data: bytes) -> bool:
    """Whether a head has more lines than it may."""
    if len(buf) + len(data) <= 2 * headers.MOST:
        return False
    head = bytes(buf._data) + data
    ends = (head.find(b"\n\r\n"), head.find(b"\n\n"))
    return head.count(b"\n", 0, min((end for end in ends if end >= 0), default=len(head))) > headers.MOST


def _over_size(size: int) -> errors.RelayError:
    return errors.BadRequest(
        f"请求头或分块超过 {size} 字节。",
        f"The request's headers, or the frame of a chunk, are over {size} bytes.",
        code="headers_too_large",
    )


def _over_lines() -> errors.RelayError:
    return errors.BadRequest(
        f"请求头超过 {headers.MOST} 行。",
        f"The request has more than {headers.MOST} headers.",
        code="headers_too_large",
    )


def _close_over_buffer(error: errors.RelayError, peer: Any) -> Commands:
    peer.buf = type(peer.buf)()
    if isinstance(peer, _http1.Http1Server):
        yield from _too_much_from_client(error, peer)
        return
    yield commands.CloseConnection(peer.conn)
    if peer.stream_id is not None:
        failure = ResponseProtocolError(
            peer.stream_id, "unexpected server response: too long a head", ErrorCode.GENERIC_SERVER_ERROR
        )
        yield ReceiveHttp(failure)
    peer.state = peer.done


def _too_much_from_client(error: errors.RelayError, server: Any) -> Commands:
    if not server.response:
        yield commands.SendData(server.conn, errors.closing_answer(error))
    yield commands.CloseConnection(server.conn)
    if server.request is not None:
        left = RequestProtocolError(server.stream_id, "Client disconnected.", ErrorCode.CLIENT_DISCONNECTED)
        yield ReceiveHttp(left)
    server.state = server.done


# Heads


def _watch_heads(on_head: Callable[[Client], None], stock: Any, server: Any, event: Any) -> Commands:
    """mitmproxy 12.2.3 calls no hook before a request's head is complete; so whoever sends one byte of it a minute
    holds a connection for good, and nobody could time that. Remove when there is a hook or a timeout for heads that are
    begun.
    """
    yield from stock(server, event)
    if isinstance(event, events.DataReceived) and server.state == server.read_headers and server.buf:
        on_head(server.conn)
