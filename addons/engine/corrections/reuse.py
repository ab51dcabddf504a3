"""A request that is sent on a kept connection while upstream closes it is asked once more, on a fresh one.

Upstreams close idle connections when they like, and nobody can know before the next request is on its way. It is
repeated only where upstream can't have had it: no byte of an answer has come, all that was sent of it is at hand
(64 KiB at most), and upstream's kernel has acknowledged none of these bytes, which Linux tells (`TCP_INFO`, tcp(7)).
Whatever is uncertain is not repeated: it may have been worked on, and billed. Behind a proxy it is the proxy that
acknowledges.
"""

import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    ResponseProtocolError,
)

from addons.engine.wrapping import Commands

REPEATED = "relay.repeated"
"""In the metadata of a flow whose request was asked once more."""
_MOST_HELD = 1 << 16
_WIRE = "relay_wire"
_SENT = "relay_sent"
_ACKED = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of `struct tcp_info`, linux/tcp.h, since Linux 4.1."""


class Wire:
    """The socket of a connection to an upstream, and what its kernel knew at the end."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._last: int | None = None

    def acknowledged(self) -> int | None:
        """Bytes that the other side's kernel has acknowledged so far; None where that is not known."""
        if self._socket is None:
            return self._last
        with contextlib.suppress(OSError, AttributeError, struct.error):
            told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
            count: int = _ACKED.unpack(told)[0]
            return count
        return None

    def is_over(self) -> bool:
        """Whether its end can be read already, although nobody has read it yet."""
        with contextlib.suppress(OSError, AttributeError):  # mostly BlockingIOError: nothing has come
            plain = self._socket._sock  # asyncio lends a socket that can't be read
            return bool(plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        return False

    def close(self) -> None:
        """The socket is about to be closed: keep what it knows."""
        self._last, self._socket = self.acknowledged(), None


@dataclass(slots=True)
class _Sent:
    """A request on a connection that has had another one before."""

    acknowledged: int
    """Bytes of all earlier ones."""
    events: list[HttpEvent] = field(default_factory=list)
    size: int = 0


def begin(connection: Server, sock: Any) -> Wire:
    """Look at a connection from now on."""
    wire = Wire(sock)
    setattr(connection, _WIRE, wire)
    return wire


def pass_over(connection: Server) -> None:
    """Don't use a connection again whose end is there to be read."""
    wire = getattr(connection, _WIRE, None)
    if wire is not None and connection.connected and wire.is_over():
        connection.state = ConnectionState.CLOSED


def note(connection: Server, event: HttpEvent) -> None:
    """Keep what is sent of a request, where the connection has had another one before."""
    if isinstance(event, RequestHeaders):
        wire = getattr(connection, _WIRE, None)
        acknowledged = wire.acknowledged() if wire is not None and hasattr(connection, _SENT) else None
        setattr(connection, _SENT, None if acknowledged is None else _Sent(acknowledged, [event]))
    elif (sent := getattr(connection, _SENT, None)) is not None:
        if isinstance(event, RequestData):
            sent.size += len(event.data)
        if sent.size > _MOST_HELD:
            setattr(connection, _SENT, None)
        else:
            sent.events.append(event)


def settle(connection: Server) -> None:
    """Upstream has said something, or relay cuts it off: nothing is asked again."""
    if getattr(connection, _SENT, None) is not None:
        setattr(connection, _SENT, None)


def may_ask_again(stream: HttpStream, event: HttpEvent) -> bool:
    """Whether an exchange that fails so was never with upstream, and can be asked once more."""
    if not isinstance(event, ResponseProtocolError) or stream.flow.response is not None or stream.flow.error:
        return False
    connection = stream.flow.server_conn
    sent, wire = getattr(connection, _SENT, None), getattr(connection, _WIRE, None)
    if sent is None or wire is None or sent.events[0].stream_id != stream.stream_id:
        return False
    if stream.client_state not in (stream.state_done, stream.state_stream_request_body):
        return False  # its client has left
    leaving = any(isinstance(each, RequestProtocolError) for each in stream._paused_event_queue)
    return not leaving and wire.acknowledged() == sent.acknowledged


def ask_again(stream: HttpStream) -> Commands:
    """Ask on a fresh connection.

    mitmproxy 12.2.3 fails a request that meets the end of a kept connection, so a client gets a 502 that is nobody's
    fault. Remove when HttpStream sends such a request again.
    """
    events = getattr(stream.flow.server_conn, _SENT).events
    setattr(stream.flow.server_conn, _SENT, None)
    stream.flow.metadata[REPEATED] = "upstream had closed the connection before the request came"
    if (yield from stream.make_server_connection()):
        for event in events:
            yield SendHttp(event, stream.context.server)
