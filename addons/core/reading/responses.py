"""The Responses API: requests, and answers whole or streamed.

A stream ends in an event that carries the whole answer again; one that broke before it is pieced together from its
deltas. Shapes: https://platform.openai.com/docs/api-reference/responses and .../responses-streaming.
"""

from addons.core.reading.body import AT_LEAST, Body, Stream, document, note_time
from addons.core.reading.conversation import tools
from addons.core.reading.media import placeholder
from addons.core.reading.messages import called, content_text
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import Page, count
from addons.core.reading.values import brief, objects, parameters, text_of, timing, tokens_out, usage, written

_CONTENT = frozenset({"input", "instructions", "tools", "model"})
_ENDINGS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
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
    value = document(body, page)
    page.field("model", value.get("model"))
    parameters(page, value, _CONTENT)
    tools(page, value)
    if instructions := content_text(value.get("instructions")):
        page.block("instructions", instructions)
    given = value.get("input")
    if isinstance(given, str):
        page.block("user", given)
    _items(body, page, objects(given), "user")


def whole(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body."""
    _answer(body, page, document(body, page), None)


def stream(body: Body, page: Page) -> None:
    """Write what the events of a stream amount to."""
    events = Stream(body)
    answer: dict[str, object] = {}
    error: object = None
    pieces: dict[int, dict[str, list[str]]] = {}
    items: dict[int, dict[str, object]] = {}
    ended = False
    for event, value in events.values():
        kind = text_of(value.get("type")) or event.event
        ended = ended or kind in _ENDINGS or kind == "error"
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
    _answer(body, page, answer, events.count)


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


def _answer(body: Body, page: Page, answer: dict[str, object], events: int | None) -> None:
    page.field("model", answer.get("model"))
    status = brief(answer.get("status")) or ""
    details = answer.get("incomplete_details")
    reason = text_of(details.get("reason")) if isinstance(details, dict) else None
    page.field("status", f"{status}: {reason}" if reason else status)
    page.field("usage", usage(answer.get("usage")))
    page.field("timing", timing(body.about.timing, events, tokens_out(answer.get("usage"))))
    if answer.get("error"):
        problem(page, answer["error"])
    _items(body, page, objects(answer.get("output")), "assistant")


def _items(body: Body, page: Page, items: list[dict[str, object]], speaker: str) -> None:
    for position, item in enumerate(items):
        if position >= AT_LEAST and body.expired():
            note_time(page, f"the last {count(len(items) - position, 'item')}")
            return
        _item(page, item, speaker)


def _item(page: Page, item: dict[str, object], speaker: str) -> None:
    """Write one item of the input or the output."""
    kind = text_of(item.get("type")) or "message"
    if kind == "message":
        page.block(text_of(item.get("role")) or speaker, content_text(item.get("content")) or "")
    elif kind in ("function_call", "custom_tool_call"):
        arguments = item.get("arguments", item.get("input"))
        called(page, "assistant", text_of(item.get("name")) or "?", text_of(item.get("call_id")), arguments)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        page.block(f"tool result of {brief(item.get('call_id')) or '?'}", content_text(item.get("output")) or "")
    elif kind == "reasoning":
        words = content_text(item.get("summary")) or content_text(item.get("content"))
        page.block("assistant thinks", words or "(kept to itself)")
    elif isinstance(result := item.get("result"), str) and kind == "image_generation_call":
        page.block("assistant draws", placeholder("image", result))
    else:
        written(page, kind, {name: value for name, value in item.items() if name != "type"})
