"""Prices: the rates of a model, from genai-prices' own list and from relay.yaml.

The list is data that comes with the package: nobody is asked. It takes a second and some 20 MB to load, so a thread
does that when somebody wants to know for the first time. A look-up takes 0.3 ms, so rates are kept.

genai-prices gives list price for a context that it does not know (`service_tier: xyz`). Here such a tier has no price.
"""

import asyncio
import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from addons.config.settings import Settings, Upstream
from addons.core.metered import Metered
from addons.core.rates import RATE_NAMES, Rate, Rates, cost, dollars, flat, overridden

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_MOST_KEPT = 2000
_SPAN = 300.0
"""Seconds for which rates are kept that change with the hour."""
_DAY = 86400.0
"""The same for all others: a new price begins at midnight, UTC."""
LONGEST_NAME = 200
"""Characters of a model's name; a longer one is nobody's, and is not kept."""
LONGEST_ASKED = 40
"""Characters of a tier's name and the like; a longer one is none, has no price, and is not kept."""
_DATED = re.compile(r"-(?:20\d\d-\d\d-\d\d|20\d{6}|\d{4})$")
_PLAIN_TIERS = ("", "auto", "default", "standard", "on_demand")
"""Service tiers at list price: OpenAI's, Anthropic's, Groq's."""
_PLAIN_PLACES = ("", "global", "not_available")
_LIKELY = ("openai", "anthropic", "google", "deepseek", "mistral", "moonshotai", "zai", "x-ai", "cohere", "voyageai")
"""Whose list is searched, in this order, where an address tells nothing: resellers keep the names of models."""
_FIELDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio",
    "cache_audio_read_mtok": "cached_audio",
    "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cached_image",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_reasoning_mtok": "reasoning",
    "web_searches_kcount": "searches",
    "audio_hours": "hours",
    "input_audio_hours": "hours",
    "input_mchars": "characters",
}


type _Said = tuple[tuple[str, str], ...]
"""What a price depends on besides the model, by name."""


class PriceList:
    """genai-prices' list, loaded when it is first wanted."""

    def __init__(self) -> None:
        self._providers: list[Provider] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._kept = lru_cache(_MOST_KEPT)(self._find)
        self._steps: tuple[int, ...] | None = None

    @property
    def loaded(self) -> bool:
        """Whether it can be asked."""
        return self._providers is not None

    def load(self) -> None:
        """Load it here and now: a second in which nothing else goes on."""
        from genai_prices.data import providers

        self._providers = providers

    async def ready(self) -> None:
        """Wait until it can be asked."""
        if self._providers is None:
            if self._loading is None or self._loading.done():
                self._loading = asyncio.get_running_loop().create_task(asyncio.to_thread(self.load))
            await asyncio.shield(self._loading)
            gc.freeze()  # it stays, and no collection need go through it

    def find(self, model: str, url: str) -> "ModelInfo | None":
        """What is known of a model, as the provider at `url` sells it. None for one that nobody knows."""
        return self._kept(model, url) if self.loaded and 0 < len(model) <= LONGEST_NAME else None

    @property
    def steps(self) -> Sequence[int]:
        """Tokens of input from which on one of its rates is another one."""
        if self._steps is None and self._providers is not None:
            models = (model for provider in self._providers for model in provider.models)
            prices = (price for model in models for price in _prices_of(model))
            rates = (rate for price in prices for rate in vars(price).values())
            self._steps = tuple(sorted({tier.start for rate in rates for tier in getattr(rate, "tiers", ())}))
        return self._steps or ()

    def _find(self, model: str, url: str) -> "ModelInfo | None":
        providers = self._providers or []
        at = [provider for provider in providers if url and re.match(provider.api_pattern, url)]
        if not at:
            by_id = {provider.id: provider for provider in providers}
            at = [
                each for each in providers if each.model_match is not None and each.model_match.is_match(model.lower())
            ]
            at += [by_id[name] for name in _LIKELY if name in by_id]
        for name in (model, _DATED.sub("", model)):
            for provider in at:
                if (found := provider.find_model(name, all_providers=providers)) is not None:
                    return found
        return None


class Prices:
    """Rates under one state of the settings."""

    def __init__(self, settings: Settings, price_list: PriceList) -> None:
        self.price_list = price_list
        self._settings = settings
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._kept_rates = lru_cache(_MOST_KEPT)(self._rates)
        self._kept_choices = lru_cache(_MOST_KEPT)(self._choices)
        self._kept_hourly = lru_cache(_MOST_KEPT)(self._hourly)
        self._kept_flat = lru_cache(_MOST_KEPT)(self._flat)

    async def ready(self) -> None:
        """Wait until rates can be asked for."""
        await self.price_list.ready()

    @property
    def loaded(self) -> bool:
        """Whether rates can be asked for."""
        return self.price_list.loaded

    def cost(self, usage: Metered, upstream: str, model: str, asked: Mapping[str, str], at: float) -> int | None:
        """Nano-dollars of an answer that was served at `at`, seconds since the epoch; None where a rate is missing."""
        rates = self.rates(upstream, model, asked, at)
        return None if rates is None else cost(usage, rates, self.factor(upstream))

    def list_cost(self, usage: Metered, upstream: str, model: str, at: float) -> Decimal | None:
        """Dollars at list price, whatever `upstreams[].price` says; None where a rate is missing."""
        rates = self.rates(upstream, model, {}, at)
        amount = None if rates is None else cost(usage, rates)
        return None if amount is None else dollars(amount)

    def cost_once_loaded(
        self, usage: Metered, upstream: str, model: str, asked: Mapping[str, str], at: float
    ) -> int | None:
        """The same, for a thread of its own that can wait until the list is loaded."""
        if not self.loaded:
            self.price_list.load()
        return self.cost(usage, upstream, model, asked, at)

    def knows(self, upstream: str, model: str) -> bool:
        """Whether the list has a model, as far as it is loaded."""
        return self.price_list.find(model, self._url(upstream)) is not None

    def factor(self, upstream: str) -> Decimal:
        """`upstreams[].price`."""
        found = self._upstreams.get(upstream)
        return Decimal(1) if found is None or found.price is None else found.price

    def cost_of_sum(
        self, usage: Metered, upstream: str, model: str, asked: Mapping[str, str], at: float, requests: int, above: int
    ) -> int | None:
        """The same of so many answers with the same rates: `usage` is their sum, and the input of each is more than
        `above`, one of `steps`, and not more than the next one. Rounded once."""
        if not _is_short(asked):
            return None
        find = self._kept_flat if self._keeps(model) else self._flat
        rates = find(upstream, model, tuple(sorted(asked.items())), self._from(upstream, model, at), above)
        if rates is None:
            return None
        if rates.request is not None:
            rates = replace(rates, request=flat(rates.request.at(0) * requests))
        return cost(usage, rates, self.factor(upstream))

    @property
    def steps(self) -> Sequence[int]:
        """Tokens of input from which on a rate may be another one."""
        return self.price_list.steps

    @property
    def span(self) -> float:
        """Seconds for which an hourly price is the same."""
        return _SPAN

    def hourly(self, upstream: str, model: str) -> bool:
        """Whether the price of a model changes with the hour; others change with the day."""
        return (self._kept_hourly if self._keeps(model) else self._hourly)(upstream, model)

    def _hourly(self, upstream: str, model: str) -> bool:
        info = self.price_list.find(model, self._url(upstream))
        return info is not None and _is_hourly(info)

    def rates(self, upstream: str, model: str, asked: Mapping[str, str], at: float) -> Rates | None:
        """What is billed for a model, as served; None where nothing is known, or not of this tier."""
        if not _is_short(asked):
            return None
        find = self._kept_rates if self._keeps(model) else self._rates
        return find(upstream, model, tuple(sorted(asked.items())), self._from(upstream, model, at))

    def _keeps(self, model: str) -> bool:
        return self.loaded and len(model) <= LONGEST_NAME

    def _from(self, upstream: str, model: str, at: float) -> float:
        """Since when the prices of `at` have held, at least."""
        span = _SPAN if self.hourly(upstream, model) else _DAY
        return at // span * span

    def _rates(self, upstream: str, model: str, said: _Said, at: float) -> Rates | None:
        asked = dict(said)
        own = self._own(model)
        info = self.price_list.find(model, self._url(upstream))
        found = None
        if info is not None:
            context = _context(asked)
            if not context or _sells(info, context):
                found = _rates_of(info.get_prices(datetime.fromtimestamp(at, UTC), context))
        if own:
            found = overridden(found or Rates(), own)
        return found

    def _flat(self, upstream: str, model: str, said: _Said, at: float, above: int) -> Rates | None:
        """The same where the input is just above a step."""
        rates = self._rates(upstream, model, said, at)
        if rates is None:
            return None
        known = {name: rate for name in RATE_NAMES if (rate := getattr(rates, name)) is not None}
        return Rates(**{name: flat(rate.at(above + 1)) for name, rate in known.items()})

    def choices(self, upstream: str, model: str, asked: Mapping[str, str], at: float) -> Sequence[Rates]:
        """All rates that may be billed for a request that asks for this, at `at` or soon after; none where one of them
        is not known."""
        if not _is_short(asked):
            return []
        find = self._kept_choices if self._keeps(model) else self._choices
        return find(upstream, model, tuple(sorted(asked.items())), self._from(upstream, model, at))

    def _choices(self, upstream: str, model: str, said: _Said, at: float) -> Sequence[Rates]:
        asked = dict(said)
        own = self._own(model)
        info = self.price_list.find(model, self._url(upstream))
        found: list[Rates] = []
        if info is not None:
            now = datetime.fromtimestamp(at, UTC)
            for context in _contexts(info, asked):
                if context and not _sells(info, context):
                    return [] if not own else [overridden(Rates(), own)]
                # A price may depend on the hour, and change at midnight: a long answer may end under another one.
                for hours in (0, *((3, 6, 9, 12, 15, 18, 21) if isinstance(info.prices, list) else ()), 24):
                    rates = _rates_of(info.get_prices(now + timedelta(hours=hours), context))
                    if rates not in found:
                        found.append(rates)
        if own:
            found = [overridden(rates, own) for rates in found or [Rates()]]
        return found

    def window(self, upstream: str, model: str) -> int | None:
        """Tokens of a model's context window, None where it is not known."""
        own = self._settings.prices.get(model)
        if own is not None and own.context is not None:
            return own.context
        info = self.price_list.find(model, self._url(upstream))
        return info.context_window if info is not None else None

    def longest_answer(self, model: str) -> int | None:
        """Tokens of one answer, where relay.yaml says so."""
        own = self._settings.prices.get(model)
        return own.max_output if own is not None else None

    def _own(self, model: str) -> Mapping[str, Decimal]:
        price = self._settings.prices.get(model)
        return {} if price is None else price.rates()

    def _url(self, upstream: str) -> str:
        found: Upstream | None = self._upstreams.get(upstream)
        return found.url if found is not None else ""


def _is_short(asked: Mapping[str, str]) -> bool:
    return all(len(value) <= LONGEST_ASKED for value in asked.values())


def _prices_of(info: "ModelInfo") -> Iterator["ModelPrice"]:
    """All that it may cost."""
    yield from [each.prices for each in info.prices] if isinstance(info.prices, list) else [info.prices]
    yield from (variant.prices for variant in info.price_variants or ())


def _is_hourly(info: "ModelInfo") -> bool:
    conditions = [*(info.prices if isinstance(info.prices, list) else ()), *(info.price_variants or ())]
    # A kind of condition that is not known here may change at any time.
    return any(each.constraint is not None and not hasattr(each.constraint, "start_date") for each in conditions)


def _context(asked: Mapping[str, str]) -> dict[str, str]:
    """What a price depends on, without what is the rule."""
    context = {}
    tier = asked.get("service_tier", "")
    if tier == "batch":
        context["processing"] = "batch"
    elif tier not in _PLAIN_TIERS:
        context["service_tier"] = tier
    if (speed := asked.get("speed", "")) not in ("", "standard"):
        context["speed"] = speed
    if (place := asked.get("inference_geo", "")) not in _PLAIN_PLACES:
        context["inference_geo"] = place
    return context


def _contexts(info: "ModelInfo", asked: Mapping[str, str]) -> list[dict[str, str]]:
    """What may be served where this is asked for: the plain tier always, and each tier there is where none is named."""
    context = _context(asked)
    tiers: list[dict[str, str]] = [{}]
    if asked.get("service_tier", "") in ("", "auto"):
        variants = info.price_variants or ()
        tiers += [dict(each.when) for each in variants if "service_tier" in each.when and len(each.when) == 1]
    elif "service_tier" in context:
        tiers.append({"service_tier": context["service_tier"]})
    rest = {name: value for name, value in context.items() if name != "service_tier"}
    found: list[dict[str, str]] = []
    for tier in tiers:
        found += [each for each in (tier, {**tier, **rest}) if each not in found]
    return found


def _sells(info: "ModelInfo", context: Mapping[str, str]) -> bool:
    """Whether the list knows a price for each part of a context."""
    known = [variant.when for variant in info.price_variants or ()]
    return all(any(when.get(name) == value for when in known) for name, value in context.items())


def _rates_of(price: "ModelPrice") -> Rates:
    found: dict[str, Rate] = {}
    for name, field in _FIELDS.items():
        value = getattr(price, name, None)
        if value is not None and field not in found:
            found[field] = _rate(value)
    if (per_thousand := getattr(price, "requests_kcount", None)) is not None:
        request = _rate(per_thousand)
        found["request"] = Rate(tuple((start, each / 1000) for start, each in request.steps))
    return Rates(**found)


def _rate(value: object) -> Rate:
    if isinstance(value, Decimal):
        return flat(value)
    steps = [(0, value.base), *((tier.start, tier.price) for tier in value.tiers)]  # type: ignore[attr-defined]
    return Rate(tuple(steps))
