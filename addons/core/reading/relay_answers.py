"""relay's own answers: the envelope of /chat, whole or at the end of a stream, and the balance."""

from addons.core.reading.body import Body, Stream, document
from addons.core.reading.page import Page
from addons.core.reading.values import brief, parameters, timing, tokens_out, usage, written


def chat(body: Body, page: Page) -> None:
    """Write the answer to a message: the model's words, or why there are none."""
    value = document(body, page)
    page.comment("what the app got: relay's envelope")
    if body.about.chat is not None:
        page.field("session", body.about.chat.session)
    page.field("code", brief(value.get("code")))
    page.field("message", brief(value.get("message")))
    page.field("usage", usage(body.about.usage))
    page.field("timing", timing(body.about.timing, None, tokens_out(body.about.usage)))
    data = value.get("data")
    if isinstance(data, str):
        page.block("assistant", data)
    elif data is not None:
        written(page, "assistant", data)


def stream(body: Body, page: Page) -> None:
    """Write a streamed answer to a message: the model's words as they were told, and how the envelope ended them."""
    events, pieces = Stream(body), []
    last: dict[str, object] | None = None
    for _, value in events.values():
        piece = value.get("delta")
        if isinstance(piece, str):
            pieces.append(piece)
        elif "code" in value:
            last = value
    events.note_end(page, ended=last is not None)
    page.comment("what the app got: a stream of relay's, and its envelope at the end")
    if body.about.chat is not None:
        page.field("session", body.about.chat.session)
    if last is not None:
        page.field("code", brief(last.get("code")))
        page.field("message", brief(last.get("message")))
    page.field("pieces", len(pieces))
    page.field("usage", usage(body.about.usage))
    page.field("timing", timing(body.about.timing, events.count, tokens_out(body.about.usage)))
    text = "".join(pieces)
    data = last.get("data") if last is not None else None
    if text or data is not None:
        if text or isinstance(data, str):
            page.block("assistant", text or str(data))
        else:
            written(page, "assistant", data)
    if isinstance(data, str) and text and data != text:
        page.block("data of the envelope, which differs", data)


def balance(body: Body, page: Page) -> None:
    """Write what is left on a key."""
    value = document(body, page)
    page.comment("what the app got: relay's envelope")
    page.field("code", brief(value.get("code")))
    page.field("message", brief(value.get("message")))
    data = value.get("data")
    if isinstance(data, dict):
        page.gap()
        for name in ("total", "used", "balance"):
            amount = data.get(name)
            page.field(name, f"${amount:,.2f}" if isinstance(amount, int | float) else brief(amount))
    if isinstance(detail := value.get("detail"), dict):
        parameters(page, detail, frozenset())
