"""What an answer used, sorted by what is billed at a rate of its own.

Upstreams count in different ways, and each place that differs has a comment. Shapes:
https://platform.openai.com/docs/api-reference (chat completions, responses, images, audio, realtime),
https://docs.anthropic.com/en/api/messages (`usage`) and Gemini's `usageMetadata`. Fields that are not known are passed
over; nothing raises.

A count that is there and can't be read (`"12"`, 12.5, -5) makes all of the usage unknown: to take it for 0 would make
free what was used.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, Self

_MOST = 1 << 32
"""More than anybody counts; at any price there is, it costs less nano-dollars than a database's integers hold."""


class _Uncounted(ValueError):
    """A count that can't be read."""


class Metered(NamedTuple):
    """Counts of one answer. Of `input` are `cached`, `cache_write`, `cache_write_1h`, `input_audio` and `input_image` a
    part, of `output` `output_audio`, `output_image` and `reasoning`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cached_audio: int = 0
    input_image: int = 0
    cached_image: int = 0
    output_audio: int = 0
    output_image: int = 0
    reasoning: int = 0
    searches: int = 0
    """Searches of the web that the model made."""
    milliseconds: int = 0
    """Of audio, where that is billed by its length."""
    characters: int = 0
    """Of text that was read aloud, where that is billed by its length."""
    pictures: int = 0
    """That were drawn, where each is billed."""

    def parts(self) -> dict[str, int]:
        """What is not 0, by name."""
        return {name: found for name, found in zip(NAMES, self, strict=True) if found}

    @classmethod
    def of(cls, parts: Mapping[str, object]) -> Self:
        """The reverse of `parts`; other names are passed over."""
        return cls(**{name: found for name in NAMES if (found := count(parts.get(name))) is not None})


NAMES = Metered._fields


def metered(usage: object, *, images: bool = False) -> Metered | None:
    """The counts in a usage object; None where it holds none, or one that can't be read. With `images` the answer
    consists of images.

    >>> metered({"prompt_tokens": 12, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}})
    Metered(input=12, output=8, cached=4, ...)
    """
    if not isinstance(usage, Mapping):
        return None
    try:
        found = _metered(usage, images)
    except _Uncounted:
        return None
    return None if found is None or max(found.input, found.output) > _MOST else found


def _metered(usage: Mapping[str, object], images: bool) -> Metered | None:
    """Raises _Uncounted."""
    if (seconds := _seconds(usage)) is not None:
        return Metered(milliseconds=seconds)
    if "promptTokenCount" in usage or "candidatesTokenCount" in usage:
        return _of_gemini(usage)
    given = _told(usage, "prompt_tokens", "input_tokens")
    produced = _told(usage, "completion_tokens", "output_tokens")
    total = _told(usage, "total_tokens")
    if given is None and produced is None:  # some embeddings upstreams tell nothing but a total
        return None if total is None else Metered(input=total)
    if given is None and produced is not None:
        if total is None or total < produced:
            raise _Uncounted  # no answer is without a question
        given = total - produced
    given, produced = given or 0, produced or 0
    if total is not None:  # xAI counts reasoning beside what was completed
        produced = max(produced, total - given)
    written = _of_anthropic(usage)
    if written is not None:
        read, five_minutes, hour = written
        return Metered(
            input=given + read + five_minutes + hour,
            output=produced,
            cached=read,
            cache_write=five_minutes,
            cache_write_1h=hour,
            reasoning=_in(_details(usage, _OUT), "thinking_tokens"),
            searches=_in(_object(usage, "server_tool_use"), "web_search_requests"),
        )
    into, out = _details(usage, _INTO), _details(usage, _OUT)
    if not into and not out and not usage.keys() & _BESIDE:  # nothing is told but these two
        return Metered(given, produced, output_image=produced if images else 0)
    cached = _told(into, "cached_tokens")
    if cached is None:  # DeepSeek, Moonshot
        cached = _told(usage, "prompt_cache_hit_tokens", "cached_tokens") or 0
    cached_details = _object(into, "cached_tokens_details")  # realtime
    drawn = _told(out, "image_tokens")
    return Metered(
        input=given,
        output=produced,
        cached=min(cached, given),
        cache_write=min(_told(into, "cache_write_tokens", "cache_creation_tokens") or 0, given),
        input_audio=min(_in(into, "audio_tokens"), given),
        cached_audio=_in(cached_details, "audio_tokens"),
        input_image=min(_in(into, "image_tokens"), given),
        cached_image=_in(cached_details, "image_tokens"),
        output_audio=min(_in(out, "audio_tokens"), produced),
        # gpt-image-1 has no details of its output: it is one image, or several.
        output_image=min(drawn, produced) if drawn is not None else produced if images else 0,
        reasoning=_in(out, "reasoning_tokens"),
        # Perplexity's, and of those that tell Anthropic's without its cache.
        searches=_in(usage, "num_search_queries") + _in(_object(usage, "server_tool_use"), "web_search_requests"),
    )


def _of_anthropic(usage: Mapping[str, object]) -> tuple[int, int, int] | None:
    """Tokens read from the cache, written to it for five minutes and for an hour, which Anthropic counts beside its
    `input_tokens`; None for the usage of others."""
    if "cache_read_input_tokens" not in usage and "cache_creation_input_tokens" not in usage:
        return None
    read = _in(usage, "cache_read_input_tokens")
    written = _in(usage, "cache_creation_input_tokens")
    hour = min(_in(_object(usage, "cache_creation"), "ephemeral_1h_input_tokens"), written)
    return read, written - hour, hour


def _of_gemini(usage: Mapping[str, object]) -> Metered:
    """`usageMetadata`: what was cached is a part of the prompt, what was thought stands beside the candidates, what
    tools brought in beside the prompt (https://ai.google.dev/api/generate-content#UsageMetadata)."""
    given = _in(usage, "promptTokenCount") + _in(usage, "toolUsePromptTokenCount")
    thought = _in(usage, "thoughtsTokenCount")
    return Metered(
        input=given,
        output=_in(usage, "candidatesTokenCount") + thought,
        cached=min(_in(usage, "cachedContentTokenCount"), given),
        reasoning=thought,
    )


_INTO = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUT = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_BESIDE = {"prompt_cache_hit_tokens", "cached_tokens", "num_search_queries", "server_tool_use"}
"""What is counted beside the details, or in their place."""


def _details(usage: Mapping[str, object], names: tuple[str, ...]) -> Mapping[str, object]:
    """The details of what came in or went out; realtime and transcriptions call them by the singular."""
    for name in names:
        if found := _object(usage, name):
            return found
    return {}


def _object(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _seconds(usage: Mapping[str, object]) -> int | None:
    """Milliseconds of audio, where a transcription is billed by them: `{"type": "duration", "seconds": 3.2}`."""
    value = usage.get("seconds")
    if usage.get("type") != "duration" or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        milliseconds = Decimal(str(value)) * 1000
        # What is begun is billed.
        return int(milliseconds.to_integral_value("ROUND_CEILING")) if 0 <= milliseconds < _MOST else None
    except InvalidOperation:
        return None


def _in(value: Mapping[str, object], name: str) -> int:
    return _told(value, name) or 0


def _told(value: Mapping[str, object], *names: str) -> int | None:
    """As `first`. Raises _Uncounted where only such are there that can't be read."""
    unreadable = False
    for name in names:
        if (said := value.get(name)) is not None:
            if (found := count(said)) is not None:
                return found
            unreadable = True
    if unreadable:
        raise _Uncounted
    return None


def first(value: Mapping[str, object], *names: str) -> int | None:
    """The first of these fields that is a count."""
    for name in names:
        if name in value and (found := count(value[name])) is not None:
            return found
    return None


def count(value: object) -> int | None:
    """A number of tokens: whole, not negative, and none that nobody counts; 12.0 is 12, as JavaScript may write it."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MOST:  # True is an int as well
        return None
    return value
