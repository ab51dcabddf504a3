"""Which requests make a model work, and what of their bodies says how much that may cost.

Where a field is named, its meaning is that of https://platform.openai.com/docs/api-reference or, for `/v1/messages`,
of https://docs.anthropic.com/en/api/messages; for Gemini's own, of https://ai.google.dev/api/generate-content.
"""

import enum
import re

from addons.core.paths import is_plain, readings


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
    CONTENT = "content"
    """Gemini's own. How much one may cost at most is not known, so keys with budgets do not get there
    (`generation_of` knows none); what it has cost its caller is counted (`counted_of`)."""


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
_GEMINI = re.compile(r"/models/([^/:]{1,200}):(\w{1,40})\Z")
GEMINI_GENERATES = ("generateContent", "streamGenerateContent")
_FREE = re.compile(
    r"(?:(?:/(?!v[0-9])[a-z][a-z-]*+){0,2}/v[0-9][a-z0-9]{0,7})?(?:(?:/openai)?/(?:deployments|engines)/[^/]+)?"
    r"/(?:moderations|messages/count_tokens|responses/input_tokens|tokenize)/?"
)
"""What costs nothing, behind the version of an interface or a deployment. Somewhere else it may be the end of a path
that does."""
_FREE_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS")
_MODELS = "/v1/models"
_NAMES_MODEL = re.compile(r"/(?:deployments|engines)/", re.IGNORECASE)
_EXTENSIONS = "/extensions"
_THREADS = "/threads/"


def generation_of(method: str, path: str) -> Generation | None:
    """What a request asks a model for; None where it asks none, however a server reads its path. `path` is without a
    route's prefix."""
    if method in _FREE_METHODS:
        return None
    for reading in readings(path):
        lower = reading.lower()
        # Messages of the Assistants API are stored, and no model sees them yet.
        if _THREADS not in lower and (found := _end_of(lower)) is not None:
            return found[1]
    return None


def counted_of(method: str, path: str) -> Generation | None:
    """The same where nothing stands on it, but what an answer tells of its usage is counted: Gemini's own, too.

    >>> counted_of("POST", "/v1beta/models/gemini-2.5-pro:generateContent")
    <Generation.CONTENT: 'content'>
    """
    found = generation_of(method, path)
    if found is None and method == "POST":
        asked = gemini_call(path)
        return Generation.CONTENT if asked is not None and asked[1] in GEMINI_GENERATES else None
    return found


def gemini_call(path: str) -> tuple[str, str] | None:
    """The model and the method that a path of Gemini's names, however a server reads it.

    >>> gemini_call("/gemini/v1beta/models/gemini-2.5-pro:countTokens?key=k")
    ('gemini-2.5-pro', 'countTokens')
    """
    for reading in readings(path):
        if (found := _GEMINI.search(reading.rstrip("/"))) is not None:
            return found[1], found[2]
    return None


def _end_of(lower: str) -> tuple[str, Generation] | None:
    """How the path of a generation ends, and what that asks for."""
    return next((each for each in _BY_END if lower.endswith(each[0])), None)


def is_harmless(method: str, path: str) -> bool:
    """Whether a request costs nothing and shows and changes nothing that is somebody else's."""
    path = path.partition("?")[0]
    if method in ("GET", "HEAD"):
        path = path.rstrip("/")
        return path == _MODELS or path.startswith(f"{_MODELS}/")
    return method == "OPTIONS" or (method == "POST" and _is_free(path))


def _is_free(path: str) -> bool:
    """A server may take whatever stands below the path of a generation for that."""
    below = any(
        f"{end}/" in path.lower() for end, kind in _BY_END if kind not in (Generation.RESPONSE, Generation.MESSAGE)
    )
    return is_plain(path) and not below and _FREE.fullmatch(path) is not None


def model_in(path: str) -> str | None:
    """The model that the path of a generation names, as Azure's deployments and OpenAI's old engines have it: all that
    stands before its end, since some upstreams have slashes in the names of models."""
    for reading in readings(path):
        found, end = _NAMES_MODEL.search(reading), _end_of(reading.lower())
        if found is not None and end is not None:
            name = reading[found.end() : len(reading) - len(end[0])].removesuffix(_EXTENSIONS)
            return name or None
    return None
