"""Pictures: what was asked for, and what came, in measures and sizes."""

from addons.core.reading.body import Body, Stream, document
from addons.core.reading.media import described, picture
from addons.core.reading.page import Page
from addons.core.reading.values import objects, parameters, text_of, timing, usage

_CONTENT = frozenset({"data", "usage", "created", "b64_json"})


def request(body: Body, page: Page) -> None:
    """Write a request."""
    value = document(body, page)
    parameters(page, value, frozenset({"prompt"}))
    page.block("prompt", text_of(value.get("prompt")) or "")


def answer(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body."""
    value = document(body, page)
    parameters(page, value, _CONTENT)
    page.field("usage", usage(value.get("usage")))
    page.field("timing", timing(body.about.timing, None, 0))
    for item in objects(value.get("data")):
        _one(page, "image", item)


def stream(body: Body, page: Page) -> None:
    """Write pictures that came in events, the unfinished ones too."""
    events, ended, spent = Stream(body), False, None
    for event, value in events.values():
        kind = text_of(value.get("type")) or event.event
        ended = ended or kind.endswith((".completed", "error"))
        spent = value.get("usage") or spent
        _one(page, kind, value)
    events.note_end(page, ended or events.done)
    page.gap()
    page.field("usage", usage(spent))
    page.field("timing", timing(body.about.timing, events.count, 0))


def _one(page: Page, title: str, item: dict[str, object]) -> None:
    shown = []
    if encoded := text_of(item.get("b64_json")):
        shown.append(f"[image: {described(encoded, 'in the answer')}]")
    if address := text_of(item.get("url")):
        shown.append(picture(address))
    if revised := text_of(item.get("revised_prompt")):
        shown.append(f"revised prompt: {revised}")
    page.block(title, "\n".join(shown) or "(nothing)")
