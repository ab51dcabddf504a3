"""Where a request goes, judged by its path alone.

Real apps join a base address and a path carelessly: a slash too many (`/v1//models`, `/chat/`), a version too many
(`/v1/v1/dashboard/...`), or none (`/chat/completions`). All of that is mended, at the start of a path and, for relay's
own paths, at their end. The rest of the path, and the query, stay as they were sent, percent-encodings included.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

VERSION = "/v1"
METRICS = "/metrics"
OWN = ("/healthz", "/readyz", METRICS)
"""Paths of relay's own that have no place in relay.yaml."""
TOKEN_PAGE = "/api/usage/token"
STATUS_PAGE = "/api/status"
KEY_PAGES = (TOKEN_PAGE, f"{TOKEN_PAGE}/", STATUS_PAGE, f"{STATUS_PAGE}/")
"""new-api's: what is left on a token, and what a unit of that is worth. Answered for keys that relay has handed out."""
PAGE = "/"
"""Where a person finds out what this is. Under a route it is the upstream's, like any other path there."""
OPENAI = frozenset(
    (
        *("assistants", "audio", "batches", "chatkit", "completions", "containers", "conversations", "edits"),
        *("embeddings", "engines", "evals", "files", "fine-tunes", "fine_tuning", "images", "models", "moderations"),
        *("organization", "realtime", "responses", "skills", "threads", "uploads", "vector_stores", "videos"),
    )
)
"""The first segments behind `/v1` in OpenAI's API reference (https://platform.openai.com/docs/api-reference), those of
older versions among them. `chat` is not here: only `/chat/completions` is OpenAI's, `/chat` is relay's own."""

_COMPLETIONS = "/chat/completions"
_OFFICIAL = ("/v1/", "/dashboard/billing/")
_LEADING_SLASHES = re.compile(r"^/{2,}")
_ONE_TOO_MANY = re.compile(r"^/v1/(?:/|v1/)++")
_UNSENDABLE = re.compile(rb"[\x00-\x20\x7f]")
_PLAIN = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]++)++/?")


def _spelt(*characters: bytes) -> str:
    """A pattern for these, percent-encoded or as they are."""
    encoded = ("".join(f"%{each:02x}" for each in character) for character in characters)
    return "|".join((*encoded, *(re.escape(character.decode("utf-8", "surrogateescape")) for character in characters)))


# Besides the plain ones: in too many bytes, which a careless decoder takes, and signs that look alike, which Unicode's
# normal form (NFKC) and Windows' best fit turn into the plain ones.
_SLASHES = (b"/", b"\\", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\x9c", b"\xe0\x81\x9c")
_SLASHES_ALIKE = tuple(map(str.encode, "\uff0f\uff3c\u2044\u2215"))
_DOTS = (b".", b"\xc0\xae", b"\xe0\x80\xae", b"\xf0\x80\x80\xae", *map(str.encode, "\uff0e\u2024\u2025\ufe52"))
_SLASH = rf"{_spelt(*_SLASHES, *_SLASHES_ALIKE)}|%u2215|%u002f|%u005c|%uff0f|%uff3c"
_DOT = rf"{_spelt(*_DOTS)}|%u002e|%uff0e"
_BLANK = r"%[01][0-9a-f]|%20|%7f|[\x00-\x20\x7f]"
_END = rf"{_SLASH}|{_BLANK}|[;#?]|%3b|%23|%3f|\Z"
_DOT_SEGMENT = re.compile(
    rf"(?:{_SLASH})(?:{_BLANK})*+(?:{_DOT})(?:(?:{_BLANK})*+(?:{_DOT}))?+(?:{_END})", re.IGNORECASE
)
_UNICODE_SLASH = re.compile(rb"%u(?:2215|002f|005c|ff0f|ff3c)", re.IGNORECASE)
_PARAMETER = re.compile(rb";[^/]*+")
_ENDS = re.compile(rb"[#?]")
_ENDS_EARLY = re.compile(rb"[;#?\x00]")
_RUNS = re.compile(rb"/{2,}+")
_DROPPED = bytes((*range(0x21), 0x7F))


class Target(NamedTuple):
    """A request's path, taken apart."""

    route: str | None
    """The route's prefix that matched, removed from `path`; None for the default upstream."""
    path: str
    """The path behind the prefix, mended."""
    query: str
    """`?` and what follows it, as sent; empty where there is none."""


def resolve(
    raw: str,
    routes: Mapping[str, object] | tuple[str, ...],
    own: Collection[str] = (),
    folders: Collection[str] = (),
) -> Target:
    """Take a request target apart; the longest matching route wins, then relay's `own` paths, then OpenAI's.

    `folders` are those of relay's own paths below which there are sessions.

    >>> resolve("//deepseek/v1//v1/models?a=%2F", ("/deepseek",))
    Target(route='/deepseek', path='/v1/models', query='?a=%2F')
    >>> resolve("/chat/completions", (), ("/chat",))
    Target(route=None, path='/v1/chat/completions', query='')
    """
    path, mark, query = raw.partition("?")
    path = _single_slash(path)
    matching = [route for route in routes if path == route or path.startswith(route + "/")]
    route = max(matching, key=len) if matching else None
    if route is not None:
        path = path[len(route) :] or "/"
    return Target(route, _mended(_single_slash(path), own, folders), mark + query)


def _mended(path: str, own: Collection[str], folders: Collection[str]) -> str:
    if path.startswith("/v1/"):
        return _ONE_TOO_MANY.sub("/v1/", path, count=1)
    bare = path.rstrip("/")
    if bare in own or session_in(bare, folders) is not None:
        return bare
    first = path[1:].partition("/")[0]
    if first in OPENAI or path == _COMPLETIONS or path.startswith(_COMPLETIONS + "/"):
        return VERSION + path
    return path


def session_in(path: str, folders: Collection[str]) -> str | None:
    """The session id in `/chat/{sessionId}`, still encoded; None for other paths.

    `/chat/completions` is none: it is where OpenAI's clients ask whose base address lacks `/v1`.
    """
    folder, _, name = path.rpartition("/")
    return name if name and folder in folders and path != _COMPLETIONS else None


def _single_slash(path: str) -> str:
    return _LEADING_SLASHES.sub("/", path) if path.startswith("//") else path


def is_official(path: str) -> bool:
    """Whether a path without a route belongs to OpenAI's own interface.

    A dot segment would let a client leave the paths that are served, since upstreams resolve it.
    """
    return (path.startswith(_OFFICIAL) or path == VERSION) and not climbs(path)


def is_sendable(target: bytes) -> bool:
    """Whether a request target can stand in a request line as it is: without blanks and control bytes, and without `#`
    in its path.

    HTTP/2 carries them (RFC 9113, 8.3.1 leaves it to the receiver to refuse them), and in a line of HTTP/1 they would
    end the path, or the line. A target has no fragment (RFC 9112, 3.2), and servers that are shown one cut it off: they
    would serve another path than the one that was judged. Behind a `?` only the query gets shorter.
    """
    return _UNSENDABLE.search(target) is None and b"#" not in target.partition(b"?")[0]


def is_plain(path: str) -> bool:
    """Whether all servers read a path alike: it has no empty segment, nothing that separates or ends segments but `/`,
    and nothing encoded that could be more than a letter. A query is no part of it."""
    if _PLAIN.fullmatch(path) is not None:
        return True
    decoded = unquote(path)
    return _PLAIN.fullmatch(decoded) is not None and decoded.count("/") == path.count("/")


def readings(path: str) -> tuple[str, ...]:
    """What servers may take a path for, each decoded, with single slashes and none at its end; one where it is plain.

    They differ as `climbs` tells: some drop the parameter of a segment (`;a=b`), some all that follows it, and some
    decode once more.

    >>> readings("/v1/chat;a/completions%23/moderations")
    ('/v1/chat/completions', '/v1/chat')
    """
    path = path.partition("?")[0]
    if _PLAIN.fullmatch(path) is not None:
        return (path.rstrip("/"),)
    found = []
    for spelt in dict.fromkeys((path, path.replace("%25", "%"))):
        sent = unquote_to_bytes(_UNICODE_SLASH.sub(b"/", spelt.encode("utf-8", "surrogateescape")))
        for each in (*_SLASHES, *_SLASHES_ALIKE):
            sent = sent.replace(each, b"/")
        for each in (_ENDS.split(_PARAMETER.sub(b"", sent), 1)[0], _ENDS_EARLY.split(sent, 1)[0]):
            found.append(_RUNS.sub(b"/", each.translate(None, _DROPPED)).decode("utf-8", "replace").rstrip("/"))
    return tuple(dict.fromkeys(found))


def climbs(path: str) -> bool:
    r"""Whether an upstream might read `.` or `..` as a segment of path, percent-encoded or not.

    Upstreams differ in what separates segments (`\`), in what ends one (`;` of a parameter, `#` and `?` decoded too
    late, a zero byte in C), in what they drop (blanks and control characters), and in what they decode (overlong UTF-8,
    `%u002e`). What is encoded twice is not decoded here, as it is not there.
    """
    return ("." in path or "%" in path or not path.isascii()) and _DOT_SEGMENT.search(path) is not None
