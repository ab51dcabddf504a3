"""Finding the thread of a call. It is that of

1. the answer that it names (`previous_response_id`);
2. the last answer that its history brings back, told by the ids of its calls of tools and items, or by its text;
3. without such history: a call that asked the same and failed, or asked the same in the same session; one that was not
   answered, or is of the same session, and that it adds to; one whose latest answer, a summary, it begins with;
4. else it begins one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from addons.core.threads.difference import common
from addons.core.threads.passages import PROBE, holds, said_to_model
from addons.core.threads.prompt import Part, Prompt, history_of
from addons.core.threads.said import Said
from addons.core.threads.thread import Thread, put

_MOST_NAMED = 400
"""Answers of a thread that a later request may bring back."""
_MOST_OPENINGS = 8
_MOST_SESSIONS = 20
_LONG = 64
"""Characters of a text that no other thread has said."""

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

    def chained(self, body: Any) -> Thread | None:
        """The thread of the answer that a body names."""
        after = body.get("previous_response_id") if isinstance(body, dict) else None
        thread = self._by_answer.get(after) if isinstance(after, str) else None
        return thread if thread is not None and after in thread.chain else None

    def find(self, asked: Prompt) -> Thread | None:
        """The thread of a request; None where it begins one."""
        return self._brought_back(asked) or self._repeated(asked) or self._summarized(asked)

    def _brought_back(self, asked: Prompt) -> Thread | None:
        for history in history_of(asked.messages):
            for name in history.ids:
                if found := self._by_name.get(_named("id", name)):
                    return _best(found, asked)
            for text in history.texts:
                found = self._by_name.get(_named("text", text), [])
                if fit := [each for each in found if len(text) >= _LONG or _is_near(each, asked)]:
                    return _best(fit, asked)
        return None

    def _repeated(self, asked: Prompt) -> Thread | None:
        """The thread of a call that this one repeats, or adds to, without an answer in between."""
        messages = tuple(each.digest for each in asked.messages)
        if not messages:
            return None
        ask, marks = asked.ask, _marks(asked)
        for thread in reversed(self._by_opening.get(messages[0], ())):
            related = bool(marks & thread.sessions.keys())
            if thread.sessions and marks and not related:
                continue
            past, last = thread.asks.get(ask), thread.last
            if past is not None and (related or past.failed):
                return thread
            goes_on = last is not None and common(last.messages, messages) == len(last.messages)
            if last is not None and past is None and goes_on and (related or last.past.failed):
                return thread
        return None

    def _summarized(self, asked: Prompt) -> Thread | None:
        """The thread whose history was replaced by its latest answer."""
        texts, system, marks = said_to_model(asked.messages), system_of(asked), _marks(asked)
        for thread in self._latest():
            apart = thread.sessions and marks and not thread.sessions.keys() & marks
            if not apart and system in thread.systems and holds(texts, thread.summaries):
                return thread
        return None

    def parent(self, asked: Prompt) -> str | None:
        """The thread that has sent one that begins: by what it gave a tool, or by their session."""
        texts = [each for each in said_to_model(asked.messages[:2]) if len(each) >= PROBE]
        for thread in self._latest():
            if texts and any(holds([given], texts) for given in thread.arguments):
                return thread.label
        return next((found[0].label for each in _marks(asked) if (found := self._by_session.get(each))), None)

    # Remembering

    def add(self, thread: Thread, asked: Prompt, said: Said) -> None:
        """Note by what later requests may be known as this thread's."""
        for mark in _marks(asked):
            self._note(self._by_session, thread, mark, thread.sessions, _MOST_SESSIONS)
        if asked.messages:
            self._note(self._by_opening, thread, asked.messages[0].digest, thread.openings, _MOST_OPENINGS)
        for name in (*(_named("id", each) for each in said.ids), *(_named("text", each) for each in said.texts)):
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
            index.setdefault(name, []).append(thread)
        for gone in put(own, name, None, most):
            _drop(index, gone, thread)


def _drop(index: dict[bytes, list[Thread]], name: bytes, thread: Thread) -> None:
    found = index.get(name, [])
    if thread in found:
        found.remove(thread)
    if not found:
        index.pop(name, None)


def _named(kind: str, name: str) -> bytes:
    return blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _marks(asked: Prompt) -> frozenset[bytes]:
    return frozenset(_named("session", each) for each in asked.sessions)


def system_of(asked: Prompt) -> bytes:
    """Of what stands before the conversation."""
    digests = (*asked.digests(Part.SYSTEM), b"", *asked.digests(Part.TOOLS))
    return blake2b(b"\0".join(digests), digest_size=10).digest()


def _is_near(thread: Thread, asked: Prompt) -> bool:
    """Whether a short text that both have may be the thread's own: it names the same session, or begins alike."""
    marks = _marks(asked)
    if thread.sessions and marks:
        return bool(thread.sessions.keys() & marks)
    return asked.messages[0].digest in thread.openings


def _best(threads: Sequence[Thread], asked: Prompt) -> Thread:
    """Of threads that have said the same: the one of this session, that has most in common, and was the latest."""
    if len(threads) == 1:
        return threads[0]
    messages, marks = tuple(each.digest for each in asked.messages), _marks(asked)

    def merit(at: int) -> tuple[bool, int, int]:
        last = threads[at].last
        return bool(threads[at].sessions.keys() & marks), common(last.messages, messages) if last else 0, at

    return threads[max(range(len(threads)), key=merit)]
