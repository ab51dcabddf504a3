"""What is remembered of a thread: its latest request, and by what a later one may be known as its own."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from addons.core.threads.prompt import Dialect, Kept, Part

SUMMARY, SURE_SUMMARY = 48, 140
"""Characters that a summary has, at least; and those of one that nobody else says by chance."""
_OPEN, _CLOSE = "<summary>", "</summary>"
"""Between these a summary stands, where it does not stand alone."""


@dataclass(frozen=True, slots=True)
class Past:
    """A call, as later ones are compared with it."""

    id: str
    failed: bool
    held: int | None
    held_at: float
    life: float | None
    """Of the last call up to this one which the upstream worked on."""


@dataclass(frozen=True, slots=True)
class Last:
    """The latest call of a thread."""

    past: Past
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
        """Digests of the conversation itself."""
        return self.parts[-1][1]


@dataclass(eq=False, slots=True)
class Thread:
    """One conversation. `label` is its short hash, `parent` that of the thread which has sent it."""

    label: str
    parent: str | None = None
    owner: str = ""
    key: str = ""
    """Of its latest call."""
    sessions: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    openings: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The first messages that it has had."""
    systems: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The system prompts and tools that it has had."""
    asks: OrderedDict[bytes, Past] = field(default_factory=OrderedDict)
    named: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    chain: OrderedDict[str, Kept] = field(default_factory=OrderedDict)
    """What the upstream keeps behind each answer."""
    system: tuple[bytes, ...] = ()
    """Its latest system prompt."""
    has_tools: bool = False
    """Side calls have none."""
    texts: list[str] = field(default_factory=list)
    """What its latest answer has said."""
    arguments: list[str] = field(default_factory=list)
    """What its latest calls of tools were given."""
    shortest: int = 1 << 30
    """Messages of the shortest of its requests: no answer of it stands before so many."""
    last: Last | None = None
    counted: int = 0
    """Its size when it was last counted."""

    def summaries(self, least: int = SUMMARY) -> list[str]:
        """What it has said last, where that may be a summary: a text of `least` characters or more."""
        return [text for each in self.texts[-1:] if len(text := _without_tags(each)) >= least]

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, roughly."""
        body = len(self.last.body) + 60 * len(self.last.messages) if self.last is not None else 0
        texts = sum(map(len, self.texts)) + sum(map(len, self.arguments))
        return 2000 + body + 2 * texts + 200 * (len(self.asks) + len(self.named)) + self._chained()

    def _chained(self) -> int:
        return sum(8 * (len(each.leading) + len(each.rest)) for each in self.chain.values())


def _without_tags(text: str) -> str:
    start = text.find(_OPEN)
    if start < 0:
        return text
    end = text.find(_CLOSE, start)
    return text[start + len(_OPEN) : end if end >= 0 else None].strip()


def put[K, V](kept: OrderedDict[K, V], name: K, value: V, most: int) -> Iterator[K]:
    """Keep the latest `most`; the names of those that are kept no more."""
    kept[name] = value
    kept.move_to_end(name)
    return iter([kept.popitem(last=False)[0]] if len(kept) > most else [])
