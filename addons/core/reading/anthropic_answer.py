"""Answers of Anthropic's Messages API, whole or streamed: the blocks they amount to.

Events: https://docs.anthropic.com/en/docs/build-with-claude/streaming. Input is counted in the first event, output in
the last but one.
"""

from addons.core.reading import anthropic
from addons.core.reading.body import Body, Stream, document
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import Page
from addons.core.reading.values import brief, objects, text_of, timing, tokens_out, usage

_MOST_BLOCKS = 1024
_PIECES = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}
_FIELDS = {"text_delta": "text", "input_json_delta": "input", "thinking_delta": "thinking"}
"""Where the pieces of each kind belong in their block."""


class Gathered:
    """An answer so far: events of a stream, or one whole body."""

    def __init__(self) -> None:
        self.message: dict[str, object] = {}
        self.usage: dict[str, object] = {}
        self.error: object = None
        self.ended = False
        self._blocks: dict[int, anthropic.Block] = {}
        self._pieces: dict[int, dict[str, list[str]]] = {}

    def add(self, event: dict[str, object]) -> None:
        """Take an event; what is not understood is passed over."""
        kind = event.get("type")
        if kind == "content_block_delta":  # nearly all are
            self._add_piece(event)
        elif kind == "message_start" and isinstance(message := event.get("message"), dict):
            self.whole(message)
        elif kind == "content_block_start" and isinstance(block := event.get("content_block"), dict):
            number = event.get("index")
            if isinstance(number, int) and len(self._blocks) < _MOST_BLOCKS:
                self._blocks[number] = block
        elif kind == "message_delta":
            if isinstance(delta := event.get("delta"), dict):
                self.message = {**self.message, **delta}
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error":
            self.error, self.ended = event.get("error") or event, True

    def whole(self, message: dict[str, object]) -> None:
        """Take a message as a whole."""
        self.message = {**message}
        self._count(message.get("usage"))

    def _count(self, usage: object) -> None:
        """Later counts take the place of earlier ones, field by field."""
        if isinstance(usage, dict):
            self.usage |= {name: value for name, value in usage.items() if value is not None}

    def _add_piece(self, event: dict[str, object]) -> None:
        number, delta = event.get("index"), event.get("delta")
        if not isinstance(number, int) or not isinstance(delta, dict):
            return
        kind = delta.get("type")
        if not isinstance(kind, str) or not isinstance(piece := delta.get(_PIECES.get(kind, "")), str):
            return
        if number in self._pieces or len(self._pieces) < _MOST_BLOCKS:
            self._pieces.setdefault(number, {}).setdefault(_FIELDS[kind], []).append(piece)

    def blocks(self) -> list[anthropic.Block]:
        """What it amounts to."""
        numbers = sorted(self._blocks.keys() | self._pieces.keys())
        return [*objects(self.message.get("content")), *(self._block(number) for number in numbers)]

    def _block(self, number: int) -> anthropic.Block:
        joined = {name: "".join(pieces) for name, pieces in self._pieces.get(number, {}).items()}
        block = self._blocks.get(number) or {"type": "tool_use" if "input" in joined else "text"}
        for name in ("text", "thinking"):
            if name in joined and isinstance(begun := block.get(name), str):
                joined[name] = begun + joined[name]
        return {**block, **{name: text for name, text in joined.items() if text}}


def whole(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body, a count of tokens too."""
    value = document(body, page)
    gathered = Gathered()
    gathered.whole(value)
    if isinstance(value.get("input_tokens"), int):
        page.field("input_tokens", brief(value["input_tokens"]))
        page.field("context_management", brief(value.get("context_management")))
        page.field("timing", timing(body.about.timing, None, 0))
        return
    _write(body, page, gathered, None)


def stream(body: Body, page: Page) -> None:
    """Write what the events of a stream amount to."""
    gathered, events = Gathered(), Stream(body)
    for _, value in events.values():
        gathered.add(value)
    events.note_end(page, gathered.ended or events.done)
    _write(body, page, gathered, events.count)


def _write(body: Body, page: Page, gathered: Gathered, events: int | None) -> None:
    said = gathered.message
    page.field("model", said.get("model"))
    page.field("stop_reason", brief(said.get("stop_reason")))
    page.field("stop_sequence", brief(said.get("stop_sequence")))
    page.field("usage", usage(gathered.usage))
    page.field("timing", timing(body.about.timing, events, tokens_out(gathered.usage)))
    if gathered.error:
        problem(page, gathered.error)
    if (blocks := gathered.blocks()) or not gathered.error:
        anthropic.blocks(page, text_of(said.get("role")) or "assistant", blocks)
