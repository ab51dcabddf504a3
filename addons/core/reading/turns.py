"""A conversation in a request: its turns, and what an agent sends along each time.

Where the previous request of the thread is known, what is new comes first: then tools and system prompt, then the
earlier turns, folded. Else all of it stands in the order in which it was sent.
"""

from collections.abc import Callable, Sequence

from addons.core.reading.body import AT_LEAST, Body, note_left_out
from addons.core.reading.page import Page, count

EARLIER = 400
"""Characters of a block of an earlier turn; a longer one is folded."""


def conversation[Turn](
    body: Body,
    page: Page,
    turns: Sequence[Turn],
    noun: str,
    write: Callable[[Page, Turn], None],
    standing: Callable[[], None] = lambda: None,
) -> None:
    """Write turns, each by `write`, and by `standing` what stands in each request: tools and system prompt."""
    known = body.about.known
    if not known or known > len(turns):
        standing()
        _each(body, page, turns, noun, write)
        return
    page.gap()
    page.comment(f"--- new since the previous request of this thread: {count(len(turns) - known, noun)}")
    _each(body, page, turns[known:], noun, write)
    page.gap()
    page.comment("--- sent with each request")
    standing()
    page.gap()
    page.comment(f"--- earlier: {count(known, noun)} of the previous request and its answer, folded")
    page.most = EARLIER
    _each(body, page, turns[:known], noun, write)
    page.most = None


def _each[Turn](body: Body, page: Page, turns: Sequence[Turn], noun: str, write: Callable[[Page, Turn], None]) -> None:
    for position, turn in enumerate(turns):
        if position >= AT_LEAST and body.expired():
            note_left_out(page, f"the last {count(len(turns) - position, noun)}")
            return
        write(page, turn)
