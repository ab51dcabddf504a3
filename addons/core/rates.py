"""What usage costs: counts times rates, in Decimal, rounded once to whole billionths of a dollar ("nano-dollars").

A rate that is not known makes what it would price unknown, never free: audio is not priced as text. The exceptions are
discounts and surcharges that a list may leave out, and then the plain rate is what is billed: cached and cache-write
tokens cost what input costs, images what text does, reasoning what output does.

Long contexts: a rate may have tiers, and the one that the whole input has passed holds for all tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from typing import NamedTuple

from addons.core.metered import Metered

NANO = 10**9
"""Nano-dollars of a dollar."""
_NANO = Decimal(NANO)
_CONTEXT = Context(prec=60)
_MILLION = Decimal(1_000_000)
_HOUR = Decimal(3_600_000)
"""Milliseconds."""
_THOUSAND = Decimal(1000)
"""What searches are counted in. Where a request has a price of its own and they have none, they are a part of it:
Perplexity's."""
_FURTHER = 2
"""Where the counts begin in `Metered` that few answers have: all but `input` and `output`."""
_MOST = 1 << 62
"""Nano-dollars. What is said to have cost more was not: no database's integer holds twice as much."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars a million, from so many tokens of input on: `steps` begins with (0, ...) and rises."""

    steps: tuple[tuple[int, Decimal], ...]

    def at(self, tokens: int) -> Decimal:
        """The rate where the whole input has `tokens`: a step begins above its number."""
        found = self.steps[0][1]
        for start, price in self.steps[1:]:
            if tokens > start:
                found = price
        return found

    def dearest(self, tokens: int) -> Decimal:
        """The highest rate that input of up to `tokens` may meet."""
        if len(self.steps) == 1:
            return self.steps[0][1]
        return max(price for start, price in self.steps if start == 0 or tokens > start)


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of a model. In dollars a million tokens or characters; `searches` a thousand, `hours` an hour of audio,
    `request` each, or each picture that is drawn."""

    input: Rate | None = None
    output: Rate | None = None
    cached: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    input_audio: Rate | None = None
    cached_audio: Rate | None = None
    input_image: Rate | None = None
    cached_image: Rate | None = None
    output_audio: Rate | None = None
    output_image: Rate | None = None
    reasoning: Rate | None = None
    searches: Rate | None = None
    hours: Rate | None = None
    characters: Rate | None = None
    request: Rate | None = None

    @property
    def empty(self) -> bool:
        """Whether no rate is known at all."""
        return all(getattr(self, name) is None for name in RATE_NAMES)

    @property
    def flat(self) -> bool:
        """Whether there is a price of each request and nothing else: tokens cost nothing then."""
        return self.request is not None and all(getattr(self, name) is None for name in RATE_NAMES if name != "request")


RATE_NAMES = tuple(field.name for field in fields(Rates))


def flat(price: Decimal) -> Rate:
    """A rate without tiers."""
    return Rate(((0, price),))


def cost(usage: Metered, rates: Rates, factor: Decimal = Decimal(1)) -> int | None:
    """Nano-dollars, `factor` times list price, rounded half up; None where a rate that is needed is not known, or for
    more than anything costs."""
    total = Decimal(0)
    for count, rate, unit in () if rates.request is not None and rates.flat else _lines(usage, rates):
        if not count:
            continue
        if rate is None:
            if unit == _THOUSAND and rates.request is not None:
                continue
            return None
        total += _CONTEXT.divide(rate.at(usage.input) * count, unit)
    if rates.request is not None:
        total += rates.request.at(usage.input) * max(1, usage.pictures)
    amount = _nano(total * factor, ROUND_HALF_UP)
    return amount if amount <= _MOST else None


def _lines(usage: Metered, rates: Rates) -> Iterable[tuple[int, Rate | None, Decimal]]:
    """Count, rate and how many of them the rate is for. Each count is without those that have a line of their own."""
    if not any(usage[_FURTHER:]):
        return (usage.input, rates.input, _MILLION), (usage.output, rates.output, _MILLION)
    audio = usage.input_audio - min(usage.cached_audio, usage.input_audio)
    image = usage.input_image - min(usage.cached_image, usage.input_image)
    cached_text = usage.cached - min(usage.cached_audio + usage.cached_image, usage.cached)
    text = max(0, usage.input - usage.cached - usage.cache_write - usage.cache_write_1h - audio - image)
    written = rates.cache_write or rates.input
    reasoned = min(usage.reasoning, usage.output) if rates.reasoning is not None else 0
    said = max(0, usage.output - usage.output_audio - usage.output_image - reasoned)
    image_rate = rates.input_image or rates.input
    return (
        (text, rates.input, _MILLION),
        (cached_text, rates.cached or rates.input, _MILLION),
        (usage.cache_write, written, _MILLION),
        (usage.cache_write_1h, rates.cache_write_1h, _MILLION),
        (audio, rates.input_audio, _MILLION),
        (min(usage.cached_audio, usage.input_audio), rates.cached_audio or rates.input_audio, _MILLION),
        (image, image_rate, _MILLION),
        (min(usage.cached_image, usage.input_image), rates.cached_image or rates.cached or image_rate, _MILLION),
        (said, rates.output, _MILLION),
        (reasoned, rates.reasoning, _MILLION),
        (usage.output_audio, rates.output_audio, _MILLION),
        (usage.output_image, rates.output_image or rates.output, _MILLION),
        (usage.searches, rates.searches, _THOUSAND),
        (usage.milliseconds, rates.hours, _HOUR),
        (usage.characters, rates.characters, _MILLION),
    )


class Bound(NamedTuple):
    """The most that a request may use."""

    input: int = 0
    """Tokens, of whatever kind."""
    output: int = 0
    audio: bool = False
    """There may be audio in what goes in or comes out."""
    images: bool = False
    cache_writes: bool = True
    hour_long: bool = False
    """The cache may be asked to keep something for an hour."""
    searches: int = 0
    milliseconds: int = 0
    characters: int = 0
    requests: int = 1
    """That are billed: as many as pictures are drawn."""


def worst(bound: Bound, choices: Sequence[Rates], factor: Decimal = Decimal(1)) -> int | None:
    """Nano-dollars that suffice whichever of `choices` is billed, rounded up; None where a rate that may be needed is
    not known."""
    dearest: Decimal | None = None
    for rates in choices:
        amount = _worst(bound, rates)
        if amount is None:
            return None
        dearest = amount if dearest is None else max(dearest, amount)
    return None if dearest is None else _nano(dearest * factor, ROUND_CEILING)


def _worst(bound: Bound, rates: Rates) -> Decimal | None:
    if rates.request is not None and rates.flat:
        return rates.request.dearest(bound.input) * bound.requests
    into = [rates.input, rates.cached]
    out = [rates.output, rates.reasoning]
    if bound.cache_writes:
        into.append(rates.cache_write)
    if bound.hour_long:
        into.append(rates.cache_write_1h)
    if bound.images:
        into += [rates.input_image, rates.cached_image]
        out.append(rates.output_image)
    if bound.audio:
        if rates.input_audio is None and rates.output_audio is None and rates.hours is None:
            return None
        into += [rates.input_audio, rates.cached_audio]
        out.append(rates.output_audio)
    total = Decimal(0)
    lines = [(bound.input, into, _MILLION), (bound.output, out, _MILLION)]
    if bound.searches or bound.milliseconds or bound.characters:
        lines += [
            (bound.searches, [rates.searches], _THOUSAND),
            (bound.milliseconds, [rates.hours], _HOUR),
            (bound.characters, [rates.characters], _MILLION),
        ]
    for count, wanted, unit in lines:
        if not count:
            continue
        known = [rate.dearest(bound.input) for rate in wanted if rate is not None]
        if not known:
            if unit == _THOUSAND and rates.request is not None:
                continue
            return None
        total += _CONTEXT.divide(max(known) * count, unit)
    if rates.request is not None:
        total += rates.request.dearest(bound.input) * bound.requests
    return total


def overridden(rates: Rates, prices: Mapping[str, Decimal]) -> Rates:
    """The rates with those that relay.yaml names in place of the list's."""
    return replace(rates, **{name: flat(price) for name, price in prices.items()})


def _nano(dollars: Decimal, rounding: str) -> int:
    return int(_CONTEXT.multiply(dollars, _NANO).to_integral_value(rounding))


def dollars(nano: int) -> Decimal:
    """Nano-dollars as dollars, exact."""
    return Decimal(nano).scaleb(-9, _CONTEXT)


def nano(amount: Decimal) -> int:
    """Dollars as nano-dollars; what is less than one is dropped."""
    return int(_CONTEXT.multiply(amount, Decimal(NANO)))
