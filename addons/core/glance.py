"""What the beginning and the end of a body tell at a glance: its model, and how many tokens. No JSON is parsed.

Counts are the last of their name, since streams tell them again and again.
"""

import re
from collections.abc import Mapping

from addons.core.generations import gemini_call
from addons.core.metered import first, metered

_MODEL = re.compile(rb'"model"\s{0,8}+:\s{0,8}+"([^"\\]{1,80})"')
_IN_QUERY = re.compile(r"(?:^|&)model=([\w.:-]{1,80})")
_COUNT = re.compile(
    rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens|cached_tokens|prompt_cache_hit_tokens'
    rb"|cache_read_input_tokens|cache_creation_input_tokens|promptTokenCount|candidatesTokenCount|thoughtsTokenCount"
    rb'|cachedContentTokenCount|toolUsePromptTokenCount|totalTokens|totalTokenCount)"\s{0,8}+:\s{0,8}+(\d{1,9})(?!\d)'
)


def model_of(path: str, asked: bytes) -> str | None:
    """The model that a request names, in its path as Gemini's or Realtime's, or in its body.

    >>> model_of("/v1beta/models/gemini-2.5-pro:generateContent", b"{}"), model_of("/v1/messages", b'{"model": "m"}')
    ('gemini-2.5-pro', 'm')
    """
    plain, _, query = path.partition("?")
    if (named := gemini_call(plain)) is not None:
        return named[0]
    if plain.endswith("/realtime"):
        found_in = _IN_QUERY.search(query)
        return found_in[1] if found_in else None
    found = _MODEL.search(asked)
    return found[1].decode("utf-8", "replace") if found else None


def tokens_of(said: bytes) -> dict[str, int]:
    """`tokens_in`, `tokens_out` and `cached` of an answer, as far as they are told.

    What Anthropic counts beside its input, read from the cache or written to it, counts as input here, too.

    >>> tokens_of(b'{"input_tokens": 4, "cache_read_input_tokens": 90, "output_tokens": 7}')
    {'tokens_in': 94, 'tokens_out': 7, 'cached': 90}
    """
    return tokens_in({name.decode(): int(number) for name, number in _COUNT.findall(said)})


def tokens_in(usage: Mapping[str, object]) -> dict[str, int]:
    """The same of counts by their names."""
    told = dict(usage)
    if "totalTokens" in told:  # Gemini's countTokens
        return {"tokens_in": int(str(told["totalTokens"]))}
    if "cached_tokens" in told and "prompt_tokens_details" not in told:
        told["prompt_tokens_details"] = {"cached_tokens": told["cached_tokens"]}
    counted = metered(told)
    if counted is None:  # of an answer that was cut, what there is
        produced = first(told, "completion_tokens", "output_tokens")
        return {} if produced is None else {"tokens_out": produced}
    found = {"tokens_in": counted.input}
    if counted.output or any("output" in name or "completion" in name or "andidates" in name for name in told):
        found["tokens_out"] = counted.output
    if counted.cached:
        found["cached"] = counted.cached
    return found
