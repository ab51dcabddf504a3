"""What a chat completion amounts to, gathered from its JSON or from the chunks of its stream.

Upstreams differ and break, and a tap must never be in the way: any JSON value may be added, what is not understood is
passed over, nothing raises. Shapes: https://platform.openai.com/docs/api-reference/chat (the completion object, the
chunk object); where others differ, a comment says who.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Self

from addons.core import upstream_error
from addons.core.metered import count, first

MAX_TEXT = 1 << 20
"""Default bound of text and refusal each, in Unicode code points."""

_MAX_TOOL_CALLS = 1024  # told apart; OpenAI allows 128 tools


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them; `cached_tokens` are among the prompt's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


class Completion:
    """Choice 0 of a completion so far, and what the answer says of itself.

    `max_text` bounds text and refusal each, in code points; what goes beyond is cut off and `truncated` says so.
    """

    def __init__(self, max_text: int = MAX_TEXT) -> None:
        self.max_text = max_text
        self.id: str | None = None
        self.model: str | None = None
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        """The last usage seen in any chunk."""
        self.error: Mapping[str, object] | None = None
        """The first error that the answer tells (`core.upstream_error.find_error`); one that is a plain string stands
        under `message`."""
        self.done = False
        """Whether the answer came to its end: `[DONE]`, or one whole body."""
        self._text = _Text(max_text)
        self._refusal = _Text(max_text)
        self._tool_calls: set[int] = set()

    @classmethod
    def from_json(cls, body: object, max_text: int = MAX_TEXT) -> Self:
        """Read a completion that came as one JSON body, or an error's."""
        completion = cls(max_text)
        completion.add(body)
        completion.error = completion.error or upstream_error.find_error(body)
        completion.finish()
        return completion

    @property
    def text(self) -> str | None:
        """The content; None if there was none, which is not the same as an empty one."""
        return self._text.value

    def news(self) -> str:
        """The text that has come since this was called last: each piece once."""
        return self._text.news()

    @property
    def refusal(self) -> str | None:
        """Why the model refused, in its words."""
        return self._refusal.value

    @property
    def tool_calls(self) -> int:
        """How many calls the model asks for; an old `function_call` counts as one."""
        return len(self._tool_calls)

    @property
    def truncated(self) -> bool:
        """Whether text or refusal were longer than `max_text`."""
        return self._text.truncated or self._refusal.truncated

    def add(self, chunk: object, *, failed: bool = True) -> None:
        """Take one decoded chunk of the stream, or a whole body. Never raises. `failed` is False where somebody has
        looked for an error in it already, and found none."""
        if not isinstance(chunk, dict):
            return
        self.id = self.id or _name(chunk.get("id"))  # Azure's first chunk has empty ones
        self.model = self.model or _name(chunk.get("model"))
        self.usage = usage(chunk.get("usage")) or self.usage
        if failed:
            self.error = self.error or upstream_error.find_error(chunk, strict=True)
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for position, choice in enumerate(choices):
                if isinstance(choice, dict) and _index(choice, position) == 0:
                    self._add_choice(choice)

    def finish(self) -> None:
        """Note that the stream said `[DONE]`."""
        self.done = True

    def _add_choice(self, choice: Mapping[str, object]) -> None:
        self.finish_reason = _name(choice.get("finish_reason")) or self.finish_reason
        self.usage = usage(choice.get("usage")) or self.usage  # Moonshot's streams have it here
        delta = choice.get("delta")
        message = delta if isinstance(delta, dict) else choice.get("message")
        if isinstance(message, dict):
            self._text.add(message.get("content"))
            self._refusal.add(message.get("refusal"))
            self._add_tool_calls(message)

    def _add_tool_calls(self, message: Mapping[str, object]) -> None:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for position, call in enumerate(calls[:_MAX_TOOL_CALLS]):
                if isinstance(call, dict) and len(self._tool_calls) < _MAX_TOOL_CALLS:
                    self._tool_calls.add(_index(call, position))
        elif isinstance(message.get("function_call"), dict):
            self._tool_calls.add(0)


class _Text:
    """Pieces of one text, up to a bound."""

    def __init__(self, limit: int) -> None:
        self.truncated = False
        self._room = limit
        self._taken = 0
        self._buffer: StringIO | None = None  # a list of a million one-letter deltas would weigh twenty times the text

    @property
    def value(self) -> str | None:
        return None if self._buffer is None else self._buffer.getvalue()

    def news(self) -> str:
        """What was added since the last call."""
        if self._buffer is None:
            return ""
        self._buffer.seek(self._taken)
        piece = self._buffer.read()
        self._taken += len(piece)
        return piece

    def add(self, content: object) -> None:
        """Add a string, or a list of parts with a `text` each (Mistral's reasoning models answer so)."""
        if isinstance(content, str):
            if self._buffer is None:
                self._buffer = StringIO()
            if len(content) > self._room:
                self.truncated = True
                content = content[: self._room]
            self._room -= len(content)
            self._buffer.write(content)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                    self.add(part["text"])


def usage(value: object) -> Usage | None:
    """The usage object of an answer; None if it holds no token count. Counts that are missing are 0, a missing total is
    the sum. The Responses API's names (`input_tokens`, `output_tokens`) are read too."""
    if not isinstance(value, dict):
        return None
    prompt = first(value, "prompt_tokens", "input_tokens")
    completion = first(value, "completion_tokens", "output_tokens")
    total = count(value.get("total_tokens"))
    if prompt is None and completion is None and total is None:
        return None
    if total is None:
        total = (prompt or 0) + (completion or 0)
    return Usage(prompt or 0, completion or 0, total, _cached(value))


def _cached(value: Mapping[str, object]) -> int:
    """Cached prompt tokens: OpenAI's place, else DeepSeek's and Moonshot's."""
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details = value.get(name)
        if isinstance(details, dict):
            cached = count(details.get("cached_tokens"))
            if cached is not None:
                return cached
    return first(value, "prompt_cache_hit_tokens", "cached_tokens") or 0


def _index(item: Mapping[str, object], position: int) -> int:
    """The index an item says it has, else its position."""
    index = item.get("index")
    return index if isinstance(index, int) else position


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
