"""Finding the thread of a call. It is that of

1. the answer that it names (`previous_response_id`);
2. the last answer that its history brings back, told by the ids of its calls of tools and items, or by its text;
3. without such history: a call that asked the same and failed, or asked the same in the same session; one that was not
   answered, or is of the same session, and that it adds to; one whose latest answer, a summary, it begins with;
4. else it begins one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from addons.core.threads.call import Call
from addons.core.threads.difference import common
from addons.core.threads.passages import PROBE, holds, joined, said_to_model
from addons.core.threads.prompt import Part, Prompt, digest_of_all, digest_without_id, history_of, own_ids
from addons.core.threads.said import Said
from addons.core.threads.thread import SUMMARY, SURE_SUMMARY, Thread, put

_MOST_NAMED = 400
"""Answers of a thread that a later request may bring back."""
_MOST_OPENINGS = 8
_MOST_SESSIONS = 20
_MOST_ALIKE = 16
"""Threads that begin alike, have said the same, or bear the same session's name; the latest ones count."""
_LONG, _SHORT = 64, 12
"""Characters of a text that no other thread has said; and of one of which two have to be the same."""
_ENOUGH = 2
_GENERATIONS = 4
_NEWEST = 10
"""Messages of a request whose own ids are noted."""

Latest = Callable[[], Iterator[Thread]]
"""The threads of late, the latest one first."""


class Index:
    """By what a request may be known as a thread's."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest
        self._by_name: dict[bytes, list[Thread]] = {}
        self._by_opening: dict[bytes, list[Thread]] = {}
        self._by_session: dict[bytes, list[Thread]] = {}
        self._by_answer: dict[str, Thread] = {}

    # Finding

    def chained(self, body: Any, call: Call) -> Thread | None:
        """The thread of the answer that a body names."""
        after = body.get("previous_response_id") if isinstance(body, dict) else None
        thread = self._by_answer.get(after) if isinstance(after, str) else None
        return thread if thread is not None and after in thread.chain and thread.owner == call.owner else None

    def find(self, asked: Prompt, call: Call) -> Thread | None:
        """The thread of a request; None where it begins one."""
        return self._brought_back(asked, call) or self._repeated(asked, call) or self._summarized(asked, call)

    def _brought_back(self, asked: Prompt, call: Call) -> Thread | None:
        near: Counter[int] = Counter()
        for history in history_of(asked.messages):
            for name in history.ids:
                if found := _of(call, self._by_name.get(_named("id", name), ())):
                    return _best(found, asked, call)
            for text in history.texts:
                answered = _of(call, self._by_name.get(_answer(history.before, text), ()))
                if fit := [each for each in answered if _may_go_on(each, asked, call)]:
                    return _best(fit, asked, call)
                said = _of(call, self._by_name.get(_named("text", text), ()))
                said = [each for each in said if _may_go_on(each, asked, call)]
                if said and len(text) >= _LONG:
                    return _best(said, asked, call)
                if fit := [each for each in said if _is_near(each, asked, call, history.at)]:
                    return _best(fit, asked, call)
                if len(text) >= _SHORT:
                    near.update(map(id, said))
                    if fit := [each for each in said if near[id(each)] >= _ENOUGH]:
                        return _best(fit, asked, call)
        return None

    def _repeated(self, asked: Prompt, call: Call) -> Thread | None:
        """The thread of a call that this one repeats, or adds to, without an answer in between."""
        messages = tuple(each.digest for each in asked.messages)
        if not messages:
            return None
        ask, marks = asked.ask, _marks(asked)
        for thread in reversed(_of(call, self._by_opening.get(messages[0], ()))):
            related = bool(marks & thread.sessions.keys())
            if not related and (thread.key != call.key or (thread.sessions and marks)):
                continue
            past, last = thread.asks.get(ask), thread.last
            if past is not None and (related or past.failed):
                return thread
            goes_on = last is not None and common(last.messages, messages) == len(last.messages)
            if last is not None and past is None and goes_on and (related or last.past.failed):
                return thread
        return None

    def _summarized(self, asked: Prompt, call: Call) -> Thread | None:
        """The thread whose history was replaced by its latest answer, or by that of a side call."""
        text = joined(said_to_model(asked.messages))
        if len(text) < SUMMARY:
            return None
        system, marks = system_of(asked), _marks(asked)
        for thread in self._of_caller(call, marks):
            of = thread if system in thread.systems else self._sent_by(thread, system, call, marks)
            least = SUMMARY if thread.sessions.keys() & marks else SURE_SUMMARY
            if of is not None and holds(text, thread.summaries(least)):
                return of
        return None

    def _of_caller(self, call: Call, marks: Collection[bytes]) -> Iterator[Thread]:
        """The threads of late of the same relay key, and of the same key or session."""
        for thread in self._latest():
            related = not thread.sessions.keys().isdisjoint(marks)
            apart = thread.sessions and marks and not related
            if thread.owner == call.owner and (related or (thread.key == call.key and not apart)):
                yield thread

    def _sent_by(self, side: Thread, system: bytes, call: Call, marks: Collection[bytes]) -> Thread | None:
        """The thread that a side call was made for, if it has had this system prompt."""
        if side.has_tools:
            return None
        of_caller = {each.label: each for each in self._of_caller(call, marks)}
        above = of_caller.get(side.parent or "")
        for _ in range(_GENERATIONS):  # a side call may quote what another one has said
            if above is not None and system in above.systems:
                return above
            above = of_caller.get(above.parent or "") if above is not None else None
        same = side.sessions.keys()
        return next(
            (each for each in of_caller.values() if system in each.systems and same & each.sessions.keys()), None
        )

    def side_summaries(self, thread: Thread, call: Call) -> list[str]:
        """What side calls of a thread have said last: one may be the summary of its history."""
        marks = thread.sessions.keys()
        return [
            text
            for each in self._of_caller(call, marks)
            if each is not thread
            and not each.has_tools
            and (each.parent == thread.label or marks & each.sessions.keys())
            for text in each.summaries()
        ]

    def is_beside(self, thread: Thread, asked: Prompt) -> bool:
        """Whether a call that brings back a thread's history is one beside it all the same, such as one that asks
        another model how hard the question is: without tools, with another model and a system prompt of its own."""
        last = thread.last
        if last is None or not thread.has_tools or asked.digests(Part.TOOLS) or last.model == asked.model:
            return False
        return system_of(asked) not in thread.systems and asked.digests(Part.SYSTEM) != thread.system

    def parent(self, asked: Prompt, call: Call) -> str | None:
        """The thread that has sent one that begins: by what it gave a tool or has said, or by their session."""
        texts = said_to_model(asked.messages[:2])
        long = [each for each in texts if len(each) >= PROBE]
        said, marks = joined(texts), _marks(asked)
        aside = bool(long) and not asked.digests(Part.TOOLS)
        for thread in self._of_caller(call, ()):  # it may name a session of its own
            if thread.arguments and (_has_one_of(thread.arguments, texts) or holds(joined(thread.arguments), long)):
                return thread.label
            if aside and holds(said, [each for each in thread.texts[-1:] if len(each) >= PROBE]):
                return thread.label
        marked = (each for mark in marks for each in _of(call, self._by_session.get(mark, ())))
        found = [each for each in marked if each.has_tools]
        return found[0].label if found else None

    # Remembering

    def add(self, thread: Thread, asked: Prompt, said: Said) -> None:
        """Note by what later requests may be known as this thread's."""
        for mark in _marks(asked):
            self._note(self._by_session, thread, mark, thread.sessions, _MOST_SESSIONS)
        if asked.messages:
            self._note(self._by_opening, thread, asked.messages[0].digest, thread.openings, _MOST_OPENINGS)
        before = digest_of_all(asked.messages)
        ids = [*said.ids, *own_ids(asked.messages[-_NEWEST:])]
        for name in (
            *(_named("id", each) for each in ids),
            *(name for each in (*said.texts, *said.quotes) for name in (_named("text", each), _answer(before, each))),
        ):
            self._note(self._by_name, thread, name, thread.named, _MOST_NAMED)

    def add_answer(self, thread: Thread, answer: str) -> None:
        """Note an answer that later requests may name."""
        self._by_answer[answer] = thread

    def drop_answer(self, answer: str) -> None:
        """Forget it."""
        self._by_answer.pop(answer, None)

    def drop(self, thread: Thread) -> None:
        """Forget a thread."""
        for index, names in (
            (self._by_name, thread.named),
            (self._by_opening, thread.openings),
            (self._by_session, thread.sessions),
        ):
            for name in names:
                _drop(index, name, thread)
        for answer in thread.chain:
            self.drop_answer(answer)

    def _note(
        self, index: dict[bytes, list[Thread]], thread: Thread, name: bytes, own: OrderedDict[bytes, None], most: int
    ) -> None:
        if name not in own:
            found = index.setdefault(name, [])
            found.append(thread)
            if len(found) > _MOST_ALIKE:
                del found[0]
        for gone in put(own, name, None, most):
            _drop(index, gone, thread)


def _drop(index: dict[bytes, list[Thread]], name: bytes, thread: Thread) -> None:
    found = index.get(name, [])
    if thread in found:
        found.remove(thread)
    if not found:
        index.pop(name, None)


def _has_one_of(given: Sequence[str], texts: Sequence[str]) -> bool:
    return any(len(each) >= _SHORT and each in texts for each in given)


def _named(kind: str, name: str) -> bytes:
    return blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _answer(before: bytes, text: str) -> bytes:
    """Of a text that answers a conversation."""
    return blake2b(before + text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _marks(asked: Prompt) -> frozenset[bytes]:
    return frozenset(_named("session", each) for each in asked.sessions)


def system_of(asked: Prompt) -> bytes:
    """Of what stands before the conversation, whatever ids its program has given to that."""
    system = [digest_without_id(each) for part, elements in asked.parts if part is Part.SYSTEM for each in elements]
    digests = (*system, b"", *asked.digests(Part.TOOLS))
    return blake2b(b"\0".join(digests), digest_size=10).digest()


def _of(call: Call, threads: Sequence[Thread]) -> list[Thread]:
    """Those of the same relay key: what one person says is no other's business."""
    return [each for each in threads if each.owner == call.owner]


def _may_go_on(thread: Thread, asked: Prompt, call: Call) -> bool:
    """Whether a text that both have may be the thread's own: models say the same to many. With another key the
    conversation has to begin alike, too."""
    if thread.key == call.key or thread.sessions.keys() & _marks(asked):
        return True
    return asked.messages[0].digest in thread.openings


def _is_near(thread: Thread, asked: Prompt, call: Call, at: int) -> bool:
    """Whether a short text that stands behind so many messages may be the thread's own: it names the same session, or
    begins alike. Examples in a prompt stand before any answer."""
    if at < thread.shortest:
        return False
    marks = _marks(asked)
    if thread.sessions and marks:
        return bool(thread.sessions.keys() & marks)
    return thread.key == call.key and asked.messages[0].digest in thread.openings


def _best(threads: Sequence[Thread], asked: Prompt, call: Call) -> Thread:
    """Of threads that have said the same: the one of this session or key, that has most in common, and was the
    latest."""
    if len(threads) == 1:
        return threads[0]
    messages, marks = tuple(each.digest for each in asked.messages), _marks(asked)

    def merit(at: int) -> tuple[bool, bool, int, int]:
        thread = threads[at]
        same = common(thread.last.messages, messages) if thread.last is not None else 0
        return bool(thread.sessions.keys() & marks), thread.key == call.key, same, at

    return threads[max(range(len(threads)), key=merit)]
