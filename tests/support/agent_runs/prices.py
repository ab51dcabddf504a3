"""List prices, in 10^-9 dollars a token: as OpenAI and Anthropic list them for these models at the start of 2026."""

from dataclasses import dataclass

from tests.support.agent_runs.saying import Usage


@dataclass(frozen=True, slots=True)
class Price:
    input: int
    cached: int
    """Read from the cache."""
    written_5m: int
    written_1h: int
    """Written to the cache: at Anthropic 1.25 and 2 times the input; OpenAI takes nothing for it."""
    output: int


def _openai(input: int, cached: int, output: int) -> Price:
    return Price(input, cached, input, input, output)


def _anthropic(input: int, output: int) -> Price:
    return Price(input, input // 10, input * 5 // 4, input * 2, output)


PRICES = {
    "gpt-5.2": _openai(1_750, 175, 14_000),
    "gpt-5.1-codex": _openai(1_250, 125, 10_000),
    "gpt-5-mini": _openai(250, 25, 2_000),
    "gpt-4.1": _openai(2_000, 500, 8_000),
    "gpt-4o": _openai(2_500, 1_250, 10_000),
    "claude-opus-4-5-20251101": _anthropic(5_000, 25_000),
    "claude-sonnet-4-5-20250929": _anthropic(3_000, 15_000),
    "claude-haiku-4-5-20251001": _anthropic(1_000, 5_000),
}


def cost_of(model: str, tokens: int, usage: Usage) -> int:
    """What so many tokens, the first ones after those read from the cache, cost in a call, in 10^-9 dollars.

    They are billed as they came: those written to the cache at that price, the shorter-lived last, those behind them
    as plain input.
    """
    price = PRICES[model]
    hour = min(tokens, usage.written_1h)
    five = min(tokens - hour, usage.written_5m)
    return hour * price.written_1h + five * price.written_5m + (tokens - hour - five) * price.input
