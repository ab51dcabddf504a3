"""Threads: takes calls of models in their order, and says of each which thread it belongs to and why it cost so much.

A thread is one conversation of a program with a model. It goes on whatever changes: key, upstream, model, system
prompt, tools, name of its session, history. A subagent is a thread of its own, and so is a side call, such as one that
asks for a title.

Memory is bounded: per thread the latest request is kept to compare with, and the threads longest unused are forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice

from addons.core.slices import Sliced
from addons.core.threads import cache
from addons.core.threads import prompt as prompts
from addons.core.threads.call import Call, Outcome, Placed
from addons.core.threads.comparing import comparing, read
from addons.core.threads.finding import Index, system_of
from addons.core.threads.prompt import Dialect, Kept, Part, Prompt, digest_of
from addons.core.threads.said import Said, hearing
from addons.core.threads.sessions import sessions_of
from addons.core.threads.thread import Last, Past, Thread, put

MOST_THREADS = 3_000
_MOST_ASKS = 200
"""Requests of a thread that a later one may repeat."""
_MOST_ANSWERS = 50
"""Answers of a thread that a later request may go on from by their ids."""
_MOST_SYSTEMS = 8
_LATEST = 32
"""Threads among whose latest answers a summary is looked for."""
_MOST_TEXTS = 16
_KEPT_TEXT = 8_000
"""Characters of an answer's text that are kept to look for."""


class Threads:
    """The threads of late. `most` bounds the memory that they take, in bytes, roughly."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0
        """Bytes that they take."""
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._index = Index(self._latest)

    def __len__(self) -> int:
        return len(self._threads)

    def placing(self, call: Call) -> Sliced[Placed | None]:
        """Place the next call; None where it asks no model, or can't be read. Never raises."""
        dialect = prompts.dialect_of(call.path)
        if dialect is None:
            return None
        body = yield from read(call.body)
        chained = self._index.chained(body, call)
        kept = chained.chain[body["previous_response_id"]] if chained is not None else Kept()
        asked = yield from prompts.reading(dialect, body, path=call.path, kept=kept)
        if asked is None:
            return None
        asked = asked.in_sessions(sessions_of(call.headers, body) | call.sessions)
        yield
        said = yield from hearing(call.answer, stream=call.stream)
        said.usage = call.usage or said.usage if call.outcome is Outcome.ANSWERED else None
        thread = chained or self._index.find(asked, call)
        if thread is None or (chained is None and self._index.is_beside(thread, asked)):
            thread = self._begin(call, asked, thread)
        cause, lost, known = yield from comparing(thread, call, asked, said.usage, self._summaries)
        self._remember(thread, call, asked, said, kept)
        return Placed(thread.label, asked.model, thread.parent, cause, lost, said.usage, known)

    def _latest(self) -> Iterator[Thread]:
        return (self._threads[label] for label in islice(reversed(self._threads), _LATEST))

    def _summaries(self, thread: Thread, call: Call) -> tuple[Sequence[str], Sequence[str]]:
        return thread.summaries(), self._index.side_summaries(thread, call)

    def _begin(self, call: Call, asked: Prompt, beside: Thread | None) -> Thread:
        label = blake2b(call.id.encode(), digest_size=4).hexdigest()
        while label in self._threads:
            label = blake2b(label.encode(), digest_size=4).hexdigest()
        parent = beside.label if beside is not None else self._index.parent(asked, call)
        thread = self._threads[label] = Thread(label, parent, call.owner)
        return thread

    def _remember(self, thread: Thread, call: Call, asked: Prompt, said: Said, kept: Kept) -> None:
        past = _past(thread, call, asked, said)
        parts = tuple((part, tuple(each.digest for each in elements)) for part, elements in asked.parts)
        settings = digest_of(asked.settings)
        asked_of = call.upstream, call.key, asked.dialect, call.path, asked.model
        thread.last = Last(past, *asked_of, settings, parts, call.body, kept)
        thread.has_tools = thread.has_tools or bool(asked.digests(Part.TOOLS))
        thread.key, thread.shortest = call.key, min(thread.shortest, len(asked.messages))
        thread.system = asked.digests(Part.SYSTEM)
        put(thread.asks, asked.ask, past, _MOST_ASKS)
        put(thread.systems, system_of(asked), None, _MOST_SYSTEMS)
        self._index.add(thread, asked, said)
        if call.outcome is Outcome.ANSWERED and said.id is not None and asked.dialect is Dialect.RESPONSES:
            behind = Kept(parts[2][1], (*parts[3][1], digest_of(said.id)))
            for gone in put(thread.chain, said.id, behind, _MOST_ANSWERS):
                self._index.drop_answer(gone)
            self._index.add_answer(thread, said.id)
        if said.texts or said.arguments:
            thread.texts, thread.arguments = _short(said.texts), _short(said.arguments)
        self._bound(thread)

    def _bound(self, thread: Thread) -> None:
        if thread.label not in self._threads:  # it was forgotten while it was compared
            self._index.drop(thread)
            return
        self._threads.move_to_end(thread.label)
        self.size -= thread.counted
        thread.counted = thread.size
        self.size += thread.counted
        while len(self._threads) > 1 and (self.size > self.most or len(self._threads) > MOST_THREADS):
            _, oldest = self._threads.popitem(last=False)
            self.size -= oldest.counted
            self._index.drop(oldest)


def _past(thread: Thread, call: Call, asked: Prompt, said: Said) -> Past:
    failed = call.outcome is not Outcome.ANSWERED
    if call.outcome is not Outcome.REFUSED:
        return Past(call.id, failed, cache.held(asked, said.usage), call.at, cache.life(asked))
    before = thread.last.past if thread.last is not None else None
    if before is None:
        return Past(call.id, failed, 0, call.at, None)
    return Past(call.id, failed, before.held, before.held_at, before.life)


def _short(texts: Sequence[str]) -> list[str]:
    return [each[:_KEPT_TEXT] for each in texts[-_MOST_TEXTS:]]
