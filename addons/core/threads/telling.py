"""What people read of threads and causes: a line for each thread, why a call cost what it did, where the money went."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from addons.core.reading.page import one_line, size
from addons.core.threads.causes import Reason

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
_AMOUNT = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,30})?")


@dataclass(frozen=True, slots=True)
class Told:
    """A call, as its record tells of it."""

    id: str
    at: str
    """The time of day."""
    thread: str
    parent: str | None
    model: str
    tokens: Mapping[str, int] | None
    cost: Decimal | None
    """Dollars; None where that is not known."""
    cause: Mapping[str, object]

    @property
    def reason(self) -> str:
        """Of its cost."""
        return str(self.cause.get("reason", ""))

    @property
    def lost(self) -> Decimal | None:
        """Dollars for tokens that the cache had held and did not serve; None where that is not known."""
        return _lost_dollars(self.cause)


def why(call: Told, previous: Told | None) -> list[str]:
    """Why a call cost what it did."""
    lines = [f"{call.at}  {call.model}  thread {call.thread}{f' of {call.parent}' if call.parent else ''}"]
    lines += told(call.cause)
    if previous is not None:
        lines.append(f"  against the call of {previous.at}")
    return [*lines, f"  {used}"] if (used := _used(call)) else lines


def told(cause: Mapping[str, object]) -> list[str]:
    """A cause in words: the reason, where the first difference is, and what was lost by it."""
    lines = [_reason(cause)]
    if (path := cause.get("path")) is not None and cause.get("reason") != Reason.NEW_TURN:
        lines.append(f"  at      {one_line(str(path), _LONGEST_PATH)}")
        values = (("before", cause.get("before")), ("after", cause.get("after")))
        lines += [f"  {name:<7} {one_line(str(value), 200)}" for name, value in values if value is not None]
    return [*lines, f"  {lost}"] if (lost := _lost(cause)) else lines


def _reason(cause: Mapping[str, object]) -> str:
    reason, part = str(cause.get("reason", "")), cause.get("part")
    words = _WORDS[Reason(reason)] if reason in list(Reason) else one_line(reason, 40)
    if part in _PARTS:
        words = f"{words}: {_PARTS[str(part)]}"
    if reason == Reason.SETTINGS_CHANGED and cause.get("path") == "model":
        words = f"{words}: another model, and caches are per model"
    if part is not None and _is_of_the_moment(cause.get("before"), cause.get("after")):
        words += "; it looks like a time or an id: put it behind the last message"
    return words


def _is_of_the_moment(before: object, after: object) -> bool:
    """Whether two texts differ in nothing but what times and ids are made of."""
    if not isinstance(before, str) or not isinstance(after, str) or before == after:
        return False
    return _CHANGING.sub("0", before) == _CHANGING.sub("0", after)


def _lost(cause: Mapping[str, object]) -> str:
    tokens = cause.get("tokens")
    if not isinstance(tokens, int):
        return "how much the upstream's cache could have served is not known"
    if not tokens:
        return ""
    lost = _lost_dollars(cause)
    cost = "at a price that is not known" if lost is None else f"{dollars(lost)} at list price"
    return f"{tokens:,} tokens that the cache had held were not served: {cost}"


def _lost_dollars(cause: Mapping[str, object]) -> Decimal | None:
    cost = cause.get("cost")
    return Decimal(cost) if isinstance(cost, str) and _AMOUNT.fullmatch(cost) else None


def _used(call: Told) -> str:
    if call.tokens is None:
        return ""
    given, cached = call.tokens.get("input", 0), call.tokens.get("cached", 0)
    cost = f", {dollars(call.cost)}" if call.cost is not None else ""
    return f"{given:,} tokens in, {cached:,} of them cached, {call.tokens.get('output', 0):,} out{cost}"


def totals(calls: Sequence[Told]) -> list[str]:
    """Where the money of a thread went: in all, and for each cause."""
    lines = [f"thread {calls[0].thread}: {_count(len(calls), 'call')}, {_sum([each.cost for each in calls])}"]
    by_reason: defaultdict[str, list[Told]] = defaultdict(list)
    for each in calls:
        by_reason[each.reason].append(each)
    lines.append("by cause")
    for reason, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        tokens = [each.cause.get("tokens") for each in group]
        lost = sum(each for each in tokens if isinstance(each, int))
        spent = (
            f"  {reason.replace('_', ' '):<17} {_count(len(group), 'call'):>9}, {_sum([each.cost for each in group])}"
        )
        not_served = _sum([each.lost for each in group])
        lines.append(f"{spent}; {lost:,} tokens not from the cache, {not_served}" if lost else spent)
    return lines


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
        threads[each.thread] = [*threads.pop(each.thread, []), each]
    return [_line(group) for group in reversed(threads.values())]


def _line(calls: Sequence[Told]) -> str:
    models = ", ".join(dict.fromkeys(one_line(each.model, 40) for each in calls if each.model))
    odd = Counter(each.reason.replace("_", " ") for each in calls if each.reason not in ("first_turn", "new_turn"))
    causes = "".join(f", {count} × {name}" for name, count in odd.most_common(3))
    parent = f" of {calls[0].parent}" if calls[0].parent else ""
    tokens = _tokens([each.tokens for each in calls if each.tokens is not None])
    sums = f"{tokens}, {_sum([each.cost for each in calls])}"
    return f"{calls[0].thread}{parent}  {_count(len(calls), 'call')}  {models}  {sums}{causes}  last {calls[-1].at}"


def _tokens(told: Sequence[Mapping[str, int]]) -> str:
    if not told:
        return "tokens were not told"
    given, cached = (sum(each.get(name, 0) for each in told) for name in ("input", "cached"))
    return f"{given:,} tokens in, {cached:,} cached"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _sum(amounts: Sequence[Decimal | None]) -> str:
    """A sum that says when something of it is not known."""
    known = [each for each in amounts if each is not None]
    if not known:
        return "at a price that is not known"
    unknown = len(amounts) - len(known)
    return dollars(sum(known, Decimal(0))) + (
        f" and {_count(unknown, 'call')} at a price that is not known" if unknown else ""
    )


def dollars(amount: Decimal) -> str:
    """`$0.0215`: exact to a hundredth of a cent; what is less in its own digits."""
    if amount and abs(amount) < Decimal("0.0001"):
        return f"${amount.normalize():f}"
    return f"${amount.quantize(Decimal('0.0001')):f}"
