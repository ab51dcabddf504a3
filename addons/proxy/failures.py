"""Failures: every failure that mitmproxy meets becomes an answer the client's own error handling can read."""

import logging
import time

from mitmproxy import http

from addons import errors
from addons.core.failures import PASSING, Failure, classify
from addons.engine.transports import reused
from addons.exchange import REAL_KEY, Exchange, Kind, of
from addons.flow.advice import advise
from addons.flow.answers import add_common_headers, error_response
from addons.flow.upstream_errors import failure_error

logger = logging.getLogger(__name__)

_SECOND = 1.0
"""Between two lines that say the same of this relay, and not of an exchange."""


class Failures:
    """Leaves an answer for the engine to send where an exchange has failed before its answer began."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def _may_say(self) -> bool:
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + _SECOND
        return True

    def error(self, flow: http.HTTPFlow) -> None:
        """Choose the answer. Once an answer has begun, a break is the only honest end, and nothing is left here."""
        exchange = of(flow)
        if exchange is None or exchange.committed or flow.error is None:
            return
        failure = classify(flow.error.msg)
        if exchange.failure.fault is None and (exchange.failure.by_client or failure is Failure.CLIENT_LEFT):
            return
        if exchange.failure.connect_timed_out and failure in (Failure.BROKEN, Failure.CUT, Failure.OTHER):
            failure = Failure.CONNECT_TIMEOUT
        if exchange.failure.answer_timed_out and failure in (Failure.BROKEN, Failure.CUT, Failure.OTHER):
            failure = Failure.ANSWER_TIMEOUT
        if failure is Failure.BROKEN and exchange.upstream.way is not None and reused(flow.server_conn):
            failure = Failure.KEPT
        error = exchange.failure.fault or failure_error(failure)
        if exchange.failure.fault is None and exchange.kind is Kind.PASS:
            # Clients' libraries ask again by themselves. What may have been worked on may be billed twice, then: of
            # relay's keys not without somebody's having decided it, of their own as if there were no relay.
            if failure in PASSING:
                error.headers["x-should-retry"] = "true"
            elif REAL_KEY.of(exchange) is not None:
                error.headers["x-should-retry"] = "false"
        exchange.failure.substitute = substitute(exchange, error)
        if failure is Failure.EXHAUSTED and not self._may_say():
            return  # each of thousands of clients would have its line
        logger.warning(f"{flow.request.method} {exchange.path}: {error.status} {error.code}: {failure.value}")
        advise(exchange.upstream.name, error)


def substitute(exchange: Exchange, error: errors.RelayError) -> http.Response:
    """The answer to send in place of an error page."""
    response = error_response(exchange.kind, error)
    add_common_headers(response, exchange)
    return response
