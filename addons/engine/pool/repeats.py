"""A request that is sent on a kept connection while upstream closes it is asked once more, on a fresh one.

Upstreams close idle connections when they like, and nobody can know before the next request is on its way. It is
repeated only where upstream can't have had it: no byte of an answer has come, all that was sent of it is at hand
(64 KiB at most), and upstream's kernel has acknowledged none of these bytes, which Linux tells (`TCP_INFO`, tcp(7)).
Whatever is uncertain is not repeated: it may have been worked on, and billed. Behind a proxy it is the proxy that
acknowledges.
"""

import time
from dataclasses import dataclass, field

from mitmproxy.connection import Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.layers.http import HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    HttpEvent,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    ResponseProtocolError,
)

from addons.engine.pool.upstream_connection import seat_of, unseat
from addons.engine.wrapping import Commands

REPEATED = "relay.repeated"
"""In the metadata of a flow whose request was asked once more."""
_MOST_HELD = 1 << 16
_SENT = "relay_sent"


@dataclass(slots=True)
class _Sent:
    """A request on a connection that has rested before."""

    acknowledged: int
    """Bytes of all earlier ones."""
    events: list[HttpEvent] = field(default_factory=list)
    size: int = 0


def note(server: Server, event: HttpEvent) -> None:
    """Keep what is sent of a request, where its connection has rested before."""
    seat = seat_of(server)
    connection = seat.connection if seat is not None else None
    if seat is None or connection is None:
        return
    connection.moved_at = time.monotonic()
    if isinstance(event, RequestHeaders):
        seat.request = event.request
        seat.reused = connection.uses
        acknowledged = connection.kernel.acknowledged() if connection.expires_at else None
        connection.uses += 1
        setattr(server, _SENT, None if acknowledged is None else _Sent(acknowledged, [event]))
    elif (sent := getattr(server, _SENT, None)) is not None:
        if isinstance(event, RequestData):
            sent.size += len(event.data)
        if sent.size > _MOST_HELD:
            setattr(server, _SENT, None)
        else:
            sent.events.append(event)


def settle(server: Server) -> None:
    """Upstream has said something, or relay cuts it off: nothing is asked again."""
    if getattr(server, _SENT, None) is not None:
        setattr(server, _SENT, None)


def spoil(server: Server) -> None:
    """Upstream has said what nobody understands: its connection serves no other exchange."""
    seat = seat_of(server)
    if seat is not None and seat.connection is not None:
        seat.connection.spoilt = True


def is_repeated(flow: HTTPFlow) -> bool:
    """Whether its request was asked before."""
    return REPEATED in flow.metadata


def may_ask_again(stream: HttpStream, event: HttpEvent) -> bool:
    """Whether an exchange that fails so was never with upstream, and can be asked once more."""
    if not isinstance(event, ResponseProtocolError) or stream.flow.response is not None or stream.flow.error:
        return False
    server = stream.flow.server_conn
    sent, seat = getattr(server, _SENT, None), seat_of(server)
    if sent is None or seat is None or seat.connection is None or sent.events[0].stream_id != stream.stream_id:
        return False
    if stream.client_state not in (stream.state_done, stream.state_stream_request_body):
        return False  # its client has left
    leaving = any(isinstance(each, RequestProtocolError) for each in stream._paused_event_queue)
    return not leaving and seat.connection.kernel.acknowledged() == sent.acknowledged


def ask_again(stream: HttpStream) -> Commands:
    """Ask on a fresh connection.

    mitmproxy 12.2.3 fails a request that meets the end of a kept connection, so a client gets a 502 that is nobody's
    fault. Remove when HttpStream sends such a request again.
    """
    events = getattr(stream.flow.server_conn, _SENT).events
    setattr(stream.flow.server_conn, _SENT, None)
    unseat(stream.flow)  # so that a timer that gives the exchange up finds what is on its way now
    stream.flow.metadata[REPEATED] = "upstream had closed the connection before the request came"
    if (yield from stream.make_server_connection()):
        for event in events:
            yield SendHttp(event, stream.context.server)
