"""Pieces of JSON as a person reads them."""

import json

from addons.core import bounded_json
from addons.core.metered import metered
from addons.core.reading.body import Timing, marks
from addons.core.reading.page import Page, count, one_line, seconds, without_base64

_LONGEST = 300
_MOST_ITEMS = 200
_DEEPEST = 64
_INDENTED = 64  # blanks before JSON in a string


def text_of(value: object) -> str | None:
    """The value if it is a string that says something."""
    return value if isinstance(value, str) and value else None


def objects(value: object) -> list[dict[str, object]]:
    """The objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def brief(value: object) -> str | None:
    """A value on one line, Chinese unescaped; None for null."""
    if value is None:
        return None
    if isinstance(value, str):
        return one_line(without_base64(value), _LONGEST)
    return one_line(compact(value), _LONGEST)


def pretty(page: Page, value: object) -> str:
    """A value over several lines, as long as the page has room for values: laying out takes much longer than reading.

    A string that holds JSON, as tool arguments do, is laid out too.
    """
    text = without_base64(value) if isinstance(value, str) else compact(value)
    if text[:_INDENTED].lstrip()[:1] not in ("{", "["):
        return text
    if (values := marks(text)) > page.values:
        return text
    page.values -= values
    try:
        return json.dumps(bounded_json.parse(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text


def compact(value: object) -> str:
    """A value as JSON on one line, without what is encoded in base64 in it."""
    try:
        return json.dumps(_plain(value, _DEEPEST), ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to show)"


def _plain(value: object, deepest: int) -> object:
    """A value with placeholders for what is encoded in it."""
    if isinstance(value, str):
        return without_base64(value)
    if deepest and isinstance(value, dict):
        return {name: _plain(each, deepest - 1) for name, each in value.items()}
    if deepest and isinstance(value, list):
        return [_plain(each, deepest - 1) for each in value]
    return value


def bytes_of(value: object) -> int:
    """Bytes of a value as JSON without blanks."""
    try:
        return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    except RecursionError:
        return 0


def written(page: Page, title: str, value: object, most: int | None = None) -> None:
    """Write a block of JSON; one of more than `most` characters is folded."""
    page.block(title, pretty(page, value), most)


def parameters(page: Page, value: dict[str, object], but: frozenset[str]) -> None:
    """Write the fields that are no content, one a line."""
    names = [name for name in value if name not in but]
    for name in names[:_MOST_ITEMS]:
        page.field(name, brief(value[name]))
    if len(names) > _MOST_ITEMS:
        page.note(f"{count(len(names) - _MOST_ITEMS, 'more parameter')} left out; the raw view has them")


def usage(value: object) -> str | None:
    """`12 in (8 cached) · 48 out (16 reasoning) · 60 tokens in all`, from the usage object of an answer.

    What Anthropic counts beside its input, read from the cache or written to it, is part of the input here, as with
    all others.
    """
    counted = metered(value)
    if counted is None:
        return None
    told = [f"{counted.cached:,} cached"] if counted.cached else []
    if written_to_cache := counted.cache_write + counted.cache_write_1h:
        told.append(f"{written_to_cache:,} written to the cache")
    parts = [f"{counted.input:,} in" + (f" ({', '.join(told)})" if told else "")]
    if counted.output:
        parts.append(f"{counted.output:,} out" + (f" ({counted.reasoning:,} reasoning)" if counted.reasoning else ""))
    if counted.milliseconds and not counted.input:
        return seconds(counted.milliseconds)
    return " · ".join([*parts, f"{counted.input + counted.output:,} tokens in all"])


def tokens_out(value: object) -> int:
    """The tokens the model produced, by a usage object; 0 where that is not known."""
    counted = metered(value)
    return counted.output if counted else 0


def timing(known: Timing, events: int | None, tokens: int) -> str | None:
    """`0.31 s to the first byte · 2.4 s in all · 14 events · 6.7 events/s · 23 tokens/s`; only what is known.

    Rates are those of the stream itself: the wait for its first byte does not count. `events` is None for an answer
    that is no stream, whose rate of tokens counts the wait.
    """
    parts = []
    first, whole = known.first_byte_ms, known.duration_ms
    if first is not None:
        parts.append(f"{seconds(first)} to the first byte")
    if whole is not None:
        parts.append(f"{seconds(whole)} in all")
    if events is not None:
        events = known.events if known.events is not None else events
        parts.append(count(events, "event"))
    if whole is not None:
        streaming = whole - first if events is not None and first is not None and whole > first else whole
        if streaming > 0:
            parts += [f"{_rate(events * 1000 / streaming)} events/s"] if events else []
            parts += [f"{_rate(tokens * 1000 / streaming)} tokens/s"] if tokens else []
    return " · ".join(parts) or None


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
