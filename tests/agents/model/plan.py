"""What the played model says: decided by the request alone, so that a run can be recorded again.

A rule is found by words in a message of the user's, the last one that has any. How many answers the model has given
since then says which of the rule's steps is next; after the last one it stays at that. What offers no such tool (a
request for a title, say, which quotes the user) gets a line of text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any]


type Step = str | tuple[Call, ...]
"""A text, or calls of tools, all at once."""


@dataclass(frozen=True, slots=True)
class Rule:
    words: str
    """What the user's message contains."""
    steps: tuple[Step, ...]
    fails: tuple[int, ...] = ()
    """Statuses with which the first requests under this rule are refused."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the model answers."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """One message or item of a request. `role`: user, model or tool; a system prompt is none of these."""

    role: str
    text: str = ""


@dataclass(slots=True)
class Asked:
    """A request for an answer, whatever its dialect."""

    dialect: str
    model: str
    heard: list[Heard]
    tools: frozenset[str]
    body: dict[str, Any]
    streamed: bool
    schema: Mapping[str, Any] | None = None
    """What the answer has to look like, where that is asked for."""
    thinks: bool = False


_THOUGHT = "The user wants to know what stands there. I look before I answer."
_TITLE = "Notes in a folder"


class Plan:
    """Says what is next. It remembers only how often a rule has failed already."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._failed: dict[str, int] = {}

    def refusal(self, asked: Asked) -> int | None:
        """The status with which this request is refused."""
        found = self._found(asked)
        if found is None or not self._fits(found[0], found[1], asked):
            return None
        rule = found[0]
        at = self._failed.get(rule.words, 0)
        if at >= len(rule.fails):
            return None
        self._failed[rule.words] = at + 1
        return rule.fails[at]

    def answer(self, asked: Asked) -> Said:
        thought = _THOUGHT if asked.thinks else ""
        found = self._found(asked)
        if found is None or not self._fits(found[0], found[1], asked):
            return Said(_TITLE, (), "")
        rule, at = found
        step = rule.steps[min(at, len(rule.steps) - 1)]
        return Said(step, (), thought) if isinstance(step, str) else Said("", step, thought)

    def _found(self, asked: Asked) -> tuple[Rule, int] | None:
        """The rule of a request, and which of its steps is next."""
        for at in range(len(asked.heard) - 1, -1, -1):
            each = asked.heard[at]
            if each.role != "user":
                continue
            rule = next((rule for rule in self._rules if rule.words in each.text), None)
            if rule is not None:
                return rule, _answers(asked.heard[at:])
        return None

    @staticmethod
    def _fits(rule: Rule, at: int, asked: Asked) -> bool:
        step = rule.steps[min(at, len(rule.steps) - 1)]
        return isinstance(step, str) or all(call.name in asked.tools for call in step)


def _answers(heard: Sequence[Heard]) -> int:
    """Answers of the model: neighbours are one, since a dialect may cut an answer into items."""
    roles = [each.role for each in heard]
    return sum(role == "model" and (at == 0 or roles[at - 1] != "model") for at, role in enumerate(roles))


def shaped(schema: Mapping[str, Any]) -> Any:
    """The smallest value that a JSON schema takes."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: shaped(each) for name, each in properties.items()}
    if kind == "array":
        return []
    return {"boolean": False, "integer": 1, "number": 1}.get(kind, "It is short and plain.")


def pieces(text: str, size: int = 24) -> list[str]:
    """A text as a stream tells it."""
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]
