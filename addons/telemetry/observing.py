"""Observing: sees every exchange begin and end, and tells of it those who want to know.

`Arrivals` stands before whoever streams, so that the times of a stream can be taken; `Observer` behind all who change
what became of an exchange. Each exchange is told of once. What is told has no key in it: keys that the exchange itself
has named are looked for in each text that a caller wrote.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakSet

from mitmproxy import http

from addons.core.failures import Failure, classify
from addons.core.generations import Generation
from addons.core.known_secrets import KnownSecrets
from addons.core.observed import (
    OPERATIONS,
    REALTIME,
    Observed,
    Outcome,
    Used,
    endpoint,
    kind_of_code,
    kind_of_failure,
    kind_of_status,
)
from addons.core.secrets import scrub
from addons.errors import RelayError
from addons.exchange import Exchange, Kind, Part, of, secrets_of
from addons.flow.answers import REFUSAL
from addons.flow.capture import ANSWER, BEAT
from addons.flow.credentials import keys_in
from addons.meter.under_way import CALLER
from addons.store.settlements import Settlement
from addons.telemetry.counting import Counting, Gaps
from addons.upstreams.attempts import ATTEMPTS
from addons.upstreams.failover import METADATA as ATTEMPTS_TOLD

logger = logging.getLogger(__name__)

REQUEST_ID = "relay.request_id"
_SHORT = 8
"""Digits that are told of a key's hash."""
_LONGEST_PATH = 300
_LONGEST_MODEL = 100
_LONGEST_METHOD = 16
_LONGEST_PARENT = 64
_EDGE = 4096
_ENVELOPE = re.compile(rb'\{"code": (\d{3}), "message": ')

USED = Part[Used]("telemetry.used")
GENERATION = Part[Generation]("telemetry.generation")
_KEY = Part[str]("telemetry.key")
_GAPS = Part[Gaps]("telemetry.gaps")

type Sink = Callable[[Observed], object]
type Content = Callable[[http.HTTPFlow], dict[str, str]]


class Observing:
    """What both addons share, and what lasts while settings change."""

    def __init__(self, counting: Counting, secret: bytes = b"") -> None:
        self.counting = counting
        self.secret = secret
        """The store's, which keys what is shown for secrets."""
        self.under_way: WeakSet[http.HTTPFlow] = WeakSet()
        """A flow that ends without a word leaves by itself."""

    def settled(
        self, flow: http.HTTPFlow, exchange: Exchange, settlement: Settlement, generation: Generation | None
    ) -> None:
        """The meter has settled a request, or a turn of a websocket. Never raises."""
        try:
            if generation is not None:
                GENERATION.keep(exchange, generation)
            if settlement.name is None:
                _KEY.keep(exchange, settlement.key[:_SHORT])
            used = USED.of(exchange) or USED.keep(exchange, Used())
            cost = self.counting.cost(settlement)
            used.add(settlement.model, settlement.usage, cost, estimated=settlement.estimated)
            self.counting.settled(settlement, secrets_of(flow, self.secret))
        except Exception:
            logger.exception("a settlement is not counted")


class Arrivals:
    """Sees exchanges begin. `caller` is what the use of a caller's own key is counted under."""

    optional = True

    def __init__(self, observing: Observing, caller: Callable[[str], str] | None) -> None:
        self.observing = observing
        self._caller = caller

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """It has come."""
        exchange = of(flow)
        if exchange is None:
            return
        self.observing.under_way.add(flow)
        flow.metadata[REQUEST_ID] = exchange.id
        if exchange.kind is Kind.PASS:
            BEAT.keep(exchange, self._beat)
            if self._caller is not None and (text := next(keys_in(flow.request.headers.fields), None)) is not None:
                _KEY.keep(exchange, self._caller(text)[:_SHORT])

    def _beat(self, exchange: Exchange) -> Gaps:
        return _GAPS.keep(exchange, self.observing.counting.gaps(exchange.upstream.name))


class Observer:
    """Sees them end, and tells `sinks`; with `texts` what callers have written, too, which takes longer to clean than
    all else to note. `content` reads what was asked and answered, where somebody wants that."""

    optional = True

    def __init__(
        self, observing: Observing, sinks: Sequence[Sink], *, texts: bool = False, content: Content | None = None
    ) -> None:
        self.observing = observing
        self._sinks = sinks
        self._texts = texts
        self._content = content

    def response(self, flow: http.HTTPFlow) -> None:
        """It is over, unless a websocket goes on."""
        if flow.websocket is None:
            self._over(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """It broke off."""
        self._over(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """The websocket is closed."""
        self._over(flow)

    def _over(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is None or flow not in self.observing.under_way:
            return
        self.observing.under_way.discard(flow)
        seen = observed(flow, exchange)
        if self._texts:
            seen = _with_texts(seen, flow, exchange, secrets_of(flow, self.observing.secret), self._content)
        for sink in self._sinks:
            try:
                sink(seen)
            except Exception:
                logger.exception("an exchange is not told of")


def observed(flow: http.HTTPFlow, exchange: Exchange) -> Observed:
    """What is told of an exchange that is over, now."""
    now, wall = time.monotonic(), time.time()
    generation = GENERATION.of(exchange)
    outcome, error, status, code = _outcome(flow, exchange)
    attempts = ATTEMPTS.of(exchange)
    asked_times = attempts.count if attempts is not None else 0
    asked = upstream_seconds = overhead = None
    if attempts is not None and asked_times:
        asked = max(0.0, attempts.started - exchange.started)
        ended = flow.response.timestamp_end if flow.response is not None and not exchange.refused else None
        after = max(0.0, wall - ended) if ended is not None else 0.0
        upstream_seconds = max(0.0, now - attempts.started - after)
        overhead = max(0.0, asked - _body_seconds(flow, exchange, wall - now)) + after
    copy, gaps = ANSWER.of(exchange), _GAPS.of(exchange)
    first_at = copy.first_at if copy is not None else None
    key = CALLER.of(exchange)
    used = USED.of(exchange) or Used()
    told = flow.metadata.get(ATTEMPTS_TOLD)
    return Observed(
        id=exchange.id,
        ended=wall,
        seconds=now - exchange.started,
        endpoint=endpoint(exchange.kind.value, exchange.path, generation),
        status=status,
        code=code,
        outcome=outcome,
        error=error,
        operation=OPERATIONS[generation] if generation is not None else REALTIME if used.turns else "",
        upstream=exchange.upstream.name if asked_times else "",
        key=key.name if key is not None else _KEY.of(exchange) or "",
        used=used,
        stream=exchange.stream.ended is not None or flow.websocket is not None,
        first_byte=None if first_at is None else max(0.0, first_at - exchange.started),
        asked=asked,
        upstream_seconds=upstream_seconds,
        overhead=overhead,
        streamed=gaps.last - first_at if gaps is not None and gaps.last is not None and first_at is not None else None,
        attempts=told if isinstance(told, list) else (),
        asked_times=asked_times,
    )


def _with_texts(
    seen: Observed, flow: http.HTTPFlow, exchange: Exchange, known: KnownSecrets, content: Content | None
) -> Observed:
    seen.used.model = _clean(seen.used.model, known, _LONGEST_MODEL)
    return replace(
        seen,
        method=_clean(flow.request.method, known, _LONGEST_METHOD),
        path=_clean(exchange.path, known, _LONGEST_PATH),
        parent=flow.request.headers.get("traceparent", "")[:_LONGEST_PARENT],
        content=content(flow) if content is not None and seen.operation else {},
    )


def _body_seconds(flow: http.HTTPFlow, exchange: Exchange, epoch: float) -> float:
    """How long relay waited for the rest of a body that it read whole: that is its client's time. `epoch` is the
    monotonic clock's beginning."""
    ended = flow.request.timestamp_end
    if flow.request.stream or ended is None:
        return 0.0
    return max(0.0, ended - epoch - exchange.started)


def _outcome(flow: http.HTTPFlow, exchange: Exchange) -> tuple[Outcome, str, int | None, int | None]:
    """What became of it, the error's kind, and the status and the envelope's code that were sent."""
    refusal, response = REFUSAL.of(exchange), flow.response
    if flow.error is not None:
        return _broken(flow, exchange, flow.error.msg)
    if response is None:
        return Outcome.FAILED, kind_of_failure(Failure.OTHER), None, None
    status = response.status_code
    code = _code(response) if exchange.kind in (Kind.CHAT, Kind.BALANCE) else None
    if refusal is not None:
        return Outcome.REFUSED, kind_of_code(refusal.code), status, code
    worst = code if code is not None and code != 200 else status
    if worst < 400:
        return Outcome.OK, "", status, code
    outcome = Outcome.REFUSED if exchange.kind is Kind.OWN else Outcome.UPSTREAM_ERROR
    return outcome, kind_of_status(worst), status, code


def _broken(flow: http.HTTPFlow, exchange: Exchange, message: str) -> tuple[Outcome, str, int | None, int | None]:
    failure = classify(message)
    fault: RelayError | None = exchange.failure.fault
    sent = flow.response if exchange.committed else exchange.failure.substitute
    status = sent.status_code if sent is not None else None
    code = _code(sent) if sent is not None and exchange.kind in (Kind.CHAT, Kind.BALANCE) else None
    if fault is None and (exchange.failure.by_client or failure is Failure.CLIENT_LEFT):
        return Outcome.LEFT, kind_of_failure(Failure.CLIENT_LEFT), status if exchange.committed else None, None
    kind = kind_of_code(fault.code) if fault is not None else kind_of_failure(failure)
    return Outcome.BROKEN if exchange.committed else Outcome.FAILED, kind, status, code


def _code(response: http.Response) -> int | None:
    """The code of an envelope; of a stream, that of the one at its end."""
    body = response.raw_content or b""
    found = _ENVELOPE.match(body) or next(reversed(list(_ENVELOPE.finditer(body[-_EDGE:]))), None)
    return int(found[1]) if found is not None else None


def _clean(text: str, known: KnownSecrets, most: int) -> str:
    """A text that a caller wrote, without keys, and no longer than so many characters."""
    return scrub(known.mask(text[: most * 4]))[:most]
