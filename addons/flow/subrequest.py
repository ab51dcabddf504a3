"""Sub-requests of relay's own, through mitmproxy's own client: same TLS settings, same proxies on the way out.

They appear among the flows as replays, so request hooks leave them alone (they have no exchange).
"""

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context, copy_context

from mitmproxy import connection, ctx, http
from mitmproxy.addons.clientplayback import ReplayHandler

from addons import errors
from addons.config.settings import Upstream
from addons.core.failures import classify
from addons.exchange import Exchange, aim, cap_answer, keep_handler, listen, original
from addons.flow.upstream import gave_up
from addons.flow.upstream_errors import failure_error

MAX_ANSWER = 1 << 20
"""Bytes of an answer to a sub-request; what is asked for fits into a thousandth."""


async def ask(
    upstream: Upstream,
    path: str,
    headers: Mapping[str, str],
    *,
    timeout: float,
    body: bytes = b"",
    max_answer: int = MAX_ANSWER,
    hearing: Exchange | None = None,
) -> http.Response:
    """GET `path` (with its query) of `upstream`, or POST `body` there, and its whole answer.

    Raises UpstreamTimeout after `timeout` seconds and UpstreamFailed where there is no answer, or one of more than
    `max_answer` bytes. In `hearing` it is noted when the answer is over, where that may be before its connection is
    (`exchange.listen`). Cancelled, it closes the upstream connection at once.
    """
    flow = _flow(upstream, path, headers, body)
    cap_answer(flow, max_answer)
    if hearing is not None:
        listen(flow, hearing)
    handler = ReplayHandler(flow, ctx.options)
    keep_handler(flow, handler)
    given_up: list[str] = []
    replay = asyncio.create_task(handler.replay(), context=_context(given_up))
    try:
        async with asyncio.timeout(timeout):
            await replay
    except TimeoutError:
        raise errors.UpstreamTimeout(
            "上游响应超时，请稍后再试。", "The upstream was too slow; try again later."
        ) from None
    finally:
        replay.cancel()
        keep_handler(flow, None)
        for transport in list(handler.transports.values()):
            if transport.handler is not None:
                transport.handler.cancel("relay: given up")
    response = original(flow)
    if flow.error is not None or response is None:
        raise failure_error(classify(given_up[0] if given_up else flow.error.msg if flow.error else ""))
    return response


def _context(given_up: list[str]) -> Context:
    """Where the tasks of a sub-request run: Timeouts leaves word of a time-out there."""
    context = copy_context()
    context.run(gave_up.set, given_up)
    return context


def _flow(upstream: Upstream, path: str, headers: Mapping[str, str], body: bytes) -> http.HTTPFlow:
    now = time.time()
    client = connection.Client(peername=("relay", 0), sockname=("relay", 0), timestamp_start=now)
    server = connection.Server(address=(upstream.host, upstream.port))
    if upstream.way is not None:
        server.via = upstream.way
    flow = http.HTTPFlow(client, server, live=False)
    flow.is_replay = "request"
    aim(flow, upstream)
    fields = {"Host": upstream.authority, "Accept": "application/json", "Accept-Encoding": "identity", **headers}
    if body:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    flow.request = http.Request(
        host=upstream.host,
        port=upstream.port,
        method=b"POST" if body else b"GET",
        scheme=upstream.scheme.encode(),
        authority=b"",
        path=path.encode(),
        http_version=b"HTTP/1.1",
        headers=http.Headers([(name.encode(), value.encode()) for name, value in fields.items()]),
        content=body,
        trailers=None,
        timestamp_start=now,
        timestamp_end=now,
    )
    return flow
