"""Aiming: the request that goes up is made for one candidate, here and nowhere else.

Whatever differs between upstreams is put in: where it goes and by which proxy, the path, relay's own key, and the body
where that is not the same for all of them.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from mitmproxy import connection, http

from addons.config.settings import Upstream
from addons.exchange import REAL_KEY, Exchange
from addons.flow.credentials import replaced
from addons.flow.request_body import replace_body
from addons.flow.upstream import set_upstream


@dataclass(eq=False, slots=True)
class Request:
    """What a request is made of, whoever it is for."""

    path: str
    """Of OpenAI's interface, without a query."""
    query: str = ""
    shown: Collection[str] = ()
    """The keys in its head that relay's own takes the place of."""
    body_for: Callable[[Upstream], Awaitable[bytes | None]] | None = None
    """The body for an upstream, decoded; None where it is the one that its caller has sent. Raises RelayError where
    there is none for it."""
    aimed: Callable[[Upstream, str], object] | None = None
    """Called with the upstream and the key once the flow is pointed there."""


def aim(
    flow: http.HTTPFlow, exchange: Exchange, request: Request, upstream: Upstream, key: str, body: bytes | None = None
) -> None:
    """Point a flow to an upstream, with a key of relay's own there, and with the body that was made for it, if any."""
    if upstream is not exchange.upstream or flow.server_conn.timestamp_start is not None:
        # What stands there may be a connection that others use meanwhile, or one to the other upstream's proxy.
        flow.server_conn = connection.Server(address=None)
        exchange.upstream = upstream
        set_upstream(flow, upstream, upstream.path(request.path) + request.query)
    flow.request.headers.fields = replaced(flow.request.headers.fields, request.shown, key)
    request.shown = (key,)
    if body is not None:
        replace_body(flow.request, body)
    exchange.failure.connect_timed_out = exchange.failure.answer_timed_out = False
    REAL_KEY.keep(exchange, key.encode("utf-8", "surrogateescape"))
    if request.aimed is not None:
        request.aimed(upstream, key)
