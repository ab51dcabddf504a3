"""What upstreams' caches hold, as far as usage and time tell.

OpenAI (https://platform.openai.com/docs/guides/prompt-caching): a prompt of 1024 tokens or more is cached in steps of
128, for 5 to 10 minutes since it was last used, or for 24 hours where that is asked for.
Anthropic (https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching): what is marked is cached, for 5 minutes
or an hour since it was last used; the usage tells what was written and read.
Gemini's own caching promises nothing, so nothing is known of it.
"""

from addons.core.metered import Metered
from addons.core.threads.prompt import Dialect, Prompt

LEAST, STEP = 1024, 128
SHORT, RETAINED = 600.0, 86_400.0
FIVE_MINUTES, HOUR = 300.0, 3_600.0
"""Seconds."""


def held(prompt: Prompt, usage: Metered | None) -> int | None:
    """Tokens of a prompt that lie in the cache after its call; None where that is not known."""
    if usage is None or prompt.dialect is Dialect.GEMINI:
        return None
    if prompt.dialect is Dialect.MESSAGES:
        return usage.cached + usage.cache_write + usage.cache_write_1h
    return 0 if usage.input < LEAST else usage.input - (usage.input - LEAST) % STEP


def life(prompt: Prompt) -> float | None:
    """Seconds for which it lives there; None where that is not known."""
    if prompt.dialect is Dialect.GEMINI:
        return None
    if prompt.dialect is Dialect.MESSAGES:
        return HOUR if prompt.hour_long else FIVE_MINUTES
    return RETAINED if prompt.hour_long else SHORT


def lost(before: int | None, now: int | None, usage: Metered | None) -> int | None:
    """Tokens that the cache held of the call before, could hold of this one, and did not serve."""
    if usage is None:
        return None
    if before is None or now is None:
        return 0 if before is not None or now is not None else None
    return max(0, min(before, now) - usage.cached)


def billed(tokens: int, usage: Metered) -> Metered:
    """How so many tokens, the first ones behind those that came from the cache, were billed: those that were written
    for an hour first, those for five minutes next, and the rest as plain input."""
    hour = min(tokens, usage.cache_write_1h)
    five = min(tokens - hour, usage.cache_write)
    return Metered(input=tokens, cache_write=five, cache_write_1h=hour)
