"""What the upstream's model says in one answer, in no dialect."""

from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]
"""A message or an item of a request, in its dialect's form."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    id: str
    """The answer's id: `chatcmpl-...`, `resp_...` or `msg_...`."""
    text: str
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    created: int = 1_767_225_600

    @property
    def tokens(self) -> int:
        """What the stub bills as output: bytes / 4 of text, thinking and arguments, and one for the end."""
        size = len(self.text.encode()) + len((self.thinking or "").encode())
        return 1 + (size + sum(len(repr(each.arguments)) + len(each.name) for each in self.calls)) // 4


@dataclass(frozen=True, slots=True)
class Usage:
    """What the stub bills for one call, in tokens."""

    input: int
    """The whole prompt, cached or not."""
    cached: int
    """Read from the cache."""
    written_5m: int
    """Written to the cache for five minutes (messages alone)."""
    written_1h: int
    """Written to the cache for an hour (messages alone)."""
    output: int

    @property
    def written(self) -> int:
        return self.written_5m + self.written_1h


def pieces(text: str, count: int = 5) -> list[str]:
    """A text in a few parts, as streams bring it; none is empty."""
    size = max(1, -(-len(text) // count))
    return [text[at : at + size] for at in range(0, len(text), size)]
