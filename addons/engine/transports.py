"""mitmproxy's live connections: cutting an upstream off, closing a client.

mitmproxy offers no public way to them. What is used here was seen to work with the version the engine names; where a
connection is gone already, nothing happens.
"""

from mitmproxy import connection, ctx, http
from mitmproxy.proxy import server

from addons.engine.pool import repeats
from addons.engine.pool.upstream_connection import seat_of
from addons.exchange import kept_handler


def handler_of(client: connection.Client) -> server.ConnectionHandler | None:
    """The task that serves `client`, while it is connected."""
    proxyserver = ctx.master.addons.get("proxyserver")
    handler: server.ConnectionHandler | None = proxyserver.connections.get(client.id) if proxyserver else None
    return handler


def cut_upstream(flow: http.HTTPFlow, why: str) -> None:
    """Close the upstream connection of `flow` now; its `error` hook follows.

    Where it is not established yet, every connection of this client that still is on its way is given up.
    """
    handler = kept_handler(flow) or handler_of(flow.client_conn)
    if handler is None:
        return
    repeats.settle(flow.server_conn)
    established = handler.transports.get(flow.server_conn)
    seat = seat_of(flow.server_conn)
    if seat is not None and (established is None or seat.request is not flow.request):
        return  # its exchange is over, and the connection somebody else's, or another exchange's of the same client
    if established is not None:
        doomed = [established]
    else:
        doomed = [
            io for peer, io in handler.transports.items() if isinstance(peer, connection.Server) and not peer.connected
        ]
    for transport in doomed:
        if transport.handler is not None:
            transport.handler.cancel(why)


def moved_at(flow: http.HTTPFlow) -> float | None:
    """When upstream last took something of `flow` or said something, on the loop's clock; None where upstream is not
    what is waited for: there is no connection yet, or the client has yet to send the rest of its request."""
    seat = seat_of(flow.server_conn)
    found = seat.connection if seat is not None and seat.request is flow.request else None
    if found is None:
        return None
    held_up = found.writer.transport.get_write_buffer_size() > 0  # it does not take what is there
    return found.moved_at if flow.request.timestamp_end is not None or held_up else None


def reused(server: connection.Server) -> int:
    """Exchanges that this connection to an upstream had had before the last one that it was used for."""
    seat = seat_of(server)
    return seat.reused if seat is not None else 0


def close_client(client: connection.Client, why: str) -> None:
    """Close a client's connection, and with it everything that was going on there."""
    handler = handler_of(client)
    transport = handler.transports.get(client) if handler is not None else None
    if transport is not None and transport.handler is not None:
        transport.handler.cancel(why)
