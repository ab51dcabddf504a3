"""Texts within others: whether a summary stands in a later message, or a prompt in what a tool was given."""

from collections.abc import Iterable
from itertools import islice

from addons.core.threads.prompt import Element, texts_of

PROBE = 48
"""Characters of a piece by which a text is looked for in another one."""
_PROBES = 5
_SEARCHED = 64_000
"""Characters of a request that are looked through."""
_MOST_WANTED = 2
"""Texts that are looked for at once."""
_SAID_BY_OTHERS = ("user", "system", "developer")


def said_to_model(elements: Iterable[Element]) -> list[str]:
    """What messages say that are no model's own, as far as it is looked through."""
    found: list[str] = []
    left = _SEARCHED
    for each in elements:
        if isinstance(each.value, str):
            texts: Iterable[str] = [each.value]
        elif isinstance(each.value, dict) and each.value.get("role") in _SAID_BY_OTHERS:
            texts = texts_of(each.value)
        else:
            continue
        for text in texts:
            if left <= 0:
                return found
            found.append(text[:left])
            left -= len(found[-1]) + 1
    return found


def joined(texts: Iterable[str]) -> str:
    """Texts as one that is searched at once."""
    return "\0".join(texts)


def holds(text: str, wanted: Iterable[str]) -> bool:
    """Whether `text` has one of `wanted` within it, or nearly all of it, such as a summary without its tags."""
    return any(_is_within(want, text) for want in islice(wanted, _MOST_WANTED))


def _is_within(want: str, text: str) -> bool:
    step = (len(want) - PROBE) // (_PROBES - 1)
    found = at = 0
    for number in range(_PROBES):
        place = text.find(want[number * step : number * step + PROBE], at)
        if place >= 0:
            found, at = found + 1, place + (step > 0)
        elif number > found:
            return False  # two are missing
    return found >= _PROBES - 1
