"""What people read of threads and causes: a line for each thread, why a call cost what it did, where the money went."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from addons.core.metered import Metered
from addons.core.reading.page import one_line, size
from addons.core.threads.causes import Cause, Reason
from addons.core.threads.sums import Sum

_MOST_TOOLS = 12
_LONGEST_PATH = 80
_WORDS = {
    Reason.FIRST_TURN: "first turn: its thread had no call before",
    Reason.NEW_TURN: "new turn: there is more behind the last message, and nothing else has changed",
    Reason.CACHE_EXPIRED: "cache expired: more time has passed since the call before than the upstream's cache lives",
    Reason.PREFIX_CHANGED: "prefix changed",
    Reason.COMPACTION: "compaction: the history was replaced by a summary, or its old end left out",
    Reason.SETTINGS_CHANGED: "settings changed",
    Reason.OTHER_UPSTREAM: "other upstream: another upstream or another key, and so another cache",
    Reason.RETRY: "retry: it asks what an earlier call of its thread has asked",
}
_PARTS = {
    "tools": "the tools are others, or in another order; keep them as they are, and the cache serves what follows",
    "system": "the system prompt is another one; keep it as it is, and put what changes behind the last message",
    "message": "a message that was there before was edited or left out",
}
_CHANGING = re.compile(r"[0-9a-f]{8,}|[0-9]+", re.IGNORECASE)
"""What a time or an id is made of."""
_UNPRICED = "at a price that is not known"


@dataclass(frozen=True, slots=True)
class Told:
    """A call, as its record tells of it."""

    id: str
    at: str
    """The time of day."""
    thread: str
    parent: str | None
    model: str
    tokens: Metered | None
    cost: Decimal | None
    """Dollars; None where that is not known."""
    estimated: bool
    """The cost is an estimate."""
    cause: Cause


def why(call: Told, previous: Told | None) -> list[str]:
    """Why a call cost what it did."""
    lines = [f"{call.at}  {call.model}  thread {call.thread}{f' of {call.parent}' if call.parent else ''}"]
    lines += told(call.cause)
    if previous is not None:
        lines.append(f"  against the call of {previous.at}")
    return [*lines, f"  {used}"] if (used := _used(call)) else lines


def told(cause: Cause) -> list[str]:
    """A cause in words: the reason, where the first difference is, and what was lost by it."""
    lines = [_reason(cause)]
    if cause.path is not None and cause.reason is not Reason.NEW_TURN:
        lines.append(f"  at      {one_line(cause.path, _LONGEST_PATH)}")
        values = (("before", cause.before), ("after", cause.after))
        lines += [f"  {name:<7} {one_line(value, 200)}" for name, value in values if value is not None]
    return [*lines, f"  {lost}"] if (lost := _lost(cause)) else lines


def _reason(cause: Cause) -> str:
    words = _WORDS[cause.reason]
    if cause.part in _PARTS:
        words = f"{words}: {_PARTS[cause.part]}"
    if cause.reason is Reason.SETTINGS_CHANGED and cause.path == "model":
        words = f"{words}: another model, and caches are per model"
    if cause.part is not None and _is_of_the_moment(cause.before, cause.after):
        words += "; it looks like a time or an id: put it behind the last message"
    return words


def _is_of_the_moment(before: str | None, after: str | None) -> bool:
    """Whether two texts differ in nothing but what times and ids are made of."""
    if before is None or after is None or before == after:
        return False
    return _CHANGING.sub("0", before) == _CHANGING.sub("0", after)


def _lost(cause: Cause) -> str:
    if cause.tokens is None:
        return "how much the upstream's cache could have served is not known"
    if not cause.tokens:
        return ""
    cost = _UNPRICED if cause.cost is None else f"{dollars(cause.cost)} at list price"
    return f"{cause.tokens:,} tokens that the cache had held were not served: {cost}"


def _used(call: Told) -> str:
    if (tokens := call.tokens) is None:
        return ""
    cost = f", {'~' * call.estimated}{dollars(call.cost)}" if call.cost is not None else ""
    return f"{tokens.input:,} tokens in, {tokens.cached:,} of them cached, {tokens.output:,} out{cost}"


def totals(calls: Sequence[Told]) -> list[str]:
    """Where the money of a thread went: in all, and for each cause."""
    lines = [f"thread {calls[0].thread}: {_count(len(calls), 'call')}, {_cost(_sum(calls))}", "by cause"]
    by_reason: defaultdict[Reason, list[Told]] = defaultdict(list)
    for each in calls:
        by_reason[each.cause.reason].append(each)
    for reason, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        found = _sum(group)
        spent = f"  {reason.replace('_', ' '):<17} {_count(found.calls, 'call'):>9}, {_cost(found)}"
        lines.append(f"{spent}; {_not_served(found)}" if found.lost or found.lost_unknown else spent)
    return lines


def _sum(calls: Sequence[Told]) -> Sum:
    found = Sum()
    for each in calls:
        found.add(each.cause, each.cost, estimated=each.estimated)
    return found


def _cost(found: Sum) -> str:
    """A sum that says when something of it is not known."""
    if found.unknown == found.calls:
        return _UNPRICED
    known = f"{'~' * bool(found.estimated)}{dollars(found.cost)}"
    return f"{known} and {_count(found.unknown, 'call')} {_UNPRICED}" if found.unknown else known


def _not_served(found: Sum) -> str:
    if found.lost_unknown == found.calls:
        return "how much the cache could have served is not known"
    unpriced = found.lost_cost_unknown - found.lost_unknown
    cost = f"{dollars(found.lost_cost)}{' + ?' * bool(unpriced)}" if found.lost_cost or not unpriced else _UNPRICED
    return f"{found.lost:,}{' + ?' * bool(found.lost_unknown)} tokens not from the cache, {cost}"


def tools(sizes: Mapping[str, int]) -> list[str]:
    """Definitions of tools, which go up with each call, by their bytes: those that take the most room first."""
    ranked = sorted(sizes.items(), key=lambda each: -each[1])
    if not ranked:
        return []
    lines = [f"tools by bytes: {_count(len(ranked), 'tool')}, {size(sum(sizes.values()))} in each call"]
    lines += [f"  {one_line(name, 40):<40} {size(each):>9}" for name, each in ranked[:_MOST_TOOLS]]
    return [*lines, f"  and {_count(len(ranked) - _MOST_TOOLS, 'other')}"] if len(ranked) > _MOST_TOOLS else lines


def overview(calls: Sequence[Told]) -> list[str]:
    """A line for each thread, the one that was used last first."""
    threads: dict[str, list[Told]] = {}
    for each in calls:
        group = threads[each.thread] = threads.pop(each.thread, [])
        group.append(each)
    return [_line(group) for group in reversed(threads.values())]


def _line(calls: Sequence[Told]) -> str:
    models = ", ".join(dict.fromkeys(one_line(each.model, 40) for each in calls if each.model))
    reasons = Counter(each.cause.reason for each in calls)
    odd = [(name, count) for name, count in reasons.most_common() if name not in (Reason.FIRST_TURN, Reason.NEW_TURN)]
    causes = "".join(f", {count} × {name.replace('_', ' ')}" for name, count in odd[:3])
    parent = f" of {calls[0].parent}" if calls[0].parent else ""
    tokens = _tokens([each.tokens for each in calls if each.tokens is not None])
    sums = f"{tokens}, {_cost(_sum(calls))}"
    return f"{calls[0].thread}{parent}  {_count(len(calls), 'call')}  {models}  {sums}{causes}  last {calls[-1].at}"


def _tokens(told: Sequence[Metered]) -> str:
    if not told:
        return "tokens were not told"
    given, cached = sum(each.input for each in told), sum(each.cached for each in told)
    return f"{given:,} tokens in, {cached:,} cached"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def dollars(amount: Decimal) -> str:
    """`$0.0215`: exact to a hundredth of a cent; what is less in its own digits."""
    if amount and abs(amount) < Decimal("0.0001"):
        return f"${amount.normalize():f}"
    return f"${amount.quantize(Decimal('0.0001')):f}"
