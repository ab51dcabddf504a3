"""How a generation is settled: by what upstream has told of its usage, or by what that may have been."""

import logging
import time
from collections.abc import Mapping

from mitmproxy import http

from addons.core.answer_usage import Reported
from addons.core.claims import estimated_tokens
from addons.core.failures import Failure, classify
from addons.core.generations import Generation, gemini_call
from addons.core.metered import Metered
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey
from addons.exchange import REAL_KEY, Exchange
from addons.meter.gate import Admission, Gate
from addons.meter.hiding import unkeyed, unkeyed_values
from addons.meter.under_way import Metering
from addons.store.ledger_file import BROKE, ENDED, FINISHED, GAVE_UP, LEFT, REFUSED
from addons.store.settlements import Settlement

logger = logging.getLogger(__name__)

_SPOKEN = 2
"""Tokens of audio for a character, where upstream has told nothing: about 150 words a minute."""
_FASTEST = 1000
"""Tokens a second that a model says at most, while nothing of it is seen."""


class Settler:
    """Settles under one state of the settings."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def settlement(
        self, exchange: Exchange, metering: Metering, reason: str, uncounted: RelayKey | None = None
    ) -> Settlement:
        """What is written of a generation that has ended so. An unknown of a caller's own key stays unknown; of a key
        with a budget it is as much as it may be. `uncounted` is a relay key that nothing was held for."""
        told = metering.told()
        if reason == FINISHED and told.failed and told.usage is None:
            reason = BROKE
        usage, estimated = told.usage, False
        admission = metering.admission
        if metering.kind == Generation.SPEECH and admission is not None and usage is None:
            if reason in (FINISHED, LEFT, ENDED, GAVE_UP):
                usage, estimated = self._spoken(metering, admission)
        elif reason in (LEFT, ENDED, GAVE_UP) and (metering.cut_short or not _whole(exchange, told)):
            usage, estimated = _begun(told, metering), True
            usage = _at_most(usage, told, metering)
        elif metering.kind == Generation.IMAGE and reason == FINISHED and self._each_costs(metering, usage):
            usage = (usage or Metered())._replace(pictures=admission.answers if admission is not None else 1)
        elif usage is None and reason in (FINISHED, LEFT, ENDED, GAVE_UP) and admission is not None:
            usage, estimated = _at_most(_guessed(told, metering), told, metering), True
        if real := REAL_KEY.of(exchange):
            told = told._replace(model=unkeyed(told.model or "", real) or None, asked=unkeyed_values(told.asked, real))
        model = metering.model or told.model or _named(metering.path)
        key = uncounted if admission is None else admission.key
        amount, at_hold = None, False
        if admission is None:
            usage, estimated = told.usage, False  # nothing stands on it: what is only guessed is not known
            if uncounted is not None:
                amount = self._of_uncounted(usage, metering.upstream, model, told, reason)
        else:
            amount = self._billed(usage, metering.upstream, model, admission, told, estimated=estimated)
            if amount is None:
                at_hold, estimated = admission.hold is not None, True
        return Settlement(
            metering.request,
            metering.at,
            metering.caller,
            key.name if key is not None else None,
            metering.upstream,
            model,
            told.asked,
            metering.path,
            reason,
            usage,
            amount,
            estimated,
            usage.input + usage.output if usage is not None else 0,
            held=admission is not None,
            at_hold=at_hold,
        )

    def _of_uncounted(
        self, usage: Metered | None, upstream: str, model: str, told: Reported, reason: str
    ) -> int | None:
        if usage is None:
            return 0 if reason == REFUSED else None
        return self.cost(usage, upstream, model, told.asked)

    def _billed(
        self,
        usage: Metered | None,
        upstream: str,
        model: str,
        admission: Admission,
        told: Reported,
        *,
        estimated: bool,
    ) -> int | None:
        """Nano-dollars; None where they are not known."""
        if usage is None:
            return 0
        if estimated and admission.price is not None and admission.hold is not None:
            # What is not known is not less than it may be: a budget stands on it.
            amount: int | None = min(admission.hold, admission.price(usage.output))
        else:
            amount = self._served(usage, upstream, model, admission, told)
        if amount is not None and admission.hold is not None and amount > admission.hold:
            logger.warning(
                f"a request of {admission.key.name} has cost more than was held for it: ${dollars(amount):f} and "
                f"not ${dollars(admission.hold):f}"
            )
        return amount

    def _served(self, usage: Metered, upstream: str, model: str, admission: Admission, told: Reported) -> int | None:
        """What an answer has cost: as the dearer one where upstream names another model, or does not tell its tier."""
        models = [model] if told.model is None or _is_of(told.model, model) else [model, told.model]
        tiers: list[Mapping[str, str]] = [told.asked]
        if "service_tier" not in told.asked and "service_tier" in admission.asked:
            tiers.append({**told.asked, "service_tier": admission.asked["service_tier"]})
        costs = [self.cost(usage, upstream, name, tier) for name in models for tier in tiers]
        known = [cost for cost in costs if cost is not None]
        # A name that nobody knows may be an alias of the one that was asked for.
        return max(known) if known and costs[0] is not None else next(iter(known), None)

    def cost(self, usage: Metered, upstream: str, model: str, asked: Mapping[str, str]) -> int | None:
        """Nano-dollars, now; None where no price is known."""
        return self.gate.prices.cost(usage, upstream, model, asked, self.gate.clock())

    def _each_costs(self, metering: Metering, usage: Metered | None) -> bool:
        """Whether each picture has a price: most answers of such models have no usage in them."""
        if metering.admission is None:
            return False
        rates = self.gate.prices.rates(metering.upstream, metering.model, {}, self.gate.clock())
        return rates is not None and rates.request is not None and (usage is not None or rates.flat)

    def _spoken(self, metering: Metering, admission: Admission) -> tuple[Metered, bool]:
        """Audio has no usage in it. What is billed by the character is known all the same."""
        read = Metered(characters=admission.characters)
        if self.cost(read, metering.upstream, metering.model, {}) is not None:
            return read, False
        return Metered(estimated_tokens(metering.size), _SPOKEN * admission.characters), True


def broken(flow: http.HTTPFlow, exchange: Exchange) -> str:
    """Who has broken an exchange off."""
    if exchange.failure.fault is not None or exchange.failure.answer_timed_out:
        return GAVE_UP
    if flow.error is None:
        return BROKE
    left = exchange.failure.by_client or classify(flow.error.msg) is Failure.CLIENT_LEFT
    return LEFT if left else BROKE


def _begun(told: Reported, metering: Metering) -> Metered:
    """What was used of an answer that its client did not wait for: what has come of it, and all of the input."""
    heard = told.usage or Metered(input=estimated_tokens(metering.size))
    return heard._replace(output=max(heard.output, told.pieces))


def _at_most(usage: Metered, told: Reported, metering: Metering) -> Metered:
    """Where a budget stands on it: as much as upstream can have said by now, for what it says last is not seen."""
    admission = metering.admission
    if admission is None or admission.price is None:
        return usage
    now = time.monotonic()
    silent = (metering.first_at if told.pieces and metering.first_at is not None else now) - metering.begun
    said = told.text if told.pieces else 0
    if not told.pieces and told.size and metering.status is not None:
        said, silent = told.size, 0.0  # all of it has come, and holds all that was said
    return usage._replace(output=min(admission.output, max(usage.output, said + int(_FASTEST * silent))))


def _named(path: str) -> str:
    """The model that a path of Gemini's names."""
    named = gemini_call(path)
    return named[0] if named is not None else ""


def _is_of(told: str, asked: str) -> bool:
    """Whether the model that answered is the one that was asked for, or one of its dated versions."""
    return told == asked or (told.startswith(f"{asked}-") and told[len(asked) + 1 :].replace("-", "").isdigit())


def _guessed(told: Reported, metering: Metering) -> Metered:
    """What was used where upstream has told nothing."""
    return Metered(estimated_tokens(metering.size), told.pieces or estimated_tokens(told.size))


def _whole(exchange: Exchange, told: Reported) -> bool:
    """Whether all of an answer had come when its client left."""
    if exchange.answer.whole or (exchange.stream.ended is not None and exchange.stream.ended()):
        return True
    return told.usage is not None and not told.pieces
