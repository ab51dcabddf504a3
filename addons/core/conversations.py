"""Which conversation a request belongs to, so that it meets the prompt cache of those before it.

In this order: what the caller says (`prompt_cache_key`; `conversation` and `previous_response_id` of the Responses
API), else the leading messages, up to the first one of a user: they stay as they are while a conversation grows.
https://platform.openai.com/docs/guides/prompt-caching
"""

import re
from hashlib import sha256

from addons.core import bounded_json
from addons.core.slices import Sliced, at_once
from addons.core.top_level import Members, NoObject

_PREVIOUS = "previous_response_id"
STORED = ("conversation", _PREVIOUS)
"""Fields that name what one upstream alone has."""
_OF_FILES = ("file_id", "file_ids", "vector_store_ids")
"""Names of such things where they stand deeper."""
_AROUND_FILES = ("input", "messages", "tools", "tool_resources")
_LISTS = ("messages", "input")
_AROUND = ("system", "instructions", "prompt")
_LONGEST = 1 << 14
"""Characters of a value that count: caches begin with the first ones."""
_MOST_LEADING = 16
_ID = re.compile(r'"id":\s{0,4}"(resp_[A-Za-z0-9_-]{8,80})"')


def conversation_of(body: Members) -> str | None:
    """`identifying` without a pause."""
    return at_once(identifying(body))


def identifying(body: Members) -> Sliced[str | None]:
    """What stands for the conversation of a JSON body, in slices; None where it says nothing that could."""
    for name in ("prompt_cache_key", *STORED):
        if (said := _short(body, name)) is not None:
            return f"{name} {said}"
    lead = [body.raw(name)[:_LONGEST] for name in _AROUND if name in body]
    for name in _LISTS:
        if body.begins(name, "["):
            lead += yield from _leading(body, name)
        elif name in body:
            lead.append(body.raw(name)[:_LONGEST])
    if not any(lead):
        return None
    return f"messages {sha256(chr(0).join(lead).encode('utf-8', 'surrogatepass')).hexdigest()}"


def is_stored(body: Members) -> bool:
    """Whether a request goes on from what its upstream has kept, and no other one has."""
    if any(_short(body, name) is not None for name in STORED):
        return True
    return any(body.holds(name, f'"{each}"') for name in _AROUND_FILES if name in body for each in _OF_FILES)


def previous_response(body: Members) -> str | None:
    """The response that a request goes on from."""
    return _short(body, _PREVIOUS)


def response_id(beginning: str) -> str | None:
    """The id that the beginning of an answer of the Responses API gives it, a stream's or JSON's."""
    found = _ID.search(beginning)
    return found[1] if found is not None else None


def _short(body: Members, name: str) -> str | None:
    """A value that names something: a text, or an object with an id."""
    if not 2 < body.size(name) <= 4096:
        return None
    try:
        value = body.value(name)
    except ValueError:
        return None
    value = value.get("id") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def _leading(body: Members, name: str) -> Sliced[list[str]]:
    """The texts of the messages up to the first one that is a user's."""
    try:
        items = yield from body.items(name, _MOST_LEADING)
    except NoObject:
        return []  # upstream will say what is wrong with it
    first = next((at for at, text in enumerate(items) if not _comes_before(text)), len(items))
    return [text[:_LONGEST] for text in items[: first + 1]]


def _comes_before(text: str) -> bool:
    """Whether a message is one that stands before what the user says."""
    if len(text) > _LONGEST:
        return '"system"' in text[:256] or '"developer"' in text[:256]
    try:
        value = bounded_json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("role") in ("system", "developer")
