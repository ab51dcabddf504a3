"""Which requests make a model work, and what of their bodies says how much that may cost.

Where a field is named, its meaning is that of https://platform.openai.com/docs/api-reference or, for `/v1/messages`,
of https://docs.anthropic.com/en/api/messages.
"""

import enum
from urllib.parse import unquote


class Generation(enum.StrEnum):
    """What is asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSE = "response"
    MESSAGE = "message"
    EMBEDDING = "embedding"
    IMAGE = "image"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"


_BY_END = (
    ("/chat/completions", Generation.CHAT),
    ("/completions", Generation.COMPLETION),
    ("/responses", Generation.RESPONSE),
    ("/messages", Generation.MESSAGE),
    ("/embeddings", Generation.EMBEDDING),
    ("/images/generations", Generation.IMAGE),
    ("/images/edits", Generation.IMAGE),
    ("/images/variations", Generation.IMAGE),
    ("/audio/speech", Generation.SPEECH),
    ("/audio/transcriptions", Generation.TRANSCRIPTION),
    ("/audio/translations", Generation.TRANSCRIPTION),
)
_FREE = ("/moderations", "/files", "/uploads", "/messages/count_tokens", "/responses/input_tokens", "/tokenize")
_FREE_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS")
_THREADS = "/threads/"


def generation_of(method: str, path: str) -> Generation | None:
    """What a request asks a model for; None where it asks none. `path` is without a route's prefix."""
    if method in _FREE_METHODS:
        return None
    path = unquote(path.partition("?")[0]).rstrip("/").lower()
    if _THREADS in path:  # messages of the Assistants API are stored, and no model sees them yet
        return None
    return next((kind for end, kind in _BY_END if path.endswith(end)), None)


def is_free(method: str, path: str) -> bool:
    """Whether a request is one of those that are known to cost nothing."""
    if method in _FREE_METHODS:
        return True
    path = path.partition("?")[0].rstrip("/")
    return path.endswith(_FREE) or (path.startswith("/v1/uploads/") and "%" not in path)
