"""A chart of tokens by call: cached, new and output, stacked, as SVG that stands in a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from addons.core.export.markup import Markup, element, joined
from addons.core.metered import Metered

_HEIGHT = 100.0
_STEP, _BAR = 10.0, 8.0
"""Width of a bar's place, and of the bar; the picture is stretched to the page's width."""
_FEWEST = 12
"""Places that there are at least: a bar of two would be as wide as half a page."""
_UNKNOWN = 2.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One call."""

    link: str
    """The anchor that it leads to."""
    title: str
    tokens: Metered | None


def fresh(tokens: Metered) -> int:
    """Tokens of the input that did not come from a cache."""
    return max(0, tokens.input - tokens.cached)


def chart(bars: Sequence[Bar]) -> Markup:
    """The chart."""
    most = max((each.tokens.input + each.tokens.output for each in bars if each.tokens is not None), default=0)
    width = _STEP * max(_FEWEST, len(bars))
    drawn = joined(_bar(at, each, most) for at, each in enumerate(bars))
    svg = element(
        "svg",
        drawn,
        viewBox=f"0 0 {width:g} {_HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Tokens by call: {len(bars)} calls, at most {most:,} tokens each",
    )
    entries = [("cached", "cached"), ("new", "new"), ("output", "output")]
    if any(each.tokens is None for each in bars):
        entries.append(("unknown", "not known"))
    legend = joined(element("span", element("i", class_=f"key {name}"), said) for name, said in entries)
    above = element("div", element("span", f"{most:,} tokens"), element("span", legend, class_="legend"), class_="axis")
    last = element("span", f"call {len(bars)}") if len(bars) >= _FEWEST else ""
    below = element("div", element("span", "call 1"), last, class_="axis")
    return element("figure", above, svg, below, class_="chart")


def _bar(at: int, bar: Bar, most: int) -> Markup:
    return element("a", element("title", bar.title), *_pieces(at, bar.tokens, most), href=bar.link)


def _pieces(at: int, tokens: Metered | None, most: int) -> Iterator[Markup]:
    left = at * _STEP + (_STEP - _BAR) / 2
    if tokens is None or not most:
        yield _rect("unknown", left, _HEIGHT - _UNKNOWN, _UNKNOWN)
        return
    bottom = _HEIGHT
    for name, count in (("cached", tokens.cached), ("new", fresh(tokens)), ("output", tokens.output)):
        high = round(count / most * _HEIGHT, 2)
        if high:
            yield _rect(name, left, bottom - high, high)
        bottom -= high


def _rect(name: str, left: float, top: float, high: float) -> Markup:
    return element(
        "rect", class_=name, x=f"{left:g}", y=f"{max(0.0, top):.2f}", width=f"{_BAR:g}", height=f"{high:.2f}"
    )
