"""Threads: takes calls of models in their order, and says of each which thread it belongs to and why it cost so much.

A thread is one conversation of a program with a model. It goes on whatever changes: key, upstream, model, system
prompt, tools, name of its session, history. A subagent is a thread of its own, and so is a side call, such as one that
asks for a title. A call's thread is that of

1. the answer that it names (`previous_response_id`);
2. the last answer that its history brings back, told by the ids of its calls of tools and items, or by its text;
3. without such history: a call that asked the same and failed, or asked the same in the same session; one that was not
   answered, or is of the same session, and that it adds to; one whose latest answer, a summary, it begins with;
4. else it begins one.

Memory is bounded: per thread the latest request is kept to compare with, and the threads longest unused are forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from addons.core import bounded_json
from addons.core.slices import Sliced
from addons.core.threads import cache
from addons.core.threads import prompt as prompts
from addons.core.threads.causes import Cause, Reason, reason_of, told
from addons.core.threads.difference import ABSENT, Difference, Place, common, differences
from addons.core.threads.prompt import Dialect, Element, Kept, Part, Prompt, digest_of, history_of, texts_of
from addons.core.threads.said import Said, hearing
from addons.core.threads.sessions import sessions_of

MOST_THREADS = 10_000
_MOST_ASKS = 200
"""Requests of a thread that a later one may repeat."""
_MOST_NAMED = 400
"""Answers of a thread that a later request may bring back."""
_MOST_ALIKE = 8
"""Threads that have said the same."""
_LATEST = 64
"""Threads among whose latest answers a summary is looked for."""
_LONG = 64
"""Characters of a text that no other thread has said."""
_PROBE, _PROBES = 48, 5
"""Characters of a piece by which a text is looked for in another one, and how many pieces."""
_SUMMARY = 300
"""Characters that a summary has, at least: what is shorter may be said anywhere."""
_SEARCHED = 200_000
"""Characters of a request in which a summary is looked for."""
_KEPT_TEXT = 20_000
"""Characters of an answer's texts and arguments that are kept to look for."""


class Outcome(StrEnum):
    """How a call has ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """Before any work was done on it."""
    UNHEARD = "unheard"
    """Nothing was heard in time, or the connection broke: it may have been worked on."""
    LEFT = "left"
    """Its client went away."""


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with a model, as it passed."""

    id: str
    at: float
    """When its request came, in seconds."""
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    """Decoded, as the answer."""
    answer: bytes
    stream: bool
    outcome: Outcome
    upstream: str
    key: str
    """Whatever tells keys apart."""
    sessions: frozenset[str] = frozenset()
    """Names of its session that relay knows by itself."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What is known of a call."""

    thread: str
    parent: str | None
    """The thread that sent it, of a subagent or a side call."""
    cause: Cause
    known: int
    """Leading messages or items of the body that the call before, or its answer, had."""


@dataclass(frozen=True, slots=True)
class _Past:
    """A call, as later ones are compared with it."""

    id: str
    failed: bool
    held: int | None
    held_at: float
    life: float | None
    """Of the last call up to this one which the upstream worked on."""


@dataclass(frozen=True, slots=True)
class _Last:
    """The latest call of a thread."""

    past: _Past
    upstream: str
    key: str
    dialect: Dialect
    path: str
    model: str
    settings: bytes
    parts: tuple[tuple[Part, tuple[bytes, ...]], ...]
    body: bytes
    kept: Kept

    @property
    def messages(self) -> tuple[bytes, ...]:
        return self.parts[-1][1]


@dataclass(eq=False, slots=True)
class _Thread:
    label: str
    parent: str | None = None
    sessions: set[str] = field(default_factory=set)
    openings: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The first messages that it has had."""
    systems: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The system prompts and tools that it has had."""
    asks: OrderedDict[bytes, _Past] = field(default_factory=OrderedDict)
    named: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    chain: OrderedDict[str, Kept] = field(default_factory=OrderedDict)
    """What the upstream keeps behind each answer."""
    texts: list[str] = field(default_factory=list)
    """What its latest answer has said."""
    arguments: list[str] = field(default_factory=list)
    """What its latest calls of tools were given."""
    last: _Last | None = None

    @property
    def summaries(self) -> list[str]:
        """What it has said last, where that may be a summary."""
        return [each for each in self.texts if len(each) >= _SUMMARY]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly."""
        body = len(self.last.body) + 60 * len(self.last.messages) if self.last is not None else 0
        texts = sum(map(len, self.texts)) + sum(map(len, self.arguments))
        return 2000 + body + 2 * texts + 200 * (len(self.asks) + len(self.named)) + self._chained()

    def _chained(self) -> int:
        return sum(60 * (len(each.leading) + len(each.rest)) for each in self.chain.values())


class Threads:
    """The threads of late. `most` bounds the memory that they take, in bytes, roughly."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = 0
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._by_named: dict[bytes, list[_Thread]] = {}
        self._by_opening: dict[bytes, list[_Thread]] = {}
        self._by_answer: dict[str, _Thread] = {}
        self._by_session: dict[str, list[_Thread]] = {}

    @property
    def size(self) -> int:
        """Bytes that they take, roughly."""
        return self._size

    def placing(self, call: Call) -> Sliced[Placed | None]:
        """Place the next call; None where it asks no model, or can't be read. Never raises."""
        dialect = prompts.dialect_of(call.path)
        if dialect is None:
            return None
        body = yield from _read(call.body)
        chained = self._chained(body)
        kept = chained.chain.get(body["previous_response_id"]) if chained is not None else None
        sessions = sessions_of(call.headers, body) | call.sessions
        asked = yield from prompts.reading(dialect, body, path=call.path, kept=kept, sessions=sessions)
        if asked is None:
            return None
        yield
        said = yield from hearing(call.answer, stream=call.stream)
        thread = chained or self._find(asked)
        if thread is None:
            thread = self._begin(call, asked)
        placed = yield from _compared(thread, call, asked, said.usage, kept or Kept(), self._summaries(thread))
        self._remember(thread, call, asked, said, kept or Kept())
        return placed

    # Finding

    def _chained(self, body: Any) -> _Thread | None:
        after = body.get("previous_response_id") if isinstance(body, dict) else None
        thread = self._by_answer.get(after) if isinstance(after, str) else None
        return thread if thread is not None and after in thread.chain else None

    def _find(self, asked: Prompt) -> _Thread | None:
        for history in history_of(asked.messages):
            for name in history.ids:
                if found := self._by_named.get(_named("id", name)):
                    return _best(found, asked)
            for text in history.texts:
                found = self._by_named.get(_named("text", text), [])
                if fit := [each for each in found if len(text) >= _LONG or _is_near(each, asked)]:
                    return _best(fit, asked)
        return self._repeated(asked) or self._summarized(asked)

    def _repeated(self, asked: Prompt) -> _Thread | None:
        """The thread of a call that this one repeats, or adds to, without an answer in between."""
        ask, messages = asked.ask, tuple(each.digest for each in asked.messages)
        if not messages:
            return None
        for thread in reversed(self._by_opening.get(messages[0], ())):
            related = bool(asked.sessions & thread.sessions)
            if thread.sessions and asked.sessions and not related:
                continue
            past = thread.asks.get(ask)
            if past is not None and (related or past.failed):
                return thread
            last = thread.last
            if last is None or past is not None or not (related or last.past.failed):
                continue
            if common(last.messages, messages) == len(last.messages):
                return thread
        return None

    def _summarized(self, asked: Prompt) -> _Thread | None:
        """The thread whose history was replaced by its latest answer."""
        texts = _user_texts(asked.messages)
        mark = _system_of(asked)
        for thread in self._latest():
            apart = thread.sessions and asked.sessions and not thread.sessions & asked.sessions
            if not apart and mark in thread.systems and _holds(texts, thread.summaries):
                return thread
        return None

    def _latest(self) -> Iterator[_Thread]:
        for at, label in enumerate(reversed(self._threads)):
            if at == _LATEST:
                return
            yield self._threads[label]

    def _summaries(self, thread: _Thread) -> list[str]:
        """Latest answers, of which one may be the summary of a thread's history: its own, or a side call's."""
        beside = (each for each in self._latest() if each is thread or each.parent == thread.label)
        return [text for each in beside for text in each.summaries]

    def _parent(self, asked: Prompt) -> str | None:
        """The thread that has sent this one: by what it gave a tool, or by their session."""
        texts = [each for each in _user_texts(asked.messages[:2]) if len(each) >= _PROBE]
        for thread in self._latest():
            if any(_holds([given], texts) for given in thread.arguments):
                return thread.label
        for session in asked.sessions:
            if found := self._by_session.get(session):
                return found[0].label
        return None

    # Remembering

    def _begin(self, call: Call, asked: Prompt) -> _Thread:
        label = blake2b(call.id.encode(), digest_size=4).hexdigest()
        thread = self._threads[label] = _Thread(label, self._parent(asked))
        return thread

    def _remember(self, thread: _Thread, call: Call, asked: Prompt, said: Said, kept: Kept) -> None:
        worked = call.outcome is not Outcome.REFUSED
        held = cache.held(asked, said.usage if call.outcome is Outcome.ANSWERED else None)
        before = thread.last.past if thread.last is not None else None
        past = _Past(call.id, call.outcome is not Outcome.ANSWERED, held, call.at, cache.life(asked))
        if not worked:
            past = _Past(call.id, True, *((before.held, before.held_at, before.life) if before else (0, call.at, None)))
        parts = tuple((part, tuple(each.digest for each in elements)) for part, elements in asked.parts)
        thread.last = _Last(
            past,
            call.upstream,
            call.key,
            asked.dialect,
            call.path,
            asked.model,
            digest_of(asked.settings),
            parts,
            call.body,
            kept,
        )
        _put(thread.asks, asked.ask, past, _MOST_ASKS)
        _put(thread.systems, _system_of(asked), None, _MOST_ALIKE)
        self._name(thread, asked, said)
        if call.outcome is Outcome.ANSWERED and said.id is not None and asked.dialect is Dialect.RESPONSES:
            leading = parts[2][1]
            _put(thread.chain, said.id, Kept(leading, (*parts[3][1], digest_of(said.id))), _MOST_ASKS)
            self._by_answer[said.id] = thread
        if said.texts or said.arguments:
            thread.texts = _short(said.texts)
            thread.arguments = _short(said.arguments)
        self._count(thread)

    def _name(self, thread: _Thread, asked: Prompt, said: Said) -> None:
        """Note by what a later request may be known as this thread's."""
        for session in asked.sessions - thread.sessions:
            thread.sessions.add(session)
            self._by_session.setdefault(session, []).append(thread)
        if asked.messages:
            self._index(self._by_opening, thread, asked.messages[0].digest, thread.openings, _MOST_ALIKE)
        names = [*(_named("id", each) for each in said.ids), *(_named("text", each) for each in said.texts)]
        for name in names:
            self._index(self._by_named, thread, name, thread.named, _MOST_NAMED)

    def _index(
        self,
        index: dict[bytes, list[_Thread]],
        thread: _Thread,
        name: bytes,
        own: OrderedDict[bytes, None],
        most: int,
    ) -> None:
        found = index.setdefault(name, [])
        if thread not in found:
            found.append(thread)
            own[name] = None
        if len(own) > most:
            _drop(index, own.popitem(last=False)[0], thread)

    def _count(self, thread: _Thread) -> None:
        self._threads.move_to_end(thread.label)
        size = thread.size
        self._size += size - self._sizes.get(thread.label, 0)
        self._sizes[thread.label] = size
        while len(self._threads) > 1 and (self._size > self.most or len(self._threads) > MOST_THREADS):
            self._forget(next(iter(self._threads.values())))

    def _forget(self, thread: _Thread) -> None:
        del self._threads[thread.label]
        self._size -= self._sizes.pop(thread.label, 0)
        for name in thread.named:
            _drop(self._by_named, name, thread)
        for opening in thread.openings:
            _drop(self._by_opening, opening, thread)
        for session in thread.sessions:
            _drop(self._by_session, session, thread)
        for answer in thread.chain:
            self._by_answer.pop(answer, None)


def _drop[T](index: dict[T, list[_Thread]], name: T, thread: _Thread) -> None:
    found = index.get(name, [])
    if thread in found:
        found.remove(thread)
    if not found:
        index.pop(name, None)


def _put[K, V](kept: OrderedDict[K, V], name: K, value: V, most: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)


def _short(texts: Sequence[str]) -> list[str]:
    return [each[:_KEPT_TEXT] for each in texts[-_MOST_ALIKE:] if len(each) >= _PROBE]


def _named(kind: str, name: str) -> bytes:
    return blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _system_of(asked: Prompt) -> bytes:
    """Of what stands before the conversation."""
    digests = (*asked.digests(Part.SYSTEM), *asked.digests(Part.TOOLS))
    return blake2b(b"\0".join(digests), digest_size=10).digest()


def _is_near(thread: _Thread, asked: Prompt) -> bool:
    """Whether a short text that both have may be the thread's own: it begins alike, or names the same session."""
    if thread.sessions and asked.sessions:
        return bool(thread.sessions & asked.sessions)
    return asked.messages[0].digest in thread.openings


def _best(threads: Sequence[_Thread], asked: Prompt) -> _Thread:
    """Of threads that have said the same: the one of this session, that has most in common, and was the latest."""
    if len(threads) == 1:
        return threads[0]
    messages = tuple(each.digest for each in asked.messages)

    def merit(at: int) -> tuple[bool, int, int]:
        last = threads[at].last
        return bool(threads[at].sessions & asked.sessions), common(last.messages, messages) if last else 0, at

    return threads[max(range(len(threads)), key=merit)]


def _user_texts(elements: Iterable[Element]) -> list[str]:
    """What is said there that no model has said."""
    found, left = [], _SEARCHED
    for each in elements:
        if isinstance(each.value, str):
            found.append(each.value[:left])
        elif isinstance(each.value, dict) and each.value.get("role") in ("user", "system", "developer"):
            found += [text[:left] for text in texts_of(each.value)]
        left = _SEARCHED - sum(map(len, found))
        if left <= 0:
            break
    return found


def _holds(texts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether one of `texts` has one of `wanted` within it, or nearly all of it, such as a summary without its tags."""
    return any(_is_within(want, text) for want in wanted for text in texts)


def _is_within(want: str, text: str) -> bool:
    step = (len(want) - _PROBE) // (_PROBES - 1)
    found, at = 0, 0
    for number in range(_PROBES):
        place = text.find(want[number * step : number * step + _PROBE], at)
        if place >= 0:
            found, at = found + 1, place + (step > 0)
        elif number - found >= 1:
            return False  # two are missing
    return found >= _PROBES - 1


def _read(body: bytes) -> Sliced[Any]:
    try:
        return (yield from bounded_json.loading(body.decode("utf-8"), marks=bounded_json.MAX_MARKS))
    except ValueError:
        return None


# Comparing


def _compared(
    thread: _Thread, call: Call, asked: Prompt, usage: Any, kept: Kept, summaries: Sequence[str]
) -> Sliced[Placed]:
    usage = usage if call.outcome is Outcome.ANSWERED else None
    last = thread.last
    if last is None:
        cause = Cause(Reason.FIRST_TURN, tokens=None if usage is None else 0)
        return Placed(thread.label, thread.parent, cause, 0)
    repeated = thread.asks.get(asked.ask)
    previous = repeated or last.past
    tokens = cache.lost(previous.held, cache.held(asked, usage), usage)
    billed = cache.billed(tokens, usage) if tokens and usage is not None else None
    same = common(last.messages, tuple(each.digest for each in asked.messages))
    known = _known(asked, same)
    if repeated is not None:
        cause = Cause(Reason.RETRY, previous=repeated.id, tokens=tokens, billed=billed)
        return Placed(thread.label, thread.parent, cause, known)
    found = yield from _differences(last, asked)
    reason, part = reason_of(
        found,
        elsewhere=(last.upstream, last.key) != (call.upstream, call.key),
        expired=_has_expired(previous, call.at, tokens),
        compacted=_is_compaction(last, call, asked, same, summaries),
    )
    path, before, after = told(found)
    cause = Cause(reason, part, path, before, after, previous.id, tokens, billed)
    return Placed(thread.label, thread.parent, cause, known)


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
    return str(value.get("type")) in ("reasoning", "function_call", "custom_tool_call", "local_shell_call")


def _differences(last: _Last, asked: Prompt) -> Sliced[list[Difference]]:
    """Of the usual case, something new behind the last message, the request before need not be read again."""
    if last.dialect is asked.dialect and last.model == asked.model and last.settings == digest_of(asked.settings):
        before = [digests for _, digests in last.parts]
        now = [tuple(each.digest for each in elements) for _, elements in asked.parts]
        if before[:-1] == now[:-1] and now[-1][: len(before[-1])] == before[-1] and len(now[-1]) > len(before[-1]):
            new = asked.messages[len(before[-1]) :]
            first = next((each for each in new if each.path), new[-1])
            return [Difference(Place.NEW, first.path, ABSENT, first.value)]
    body = yield from _read(last.body)
    before_asked = yield from prompts.reading(last.dialect, body, path=last.path, kept=last.kept)
    yield
    return list(differences(before_asked, asked)) if before_asked is not None else []


def _has_expired(previous: _Past, at: float, tokens: int | None) -> bool:
    """Whether what the call before has left in the cache had died."""
    if previous.life is None or previous.held == 0 or at - previous.held_at <= previous.life:
        return False
    return tokens != 0 or previous.held is None


def _is_compaction(last: _Last, call: Call, asked: Prompt, same: int, summaries: Sequence[str]) -> bool:
    """Whether the history was made shorter: by a summary, or by leaving out its old end."""
    before, now = last.messages, tuple(each.digest for each in asked.messages)
    if same == len(before) or len(call.body) >= len(last.body):
        return False
    new = asked.messages[same:]
    if _holds(_user_texts(new), summaries) or any(_is_summary(each.value) for each in new):
        return True
    if 2 * len(now) < len(before) and any(_holds(each.texts, summaries) for each in history_of(new[:2])):
        return True
    if same < len(now) and now[same] in before[same:] and _asks(new[0].value):
        at = before.index(now[same], same)
        return now[same : same + len(before) - at] == before[at:]
    return False


def _asks(value: object) -> bool:
    """Whether a message begins a turn, which is where a history may be cut."""
    return isinstance(value, dict) and value.get("role") == "user"


def _is_summary(value: object) -> bool:
    """Whether an item is one that OpenAI has made of a history."""
    return isinstance(value, dict) and value.get("type") in ("compaction", "compaction_summary", "context_compaction")
