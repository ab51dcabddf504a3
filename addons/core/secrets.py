"""Keys in text: how they are found and what is shown in their place.

A key is replaced by a short prefix and a hash, so that two exchanges of one key can still be told to belong together.
The hash is keyed with a secret of this process or of the store: a plain hash of a guessable key could be reversed by
trying.
"""

import hmac
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate

# sk-..., sk-proj-..., sk-ant-..., sess-..., fk123-..., ek_..., gsk_...: what OpenAI and its likes issue. A dozen
# characters at least, so that prose such as "sk-learn" stays; upstreams that quote a key mask its middle with
# asterisks. What stands right before it may be a Chinese character, an escape (\n, \u003d) or a percent-encoding (%3D).
KEY = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
    r"(?:(?:sk|sess|rk|pk|xai|pplx|fk[0-9]*)-[A-Za-z0-9_*.\-]{8,}|(?:ek|gsk|hf)_[A-Za-z0-9_*\-]{16,}"
    r"|AIza[A-Za-z0-9_\-]{30,}|Bearer\s+[^\s\"',;]{6,})",
    re.IGNORECASE,
)
SIGNS = (b"sk-", b"sess-", b"rk-", b"pk-", b"xai-", b"pplx-", b"fk", b"ek_", b"gsk_", b"hf_", b"aiza", b"bearer")
"""One of these stands, in lower case, in whatever KEY finds."""

_SIGNS = tuple(sign.decode() for sign in SIGNS)

# A field that holds a key, in JSON (escaped in another string or not), a form, a query or a script.
_FIELD = re.compile(
    r"(?:api[-_]?key|access[-_]?token|client[-_]?secret)\\?[\"']?"
    r"(?:\s*[:=]\s*\\?[\"']?\s*|(?:\r?\n[^\r\n]+)*\r?\n\r?\n)"
    r"((?:\\u[0-9A-Fa-f]{4}|\\/|[^\s\"'\\,;&<>{}\[\]()])+)",
    re.IGNORECASE,
)
# Text in text in JSON is escaped more than once.
_PIECE = re.compile(r'("(?:content|delta|text|arguments|transcript|partial_json)"\s*:\s*")((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\+u00([2-7][0-9A-Fa-f])|%([2-7][0-9A-Fa-f])|\\+([/\"'])|\\(\\)")
_PREFIX = 3


def scrub(text: str) -> str:
    """The text with everything that looks like a key cut to its first characters."""
    return KEY.sub(lambda found: _masked(found[0]), text)


def masked(key: str) -> str:
    """What is shown of a key that is known to be one."""
    return f"{key[:_PREFIX]}***" if len(key) >= 12 else "***"


def _masked(found: str) -> str:
    if found[:6].lower() == "bearer":
        return "Bearer ***"
    return f"{found[:_PREFIX]}***"


@lru_cache(1024)
def fingerprint(key: str, secret: bytes) -> str:
    """`sk-***1a2b3c4d`: eight hex digits of a keyed hash behind the key's first characters.

    The prefix is shown only where the key is long enough to spare it.
    """
    digest = hmac.digest(secret, key.encode("utf-8", "surrogatepass"), "sha256").hex()[:8]
    prefix = key[:_PREFIX] if len(key) >= 12 else ""
    return f"{prefix}***{digest}"


def keys_in(text: str) -> set[str]:
    """What stands as `apiKey` and the like in a text of any format, even one that is broken: plain, and as written."""
    return {key for found in _FIELD.finditer(text) for key in (found[1], unescaped(found[1]))}


def unescaped(text: str) -> str:
    """The text with the escapes of JSON and of addresses undone that stand for a character of ASCII."""
    if "\\" not in text and "%" not in text:
        return text
    return _ESCAPE.sub(lambda found: found[3] or found[4] or chr(int(found[1] or found[2], 16)), text)


def mask(text: str, keys: Mapping[str, str]) -> str:
    """`text` with each known key replaced by its fingerprint, then anything that still looks like one scrubbed.

    `keys` maps a key to what is shown for it. A key is found however its characters are escaped.
    """
    for key in sorted(keys, key=len, reverse=True):  # one key may begin with another
        text = text.replace(key, keys[key])
    if keys and ("\\" in text or "%" in text) and _ESCAPE.search(text):
        text = _mask_escaped(text, keys)
    if not _may_hold_key(text):
        return text
    return KEY.sub(lambda found: found[0] if _is_fingerprint(found[0]) else _masked(found[0]), text)


def _may_hold_key(text: str) -> bool:
    """A quick look that spares most texts the thorough one."""
    lowered = text.lower()
    for sign in _SIGNS:
        if sign in lowered:
            return True
    return not text.isascii()  # where a letter may be another's lower case


def _mask_escaped(text: str, keys: Mapping[str, str]) -> str:
    for key in sorted(keys, key=len, reverse=True):
        plain = unescaped(text)
        if key not in plain:
            continue
        escapes = [(found.start(), len(found[0]) - 1) for found in _ESCAPE.finditer(text)]
        longer = [0, *accumulate(extra for _, extra in escapes)]
        places = [start - before for (start, _), before in zip(escapes, longer, strict=False)]
        end = len(plain)
        while (start := plain.rfind(key, 0, end)) >= 0:
            first, last = (at + longer[bisect_left(places, at)] for at in (start, start + len(key)))
            text = text[:first] + keys[key] + text[last:]
            end = start
    return text


def mask_stream(text: str, keys: Mapping[str, str]) -> str:
    """An event stream in which a key may be spread over several pieces of the text: each loses its part of it."""
    pieces = list(_PIECE.finditer(text))
    words = [_said(piece[2]) for piece in pieces]
    spans = _spans("".join(words), keys)
    if not spans:
        return text
    ends = list(accumulate(map(len, words)))
    new = [_without(word, end - len(word), spans) for word, end in zip(words, ends, strict=True)]
    parts, last = [], 0
    for piece, before, after in zip(pieces, words, new, strict=True):
        if after != before:
            parts += [text[last : piece.start(2)], json.dumps(after, ensure_ascii=False)[1:-1]]
            last = piece.end(2)
    return "".join([*parts, text[last:]])


def _said(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


def _spans(text: str, keys: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """Where keys stand, and what is shown for each: in order, none in another."""
    found = [(at.start(), at.end(), keys[key]) for key in keys for at in re.finditer(re.escape(key), text)]
    found += [(at.start(), at.end(), _masked(at[0])) for at in KEY.finditer(text) if not _is_fingerprint(at[0])]
    spans: list[tuple[int, int, str]] = []
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if not spans or span[0] >= spans[-1][1]:
            spans.append(span)
    return spans


def _without(word: str, start: int, spans: list[tuple[int, int, str]]) -> str:
    """A piece that begins at `start` of the text, without its part of what stands in `spans`."""
    for first, end, shown in reversed(spans):
        if first < start + len(word) and end > start:
            begins = first >= start
            word = word[: max(first - start, 0)] + shown * begins + word[max(end - start, 0) :]
    return word


def holds_key(body: bytes, keys: Iterable[str]) -> bool:
    """Whether a body may hold a key: a quick look that spares most bodies the thorough one."""
    lowered = body.lower()
    if any(sign in lowered for sign in SIGNS) or any(key.encode("utf-8", "replace") in body for key in keys):
        return True
    return b"\\u00" in body or b"%" in body or b"\\/" in body


def _is_fingerprint(text: str) -> bool:
    return "***" in text and re.fullmatch(r"(?:Bearer\s+)?.{0,3}\*{3}[0-9a-f]{8}", text) is not None
