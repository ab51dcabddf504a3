"""What the three dialects have in common: from what a thread holds to a request's body, and from what was said to an
answer.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support.agent_runs.saying import Item, Said, Usage
from tests.support.agent_runs.toolbox import Tool


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that a request is made of."""

    model: str
    settings: dict[str, Any]
    """Further top-level members, in the order in which they stand after the model."""
    system: tuple[str, ...]
    tools: tuple[Tool, ...]
    items: tuple[Item, ...]
    """The whole history."""
    sent: int = 0
    """How many of the items the upstream keeps: a chain sends those after it alone."""
    previous_response_id: str | None = None
    stream: bool = True
    marks: str | None = None
    """How long the marked prefix shall be cached, `5m` or `1h`; None: no marks (messages alone has them)."""


class Dialect(Protocol):
    name: str
    path: str
    answer_id: str
    call_id: str

    def user(self, texts: Sequence[str]) -> Item: ...

    def said(self, said: Said) -> list[Item]:
        """What is put into the history for an answer."""
        ...

    def results(self, outputs: Sequence[tuple[str, str]]) -> list[Item]:
        """Results of tools, each with the id of its call, in the order given."""
        ...

    def body(self, prompt: Prompt) -> dict[str, Any]: ...

    def json_answer(self, said: Said, model: str, usage: Usage) -> dict[str, Any]: ...

    def events(self, said: Said, model: str, usage: Usage) -> list[bytes]:
        """The answer as a stream, an event each; the usage stands in the last ones."""
        ...

    def error(self, status: int) -> dict[str, Any]: ...


def compact(value: object) -> str:
    """JSON without blanks, UTF-8 unescaped: as bodies are sent, prompts rendered and values shown."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def event(data: object, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {compact(data)}\n\n".encode()


def named_events(datas: Iterable[dict[str, Any]]) -> list[bytes]:
    """Events whose name is their data's `type`."""
    return [event(data, data["type"]) for data in datas]


OPENAI_ERRORS = {
    429: ("Rate limit reached. Please try again in 1.2s.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
    504: ("The upstream did not answer in time.", "server_error", "timeout"),
}


def openai_error(status: int) -> dict[str, Any]:
    message, kind, code = OPENAI_ERRORS[status]
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
