"""Which requests make a model work, and what of their bodies says how much that may cost.

Where a field is named, its meaning is that of https://platform.openai.com/docs/api-reference or, for `/v1/messages`,
of https://docs.anthropic.com/en/api/messages.
"""

import enum
import re
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
_FREE = ("/moderations", "/messages/count_tokens", "/responses/input_tokens", "/tokenize")
_FREE_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS")
_MODELS = "/v1/models"
_IN_PATH = re.compile(r"/(?:deployments|engines)/([^/?]{1,200})/")
_SLASHES = re.compile("/{2,}")
_THREADS = "/threads/"


def generation_of(method: str, path: str) -> Generation | None:
    """What a request asks a model for; None where it asks none. `path` is without a route's prefix."""
    if method in _FREE_METHODS:
        return None
    path = _SLASHES.sub("/", unquote(path.partition("?")[0])).rstrip("/").lower()
    if _THREADS in path:  # messages of the Assistants API are stored, and no model sees them yet
        return None
    return next((kind for end, kind in _BY_END if path.endswith(end)), None)


def is_harmless(method: str, path: str) -> bool:
    """Whether a request costs nothing and shows and changes nothing that is somebody else's."""
    path = path.partition("?")[0].rstrip("/")
    if method in ("GET", "HEAD"):
        return path == _MODELS or path.startswith(f"{_MODELS}/")
    return method == "OPTIONS" or (method == "POST" and path.endswith(_FREE))


def model_in(path: str) -> str | None:
    """The model that a path names, as Azure's deployments and OpenAI's old engines have it."""
    found = _IN_PATH.search(unquote(path.partition("?")[0]))
    return None if found is None else found[1]
