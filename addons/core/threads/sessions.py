"""The names by which programs tell their sessions, in headers and bodies.

A session is no thread: its subagents and side calls bear its name, too. And `prompt_cache_key` names one only where it
looks as if it was made for one: many programs send the same for all their runs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from addons.core.threads.prompt import is_unique

HEADERS = (
    *("session_id", "session-id", "conversation_id", "conversation-id", "thread_id", "thread-id"),  # Codex
    "x-claude-code-session-id",
    *("x-session-affinity", "x-opencode-session", "x-session-id", "x-conversation-id", "x-thread-id"),
)
_IN_USER_ID = "_session_"
_SHORTEST, _LONGEST = 8, 200
"""Characters. Two people may both call theirs `1`, or `test`."""


def sessions_of(headers: Iterable[tuple[str, str]], body: Any) -> frozenset[str]:
    """All names that a request tells."""
    told = (value for name, value in headers if name.lower() in HEADERS)
    inside = _in_body(body) if isinstance(body, dict) else ()
    return frozenset(each for each in (*told, *inside) if _SHORTEST <= len(each) <= _LONGEST)


def _in_body(body: Mapping[str, Any]) -> Iterator[str]:
    key = body.get("prompt_cache_key")
    if isinstance(key, str) and is_unique(key):
        yield key
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if isinstance(conversation, str):
        yield conversation
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        yield from (each for name in ("session_id", "conversation_id") if isinstance(each := metadata.get(name), str))
        yield from _in_user_id(metadata.get("user_id"))


def _in_user_id(user: object) -> Iterator[str]:
    """Claude Code's: `user_..._account_..._session_ID`, or JSON with a `session_id`."""
    if not isinstance(user, str):
        return
    if user[:1] == "{":
        try:
            told = json.loads(user)
        except (ValueError, RecursionError):
            return
        if isinstance(told, dict) and isinstance(session := told.get("session_id"), str):
            yield session
    elif _IN_USER_ID in user:
        yield user.rpartition(_IN_USER_ID)[2]
