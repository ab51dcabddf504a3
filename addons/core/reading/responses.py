"""The Responses API: requests, and answers whole or streamed.

A stream ends in an event that carries the whole answer again, so that one is read first; a stream that broke before it
is pieced together from its deltas. Shapes: https://platform.openai.com/docs/api-reference/responses and
.../responses-streaming.
"""

from dataclasses import replace

from addons.core.reading import tools, turns
from addons.core.reading.body import Body, Stream, document
from addons.core.reading.messages import content_text
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import LONG, Page
from addons.core.reading.response_items import item
from addons.core.reading.values import brief, objects, parameters, text_of, timing, tokens_out, usage

_CONTENT = frozenset({"input", "instructions", "tools", "model"})
ENDINGS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
"""Events that end an answer, and hold it."""
_DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "arguments",
    "response.reasoning_summary_text.delta": "summary",
    "response.reasoning_text.delta": "summary",
}
_MOST_ITEMS = 1024


def request(body: Body, page: Page) -> None:
    """Write a request."""
    write(body, page, document(body, page))


def write(body: Body, page: Page, value: dict[str, object]) -> None:
    """Write the object of a request."""
    page.field("model", value.get("model"))
    parameters(page, value, _CONTENT)

    def standing() -> None:
        tools.offered(page, value.get("tools"))
        if instructions := content_text(value.get("instructions")):
            page.block("instructions", instructions, LONG)

    given = value.get("input")
    items: list[dict[str, object]] = objects(given)
    if isinstance(given, str):
        items = [{"role": "user", "content": given}]
    turns.conversation(body, page, items, "item", lambda page, each: item(page, each, "user"), standing)


def whole(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body."""
    answered(body, page, document(body, page), None)


def stream(body: Body, page: Page) -> None:
    """Write what the events of a stream amount to."""
    events = Stream(body)
    if (told := _told_last(events)) is not None:  # all of it, however much came before
        answered(body, page, told, body.data.count(b"\ndata:") + body.data.startswith(b"data:"))
        return
    answer: dict[str, object] = {}
    error: object = None
    pieces: dict[int, dict[str, list[str]]] = {}
    items: dict[int, dict[str, object]] = {}
    ended = False
    for event, value in events.values():
        kind = text_of(value.get("type")) or event.event
        ended = ended or kind in ENDINGS or kind == "error"
        if isinstance(response := value.get("response"), dict):
            answer, error = response, None
        elif kind == "error":
            error = value.get("error") or value
        _gather(kind, value, items, pieces)
    if error is not None:
        answer = {**answer, "error": error}
    if not answer.get("output"):
        numbers = sorted(items.keys() | pieces.keys())
        answer = {**answer, "output": [_pieced(items.get(at), pieces.get(at, {})) for at in numbers]}
    events.note_end(page, ended or events.done)
    answered(body, page, answer, events.count)


def _told_last(events: Stream) -> dict[str, object] | None:
    """The whole answer, where the last event has it."""
    last = events.last()
    if last is None or text_of(last.get("type")) not in ENDINGS:
        return None
    answer = last.get("response")
    return answer if isinstance(answer, dict) and answer.get("output") else None


def _gather(
    kind: str, value: dict[str, object], items: dict[int, dict[str, object]], pieces: dict[int, dict[str, list[str]]]
) -> None:
    number = value.get("output_index")
    if not isinstance(number, int) or (number not in items and len(items) + len(pieces) >= _MOST_ITEMS):
        return
    if isinstance(item := value.get("item"), dict):
        items[number] = item
    if (slot := _DELTAS.get(kind)) and isinstance(delta := value.get("delta"), str):
        pieces.setdefault(number, {}).setdefault(slot, []).append(delta)


def _pieced(item: dict[str, object] | None, pieces: dict[str, list[str]]) -> dict[str, object]:
    """An item of the output as far as its deltas tell; one that was done tells by itself."""
    item = item or {"type": "message", "role": "assistant"}
    joined = {slot: "".join(parts) for slot, parts in pieces.items()}
    if ("text" in joined or "refusal" in joined) and not item.get("content"):
        words = [{"type": "output_text", "text": joined["text"]}] if "text" in joined else []
        refused = [{"type": "refusal", "refusal": joined["refusal"]}] if "refusal" in joined else []
        item = {**item, "content": [*words, *refused]}
    if "arguments" in joined and not (item.get("arguments") or item.get("input")):
        item = {**item, "arguments": joined["arguments"]}
    if "summary" in joined and not (item.get("summary") or item.get("content")):
        item = {**item, "summary": [{"type": "summary_text", "text": joined["summary"]}]}
    return item


def answered(body: Body, page: Page, answer: dict[str, object], events: int | None) -> None:
    """Write the object of an answer, which came in so many events; None is no stream."""
    page.field("model", answer.get("model"))
    status = brief(answer.get("status")) or ""
    details = answer.get("incomplete_details")
    reason = text_of(details.get("reason")) if isinstance(details, dict) else None
    page.field("status", f"{status}: {reason}" if reason else status)
    page.field("usage", usage(answer.get("usage")))
    page.field("timing", timing(body.about.timing, events, tokens_out(answer.get("usage"))))
    if answer.get("error"):
        problem(page, answer["error"])
    if isinstance(answer.get("input_tokens"), int):  # what a request would take
        page.field("input_tokens", brief(answer["input_tokens"]))
    page.field("previous_response_id", brief(answer.get("previous_response_id")))
    items = objects(answer.get("output", answer.get("data")))
    turns.conversation(replace(body, about=replace(body.about, known=None)), page, items, "item", item)
