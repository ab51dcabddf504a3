"""Sounds: what was to be said, and what was heard."""

from addons.core.reading.body import Body, Stream, document
from addons.core.reading.page import Page, size
from addons.core.reading.values import objects, parameters, text_of, timing, usage

_HEARD = frozenset({"text", "segments", "words", "logprobs", "usage"})


def speech_request(body: Body, page: Page) -> None:
    """Write what is to be said, and how."""
    value = document(body, page)
    parameters(page, value, frozenset({"input", "instructions"}))
    if instructions := text_of(value.get("instructions")):
        page.block("instructions", instructions)
    page.block("input", text_of(value.get("input")) or "")


def sound(body: Body, page: Page) -> None:
    """Write what is known of a sound: its type, its size, how it came."""
    about = body.about
    page.field("type", about.content_type or "unknown")
    page.field("size", size(about.real_size if about.real_size is not None else len(body.data) + body.beyond))
    page.field("timing", timing(about.timing, None, 0))


def transcript(body: Body, page: Page) -> None:
    """Write what was heard: a JSON body."""
    value = document(body, page)
    parameters(page, value, _HEARD)
    for name in ("segments", "words"):
        if parts := objects(value.get(name)):
            page.field(name, len(parts))
    page.field("usage", usage(value.get("usage")))
    page.field("timing", timing(body.about.timing, None, 0))
    page.block("text", text_of(value.get("text")) or "")


def stream(body: Body, page: Page) -> None:
    """Write what was heard, or how much was said, in events (`transcript.text.delta`, `speech.audio.delta`)."""
    events, ended = Stream(body), False
    pieces: list[str] = []
    sounding, spent = 0, None
    final: str | None = None
    for event, value in events.values():
        kind = text_of(value.get("type")) or event.event
        ended = ended or kind.endswith((".done", "error"))
        spent = value.get("usage") or spent
        final = text_of(value.get("text")) or final
        if isinstance(delta := value.get("delta"), str):
            pieces.append(delta)
        if isinstance(encoded := value.get("audio"), str):
            sounding += len(encoded) * 3 // 4
    events.note_end(page, ended or events.done)
    page.field("usage", usage(spent))
    page.field("sound", size(sounding) if sounding else None)
    page.field("timing", timing(body.about.timing, events.count, 0))
    if final or pieces or not sounding:
        page.block("text", final or "".join(pieces))
