"""Any event stream: its events one by one. mitmproxy has no view of its own for these."""

from addons.core.reading.body import Body, Stream
from addons.core.reading.page import Page, count
from addons.core.reading.values import timing, written


def events(body: Body, page: Page) -> None:
    """Write an event stream that belongs to no kind that is known."""
    stream = Stream(body)
    for number, event in enumerate(stream, 1):
        title = f"{number} {event.event}" + (f" (id {event.id})" if event.id else "")
        written(page, title, event.data)
    stream.note_end(page, ended=not stream.parser.pending)
    if stream.done:
        page.gap()
        page.comment("[DONE]")
    page.gap()
    page.field("timing", timing(body.about.timing, stream.count, 0))
    if not stream.count:
        page.comment(f"{count(0, 'event')}: nothing but comments, or nothing at all")
