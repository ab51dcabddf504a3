"""HTML in which every text is escaped: elements are made here, and what is no `Markup` is text.

Texts come from strangers. Nothing of them may become an element, an attribute or a script.
"""

import html
from collections.abc import Iterable

_VOID = frozenset({"meta", "br", "hr", "rect"})
"""Elements without content; `rect` closes itself, as XML has it within SVG."""
_NO_TEXT = {code: "\ufffd" for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFFFE, 0xFFFF)}
"""Characters that HTML does not allow. Among them are those by which a terminal is told what to do."""
_TURNING = {code: "\ufffd" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that turn the direction of what follows, so that it reads as something else."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """A text as HTML shows it."""
    clean = text.encode("utf-8", "replace").decode().translate(_NO_TEXT | _TURNING)
    return Markup(html.escape(clean))


def joined(parts: Iterable[str]) -> Markup:
    """One piece behind the other; what is no Markup is escaped."""
    return Markup("".join(each if isinstance(each, Markup) else escaped(each) for each in parts))


def element(name: str, /, *content: str, **attributes: str | None) -> Markup:
    """An element; an attribute that is None is left out. `class_` stands for `class`, an underscore for a hyphen.

    >>> element("p", "1 < 2", class_="t")
    '<p class="t">1 &lt; 2</p>'
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{told}{' /' if name == 'rect' else ''}>")
    return Markup(f"<{name}{told}>{joined(content)}</{name}>")
