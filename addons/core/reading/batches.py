"""Batches: the objects that tell of one, and the lines of requests and results that go with it.

Lines of JSON stand in uploads (OpenAI) and in what is fetched at the end (OpenAI, Anthropic); Anthropic's requests
stand in the body. Shapes: https://platform.openai.com/docs/api-reference/batch,
https://docs.anthropic.com/en/api/creating-message-batches.
"""

from collections.abc import Iterable

from addons.core.reading import answer, anthropic
from addons.core.reading.body import MAX_EVENT_MARKS, Body, document, loaded, marks, note_left_out
from addons.core.reading.messages import content_text, message
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import Page, count
from addons.core.reading.response_items import item
from addons.core.reading.turns import EARLIER
from addons.core.reading.values import brief, compact, objects, parameters, text_of, timing, usage

_MOST = 100
"""Requests or results that are shown."""
_MOST_MARKS = 100_000
_LONGEST_LINE = 1 << 18


def status(body: Body, page: Page) -> None:
    """Write a request for a batch or the object that tells of one, or a list of such."""
    value = document(body, page)
    listed = objects(value.get("data"))
    parameters(page, value, frozenset({"data"}))
    page.field("timing", timing(body.about.timing, None, 0) if not body.about.request else None)
    for each in listed[:_MOST]:
        told = each.get("status", each.get("processing_status"))
        page.item(brief(each.get("id")) or "?", f"{brief(told)} {brief(each.get('request_counts')) or ''}")


def requests(body: Body, page: Page) -> None:
    """Write a batch of requests to Anthropic."""
    given = objects(document(body, page).get("requests"))
    page.field("requests", len(given))
    _each(page, given, len(given))


def lines(body: Body, page: Page) -> None:
    """Write lines of requests, or of results."""
    written_lines(page, body.data)
    if body.partial:
        page.note("the last line may be cut")


def written_lines(page: Page, data: bytes) -> None:
    """Write lines of JSON as far as they are few and short enough."""
    found = data.splitlines()
    page.field("lines", len(found))
    _each(page, _loaded(page, found[:_MOST]), len(found))


def _loaded(page: Page, found: list[bytes]) -> Iterable[dict[str, object]]:
    room = _MOST_MARKS
    for line in found:
        text = line[:_LONGEST_LINE].decode("utf-8", "replace")
        room -= (seen := marks(text))
        if room < 0:
            note_left_out(page, "the lines behind those that are shown")
            return
        value = loaded(text) if seen <= MAX_EVENT_MARKS else None
        yield value if isinstance(value, dict) else {}


def _each(page: Page, given: Iterable[dict[str, object]], whole: int) -> None:
    page.most = EARLIER
    for number, each in enumerate(given):
        if number >= _MOST:
            break
        page.gap()
        page.comment(f"--- {brief(each.get('custom_id', each.get('key'))) or f'line {number + 1}'}")
        _one(page, each)
    page.most = None
    if whole > _MOST:
        page.note(f"{count(whole - _MOST, 'more line')} left out; the raw view has them")


def _one(page: Page, each: dict[str, object]) -> None:
    """A request or a result, by what it holds."""
    result = each.get("result")
    response = each.get("response")
    if isinstance(asked := each.get("params", each.get("body")), dict):
        page.field("path", brief(each.get("url")))
        _request(page, asked)
    elif isinstance(result, dict):
        page.field("result", brief(result.get("type")))
        if isinstance(said := result.get("message"), dict):
            page.field("usage", usage(said.get("usage")))
            anthropic.blocks(page, text_of(said.get("role")) or "assistant", objects(said.get("content")))
        elif isinstance(error := result.get("error"), dict):
            problem(page, error.get("error", error))
    elif isinstance(response, dict):
        page.field("status", brief(response.get("status_code")))
        _answer(page, response.get("body"))
    elif not each.get("error"):
        page.block("line", compact(each))
    if each.get("error"):
        problem(page, each["error"])


def _request(page: Page, asked: dict[str, object]) -> None:
    page.field("model", brief(asked.get("model")))
    parameters(page, asked, frozenset({"model", "messages", "input", "system", "tools", "instructions"}))
    anthropic.system(page, asked.get("system"))
    for each in objects(asked.get("messages")):
        if isinstance(each.get("content"), list) and "tool_calls" not in each:
            anthropic.message(page, each)
        else:
            message(page, each)
    given = asked.get("input")
    for each in objects(given):
        item(page, each, "user")
    if given is not None and not objects(given):
        page.block("input", given if isinstance(given, str) else content_text(given) or "")


def _answer(page: Page, said: object) -> None:
    if not isinstance(said, dict):
        return
    page.field("usage", usage(said.get("usage")))
    if said.get("error"):
        problem(page, said["error"])
    gathered = answer.Gathered()
    gathered.add(said)
    answer.choices(page, gathered)
    for each in objects(said.get("output")):
        item(page, each)
    if vectors := objects(said.get("data")):
        page.field("embeddings", len(vectors))
