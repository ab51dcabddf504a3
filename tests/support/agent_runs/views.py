"""A request as the upstream sees it: the parts of which its prompt is built, in that order.

| dialect   | order of the prompt                                             |
|-----------|-----------------------------------------------------------------|
| chat      | `tools`, leading system and developer messages, other messages  |
| messages  | `tools`, `system`, `messages`                                   |
| responses | `instructions`, `tools`, leading system and developer items of `input`, its other items |

What changes no prompt is left out: `cache_control` marks anywhere in these parts, since they move with each call; and,
in messages, whether text stands alone (`"content": "x"`) or in one block (`[{"type": "text", "text": "x"}]`).
In a chain (`previous_response_id`) the items that the upstream keeps come before those of the body.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.agent_runs.saying import Item

SETTINGS = (
    "temperature",
    "top_p",
    "reasoning_effort",
    "reasoning",
    "verbosity",
    "text",
    "response_format",
    "tool_choice",
    "parallel_tool_calls",
    "thinking",
    "service_tier",
)
"""Top-level members that count as settings, besides `model`. All others (`stream`, `store`, `metadata`, `max_tokens`,
`prompt_cache_key`, `user` and so on) are bookkeeping: a change there is no cause of cost."""
CACHED_SETTINGS = ("tool_choice", "thinking")
"""In messages, those of them on which what is cached of the messages depends (what is cached of tools and system does
not).
"""
_LEADING = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Element:
    """One tool, block of the system prompt, message or item."""

    path: str
    """Where it stands in its own body; in a chain's kept items: empty, since no path leads there."""
    value: Any


@dataclass(frozen=True, slots=True)
class View:
    dialect: str
    model: str
    settings: dict[str, Any]
    parts: tuple[tuple[str, tuple[Element, ...]], ...]
    """(`tools` | `system` | `message`, its elements), in the order of the prompt. `system` may stand there twice."""
    list_paths: dict[str, str]
    """Per part, the list in the body that an element would be added to."""

    def key(self) -> tuple[object, ...]:
        """Equal for two requests that ask the same."""
        return self.model, self.settings, [[each.value for each in elements] for _, elements in self.parts]


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unmarked(each) for name, each in value.items() if name != "cache_control"}
    return [_unmarked(each) for each in value] if isinstance(value, list) else value


def _listed(name: str, values: Sequence[Item], first: int = 0) -> tuple[Element, ...]:
    return tuple(Element(f"{name}[{at}]" if at >= 0 else "", _unmarked(each)) for at, each in enumerate(values, first))


def _split(elements: tuple[Element, ...]) -> tuple[tuple[Element, ...], tuple[Element, ...]]:
    """The leading system and developer messages, and the rest."""
    count = next((at for at, each in enumerate(elements) if each.value.get("role") not in _LEADING), len(elements))
    return elements[:count], elements[count:]


def view(dialect: str, body: dict[str, Any], kept: Sequence[Item] = ()) -> View:
    """The view of a body; `kept`: the items before it that the upstream keeps (chains)."""
    settings = {name: body[name] for name in SETTINGS if name in body}
    tools = ("tools", _listed("tools", body.get("tools", ())))
    parts: tuple[tuple[str, tuple[Element, ...]], ...]
    if dialect == "responses":
        instructions = body.get("instructions")
        head = () if instructions is None else (Element("instructions", instructions),)
        lead, rest = _split(_listed("input", [*kept, *body["input"]], -len(kept)))
        parts = ("system", head), tools, ("system", lead), ("message", rest)
        return View(dialect, body["model"], settings, parts, {"tools": "tools", "system": "input", "message": "input"})
    if dialect == "messages":
        system = body.get("system", [])
        blocks = (Element("system", system),) if isinstance(system, str) else _listed("system", system)
        parts = tools, ("system", blocks), ("message", _listed("messages", body["messages"]))
        return View(
            dialect, body["model"], settings, parts, {"tools": "tools", "system": "system", "message": "messages"}
        )
    lead, rest = _split(_listed("messages", body["messages"]))
    parts = tools, ("system", lead), ("message", rest)
    return View(
        dialect, body["model"], settings, parts, {"tools": "tools", "system": "messages", "message": "messages"}
    )


def member(path: str, name: str) -> str:
    """The path of a member: `a.b`, or `a["b-c"]` where the name is no plain word."""
    plain = name.isascii() and name.isidentifier()
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return (f"{path}.{name}" if path else name) if plain else f'{path}["{quoted}"]'
