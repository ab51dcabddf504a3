"""Counting: adds what has happened to the numbers of this process."""

import time
from collections import deque
from collections.abc import Mapping, Sequence

from addons.config.settings import Settings
from addons.core.known_secrets import KnownSecrets
from addons.core.metered import Metered
from addons.core.metrics import Histogram, Models, Numbers
from addons.core.observed import Observed, Outcome, status_class
from addons.core.secrets import scrub
from addons.core.unbilled import KEY_REFUSED, OUT_OF_QUOTA, OVERLOADED, RATE_LIMITED
from addons.meter.gate import Gate
from addons.meter.prices import LONGEST_NAME
from addons.store.ledger_file import REFUSED
from addons.store.settlements import Settlement

_MOST_UNPRICED = 1000
"""Requests that are priced when the price list is there: it is loaded once somebody wants to know."""
_REASONS = frozenset((KEY_REFUSED, OUT_OF_QUOTA, RATE_LIMITED, OVERLOADED, "no connection"))


class Gaps:
    """Called with each chunk of an event stream."""

    __slots__ = ("_histogram", "last")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self.last: float | None = None
        """When the last one came, on the monotonic clock."""

    def __call__(self) -> None:
        """A chunk has come. Must not raise."""
        now = time.monotonic()
        if self.last is not None:
            self._histogram.observe(now - self.last)
        self.last = now


class Counting:
    """The numbers of one process, whatever its settings become."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.models = Models()
        self._gate: Gate | None = None
        self._unpriced: deque[Settlement] = deque()

    def adopt(self, settings: Settings, gate: Gate) -> None:
        """Go on under other settings."""
        self._gate = gate
        names = [*settings.prices, settings.chat.model]
        for upstream in settings.upstreams:
            names += [upstream.model or "", *upstream.models, *upstream.models.values()]
        for name in names:
            if name:
                self.models.name(name)
        self.numbers.named = self.models.named

    def gaps(self, upstream: str) -> Gaps:
        """What is to be called with each chunk of a stream from there."""
        return Gaps(self.numbers.histogram("gen_ai_client_operation_time_per_output_chunk_seconds", (upstream,)))

    # Money

    def cost(self, settlement: Settlement) -> int | None:
        """What a settled request has cost, in nano-dollars; None where that is not known, or not yet."""
        if settlement.amount is not None or settlement.usage is None or self._gate is None:
            return None if settlement.usage is None else settlement.amount
        prices = self._gate.prices
        if not prices.loaded:
            return None
        about = (settlement.usage, settlement.upstream, settlement.model, settlement.asked, settlement.at)
        return prices.cost(*about)

    def settled(self, settlement: Settlement, known: KnownSecrets) -> None:
        """Count tokens and cost of a request to a model, or of a turn."""
        self._name(settlement, known)
        labels = (self.models.asked(settlement.model), settlement.upstream)
        usage = settlement.usage
        if usage is None:
            if settlement.at_hold:
                self._count_unpriced(labels, "held")
            elif settlement.reason != REFUSED:
                self._count_unpriced(labels, "usage")
            return
        for kind, count in _tokens(usage).items():
            self.numbers.count("relay_tokens", (*labels, kind), count)
        if settlement.at_hold:
            self._count_unpriced(labels, "held")
        elif (cost := self.cost(settlement)) is not None:
            self.numbers.count("relay_cost_nanodollars", labels, cost)
        elif self._gate is not None and not self._gate.prices.loaded and len(self._unpriced) < _MOST_UNPRICED:
            self._unpriced.append(settlement)
        else:
            self._count_unpriced(labels, "price")

    def _name(self, settlement: Settlement, known: KnownSecrets) -> None:
        """Give a model a label that an upstream has answered for, unless it looks like a key or is one."""
        model = settlement.model
        if len(model) > LONGEST_NAME or settlement.reason == REFUSED or self.models.asked(model) != Models.OTHER:
            return
        if scrub(model) == model and known.mask(model) == model:
            self.models.served(model, listed=self._is_listed(settlement))

    def _is_listed(self, settlement: Settlement) -> bool:
        return self._gate is not None and self._gate.prices.knows(settlement.upstream, settlement.model)

    def _count_unpriced(self, labels: tuple[str, str], reason: str) -> None:
        self.numbers.count("relay_unpriced_requests", (*labels, reason))

    @property
    def waits_for_prices(self) -> bool:
        """Whether something could be priced if the list were loaded."""
        return bool(self._unpriced)

    async def price(self) -> None:
        """Load the price list, which takes a second in another thread, and price what has waited for it."""
        if self._gate is not None and self._unpriced:
            await self._gate.prices.ready()
            waiting, self._unpriced = self._unpriced, deque()
            for settlement in waiting:
                cost = self.cost(settlement)
                labels = (self.models.asked(settlement.model), settlement.upstream)
                if cost is None:
                    self._count_unpriced(labels, "price")
                else:
                    self.numbers.count("relay_cost_nanodollars", labels, cost)

    # Exchanges

    def over(self, seen: Observed) -> None:
        """An exchange is over."""
        numbers = self.numbers
        status = status_class(seen.code if seen.code is not None else seen.status)
        numbers.count("relay_requests", (seen.endpoint, seen.upstream, status, seen.outcome.value))
        if seen.outcome is not Outcome.OK:
            numbers.count("relay_errors", (seen.error, seen.upstream))
        numbers.observe("relay_request_duration_seconds", (seen.endpoint,), seen.seconds)
        if seen.overhead is not None:
            numbers.observe("relay_overhead_seconds", (), seen.overhead)
        for attempt in seen.attempts or _attempt(seen):
            numbers.count("relay_upstream_attempts", (str(attempt.get("upstream", "")), _result(attempt)))
        if seen.operation:
            self._generation(seen)

    def _generation(self, seen: Observed) -> None:
        numbers, used = self.numbers, seen.used
        labels = (seen.operation, seen.upstream, self.models.asked(used.model))
        numbers.observe("gen_ai_server_request_duration_seconds", (*labels, seen.error), seen.seconds)
        if seen.upstream_seconds is not None and seen.outcome is Outcome.OK:
            numbers.observe("gen_ai_client_operation_duration_seconds", labels, seen.upstream_seconds)
        if used.usage is not None:
            for kind, count in (("input", used.usage.input), ("output", used.usage.output)):
                numbers.observe("gen_ai_client_token_usage", (*labels, kind), count)
        if not seen.stream or seen.first_byte is None or seen.outcome not in (Outcome.OK, Outcome.LEFT):
            return
        numbers.observe("gen_ai_server_time_to_first_token_seconds", labels, seen.first_byte)
        if seen.asked is not None:
            first = max(0.0, seen.first_byte - seen.asked)
            numbers.observe("gen_ai_client_operation_time_to_first_chunk_seconds", labels, first)
        if seen.streamed is not None and used.usage is not None and used.usage.output > 1 and not used.estimated:
            each = seen.streamed / (used.usage.output - 1)
            numbers.observe("gen_ai_server_time_per_output_token_seconds", labels, each)


def _attempt(seen: Observed) -> Sequence[Mapping[str, object]]:
    """The one attempt of an exchange that has noted none, since all went well or it was broken off."""
    if not seen.asked_times:
        return ()
    status = seen.code if seen.code is not None else seen.status
    return ({"upstream": seen.upstream, "status": None if seen.outcome is Outcome.BROKEN else status},)


def _result(attempt: Mapping[str, object]) -> str:
    """What became of an attempt, in a word of a bounded list."""
    reason, status = attempt.get("reason"), attempt.get("status")
    if isinstance(reason, str) and reason in _REASONS:
        return reason.replace(" ", "_")
    if isinstance(status, int):
        return "ok" if status < 400 else f"http_{status_class(status)}"
    return "broken"


def _tokens(usage: Metered) -> dict[str, int]:
    """What is counted in tokens, by its name."""
    return {
        "input": usage.input,
        "output": usage.output,
        **{name: count for name, count in usage.parts().items() if name in _PARTS},
    }


_PARTS = frozenset(
    (
        *("cached", "cache_write", "cache_write_1h", "input_audio", "cached_audio", "input_image", "cached_image"),
        *("output_audio", "output_image", "reasoning"),
    )
)
