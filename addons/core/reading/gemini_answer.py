"""Answers of Gemini's own API: whole, as events, or as one JSON array that comes in pieces.

Each piece of a stream holds the next parts and all of the usage so far. Shapes: https://ai.google.dev/api.
"""

import re

from addons.core.generations import gemini_call
from addons.core.reading import gemini
from addons.core.reading.body import MAX_READ, Body, Stream, UnreadableBody, document
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import Page, count
from addons.core.reading.values import brief, objects, text_of, timing, tokens_out, usage

_MOST_CANDIDATES = 64
_ARRAY = re.compile(rb"\s{0,64}+\[")


class Gathered:
    """An answer so far."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.usage: object = None
        self.error: object = None
        self.blocked: object = None
        self.finish: dict[int, str] = {}
        self.parts: dict[int, list[gemini.Part]] = {}
        self.grounding: dict[int, object] = {}

    def add(self, value: dict[str, object]) -> None:
        """Take a piece, or a whole answer."""
        if isinstance(inner := value.get("response"), dict):  # Code Assist
            value = inner
        self.model = text_of(gemini.field(value, "modelVersion")) or self.model
        self.usage = gemini.field(value, "usageMetadata") or self.usage
        self.error = self.error or value.get("error")
        feedback = gemini.field(value, "promptFeedback")
        if isinstance(feedback, dict):
            self.blocked = gemini.field(feedback, "blockReason") or self.blocked
        for position, candidate in enumerate(objects(value.get("candidates"))):
            index = candidate.get("index")
            number = index if isinstance(index, int) else position
            if number in self.parts or len(self.parts) < _MOST_CANDIDATES:
                self._add_candidate(number, candidate)

    def _add_candidate(self, number: int, candidate: dict[str, object]) -> None:
        parts = self.parts.setdefault(number, [])
        if reason := text_of(gemini.field(candidate, "finishReason")):
            self.finish[number] = reason
        if grounding := gemini.field(candidate, "groundingMetadata"):
            self.grounding[number] = grounding
        content = candidate.get("content")
        for part in objects(content.get("parts")) if isinstance(content, dict) else []:
            if not _goes_on(parts, part):
                parts.append(dict(part))


def _goes_on(parts: list[gemini.Part], part: gemini.Part) -> bool:
    """Whether a part says no more than its text, and so goes on with the last one's: it is kept with it then."""
    words = part.get("text")
    if not isinstance(words, str):
        return False
    if not words:  # with the signature of a thought
        return True
    if not parts or not isinstance(parts[-1].get("pieces"), list) or parts[-1].get("thought") != part.get("thought"):
        parts.append({"thought": part.get("thought"), "pieces": [words]})
    else:
        parts[-1]["pieces"].append(words)  # type: ignore[attr-defined]
    return True


def whole(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body: content, a count of tokens, or embeddings."""
    if _ARRAY.match(body.data):
        _array(body, page)
        return
    value = document(body, page)
    if isinstance(value.get("totalTokens"), int):
        page.field("total_tokens", brief(value["totalTokens"]))
        page.field("cached", brief(value.get("cachedContentTokenCount")))
        page.field("timing", timing(body.about.timing, None, 0))
        return
    if vectors := objects(value.get("embeddings")) or objects([value.get("embedding")]):
        sizes = {len(each) for vector in vectors if isinstance(each := vector.get("values"), list)}
        page.field("embeddings", len(vectors))
        page.field("dimensions", ", ".join(f"{size:,}" for size in sorted(sizes)))
        page.field("timing", timing(body.about.timing, None, 0))
        return
    gathered = Gathered()
    gathered.add(value)
    _write(body, page, gathered, None)


def _array(body: Body, page: Page) -> None:
    """A stream without `alt=sse`: an array whose items are the pieces."""
    wrapped = Body(b'{"pieces":' + body.data[:MAX_READ] + b"}" * (not body.partial), body.about, body.beyond)
    pieces = objects(document(wrapped, page).get("pieces"))
    if not pieces:
        raise UnreadableBody("an array of nothing")
    gathered = Gathered()
    for piece in pieces:
        gathered.add(piece)
    _write(body, page, gathered, len(pieces))


def stream(body: Body, page: Page) -> None:
    """Write what the events of a stream amount to."""
    gathered, events = Gathered(), Stream(body)
    for _, value in events.values():
        gathered.add(value)
    ended = bool(gathered.finish or gathered.error or gathered.blocked)  # no other mark ends it
    events.note_end(page, ended or events.done)
    _write(body, page, gathered, events.count)


def _write(body: Body, page: Page, gathered: Gathered, events: int | None) -> None:
    named = gemini_call(body.about.path)
    page.field("model", gathered.model or (named[0] if named else None))
    page.field("finish_reason", ", ".join(gathered.finish[number] for number in sorted(gathered.finish)))
    page.field("blocked", brief(gathered.blocked))
    page.field("usage", usage(gathered.usage))
    page.field("timing", timing(body.about.timing, events, tokens_out(gathered.usage)))
    if gathered.error:
        problem(page, gathered.error)
    for number in sorted(gathered.parts):
        if len(gathered.parts) > 1:
            page.gap()
            page.comment(f"--- candidate {number}")
        gemini.parts(page, "model", [_part(each) for each in gathered.parts[number]])
        _grounding(page, gathered.grounding.get(number))


def _part(part: gemini.Part) -> gemini.Part:
    pieces = part.get("pieces")
    if not isinstance(pieces, list):
        return part
    return {**part, "text": "".join(piece for piece in pieces if isinstance(piece, str))}


def _grounding(page: Page, found: object) -> None:
    """What a search of the upstream's has found."""
    if not isinstance(found, dict):
        return
    page.gap()
    page.field("searched for", brief(found.get("webSearchQueries")))
    chunks = objects(found.get("groundingChunks"))
    page.field("sources", count(len(chunks), "source") if chunks else None)
    for chunk in chunks[:20]:
        web = chunk.get("web")
        if isinstance(web, dict):
            page.item(brief(web.get("title")) or "?", brief(web.get("uri")) or "?")
