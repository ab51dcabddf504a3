"""Embeddings: what was to be embedded; how many vectors came, of how many dimensions."""

from collections import Counter

from addons.core.reading.body import AT_LEAST, Body, document, note_left_out
from addons.core.reading.media import decoded_size
from addons.core.reading.page import Page, count
from addons.core.reading.values import brief, objects, parameters, timing, usage

_BYTES_PER_NUMBER = 4


def request(body: Body, page: Page) -> None:
    """Write a request."""
    value = document(body, page)
    parameters(page, value, frozenset({"input"}))
    given = value.get("input")
    texts = given if isinstance(given, list) and not _are_tokens(given) else [given]
    page.field("input", count(len(texts), "text"))
    for position, text in enumerate(texts):
        if position >= AT_LEAST and body.expired():
            note_left_out(page, f"the last {count(len(texts) - position, 'text')}")
            return
        shown = f"[{count(len(text), 'token')}]" if isinstance(text, list) else text
        page.block(f"text {position}", shown if isinstance(shown, str) else brief(shown) or "")


def _are_tokens(given: list[object]) -> bool:
    return bool(given) and isinstance(given[0], int)


def answer(body: Body, page: Page) -> None:
    """Write an answer."""
    value = document(body, page)
    vectors = objects(value.get("data"))
    page.field("model", brief(value.get("model")))
    page.field("embeddings", len(vectors))
    sizes = Counter(_dimensions(vector.get("embedding")) for vector in vectors)
    page.field("dimensions", ", ".join(f"{size:,}" for size in sorted(sizes) if size))
    page.field("usage", usage(value.get("usage")))
    page.field("timing", timing(body.about.timing, None, 0))
    for vector in vectors[:3]:
        numbers = vector.get("embedding")
        if isinstance(numbers, list):
            page.item(brief(vector.get("index")) or "?", f"{brief(numbers[:4])} …")


def _dimensions(vector: object) -> int:
    if isinstance(vector, str):
        return decoded_size(vector) // _BYTES_PER_NUMBER
    return len(vector) if isinstance(vector, list) else 0
