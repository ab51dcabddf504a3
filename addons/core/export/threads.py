"""Threads for people: the calls of a conversation in their order, and what they have come to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from addons.core.export.answers import Answered, answered
from addons.core.export.record import Exported
from addons.core.export.talk import Asked, Block, Kind, Turn, asked
from addons.core.threads.causes import Reason
from addons.core.threads.prompt import dialect_of
from addons.core.threads.sums import Sum


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model, read."""

    record: Exported
    asked: Asked | None
    """None where the request can't be read."""
    answered: Answered


@dataclass(slots=True)
class ToolSum:
    """What a tool has put into requests."""

    name: str
    calls: int = 0
    definition: int = 0
    """Bytes, of the largest definition there was."""
    results: int = 0
    """Bytes of its results, each counted once."""
    sent: int = 0
    """Bytes of definitions, arguments and results in all requests together: what is repeated counts each time."""


@dataclass(frozen=True, slots=True)
class Thread:
    """The calls of one conversation, the earliest first."""

    label: str | None
    """None of a call that belongs to no thread that is known."""
    calls: tuple[Call, ...]
    total: Sum = field(default_factory=Sum)
    by_reason: dict[str, Sum] = field(default_factory=dict)
    """In the order of `Reason`; "" for calls without a cause."""

    @property
    def parent(self) -> str | None:
        """The thread that sent this one."""
        return next((each.record.parent for each in self.calls if each.record.parent), None)

    @property
    def models(self) -> list[str]:
        """All that were asked, in their order."""
        return list(dict.fromkeys(each.record.model for each in self.calls if each.record.model))


def is_call(record: Exported) -> bool:
    """Whether it asks a model that talks."""
    path = record.upstream_path or record.path
    return record.method == "POST" and record.socket is None and dialect_of(path) is not None


def threads(records: Iterable[Exported]) -> tuple[list[Thread], list[Exported]]:
    """The threads, that begin first first, and all exchanges that are no calls of a model that talks."""
    grouped: dict[str, list[Exported]] = {}
    others: list[Exported] = []
    for record in sorted(records, key=lambda each: each.at):
        if is_call(record):
            grouped.setdefault(f"thread {record.thread}" if record.thread else f"call {record.id}", []).append(record)
        else:
            others.append(record)
    return [_thread(each) for each in grouped.values()], others


def _thread(records: Sequence[Exported]) -> Thread:
    sums: dict[str, Sum] = {}
    # What came before the first of them stands nowhere else.
    calls = (_read(records[0], known=0), *(_read(each, known=each.known) for each in records[1:]))
    thread = Thread(records[0].thread, calls)
    for record in records:
        by_reason = sums.setdefault(record.cause.reason if record.cause is not None else "", Sum())
        for each in (thread.total, by_reason):
            each.add(record.cause, record.cost, estimated=record.estimated)
    thread.by_reason.update({reason: sums[reason] for reason in (*Reason, "") if reason in sums})
    return thread


def _read(record: Exported, *, known: int | None) -> Call:
    dialect = dialect_of(record.upstream_path or record.path)
    body = record.request.json()
    readable = dialect is not None and isinstance(body, dict)
    return Call(record, asked(dialect, body, known) if dialect and readable else None, answered(record.response))


def tools(thread: Thread) -> list[ToolSum]:
    """Its tools, the one that has sent most first."""
    found: dict[str, ToolSum] = {}
    names: dict[str, str] = {}

    def of(block: Block) -> ToolSum:
        name = block.name or names.get(block.id) or "(not named)"
        return found.setdefault(name, ToolSum(name))

    for call in thread.calls:
        sent, new = (call.asked.turns, call.asked.new) if call.asked is not None else ((), ())
        note_names(names, (*sent, *call.answered.turns))
        for tool in call.asked.tools if call.asked is not None else ():
            told = found.setdefault(tool.name, ToolSum(tool.name))
            told.definition = max(told.definition, tool.size)
            told.sent += tool.size
        for block in _blocks(sent, Kind.CALL, Kind.RESULT):
            of(block).sent += size_of(block.text)
        for block in _blocks(new, Kind.RESULT):
            of(block).results += size_of(block.text)
        for block in _blocks((*new, *call.answered.turns), Kind.CALL):
            of(block).calls += 1
    return sorted(found.values(), key=lambda each: (-each.sent, each.name))


def note_names(names: dict[str, str], turns: Iterable[Turn]) -> None:
    """Note by their ids which tools are called: results tell the id alone."""
    names.update((each.id, each.name) for each in _blocks(turns, Kind.CALL) if each.id and each.name)


def size_of(text: str) -> int:
    """Bytes of a text."""
    return len(text.encode("utf-8", "replace"))


def _blocks(turns: Iterable[Turn], *kinds: Kind) -> Iterator[Block]:
    return (block for turn in turns for block in turn.blocks if block.kind in kinds)
