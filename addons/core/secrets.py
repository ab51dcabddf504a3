"""Keys in text: how they are found by their looks and what is shown in their place.

A key is replaced by a short prefix and a hash, so that two exchanges of one key can still be told to belong together.
The hash is keyed with a secret of this process or of the store: a plain hash of a guessable key could be reversed by
trying.
"""

import hmac
import re
from functools import lru_cache

from addons.core.slices import Sliced, at_once

# sk-..., sk-proj-..., sk-ant-..., sess-..., fk123-..., ek_..., gsk_...: what OpenAI and its likes issue. A dozen
# characters at least, so that prose such as "sk-learn" stays; upstreams that quote a key mask its middle with
# asterisks. What stands right before it may be a Chinese character, an escape (\n, \u003d) or a percent-encoding (%3D).
# Possessive throughout: no character is tried twice.
KEY = re.compile(
    rb"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
    rb"(?:(?:sk|sess|rk|pk|xai|pplx|fk[0-9]{0,9}+)-[A-Za-z0-9_*.\-]{8,}+|(?:ek|gsk|hf)_[A-Za-z0-9_*\-]{16,}+"
    rb"|AIza[A-Za-z0-9_\-]{30,}+"
    # No word, as in "bearer tokens are".
    rb"|Bearer\s{1,64}+(?:(?=[^\s\"',;\\]{0,63}(?:[0-9_~+/=]|\.[A-Za-z0-9]))[^\s\"',;\\]{6,}+|[^\s\"',;\\]{24,}+))",
    re.IGNORECASE,
)
SIGNS = (b"sk-", b"sess-", b"rk-", b"pk-", b"xai-", b"pplx-", b"fk", b"ek_", b"gsk_", b"hf_", b"aiza", b"bearer")
"""One of these stands, in lower case, in whatever KEY finds."""

_GOES_ON = re.compile(rb"[A-Za-z0-9_*.\-]*+")
_SLICE = 1 << 16
_OVERLAP = 512  # what KEY needs to see of a key at least, with all that may stand before it
_PREFIX = 3
_LONGEST_KNOWN = 512  # characters of a key whose fingerprint is remembered
_FINGERPRINT = re.compile(rb"(?:Bearer\s{1,64}+)?.{0,3}\*{3}[0-9a-f]{8}", re.DOTALL | re.IGNORECASE)

MOST_SPANS = 20_000


class TooManySecrets(ValueError):
    """More secrets in one text than are hidden one by one."""


Span = tuple[int, int, bytes]
"""Where something stands that must not be shown, and what is shown in its place."""


def scrub(text: str) -> str:
    """The text with everything that looks like a key cut to its first characters, fingerprints too."""
    raw = text.encode("utf-8", "surrogatepass")
    if not may_hold_key(raw):
        return text
    return at_once(scrubbing(raw, keep=False, most=len(raw))).decode("utf-8", "surrogatepass")


def scrubbing(data: bytes, *, keep: bool = True, most: int = MOST_SPANS) -> Sliced[bytes]:
    """The same for bytes of any length, in slices; with `keep` fingerprints stay. Raises TooManySecrets over `most`
    keys."""
    spans: list[Span] = []
    at = 0
    for start in range(0, len(data), _SLICE):
        if start:
            yield
        end = start + _SLICE
        at = max(at, start)
        if at >= end or not may_hold_key(data[start : end + _OVERLAP]):
            continue
        while (found := KEY.search(data, at, end + _OVERLAP)) is not None and found.start() < end:
            at = found.end()
            if at == end + _OVERLAP:
                at = yield from _end_of_run(data, at)
            if not (keep and is_fingerprint(found[0])):
                note(spans, (found.start(), at, _cut(found[0])), most)
    return replaced(data, spans)


def note(spans: list[Span], span: Span, most: int = MOST_SPANS) -> None:
    """Add a span. Raises TooManySecrets."""
    if len(spans) >= most:
        raise TooManySecrets
    spans.append(span)


def _end_of_run(data: bytes, at: int) -> Sliced[int]:
    while (found := _GOES_ON.match(data, at, at + _SLICE)) is not None and found.end() > at:
        at = found.end()
        yield
    return at


def may_hold_key(data: bytes) -> bool:
    """A quick look that spares most texts the thorough one."""
    lowered = data.lower()
    for sign in SIGNS:  # noqa: SIM110 - in the way of every request: a generator costs three times this
        if sign in lowered:
            return True
    return False


def replaced(data: bytes, spans: list[Span]) -> bytes:
    """`data` with each span replaced by what it shows. Where spans overlap, the first one's end moves."""
    if not spans:
        return data
    parts: list[bytes] = []
    last = 0
    for start, end, shown in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= last:
            parts += (data[last:start], shown)
        last = max(last, end)
    return b"".join((*parts, data[last:]))


def masked(key: str) -> str:
    """What is shown of a key that is known to be one."""
    return f"{key[:_PREFIX]}***" if len(key) >= 12 else "***"


def _cut(found: bytes) -> bytes:
    return b"Bearer ***" if found[:6].lower() == b"bearer" else found[:_PREFIX] + b"***"


def fingerprint(key: str, secret: bytes) -> str:
    """`sk-***1a2b3c4d`: eight hex digits of a keyed hash behind the key's first characters.

    The prefix is shown only where the key is long enough to spare it.
    """
    return _known_fingerprint(key, secret) if len(key) <= _LONGEST_KNOWN else _fingerprint(key, secret)


def _fingerprint(key: str, secret: bytes) -> str:
    digest = hmac.digest(secret, key.encode("utf-8", "surrogatepass"), "sha256").hex()[:8]
    prefix = key[:_PREFIX] if len(key) >= 12 else ""
    return f"{prefix}***{digest}"


_known_fingerprint = lru_cache(1024)(_fingerprint)


def is_fingerprint(text: bytes) -> bool:
    """Whether this is what is shown of a key, and no key."""
    return b"***" in text and _FINGERPRINT.fullmatch(text) is not None
