"""A conversation: its turns, and which of them go into the next request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    tokens: int | None = None
    """What both take in a prompt, by the upstream's own count; None where that is not known."""

    @property
    def cost(self) -> int:
        """Tokens, counted where possible, else estimated."""
        if self.tokens is not None:
            return self.tokens
        return estimate_tokens(self.user) + estimate_tokens(self.assistant)


@dataclass(frozen=True, slots=True)
class Request:
    """What a completion request was made of, so that its count can be held against the next one's."""

    prefix: str
    """Stands for model, system message and parameters: equal prefixes cost equal tokens."""
    sent: int
    """How many earlier turns it carried."""
    prompt_tokens: int | None = None
    """What upstream counted."""


@dataclass(frozen=True, slots=True)
class Session:
    """The turns so far, oldest first, and the request that brought the newest one."""

    turns: tuple[Turn, ...] = ()
    last: Request | None = None

    def with_turn(self, turn: Turn, request: Request, keep: int) -> Self:
        """The session after `turn`; of all turns the newest `keep` stay, since no request will ever send more.

        Where `request` carried one turn more than the last one and shares its prefix, the difference of their counts is
        what the turn before has added to the prompt. It covers the answer of that turn and the message of this one; so
        the estimates of both messages are exchanged, which cancels out over the turns of a window.
        """
        turns = self.turns
        if turns and (grown := _growth(self.last, request)) is not None:
            known = grown + estimate_tokens(turns[-1].user) - estimate_tokens(turn.user)
            turns = (*turns[:-1], replace(turns[-1], tokens=max(known, 1)))
        return type(self)((*turns, turn)[-keep:] if keep > 0 else (), request)

    def to_json(self) -> bytes:
        """The session as it is stored. Lone surrogates survive as escapes."""
        last = [self.last.prefix, self.last.sent, self.last.prompt_tokens] if self.last else None
        turns = [[turn.user, turn.assistant, turn.tokens] for turn in self.turns]
        return json.dumps({"v": 1, "turns": turns, "last": last}).encode()

    @classmethod
    def from_json(cls, stored: bytes) -> Self:
        """What `to_json` has written. Raises ValueError for anything else."""
        try:
            value = json.loads(stored)
            if value["v"] != 1:
                raise ValueError(f"unknown version {value['v']!r}")
            turns = tuple(Turn(_text(user), _text(answer), _count(tokens)) for user, answer, tokens in value["turns"])
            last = value["last"]
            request = None if last is None else Request(_text(last[0]), _count(last[1]) or 0, _count(last[2]))
        except (TypeError, KeyError, IndexError, RecursionError) as error:
            raise ValueError(f"not a stored session: {error!r}") from None
        return cls(turns, request)


def _growth(last: Request | None, now: Request) -> int | None:
    if last is None or last.prompt_tokens is None or now.prompt_tokens is None:
        return None
    same = last.prefix == now.prefix and now.sent == last.sent + 1
    return now.prompt_tokens - last.prompt_tokens if same and now.prompt_tokens > last.prompt_tokens else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _count(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError("a count expected")
    return value


def estimate_tokens(content: str) -> int:
    """Tokens a message takes, on the safe side: UTF-8 bytes by three and four for its frame.

    A Chinese character has three bytes and takes a token or a little more, an English token has about four letters.
    """
    size = len(content.encode("utf-8", "surrogatepass"))
    return -(-size // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE


def answer_tokens(user: str, completion_tokens: int | None) -> int | None:
    """The tokens of a fresh turn whose answer upstream has counted, until the next request tells them exactly."""
    if completion_tokens is None:
        return None
    return estimate_tokens(user) + completion_tokens + _TOKENS_PER_MESSAGE


def window(session: Session, *, system: str | None, content: str, max_turns: int, max_tokens: int) -> tuple[Turn, ...]:
    """The newest whole turns that fit beside the system message and the new one, which are always sent.

    `max_tokens` bounds the whole prompt.
    """
    left = max_tokens - estimate_tokens(content) - (estimate_tokens(system) if system else 0)
    first = len(session.turns)
    for turn in reversed(session.turns):
        left -= turn.cost
        if left < 0 or len(session.turns) - first >= max_turns:
            break
        first -= 1
    return session.turns[first:]


def messages(turns: Sequence[Turn], *, system: str | None, content: str) -> list[Message]:
    """The messages of a completion request: system message, turns, the new message."""
    sent: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        sent += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
    return [*sent, {"role": "user", "content": content}]
