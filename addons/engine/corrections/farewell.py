"""Farewells of HTTP/2: no more streams, please; and a client that wants nothing more of one of them."""

from typing import Any

from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._http2 import Http2Connection, Http2Server

from addons.engine.wrapping import wrap
from addons.exchange import of

_GOAWAY = b"\x00\x00\x08\x07\x00" + b"\x00" * 4 + b"\x7f\xff\xff\xff" + b"\x00" * 4
"""GOAWAY (RFC 9113, 6.8) without an error, behind the last stream that there can be: what is under way, and what is on
its way already, is still answered."""


class Farewell(events.Event):
    """relay is about to end."""


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "_handle_event", _say_farewell)
    wrap(Http2Connection, "handle_h2_event", _let_go)


def _say_farewell(stock: Any, layer: HttpLayer, event: events.Event) -> Any:
    """mitmproxy 12.2.3 tells a client of HTTP/2 nothing before it closes its connection; so streams that are begun at
    that moment are lost. Here it hears of it while it still has time (RFC 9113, 6.8). Remove when mitmproxy sends
    GOAWAY before it ends.
    """
    if not isinstance(event, Farewell):
        return stock(layer, event)
    peer = layer.connections.get(layer.context.client)
    if not isinstance(peer, Http2Server):
        return ()
    peer.h2_conn._data_to_send += _GOAWAY
    return layer.event_to_child(peer, events.DataReceived(layer.context.client, b""))


def _let_go(stock: Any, peer: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 tells a stream that waits for a hook nothing before the hook is over, its client's reset
    neither; so a request that nobody wants keeps its place in line until its turn. Here what is waited for is ended.
    Remove when a hook hears that its flow's client has left.
    """
    if type(event).__name__ == "StreamReset" and isinstance(peer, Http2Server):  # of h2, which is mitmproxy's
        for layer in peer.context.layers:
            stream = layer.streams.get(event.stream_id) if isinstance(layer, HttpLayer) else None
            flow = getattr(stream, "flow", None)
            exchange = of(flow) if flow is not None else None
            for each in tuple(exchange.waiting) if exchange is not None else ():
                each.cancel()
    return stock(peer, event)
