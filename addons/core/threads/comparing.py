"""Comparing a call with the one of its thread before it."""

from collections.abc import Callable, Sequence
from typing import Any

from addons.core import bounded_json
from addons.core.metered import Metered
from addons.core.slices import Sliced
from addons.core.threads import cache
from addons.core.threads.call import Call
from addons.core.threads.causes import Cause, Reason, reason_of, told
from addons.core.threads.difference import ABSENT, Difference, Place, common, differences
from addons.core.threads.passages import holds, joined, said_to_model
from addons.core.threads.prompt import Part, Prompt, digest_of, history_of, reading
from addons.core.threads.thread import Last, Past, Thread

Summaries = Callable[[Thread, Call], tuple[Sequence[str], Sequence[str]]]
"""Of a thread: what it has said last itself, and what was said beside it."""

_SUMMARIES = ("compaction", "compaction_summary", "context_compaction")
"""Types of items that OpenAI has made of a history."""
_FIRST = 3
"""Messages among which a summary stands that was asked of the model as a message of its own."""
_OWN = ("reasoning", "function_call", "custom_tool_call", "local_shell_call")
"""Types of items that are a model's own, of those that have no role."""


def comparing(
    thread: Thread, call: Call, asked: Prompt, usage: Metered | None, summaries: Summaries
) -> Sliced[tuple[Cause, Metered | None, int]]:
    """The cause of a call's cost; how the tokens were billed that the cache did not serve; and how many messages of its
    body's list the thread knows already.

    `summaries` has the texts of which one may have taken the place of the history.
    """
    last = thread.last
    if last is None:
        return Cause(Reason.FIRST_TURN, tokens=None if usage is None else 0), None, 0
    repeated = thread.asks.get(asked.ask)
    previous = repeated or last.past
    tokens = cache.lost(previous.held, cache.held(asked, usage), usage)
    billed = cache.billed(tokens, usage) if tokens and usage is not None else None
    same = common(last.messages, tuple(each.digest for each in asked.messages))
    known = _known(asked, same)
    if repeated is not None:
        return Cause(Reason.RETRY, tokens=tokens, previous=repeated.id), billed, known
    found = yield from _differences(last, asked)
    reason, part = reason_of(
        found,
        elsewhere=(last.upstream, last.key) != (call.upstream, call.key),
        expired=_has_expired(previous, call.at, tokens),
        compacted=same < len(last.messages) and _is_compaction(last, call, asked, same, *summaries(thread, call)),
    )
    path, before, after = told(found)
    return Cause(reason, part, path, before, after, tokens, previous=previous.id), billed, known


def read(body: bytes) -> Sliced[Any]:
    """A body as JSON; None where it is none, or too complex."""
    try:
        return (yield from bounded_json.loading(body.decode("utf-8"), marks=bounded_json.MAX_MARKS))
    except ValueError:
        return None


def _known(asked: Prompt, same: int) -> int:
    """Elements of the body's list that are no news: those that stood there before, and the answer behind them."""
    listed = asked.lists[Part.MESSAGE]
    leading = sum(each.path.startswith(f"{listed}[") for each in asked.parts[-2][1])
    behind = asked.messages[same:]
    said = next((at for at, each in enumerate(behind) if not _is_spoken(each.value)), len(behind))
    return leading + sum(bool(each.path) for each in asked.messages[: same + said])


def _is_spoken(value: object) -> bool:
    """Whether a message or an item is a model's own."""
    if not isinstance(value, dict):
        return False
    if (role := value.get("role")) is not None:
        return role in ("assistant", "model")
    return value.get("type") in _OWN


def _differences(last: Last, asked: Prompt) -> Sliced[list[Difference]]:
    """In the usual case, something new behind the last message, the request before need not be read again."""
    if (new := _news(last, asked)) is not None:
        return [new]
    body = yield from read(last.body)
    before = yield from reading(last.dialect, body, path=last.path, kept=last.kept)
    yield
    return list(differences(before, asked)) if before is not None else []


def _news(last: Last, asked: Prompt) -> Difference | None:
    if last.dialect is not asked.dialect or last.model != asked.model or last.settings != digest_of(asked.settings):
        return None
    before = [digests for _, digests in last.parts]
    now = [tuple(each.digest for each in elements) for _, elements in asked.parts]
    count = len(before[-1])
    if before[:-1] != now[:-1] or now[-1][:count] != before[-1] or len(now[-1]) == count:
        return None
    new = asked.messages[count:]
    first = next((each for each in new if each.path), new[-1])
    return Difference(Place.NEW, first.path, ABSENT, first.value)


def _has_expired(previous: Past, at: float, tokens: int | None) -> bool:
    """Whether what the call before has left in the cache had died."""
    if previous.life is None or previous.held == 0 or at - previous.held_at <= previous.life:
        return False
    return tokens != 0 or previous.held is None


def _is_compaction(last: Last, call: Call, asked: Prompt, same: int, own: Sequence[str], beside: Sequence[str]) -> bool:
    """Whether the history was made shorter: by a summary, or by leaving out its old end."""
    before, now = last.messages, tuple(each.digest for each in asked.messages)
    new = asked.messages[same:]
    if holds(joined(said_to_model(new)), [*own, *beside]) or any(_is_summary(each.value) for each in new):
        return True
    # The latest answer stands in each history as what it is: as a summary only where little else is left.
    said = joined(text for each in history_of(new[:_FIRST]) for text in each.texts)
    if holds(said, beside) or (2 * len(now) < len(before) and holds(said, own)):
        return True
    if len(call.body) >= len(last.body):
        return False
    if same < len(now) and now[same] in before[same:] and _begins_turn(new[0].value):
        at = before.index(now[same], same)
        return now[same : same + len(before) - at] == before[at:]
    return False


def _begins_turn(value: object) -> bool:
    """Whether a history may be cut before it."""
    return isinstance(value, dict) and value.get("role") == "user"


def _is_summary(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") in _SUMMARIES
