"""A conversation: its turns, and which of them go into the next request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4

Message = dict[str, str]
"""A message of a chat completion: role and content."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said, and what the model answered."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Session:
    """The turns so far, oldest first."""

    turns: tuple[Turn, ...] = ()

    def with_turn(self, turn: Turn, keep: int) -> Self:
        """The session after `turn`; of all turns the newest `keep` stay, since no request will ever send more."""
        return type(self)((*self.turns, turn)[-keep:] if keep > 0 else ())

    def to_json(self) -> bytes:
        """The session as it is stored. Lone surrogates survive as escapes."""
        return json.dumps({"v": 1, "turns": [[turn.user, turn.assistant] for turn in self.turns]}).encode()

    @classmethod
    def from_json(cls, stored: bytes) -> Self:
        """What `to_json` has written. Raises ValueError for anything else."""
        try:
            value = json.loads(stored)
            if value["v"] != 1:
                raise ValueError(f"unknown version {value['v']!r}")
            turns = tuple(Turn(_text(user), _text(assistant)) for user, assistant in value["turns"])
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a stored session: {error!r}") from None
        return cls(turns)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def estimate_tokens(content: str) -> int:
    """Tokens a message takes, on the safe side: UTF-8 bytes by three and four for its frame.

    A Chinese character has three bytes and takes a token or a little more, an English token has about four letters.
    """
    size = len(content.encode("utf-8", "surrogatepass"))
    return -(-size // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE


def window(session: Session, *, system: str | None, content: str, max_turns: int, max_tokens: int) -> list[Message]:
    """The messages to send: the system message, the newest whole turns that fit, and the new message.

    `max_tokens` bounds all of them by `estimate_tokens`; the system message and the new one are always sent.
    """
    left = max_tokens - estimate_tokens(content) - (estimate_tokens(system) if system else 0)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in fitting(session.turns, max_turns, left):
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
    return [*messages, {"role": "user", "content": content}]


def fitting(turns: Sequence[Turn], max_turns: int, max_tokens: int) -> Sequence[Turn]:
    """The longest run of newest turns within both bounds."""
    first = len(turns)
    for turn in reversed(turns):
        max_tokens -= estimate_tokens(turn.user) + estimate_tokens(turn.assistant)
        if max_tokens < 0 or len(turns) - first >= max_turns:
            break
        first -= 1
    return turns[first:]
