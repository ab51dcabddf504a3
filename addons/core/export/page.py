"""The page of a thread, or of several: one HTML file that asks for nothing and runs nothing.

Per thread its totals, a chart, its tools, and the talk: of each call only what is new in it, what it used and cost, and
why. What is long is folded. The same records give the same page.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from addons.core.export.chart import Bar, chart, fresh
from addons.core.export.jsonl import time
from addons.core.export.markup import Markup, element, escaped, joined
from addons.core.export.record import Exported
from addons.core.export.style import POLICY, STYLE
from addons.core.export.talk import Block, Kind, Turn
from addons.core.export.threads import Call, Thread, note_names, size_of, threads, tools
from addons.core.metered import Metered
from addons.core.threads.causes import Cause
from addons.core.threads.sums import Sum

_LONGEST = 200_000
"""Characters of one block that are shown."""
_FOLDED = {Kind.RESULT: 400, Kind.CALL: 400, Kind.TEXT: 6_000, Kind.THINKING: 0, Kind.MEDIA: 2_000}
"""Characters of a block, from which on it is folded."""
_LINES = 12
"""Lines of a tool's call or result, likewise."""
_MOST_TOOLS = 200
_MOST_OTHERS = 1_000
_BRAND = "relay"
_SAID = {
    "first_turn": "first turn",
    "new_turn": "new turn only",
    "cache_expired": "cache expired",
    "prefix_changed": "prefix changed",
    "compaction": "compaction",
    "settings_changed": "settings changed",
    "other_upstream": "other key or upstream",
    "retry": "retry",
    "": "not known",
}
_FINE = ("first_turn", "new_turn")
_LOST = "Lost from cache: tokens that the upstream's cache had held and could not serve; at list price."


def page(records: Iterable[Exported]) -> str:
    """The page of all threads among these exchanges; what else there is stands in a list at its end."""
    found, others = threads(records)
    writer = _Writer(found)
    title = writer.title(found[0]) if len(found) == 1 else f"{len(found)} threads" if found else "no thread"
    body = [element("h1", f"{_BRAND} · {title}")]
    if len(found) > 1:
        body.append(writer.contents(found))
    body += [writer.thread(each, alone=len(found) == 1) for each in found]
    if others:
        body.append(_others(others))
    note = "Keys are replaced by a hash each. Times are UTC. Costs are in US dollars; ~ means an estimate."
    body.append(element("footer", note))
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} · {_BRAND}"),
        element("style", Markup(STYLE)),
    )
    whole = element("html", element("head", *head), element("body", element("main", *body)), lang="en")
    return f"<!doctype html>\n{whole}\n"


class _Writer:
    """Writes threads; knows which anchors there are."""

    def __init__(self, found: Sequence[Thread]) -> None:
        calls = [call.record.id for thread in found for call in thread.calls]
        self._calls = {each: f"c{number}" for number, each in enumerate(calls, 1)}
        self._numbers = {call.record.id: at for each in found for at, call in enumerate(each.calls, 1)}
        self._labels = {each.label for each in found if each.label is not None}
        self._sent: dict[str | None, list[str]] = {}
        for each in found:
            if each.label is not None and each.parent is not None:
                self._sent.setdefault(each.parent, []).append(each.label)

    def title(self, thread: Thread) -> str:
        """`thread 5f0c21aa`."""
        return f"thread {thread.label}" if thread.label is not None else "a call of no thread"

    def _anchor(self, thread: Thread) -> str:
        return f"t-{thread.label}" if thread.label is not None else f"s-{self._calls[thread.calls[0].record.id]}"

    def contents(self, found: Sequence[Thread]) -> Markup:
        """A list of the threads."""
        lines = []
        for each in found:
            total = each.total
            said = f" · {', '.join(each.models)} · {_count(total.calls, 'call')} · {_sum(total)}"
            said += f" · sent by {each.parent}" if each.parent else ""
            link = element("a", self.title(each), href=f"#{self._anchor(each)}")
            lines.append(element("li", link, said))
        return element("nav", element("ul", *lines))

    def thread(self, thread: Thread, *, alone: bool) -> Markup:
        """A section."""
        parts = [] if alone else [element("h2", self.title(thread))]
        parts.append(self._facts(thread))
        bars = [
            Bar(f"#{self._calls[each.record.id]}", _bar_title(at, each.record), each.record.tokens)
            for at, each in enumerate(thread.calls, 1)
        ]
        parts.append(chart(bars))
        parts += [_by_reason(thread), _tools(thread)]
        parts += self._talk(thread)
        return element("section", *parts, id=self._anchor(thread))

    def _facts(self, thread: Thread) -> Markup:
        first, last = thread.calls[0].record, thread.calls[-1].record
        told = [("", _count(thread.total.calls, "call")), ("", _sum(thread.total)), ("", ", ".join(thread.models))]
        told += [("from ", _clock(first.at)), ("to ", _clock(last.at + (last.duration_ms or 0) / 1000))]
        upstreams = dict.fromkeys(each.record.upstream for each in thread.calls if each.record.upstream)
        told += [("upstream ", ", ".join(upstreams)), ("who ", first.key or ""), ("session ", first.session or "")]
        facts = [element("span", name, element("b", text)) for name, text in told if text]
        if (parent := thread.parent) is not None:
            known = element("a", parent, href=f"#t-{parent}") if parent in self._labels else escaped(parent)
            facts.append(element("span", "sent by thread ", known))
        sent = [joined((element("a", label, href=f"#t-{label}"), " ")) for label in self._sent.get(thread.label, ())]
        if sent:
            facts.append(element("span", "has sent ", *sent))
        return element("div", *facts, class_="facts")

    def _talk(self, thread: Thread) -> Iterator[Markup]:
        names: dict[str, str] = {}
        system: tuple[str, ...] = ()
        offered: tuple[str, ...] = ()
        before: float | None = None
        for number, call in enumerate(thread.calls, 1):
            parts = [*self._head(number, call.record, before), *self._cause(call.record.cause)]
            before = call.record.at
            if call.asked is None:
                size = len(call.record.request.body or b"")
                parts.append(element("p", f"The request can't be read: {_size(size)} were kept of it.", class_="dim"))
            else:
                parts += [_system(each) for each in call.asked.system if each not in system]
                system = call.asked.system
                if (now := tuple(each.text for each in call.asked.tools)) != offered:
                    offered = now
                    parts.append(_definitions(call))
                note_names(names, call.asked.turns)
                parts += [_turn(each, names) for each in call.asked.new]
            note_names(names, call.answered.turns)
            parts += [_turn(each, names) for each in call.answered.turns]
            parts += _end(call)
            yield element("article", *parts, class_="call", id=self._calls[call.record.id])

    def _head(self, number: int, record: Exported, before: float | None) -> Iterator[Markup]:
        since = f"+{_seconds(record.at - before)}" if before is not None else ""
        told = [f"call {number}", record.model or "", _cost(record.cost, estimated=record.estimated)]
        yield element("h3", *(element("span", each) for each in told if each))
        used = record.tokens
        facts = [_clock(record.at), since, *(_used(used) if used is not None else ["tokens not known"])]
        if record.first_byte_ms is not None:
            facts.append(f"first byte {_seconds(record.first_byte_ms / 1000)}")
        if record.duration_ms is not None:
            facts.append(_seconds(record.duration_ms / 1000))
        if len(record.attempts) > 1:
            facts.append(f"{len(record.attempts)} attempts")
        yield element("div", *(element("span", each) for each in facts if each), class_="facts")

    def _cause(self, cause: Cause | None) -> Iterator[Markup]:
        if cause is None:
            return
        said = _SAID[cause.reason] + (f": {cause.part}" if cause.part else "")
        told: list[str] = [element("b", said)]
        if cause.tokens:
            told.append(f" · {cause.tokens:,} tokens that the cache could not serve")
            told.append(f" · {_cost(cause.cost)}" if cause.cost is not None else "")
        if cause.previous in self._calls:
            number = self._numbers[cause.previous]
            told += [" · against ", element("a", f"call {number}", href=f"#{self._calls[cause.previous]}")]
        lines = [element("p", *told)]
        if cause.reason not in _FINE:
            lines += [
                element("p", element("span", f"{name} ", class_="dim"), element("code", text))
                for name, text in (("where", cause.path), ("before", cause.before), ("now", cause.after))
                if text is not None
            ]
        yield element("div", *lines, class_="cause fine" if cause.reason in _FINE else "cause")


def _end(call: Call) -> Iterator[Markup]:
    record = call.record
    wrong = [f"status {record.status}"] if record.status is not None and record.status >= 400 else []
    wrong += [each for each in (call.answered.error, record.error) if each]
    if wrong:
        yield element("p", " · ".join(dict.fromkeys(wrong)), class_="bad")
    elif not call.answered.turns:
        yield element("p", "No answer is in the record.", class_="dim")
    cut = [name for name, each in (("request", record.request), ("answer", record.response)) if each and each.size]
    if cut:
        yield element("p", f"The record holds only the start of the {' and the '.join(cut)}.", class_="dim")


def _turn(turn: Turn, names: dict[str, str]) -> Markup:
    kind = turn.role if turn.role in ("user", "assistant", "system", "tool") else "other"
    who = element("div", turn.role, class_="who")
    return element("div", who, *(_block(each, names) for each in turn.blocks), class_=f"turn {kind}")


def _block(block: Block, names: dict[str, str]) -> Markup:
    name = block.name or names.get(block.id, "")
    short = len(block.text) <= _FOLDED[block.kind]
    if block.kind is Kind.TEXT:
        return _prose(block.text) if short else _fold(f"{_size(size_of(block.text))} of text", block.text, code=False)
    if block.kind is Kind.THINKING:
        return element("details", element("summary", "thinks"), _prose(block.text), class_="think")
    if block.kind is Kind.MEDIA:
        return element("p", block.text[: _FOLDED[Kind.MEDIA]], class_="dim mono")
    heads = {Kind.CALL: "calls", Kind.RESULT: "result of"}
    head = f"{heads[block.kind]} {name or '(not named)'} · {_size(size_of(block.text))}"
    if short and block.text.count("\n") < _LINES:
        return joined((element("p", head, class_="dim"), _code(block.text) if block.text else ""))
    return _fold(head, block.text)


def _fold(head: str, text: str, *, code: bool = True) -> Markup:
    return element("details", element("summary", head), _code(text) if code else _prose(text))


def _system(text: str) -> Markup:
    return element(
        "div",
        element("div", "system", class_="who"),
        _fold(f"{_size(size_of(text))}: {_first(text)}", text, code=False) if len(text) > 400 else _prose(text),
        class_="turn system",
    )


def _definitions(call: Call) -> Markup:
    offered = call.asked.tools if call.asked is not None else ()
    if not offered:
        return element("p", "No tools are offered any more.", class_="dim")
    lines = [
        element("details", element("summary", f"{each.name} · {_size(each.size)}"), _code(each.text), class_="schema")
        for each in offered[:_MOST_TOOLS]
    ]
    size = _size(sum(each.size for each in offered))
    return element("details", element("summary", f"{_count(len(offered), 'tool')} · {size}"), *lines)


def _prose(text: str) -> Markup:
    """Text with its line breaks; what stands between lines of ``` is code."""
    pieces: list[Markup] = []
    lines: list[str] = []
    coded = False
    for line in _cut(text).split("\n"):
        if line.lstrip().startswith("```"):
            pieces.append(_piece(lines, coded=coded))
            lines, coded = [], not coded
        else:
            lines.append(line)
    pieces.append(_piece(lines, coded=coded))
    return joined(pieces)


def _piece(lines: Sequence[str], *, coded: bool) -> Markup:
    text = "\n".join(lines).strip("\n")
    if not text.strip():
        return Markup("")
    return element("pre", element("code", text)) if coded else element("p", text)


def _code(text: str) -> Markup:
    return element("pre", element("code", _cut(text)))


def _cut(text: str) -> str:
    left = len(text) - _LONGEST
    return text if left <= 0 else f"{text[:_LONGEST]}\n… {left:,} more characters are left out of this page"


def _first(text: str) -> str:
    line = next((each.strip() for each in text.split("\n", 50) if each.strip()), "")
    return line if len(line) <= 80 else f"{line[:80]}…"


# Tables


def _by_reason(thread: Thread) -> Markup:
    rows = [(_SAID[reason], f"{each.calls:,}", *_lost(each), _sum(each)) for reason, each in thread.by_reason.items()]
    total = thread.total
    rows.append(("all", f"{total.calls:,}", *_lost(total), _sum(total)))
    return joined(
        (
            element("h3", "Where the money went"),
            _table(("cause", "calls", "lost from cache", "cost of that", "cost of calls"), rows),
            element("p", _LOST, class_="dim"),
        )
    )


def _lost(found: Sum) -> tuple[str, str]:
    """Tokens and cost; a question mark where those of some calls are not known."""
    if found.lost_unknown == found.calls:
        return "not known", "not known"
    tokens = f"{found.lost:,}{' + ?' * bool(found.lost_unknown)}"
    return tokens, f"{_cost(found.lost_cost)}{' + ?' * bool(found.lost_cost_unknown)}"


def _tools(thread: Thread) -> Markup:
    found = tools(thread)
    if not found:
        return Markup("")
    rows = [
        (each.name, f"{each.calls:,}", _size(each.definition), _size(each.results), _size(each.sent))
        for each in found[:_MOST_TOOLS]
    ]
    table = _table(("tool", "calls", "definition", "results", "sent in all"), rows)
    summary = f"{_count(len(found), 'tool')}, by what was sent of them in all requests"
    return joined((element("h3", "Tools"), element("details", element("summary", summary), table)))


def _others(records: Sequence[Exported]) -> Markup:
    rows = [
        (
            f"{each.method} {each.path[:200]}",
            str(each.status or "-"),
            each.model or "-",
            _cost(each.cost, estimated=each.estimated),
        )
        for each in records[:_MOST_OTHERS]
    ]
    parts = [element("h2", "Other exchanges"), _table(("request", "status", "model", "cost"), rows)]
    if (left := len(records) - _MOST_OTHERS) > 0:
        parts.append(element("p", f"{left:,} more are left out.", class_="dim"))
    return element("section", *parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    head = element("thead", element("tr", *(element("th", each, scope="col") for each in heads)))
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    return element("div", element("table", head, body), class_="wide")


# Words and numbers


def _bar_title(number: int, record: Exported) -> str:
    if record.tokens is None:
        return f"call {number}: tokens not known"
    used = record.tokens
    return f"call {number}: {used.cached:,} cached, {fresh(used):,} new, {used.output:,} output"


def _used(used: Metered) -> list[str]:
    told = [f"{used.cached:,} cached", f"{fresh(used):,} new", f"{used.output:,} output"]
    if used.reasoning:
        told.append(f"{used.reasoning:,} of it reasoning")
    if written := used.cache_write + used.cache_write_1h:
        told.insert(2, f"{written:,} written to the cache")
    return told


def _sum(total: Sum) -> str:
    if total.unknown == total.calls:
        return "cost not known"
    text = _cost(total.cost, estimated=bool(total.estimated))
    return f"{text} and {_count(total.unknown, 'call')} of unknown cost" if total.unknown else text


def _cost(dollars: Decimal | None, *, estimated: bool = False) -> str:
    """`$0.0123`; below a cent, with all digits there are."""
    if dollars is None:
        return "cost not known"
    about = "~" if estimated else ""
    if dollars == 0:
        return f"{about}$0"
    if dollars >= Decimal("0.01"):
        return f"{about}${dollars:,.4f}"
    return f"{about}${dollars.normalize():f}"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def _size(number: int) -> str:
    if number < 1_000:
        return f"{number} B"
    return f"{number / 1_000:,.1f} kB" if number < 1_000_000 else f"{number / 1_000_000:,.1f} MB"


def _seconds(seconds: float) -> str:
    if abs(seconds) < 10:
        return f"{seconds:.2f} s"
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if abs(seconds) < 7_200 else f"{seconds / 3_600:,.1f} h"


def _clock(at: float) -> str:
    return time(at).replace("T", " ")[:19]
