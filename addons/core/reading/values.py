"""Pieces of JSON as a person reads them."""

import json

from addons.core import bounded_json
from addons.core.completion import usage as usage_of
from addons.core.reading.body import Timing, marks
from addons.core.reading.page import Page, count, one_line, seconds

_LONGEST = 300
_MOST_ITEMS = 200
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
        return one_line(value, _LONGEST)
    return one_line(compact(value), _LONGEST)


def pretty(page: Page, value: object) -> str:
    """A value over several lines, as long as the page has room for values: laying out takes much longer than reading.

    A string that holds JSON, as tool arguments do, is laid out too.
    """
    text = value if isinstance(value, str) else compact(value)
    if text[:_INDENTED].lstrip()[:1] not in ("{", "["):
        return text
    if (values := marks(text)) > page.values:
        return text
    page.values -= values
    try:
        return json.dumps(bounded_json.parse(text) if isinstance(value, str) else value, ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text


def compact(value: object) -> str:
    """A value as JSON on one line."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to show)"


def written(page: Page, title: str, value: object) -> None:
    """Write a block of JSON."""
    page.block(title, pretty(page, value))


def parameters(page: Page, value: dict[str, object], but: frozenset[str]) -> None:
    """Write the fields that are no content, one a line."""
    names = [name for name in value if name not in but]
    for name in names[:_MOST_ITEMS]:
        page.field(name, brief(value[name]))
    if len(names) > _MOST_ITEMS:
        page.note(f"{count(len(names) - _MOST_ITEMS, 'more parameter')} left out; the raw view has them")


def usage(value: object) -> str | None:
    """`12 in (8 cached) · 48 out (16 reasoning) · 60 in all`, from the usage object of an answer."""
    counted = usage_of(value)
    if counted is None or not isinstance(value, dict):
        return None
    cached = f" ({counted.cached_tokens:,} cached)" if counted.cached_tokens else ""
    details = value.get("completion_tokens_details", value.get("output_tokens_details"))
    thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
    reasoning = f" ({thought:,} reasoning)" if isinstance(thought, int) and thought else ""
    parts = [f"{counted.prompt_tokens:,} in{cached}"]
    if counted.completion_tokens:
        parts.append(f"{counted.completion_tokens:,} out{reasoning}")
    return " · ".join([*parts, f"{counted.total_tokens:,} tokens in all"])


def tokens_out(value: object) -> int:
    """The tokens the model produced, by a usage object; 0 where that is not known."""
    counted = usage_of(value)
    return counted.completion_tokens if counted else 0


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
