"""Where secrets stand in a body, told by the names of fields: bytes in, spans out, in slices.

A body is read as what it is. None of these readers builds values, so a body may have any size and shape:

1. JSON, and event streams of it, token by token: `"api\\u005fkey": "..."`, at any depth, also in a text that is broken
   or goes on behind a cut. Under a name that promises a secret, an object is searched too (`client_secret.value`), and
   an object that says it is a key has one as its `value` (OpenAI's `organization.admin_api_key`).
2. Forms and queries, part by part.
3. Forms in parts (multipart/form-data), by the name in each part's head.
4. Besides, in any text, by patterns: `apiKey=...`, and `\\"password\\": \\"...\\"` for JSON inside of strings.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_plus

from addons.core.secret_names import Verdict, could_be_secret, judge
from addons.core.secrets import TooMany
from addons.core.slices import Sliced

Field = tuple[int, int, bool]
"""Where the value of a secret field begins and ends, and whether it may be echoed elsewhere. A signature is a secret,
but many and long ones stand in a conversation with a model that thinks, and nobody echoes them."""

MOST = 20_000
"""Secrets in one body; one that seems to hold more is not shown at all."""
_DEEPEST = 1000
_MOST_TOKENS = 100_000
"""Tokens that any JSON text may have, and one more for each three bytes: what has more is made to be slow to read, and
is not shown."""
_TOKENS = 1 << 11  # tokens in a slice: 2 ms
_RUN = 1 << 15  # bytes of a string, or of blanks, that are passed over in a slice
_FAR = 1 << 18  # bytes that `bytes.find` goes through in a slice
_LONGEST_NAME = 256

# Numbers one after the other, as embeddings and token ids are, make one token.
_NUMBERS = rb"(?:[-+.0-9eE]{1,32}+|null|true|false)(?:\s{0,64}+,\s{0,64}+(?:[-+.0-9eE]{1,32}+|null|true|false))++"
_TOKEN = re.compile(_NUMBERS + rb'|["{}\[\],:]|[^\s"{}\[\],:]++')
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# In an event stream a line may end in the middle of broken JSON, and `data:` stands before the next.
_LINE_TOKEN = re.compile(rb"[\r\n]++(?:(?:data|event|id|retry)?+:)?+|" + _NUMBERS + rb'|["{}\[\],:]|[^\s"{}\[\],:]++')
_LINE_INSIDE = re.compile(rb'(?:[^"\\\r\n]++|\\[^\r\n])*+')
_STREAM = re.compile(rb"\s{0,64}+(?:data|event|id|retry|):")
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,200})', re.IGNORECASE)
_PART_NAME = re.compile(rb'[;\s]name="?([^";\r\n]{1,256})', re.IGNORECASE)
_FORM = re.compile(rb"[\w.%+\[\]-]{1,128}=")
_FIELDS = re.compile(rb'"\s{0,8}+:')
_PLAIN_WORDS = (b"true", b"false", b"null")


# Some of this stands in every name that promises a secret: most names need no thorough look.
_STEM = re.compile(rb"key|token|secret|pass|pwd|cookie|auth|credential|sig|jwt|bearer", re.IGNORECASE)


def is_stream(body: bytes) -> bool:
    """Whether a body looks like an event stream."""
    return _STREAM.match(body) is not None


def finding(body: bytes, content_type: str = "") -> Sliced[list[Field]]:
    """The spans of all values of secret fields in a body, in order, with what their quotation marks enclose.

    Spans may overlap. Raises TooMany.
    """
    spans: list[Field] = []
    kind = content_type.partition(";")[0].strip().lower()
    start = body[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"[", b'"') or kind.endswith("json"):
        yield from _in_json(body, spans, _TOKEN, _INSIDE)
        if kind == "application/x-www-form-urlencoded":  # curl names JSON so; and a form may begin with `[a]=`
            yield from _in_form(body, spans)
    elif kind == "text/event-stream" or _STREAM.match(body):
        yield from _in_json(body, spans, _LINE_TOKEN, _LINE_INSIDE)
    elif start.startswith(b"--") or kind.startswith("multipart/"):
        yield from _in_parts(body, content_type, spans)
    elif kind == "application/x-www-form-urlencoded" or _FORM.match(start):
        yield from _in_form(body, spans)
    elif _FIELDS.search(body, 0, _RUN):  # JSON from its middle on
        yield from _in_json(body, spans, _TOKEN, _INSIDE)
    yield from _by_patterns(body, spans)
    spans.sort()
    return spans


# JSON


@dataclass(slots=True)
class _Level:
    """An object or an array that is open."""

    secret: bool = False
    """It stands under a name that promises a secret."""
    is_key: bool = False
    """Its `object` says that it is one."""
    value: tuple[int, int] | None = None
    """Its field `value`."""


class _Walk:
    """Hears the tokens of a JSON text, and notes which strings are secrets."""

    def __init__(self, body: bytes, spans: list[Field]) -> None:
        self.body = body
        self.spans = spans
        self.levels = [_Level()]
        self.string: tuple[int, int] | None = None
        self.name = ""
        self.verdict = Verdict.NO

    def on_string(self, start: int, end: int) -> None:
        """A string, without its quotation marks."""
        level = self.levels[-1]
        if self.verdict is not Verdict.NO or level.secret:
            self._judge(start, end)
        elif self.name == "value":
            level.value = (start, end)
        elif self.name == "object" and end - start <= _LONGEST_NAME:
            level.is_key = judge(self.body[start:end].decode("utf-8", "replace")) is Verdict.YES
        self.string = (start, end)

    def on_word(self, start: int, end: int) -> None:
        """A number, a constant, or what is no JSON."""
        if self.verdict is Verdict.YES and self.body[start : min(end, start + 8)] not in _PLAIN_WORDS:
            self._note(start, end)

    def _judge(self, start: int, end: int) -> None:
        if (self.verdict is Verdict.YES and end > start) or could_be_secret(self.body[start : min(end, start + 4096)]):
            self._note(start, end)

    def _note(self, start: int, end: int) -> None:
        self.spans.append((start, end, not self.name.lower().endswith(("signature", "sig"))))
        if len(self.spans) > MOST:
            raise TooMany

    def on_mark(self, mark: bytes) -> None:
        """Punctuation."""
        if mark == b":":
            self._named()
            return
        if mark in b"{[":
            inherited = self.levels[-1].secret or self.verdict is Verdict.YES
            if len(self.levels) < _DEEPEST:
                self.levels.append(_Level(inherited))
            elif inherited:
                self.levels[-1].secret = True
        elif mark in b"}]":
            self._closed()
        self.name, self.verdict = "", Verdict.NO

    def _named(self) -> None:
        if self.string is None:
            return
        start, end = self.string
        self.string = None
        raw = self.body[start:end] if end - start <= _LONGEST_NAME else b""
        self.name = _name(raw)
        self.verdict = judge(self.name) if b"\\" in raw or _STEM.search(raw) else Verdict.NO

    def _closed(self) -> None:
        level = self.levels[-1]
        if level.is_key and level.value is not None:
            self._note(*level.value)
        if len(self.levels) > 1:
            self.levels.pop()

    def reset(self) -> None:
        """An event has ended, whole or not."""
        self.levels = [_Level()]
        self.string, self.name, self.verdict = None, "", Verdict.NO


def _name(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    if "\\" in text:
        try:
            return str(json.loads(f'"{text}"', strict=False))
        except ValueError:
            return text
    return text


def _in_json(body: bytes, spans: list[Field], tokens: re.Pattern[bytes], inside: re.Pattern[bytes]) -> Sliced[None]:
    walk = _Walk(body, spans)
    at = seen = 0
    most = _MOST_TOKENS + len(body) // 3
    if tokens is _LINE_TOKEN and (field := _STREAM.match(body)) is not None:
        at = field.end()
    while at < len(body):
        seen += 1
        if seen % _TOKENS == 0:
            if seen > most:
                raise TooMany
            yield
        token = tokens.search(body, at, at + _RUN)
        if token is None:
            at += _RUN
            yield
            continue
        start, at = token.span()
        first = body[start : start + 1]
        if first == b'"':
            end = at
            while (run := inside.match(body, end, end + _RUN)) is not None and run.end() > end:
                end = run.end()
                if body[end : end + 1] == b'"':
                    break
                yield
            walk.on_string(at, end)
            at = end + (body[end : end + 1] == b'"')
        elif first == b",":  # the commonest of all
            walk.name, walk.verdict = "", Verdict.NO
        elif first in b"{}[]:":
            walk.on_mark(first)
        elif first in b"\r\n":
            if body.count(b"\n", start, at) > 1 or body.count(b"\r", start, at) > 1:
                walk.reset()
        else:
            walk.on_word(start, at)


# Forms


def _in_form(body: bytes, spans: list[Field]) -> Sliced[None]:
    at = seen = 0
    while at < len(body):
        end = yield from _next(body, b"&", at)
        name, mark, value = body[at : min(end, at + _LONGEST_NAME)].partition(b"=")
        if mark and is_secret_part(name, value or body[at + len(name) + 1 : min(end, at + 4096)]):
            spans.append((at + len(name) + 1, end, True))
        if len(spans) > MOST:
            raise TooMany
        at = end + 1
        seen += 1
        if seen % _TOKENS == 0:
            yield


def is_secret_part(name: bytes, value: bytes) -> bool:
    """Whether `name=value` of a form or a query is a secret."""
    if not value:
        return False
    if b"%" not in name and _STEM.search(name) is None:
        return False
    verdict = judge(unquote_plus(name[:_LONGEST_NAME].decode("latin-1")))
    return verdict is Verdict.YES or (verdict is Verdict.MAYBE and could_be_secret(value))


def _next(body: bytes, mark: bytes, at: int) -> Sliced[int]:
    """Where `mark` stands next, or the end."""
    while at < len(body):
        found = body.find(mark, at, at + _FAR + len(mark) - 1)
        if found >= 0:
            return found
        at += _FAR
        yield
    return len(body)


def _in_parts(body: bytes, content_type: str, spans: list[Field]) -> Sliced[None]:
    named = _BOUNDARY.search(content_type)
    line_end = body.find(b"\n", 0, 300)
    mark = b"--" + named[1].encode("latin-1", "replace") if named else body[:line_end].strip() if line_end > 0 else b""
    if len(mark) < 3:
        return
    at = yield from _next(body, mark, 0)
    seen = 0
    while at < len(body):
        start = at + len(mark)
        at = yield from _next(body, mark, start)
        head, gap, _ = body[start : min(at, start + 8192)].partition(b"\r\n\r\n")
        if not gap:
            head, gap, _ = body[start : min(at, start + 8192)].partition(b"\n\n")
        name = _PART_NAME.search(head)
        first = start + len(head) + len(gap)
        if gap and name is not None and is_secret_part(name[1], body[first : min(at, first + 4096)].strip()):
            spans.append((first, first + len(body[first:at].rstrip(b"\r\n")), True))
        elif gap and body[first : first + 64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            own: list[Field] = []
            yield from _in_json(body[first:at], own, _TOKEN, _INSIDE)
            spans += [(first + begun, first + ended, echoed) for begun, ended, echoed in own]
        if len(spans) > MOST:
            raise TooMany
        seen += 1
        if seen % 256 == 0:
            yield


# Patterns, for what is no such thing, is broken, or stands in a string. Each is possessive and bounded, and begins at a
# word or at the first backslash of a run, so no byte is read more often than a few times.

_NAMED = re.compile(
    rb"(?:api[-_ ]?key|access[-_]?token|client[-_]?secret)[0-9]{0,4}+\\{0,8}+[\"']?"
    rb"\s{0,256}+[:=]\s{0,256}+\\{0,8}+[\"']?\s{0,256}+"
    rb"((?:\\{1,8}+u00[0-9A-Fa-f]{2}|\\{1,8}+/|[^\s\"'\\,;&<>{}\[\]()])++)",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    rb"(?<!\\)(?:\\{1,8}+[\"']|')([A-Za-z0-9_.-]{1,64})\\{0,8}+[\"']\s{0,64}+:\s{0,64}+\\{0,8}+[\"']([^\"'\\]{1,4096}+)"
)
# A part of a form whose boundary is not known.
_PART = re.compile(
    rb"\bname=\"?([A-Za-z0-9_.-]{1,64}+)\"?[^\r\n]{0,100}+\r?\n(?:[^\r\n]{1,100}+\r?\n){0,4}+\r?\n([^\r\n]{1,4096}+)"
)
_BEYOND = 8192
_STEP = 1 << 16


def _by_patterns(body: bytes, spans: list[Field]) -> Sliced[None]:
    for pattern, judged in ((_NAMED, _is_named), (_QUOTED, _is_quoted), (_PART, _is_quoted)):
        yield
        yield from _by_pattern(body, pattern, judged, spans)


def _by_pattern(
    body: bytes,
    pattern: re.Pattern[bytes],
    judged: Callable[[re.Match[bytes]], tuple[int, int] | None],
    spans: list[Field],
) -> Sliced[None]:
    at = 0
    for start in range(0, len(body), _STEP):
        end = start + _STEP
        at = max(at, start)
        if at >= end or not _may_match(pattern, body[at : end + _BEYOND]):
            yield
            continue
        while (found := pattern.search(body, at, end + _BEYOND)) is not None and found.start() < end:
            at = found.end()
            if (span := judged(found)) is not None:
                spans.append((*span, True))
            if len(spans) > MOST:
                raise TooMany
        yield


def _may_match(pattern: re.Pattern[bytes], piece: bytes) -> bool:
    if pattern is _QUOTED:
        return b'\\"' in piece or b"'" in piece
    if pattern is _PART:
        return b"name=" in piece
    lowered = piece.lower()
    return b"key" in lowered or b"token" in lowered or b"secret" in lowered


def _is_named(found: re.Match[bytes]) -> tuple[int, int] | None:
    """Prose and code speak of keys, too: `api_key: required`, `api_key=os.getenv("X")`."""
    value = found[1]
    telling = len(value) >= 16 or (len(value) >= 6 and re.search(rb"[0-9]", value) is not None)
    return found.span(1) if telling else None


def _is_quoted(found: re.Match[bytes]) -> tuple[int, int] | None:
    verdict = judge(found[1].decode("ascii"))
    sure = verdict is Verdict.YES or (verdict is Verdict.MAYBE and could_be_secret(found[2]))
    return found.span(2) if sure else None
