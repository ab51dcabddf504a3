"""Secrets in text that is nothing else, or that stands in a string: told by what is said before them.

    api_key=..., DB_PASSWORD: "...", {password: '...'}      a name that promises a secret, and a value
    https://host/mcp?token=...&X-Amz-Signature=...          a part of an address
    <api_key>...</api_key>, apiKey%3D...                    marked up, or encoded
    \\"password\\": \\"...\\"                                   JSON in a string, where it is broken
    https://user:password@host

Prose and code speak of secrets, too (`password: required`, `api_key=settings.api_key`), so a value must look like one,
unless it stands in an address. Each pattern is possessive and bounded, and begins at a word that says it or at a mark,
so no byte is read more often than a few times.
"""

import re
from collections.abc import Callable

from addons.core.secret_names import STEM, STEMS, Verdict, could_be_secret, judge
from addons.core.secrets import TooManySecrets
from addons.core.slices import Sliced, at_once

Place = tuple[int, int]
"""Where a value begins and ends."""
Judge = Callable[[re.Match[bytes]], Place | None]

_BEYOND = 8192
_STEP = 1 << 16
_FOUND = 1000  # matches in a slice
_NEAR = 64  # bytes of a name on either side of what is a secret in it
# With 0xEF begin what stands for punctuation in Chinese, such as its colon.
_IN_NAMES = bytes({*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-", *range(0x80, 0x100)} - {0xEF})
# 密码, 密碼, 密钥, 密鑰, 秘钥, 口令 and 令牌 with escapes, as many libraries write JSON.
_U = rb"\\{1,8}+u"
_CHINESE = ("5bc6 7801", "5bc6 78bc", "5bc6 94a5", "5bc6 9470", "79d8 94a5", "53e3 4ee4", "4ee4 724c")
_CHINESE_STEM = b"|".join(b"".join(_U + code.encode() for code in word.split()) for word in _CHINESE)
_SCHEME = rb"(?:(?:bearer|basic|token|api-?key|digest)\s{1,16}+)?+"

# Searched in lower case: without regard to case it would take five times as long.
_ASSIGNED = re.compile(
    rb"(?:" + STEM.pattern + rb"|" + _CHINESE_STEM + rb")"
    rb"([\w.\x80-\xee\xf0-\xff-]{0,64}+)(?:\\{0,8}+[\"'`])?+\]?+\s{0,64}+"
    rb"(?:(=>|:=|[:=]|\xef\xbc[\x9a\x9d])|(>)|\\{1,8}+u(?:003d|ff1[ad])|(%(?:25){0,3}+3d))"
)
_SIGNS = (*STEMS, b"\\u5bc6", b"\\u79d8", b"\\u53e3", b"\\u4ee4")
_QUOTED = rb"[^\"'`\\\s]"
_BARE = rb"(?:\\{1,8}+(?:u00[0-9A-Fa-f]{2}|/)|[^\s\"'`\\,;&<>{}\[\]()])"
_ENCODED = rb"(?:%(?!(?:25){0,3}(?:26|23|3[Bb]))|[^%\s\"'\\,;&<>{}\[\]()])"
# A value is looked at as far as 4096 bytes; one that is a secret goes on to its end.
_QUOTED_VALUE = re.compile(rb"\s{0,64}+\\{0,8}+[\"'`]" + _SCHEME + rb"(" + _QUOTED + rb"{1,4096}+)", re.IGNORECASE)
_BARE_VALUE = re.compile(rb"\s{0,256}+" + _SCHEME + rb"(" + _BARE + rb"{1,4096}+)", re.IGNORECASE)
_ENCODED_VALUE = re.compile(rb"(" + _ENCODED + rb"{1,4096}+)")
_MARKED_UP = re.compile(rb"([^<>]{1,4096}+)</")
_REST = {
    _QUOTED_VALUE: re.compile(_QUOTED + rb"*+"),
    _BARE_VALUE: re.compile(_BARE + rb"*+"),
    _ENCODED_VALUE: re.compile(_ENCODED + rb"*+"),
}
_QUOTED_NAME = re.compile(
    rb"(?<!\\)(?:\\{1,8}+[\"']|')([A-Za-z0-9_.-]{1,64})\\{0,8}+[\"']\s{0,64}+:\s{0,64}+\\{0,8}+[\"']([^\"'\\]{1,4096}+)"
)
# A part of a form whose boundary is not known.
_PART = re.compile(
    rb"\bname=\"?([A-Za-z0-9_.-]{1,64}+)\"?[^\r\n]{0,100}+\r?\n(?:[^\r\n]{1,100}+\r?\n){0,4}+\r?\n([^\r\n]{1,4096}+)"
)
_USER = re.compile(rb"://[^\s/@:\"'<>\\]{0,256}+:([^\s/@\"'<>\\]{1,256}+)@")

_TOKEN_USER = re.compile(rb"://([^\s/@:\"'<>\\]{16,256}+)@")

_DIGIT = re.compile(rb"[0-9]")
_WORDS = re.compile(rb"(?:[A-Z]?[a-z]{3,}+|[A-Z]{2,}+|[-_./:@+*#~!?]++)++")
_CODE = re.compile(rb"[A-Za-z_]\w{0,31}+(?:\.[A-Za-z_]\w{0,31}+)++")
_NO_VALUES = frozenset(
    b"string str text number integer int boolean bool object array null none nil undefined true false required "
    b"optional any unknown password secret token hidden redacted masked bearer basic".split()
)


def finding(body: bytes, most: int, *, json: bool) -> Sliced[list[Place]]:
    """The places of secrets in a body of any kind, in slices; with `json` those are left out that stand under a name in
    quotation marks of JSON's, which has been read as such. Raises TooManySecrets over `most`."""
    places: list[Place] = []
    yield from _assignments(body, places, most, json=json)
    for pattern, signs, judged in _PATTERNS:
        yield
        yield from _by_pattern(body, pattern, signs, judged, places, most)
    return places


def _assignments(body: bytes, places: list[Place], most: int, *, json: bool) -> Sliced[None]:
    at = seen = 0
    for start in range(0, len(body), _STEP):
        at = max(at, start)
        piece = body[at : start + _STEP + _BEYOND].lower() if at < start + _STEP else b""
        if not any(stem in piece for stem in _SIGNS):
            yield
            continue
        base, last = at, start + _STEP - at
        at = 0
        while (found := _ASSIGNED.search(piece, at)) is not None and found.start() < last:
            at = found.end()
            if (place := _assigned(body, base, found, json=json)) is not None:
                places.append(place)
                at = max(at, place[1] - base)
            if len(places) > most:
                raise TooManySecrets
            seen += 1
            if seen % _FOUND == 0:
                yield
        at += base
        yield


def in_line(text: bytes) -> list[Place]:
    """The places in a short text, such as a header's value."""
    if STEM.search(text) is None and b"@" not in text:
        return []
    return at_once(finding(text, len(text), json=False))


def _by_pattern(
    body: bytes, pattern: re.Pattern[bytes], signs: tuple[bytes, ...], judged: Judge, places: list[Place], most: int
) -> Sliced[None]:
    at = seen = 0
    for start in range(0, len(body), _STEP):
        end = start + _STEP
        at = max(at, start)
        if at >= end or not any(sign in body[at : end + _BEYOND] for sign in signs):
            yield
            continue
        while (found := pattern.search(body, at, end + _BEYOND)) is not None and found.start() < end:
            place = judged(found)
            at = found.end()
            if place is not None:
                places.append(place)
                at = max(at, place[1])
            if len(places) > most:
                raise TooManySecrets
            seen += 1
            if seen % _FOUND == 0:
                yield
        yield


def _assigned(body: bytes, base: int, found: re.Match[bytes], *, json: bool) -> Place | None:
    """What is said behind a name and a mark, where it is a secret. `found` counts from `base`."""
    start, last, end = (base + each for each in (found.start(), found.end(1), found.end()))
    before = body[max(0, start - _NEAR) : start]
    first = start - (len(before) - len(before.rstrip(_IN_NAMES)))
    leads = body[first - 1 : first]
    if json and leads == b'"' and body[last : last + 1] == b'"':
        return None
    escaped = body.startswith(b"\\", start)
    verdict = Verdict.YES if escaped else judge(body[first:last].decode("utf-8", "replace"))
    if verdict is Verdict.NO:
        return None
    if found[3]:
        return _marked_up(body, end, verdict) if leads in (b"<", b":") else None
    if found[4]:
        return _valued(_ENCODED_VALUE, body, end, verdict, _is_telling)
    if _QUOTED_VALUE.match(body, end) is not None:
        return _valued(_QUOTED_VALUE, body, end, verdict, _is_quoted)
    in_address = leads in (b"?", b"&", b"#", b";") and found[2] == b"="
    return _valued(_BARE_VALUE, body, end, verdict, _is_given if in_address else _is_telling)


def _valued(
    pattern: re.Pattern[bytes], body: bytes, at: int, verdict: Verdict, judged: Callable[[bytes], bool]
) -> Place | None:
    found = pattern.match(body, at)
    if found is None:
        return None
    value = found[1]
    if value.endswith(b"...") or body.startswith(b"(", found.end()):
        return None  # left out, or called
    if verdict is Verdict.MAYBE:
        sure = could_be_secret(value) and _is_telling(value)
    else:
        sure = not value.startswith((b"$", b"***")) and judged(value)
    if not sure:
        return None
    rest = _REST[pattern].match(body, found.end())
    return found.start(1), found.end() if rest is None else rest.end()


def _is_given(_value: bytes) -> bool:
    return True


def _is_quoted(value: bytes) -> bool:
    stands_for = value[:1] in (b"$", b"<", b"{", b"%") or value.lower() in _NO_VALUES
    is_prose = len(value) >= 12 and not _is_telling(value)  # `password: "your-password-here"`
    return len(value) >= 4 and not stands_for and not is_prose


def _marked_up(body: bytes, at: int, verdict: Verdict) -> Place | None:
    value = _MARKED_UP.match(body, at)
    if value is None or value[1] == b"..." or (verdict is Verdict.MAYBE and not could_be_secret(value[1])):
        return None
    return value.span(1)


def _is_telling(value: bytes) -> bool:
    """Whether a value looks like a secret, and not like a word, or code that has one elsewhere."""
    if _DIGIT.search(value) is not None:
        return len(value) >= 6 and _CODE.fullmatch(value) is None
    return len(value) >= 16 and _WORDS.fullmatch(value) is None and _CODE.fullmatch(value) is None


def _named(found: re.Match[bytes]) -> Place | None:
    verdict = judge(found[1].decode("ascii"))
    sure = verdict is Verdict.YES or (verdict is Verdict.MAYBE and could_be_secret(found[2]))
    return found.span(2) if sure else None


def _of_token(found: re.Match[bytes]) -> Place | None:
    return found.span(1) if could_be_secret(found[1]) else None


def _of_user(found: re.Match[bytes]) -> Place | None:
    return found.span(1)


_PATTERNS: tuple[tuple[re.Pattern[bytes], tuple[bytes, ...], Judge], ...] = (
    (_QUOTED_NAME, (b'\\"', b"'"), _named),
    (_PART, (b"name=",), _named),
    (_USER, (b"://",), _of_user),
    (_TOKEN_USER, (b"://",), _of_token),
)
