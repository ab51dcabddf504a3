"""Tokens of a played answer: the cache is that of the made-up runs (tests/support/agent_runs/cache.py)."""

import json
import threading
import time
from typing import Any

from tests.agents.model.plan import Asked, Said
from tests.support.agent_runs.cache import Cache, Served
from tests.support.agent_runs.views import Element, View, view


class Counter:
    """Counts and remembers what lies in the cache."""

    def __init__(self) -> None:
        self._cache = Cache()
        self._lock = threading.Lock()

    def serve(self, owner: str, asked: Asked) -> Served:
        """The cache is asked and filled. `owner`: upstream and key."""
        with self._lock:
            shown = _view(asked)
            return self._cache.serve(f"{owner} {asked.model}", shown, asked.body, int(time.time() * 1000))


def _view(asked: Asked) -> View:
    body = asked.body
    if asked.dialect == "gemini":
        system = body.get("systemInstruction")
        parts = (
            ("tools", tuple(Element(f"tools[{at}]", each) for at, each in enumerate(body.get("tools", ())))),
            ("system", () if system is None else (Element("systemInstruction", system),)),
            ("message", tuple(Element(f"contents[{at}]", each) for at, each in enumerate(body["contents"]))),
        )
        places = {"tools": "tools", "system": "systemInstruction", "message": "contents"}
        return View("gemini", asked.model, {}, parts, places)
    if asked.dialect == "responses" and isinstance(body["input"], str):
        body = {**body, "input": [{"role": "user", "content": body["input"]}]}
    return view(asked.dialect, {**body, "tools": body.get("tools") or ()})


def output_tokens(said: Said) -> int:
    """Four bytes a token, as the cache counts."""
    calls: list[Any] = [[call.name, dict(call.arguments)] for call in said.calls]
    return max(1, len(said.text.encode()) // 4 + len(said.thought.encode()) // 4 + len(json.dumps(calls)) // 4)
