"""Failover: the hooks by which a request that fails upstream is asked again, there or elsewhere."""

from mitmproxy import connection, http

from addons import errors
from addons.exchange import Kind, heard, of
from addons.upstreams.attempts import ATTEMPTS, Pool, attempts_for

METADATA = "relay.attempts"
PASSED_OVER = "relay.passed_over"


class Failover:
    """Decides on what fails, and keeps what became of each attempt."""

    serves = (Kind.PASS, Kind.CHAT)

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Be asked about this one."""
        exchange = of(flow)
        if exchange is not None and not exchange.refused:
            attempts_for(self.pool, flow, exchange)

    async def upstream_failed(self, flow: http.HTTPFlow) -> None:
        """Decide whether it is asked again, and where."""
        exchange = heard(flow)
        attempts = ATTEMPTS.of(exchange) if exchange is not None else None
        if exchange is None or attempts is None or attempts.failed is None:
            return
        try:
            attempts.again = await attempts.next_attempt(flow, exchange, attempts.failed)
        except errors.Unavailable:
            attempts.again = False  # the client has left
        flow.metadata[METADATA] = attempts.told

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Somebody has answered."""
        exchange = heard(flow)
        attempts = ATTEMPTS.of(exchange) if exchange is not None else None
        if exchange is not None and attempts is not None and flow.response is not None and not exchange.refused:
            attempts.answered(exchange, flow.response)
            if attempts.told:
                flow.metadata[METADATA] = attempts.told

    def response(self, flow: http.HTTPFlow) -> None:
        """Whatever is left of it is over."""
        self._over(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The same."""
        self._over(flow)

    def _over(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        attempts = ATTEMPTS.of(exchange) if exchange is not None else None
        if attempts is None:
            return
        attempts.over(flow.error.msg if flow.error is not None else "")
        if attempts.passed_over:
            flow.metadata[PASSED_OVER] = attempts.passed_over
        if attempts.told:
            flow.metadata[METADATA] = attempts.told

    def client_disconnected(self, client: connection.Client) -> None:
        """Nobody waits any more for whom it was done."""
        self.pool.leaving.left(client)
