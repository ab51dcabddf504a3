"""Bodies: how much has come of one that relay reads whole, and an answer to a client that takes too long over it.

mitmproxy counts no bytes while it holds a body, and a hook is called only when the body has come. So this looks into
the stream that holds it, and wakes that stream as mitmproxy's own timers would.
"""

from typing import Any

from mitmproxy import http
from mitmproxy.proxy import commands, events, server
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream

from addons import errors
from addons.engine.corrections.answers import pass_on, refuse_body
from addons.engine.wrapping import Commands
from addons.exchange import of

BODY_TOO_SLOW = "relay: body too slow"


def held(handler: server.ConnectionHandler, flow: http.HTTPFlow) -> int | None:
    """Bytes that have come of a request body that is read whole, or None where none is.

    mitmproxy 12.2.3 counts none before the body has come, so nobody could tell a slow upload from none. Remove when a
    hook is called per piece of a body that mitmproxy holds.
    """
    found = _reading(handler, flow)
    return None if found is None else len(found[1].request_body_buf)


async def give_up(handler: server.ConnectionHandler, flow: http.HTTPFlow, error: errors.RelayError) -> None:
    """Answer with `error` in place of waiting for the rest of the body; one that need not be read whole goes up as it
    comes. Does nothing where none is being read.

    mitmproxy 12.2.3 can only be told to close such a client, so it would learn nothing. Remove when a flow can be
    answered from outside of its hooks.
    """
    found = _reading(handler, flow)
    if found is None:
        return
    http_layer, stream = found

    def wake(_event: events.Event) -> Commands:
        if stream.client_state != stream.state_consume_request_body:
            return
        exchange = of(flow)
        if exchange is not None and exchange.body.passes:
            stream.server_state = stream.state_wait_for_response_headers  # type: ignore[method-assign, unused-ignore]
            yield from pass_on(stream, exchange)
        else:
            stream.request_body_buf.clear()
            yield from refuse_body(stream, error, BODY_TOO_SLOW)

    # Nothing has been asked of an upstream yet, so this state is still free.
    stream.server_state = wake  # type: ignore[method-assign, assignment, unused-ignore]
    command = commands.RequestWakeup(0)
    http_layer.command_sources[command] = stream  # type: ignore[assignment, unused-ignore]
    await handler.server_event(events.Wakeup(command))


def _reading(handler: server.ConnectionHandler, flow: http.HTTPFlow) -> tuple[HttpLayer, HttpStream] | None:
    layers: list[Any] = handler.layer.context.layers
    for each in layers:
        if isinstance(each, HttpLayer):
            for stream in each.streams.values():
                if getattr(stream, "flow", None) is flow and stream.client_state == stream.state_consume_request_body:
                    return each, stream
    return None
