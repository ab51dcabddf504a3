"""Where secrets stand in a body, told by the names of fields: bytes in, spans out, in slices.

A body is read as what it is. None of these readers builds values, so a body may have any size and shape:

1. JSON, and event streams of it, token by token: `"api\\u005fkey": "..."`, at any depth, also in a text that is broken
   or goes on behind a cut. Under a name that promises a secret, an object is searched too (`client_secret.value`), and
   an object that says it is a key has one as its `value` (OpenAI's `organization.admin_api_key`).
2. Forms and queries, part by part.
3. Forms in parts (multipart/form-data), by the name in each part's head.
4. Besides, in any text, what `secret_text` finds, and the ids of accounts that `account_ids` knows by their looks.

JSON in a string of JSON, such as the arguments of a tool call, is read like any other.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable

from addons.core import account_ids, secret_text
from addons.core.secret_heads import may_have_parts, secret_parts
from addons.core.secret_names import STEM, Verdict, could_be_secret, is_about, is_secret_part, judge
from addons.core.secrets import TooManySecrets
from addons.core.slices import Sliced

Field = tuple[int, int, bool]
"""Where the value of a secret field begins and ends, and whether it may be echoed elsewhere. A signature is a secret,
but many and long ones stand in a conversation with a model that thinks, and nobody echoes them."""

MOST = 20_000
"""Secrets in one body; one that seems to hold more is not shown at all."""
_MOST_ECHOED = 64
"""Secrets told by text that are looked for elsewhere, too: of many, most will be examples."""
_DEEPEST = 1000
_MOST_TOKENS = 100_000
"""Tokens that any JSON text may have, and one more for each three bytes: what has more is made to be slow to read, and
is not shown."""
_TOKENS = 1 << 11  # tokens in a slice: 2 ms
_RUN = 1 << 15  # bytes of a string, or of blanks, that are passed over in a slice
_FAR = 1 << 18  # bytes that `bytes.find` goes through in a slice
_LONGEST_NAME = 256
_LONGEST_ADDRESS = 1 << 13

# Numbers one after the other, as embeddings and token ids are, make one token.
_NUMBERS = rb"(?:[-+.0-9eE]{1,32}+|null|true|false)(?:\s{0,64}+,\s{0,64}+(?:[-+.0-9eE]{1,32}+|null|true|false))++"
_TOKEN = re.compile(_NUMBERS + rb'|["{}\[\],:]|[^\s"{}\[\],:]++')
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# In an event stream a line may end in the middle of broken JSON, and `data:` stands before the next.
_LINE_TOKEN = re.compile(rb"[\r\n]++(?:(?:data|event|id|retry)?+:)?+|" + _NUMBERS + rb'|["{}\[\],:]|[^\s"{}\[\],:]++')
_LINE_INSIDE = re.compile(rb'(?:[^"\\\r\n]++|\\[^\r\n])*+')
_STREAM = re.compile(rb"\s{0,64}+(?:data|event|id|retry|):")
_BOUNDARY = re.compile(r'boundary="?([^";,]{1,200})', re.IGNORECASE)
_PART_NAME = re.compile(rb"[;\s]name(?:\*=[^';\r\n]{1,32}+'[^';\r\n]{0,32}+'|=\"?)([^\";\r\n]{1,256})", re.IGNORECASE)
_FORM = re.compile(rb"[\w.%+\[\]-]{1,128}=")
_FIELDS = re.compile(rb'"\s{0,8}+:')
_OPENING = (b"{", b"[")
_DEEPEST_TEXT = 6
_LONGEST_TEXT = 1 << 18
"""Bytes of a string that is read as JSON; a longer one is searched by patterns alone."""
_NEAR = 1 << 14
_STRING_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|[^u])", re.DOTALL)
_FORM_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_JSON_VALUE = re.compile(rb"(?:[+\s]|%20|%0[9AaDd]){0,16}+(?:[{\[]|%(?:7[Bb]|5[Bb]))")
_ESCAPES = {b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t", b"\\b": b"\b", b"\\f": b"\f"}
_PLAIN_WORDS = (b"true", b"false", b"null")


def is_stream(body: bytes) -> bool:
    """Whether a body looks like an event stream."""
    return _STREAM.match(body) is not None


def finding(body: bytes, content_type: str = "") -> Sliced[list[Field]]:
    """The spans of all values of secret fields in a body, in order, with what their quotation marks enclose.

    Spans may overlap. Raises TooManySecrets.
    """
    spans: list[Field] = []
    kind = content_type.partition(";")[0].strip().lower()
    start = body[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    walked = True
    if start[:1] in (b"{", b"[", b'"') or kind.endswith("json"):
        yield from _in_json(body, spans, _TOKEN, _INSIDE)
        if kind == "application/x-www-form-urlencoded":  # curl names JSON so; and a form may begin with `[a]=`
            yield from _in_form(body, spans)
    elif kind == "text/event-stream" or _STREAM.match(body):
        yield from _in_json(body, spans, _LINE_TOKEN, _LINE_INSIDE)
    elif start.startswith(b"--") or kind.startswith("multipart/"):
        walked = False
        yield from _in_parts(body, content_type, spans)
    elif kind == "application/x-www-form-urlencoded" or _FORM.match(start):
        walked = False
        yield from _in_form(body, spans)
    elif _FIELDS.search(body, 0, _RUN):  # JSON from its middle on
        yield from _in_json(body, spans, _TOKEN, _INSIDE)
    else:
        walked = False
    seen = {start for start, _, _ in spans}
    text = yield from secret_text.finding(body, MOST, json=walked)
    spans += [(start, end, number < _MOST_ECHOED) for number, (start, end) in enumerate(text) if start not in seen]
    spans += yield from account_ids.finding(body, MOST)
    if len(spans) > MOST:
        raise TooManySecrets
    spans.sort()
    return spans


# JSON


class _Level:
    """An object or an array that is open. Defaults stand in the class: there are many, and few differ from them."""

    hides: Verdict = Verdict.NO
    """What a name around it promises of all that stands in it."""
    array: bool = False
    pairs: bool = False
    """An array in which names and values may stand in turns."""
    lists_schemas: bool = False
    """Each field is a schema and describes a field of that name."""
    schema: bool = False
    """A JSON schema, or a part of one."""
    label: Verdict = Verdict.NO
    """What it says it is: in its `object`, `name` or `key`; in an array, the string before."""
    flag: Verdict = Verdict.NO
    """In an array: the string before, where that is an option of a command."""
    odd: bool = False
    """In an array: a second string comes, a fourth, and so on."""
    value: tuple[int, int] | None = None
    """Its field `value`."""


_NO = Verdict.NO
_LABELS = frozenset(
    "name key header headername header_name field param parameter variable k object type kind".split()  # noqa: SIM905
)
_LABELLED = frozenset(
    "value val v values string_value stringvalue header_value headervalue data".split()  # noqa: SIM905
)
"""`{"name": "Authorization", "value": "..."}`: as a HAR has headers, Postman variables, and models arguments."""
_IN_PAIRS = frozenset(name for low in _LABELS | _LABELLED for name in (low, low.capitalize(), low.upper()))
# Under a name that promises a secret these say something about it. A schema says what the secret is like.
_DESCRIBING = frozenset(
    re.findall(
        r"\S+",
        "type kind object id name title description format status state created created_at createdat updated "
        "updated_at updatedat expires expires_at expiresat expiry last_used_at issued_at domain path samesite "
        "method scheme scope scopes role label url uri endpoint provider region owner model mode in source "
        "pattern required properties items anyof oneof allof not additionalproperties $ref $schema $id $comment "
        "$defs definitions default example examples const enum nullable readonly writeonly deprecated",
    )
)
_LIST_SCHEMAS = frozenset(("properties", "$defs", "definitions", "patternproperties"))
_GIVEN = frozenset(("default", "example", "examples", "const", "enum"))
"""Where a schema may hold a value such as it describes."""
_TYPES = frozenset((b"string", b"number", b"integer", b"boolean", b"object", b"array", b"null"))
_KINDS = frozenset((b"none", b"required", b"optional", b"bearer", b"basic", b"digest", b"oauth", b"oauth2", b"api_key"))
_SCHEMED = re.compile(rb"(?:bearer|basic|token|api-?key|digest)\s{1,64}+\S", re.IGNORECASE)
_HARMLESS_NUMBER = re.compile(rb"-?[0-9]{1,3}|-?[0-9]{1,20}[.eE][0-9.eE+-]{1,30}|-[0-9]{1,20}")
_TELLING_NUMBER = re.compile(rb"(?<![0-9.eE+-])[0-9]{4,32}+(?![0-9.eE])")
"""In a row of numbers, which is hidden whole."""


class _Walk:
    """Hears the tokens of a JSON text, and notes which strings are secrets."""

    def __init__(self, body: bytes, spans: list[Field], *, outermost: bool = True) -> None:
        self.body = body
        self.spans = spans
        self.level = _Level()
        self.levels = [self.level]
        self.string: tuple[int, int] | None = None
        self.name: str | None = None
        """Of the field whose value comes; None in an array, and before a name."""
        self.verdict = Verdict.NO
        self.account = False
        """Whether the field's name says that an account's id comes."""
        self.echoes = account_ids.MOST_ECHOED if outermost else 0
        """Of accounts' ids: how many more are looked for elsewhere."""

    def on_string(self, start: int, end: int) -> None:
        """A string, without its quotation marks."""
        self.string = (start, end)
        level, name = self.level, self.name
        if name is None:
            if not level.array:
                return  # it is a name, or nothing
            if level.pairs:
                self._after_label(start, end)
        elif name in _IN_PAIRS:
            self._in_pair(name.lower(), start, end)
        if self.account:
            self._note_accounts(start, end)
        if self.verdict is not _NO:
            self._judge(start, end)
        if level.hides is not _NO and self.verdict is not Verdict.YES:
            self._judge_within(start, end)

    def on_word(self, start: int, end: int) -> None:
        """A number, numbers in a row, a constant, or what is no JSON."""
        sure = self.verdict is Verdict.YES or (self.level.hides is Verdict.YES and self.level.array)
        if not sure:
            return
        if _TELLING_NUMBER.search(self.body, start, end) is None and self.body.find(b",", start, end) >= 0:
            return
        word = self.body[start : min(end, start + 64)]
        if word not in _PLAIN_WORDS and _HARMLESS_NUMBER.fullmatch(word) is None:
            self._note(start, end)

    def _judge(self, start: int, end: int) -> None:
        """A string under a name of its own."""
        if self.verdict is Verdict.MAYBE:
            if self._could_be(start, end):
                self._note(start, end)
        elif end > start and not self._tells_only(start, end):
            self._note(start, end)

    def _tells_only(self, start: int, end: int) -> bool:
        """Whether it is no secret but says what kind of one there is: `"auth": "none"`."""
        if end - start > 8:
            return False
        word = self.body[start:end].lower()
        if self.level.lists_schemas:
            return word in _TYPES
        return word in _KINDS and (self.name or "").lower().endswith(("auth", "authorization"))

    def _judge_within(self, start: int, end: int) -> None:
        """A string somewhere under a name that promises a secret. It is looked for elsewhere only where it could be
        one: much may stand under such a name."""
        level, name = self.level, (self.name or "").lower()
        could_be = self._could_be(start, end)
        if level.hides is Verdict.YES and end > start and not describes(name):
            self._note(start, end, echoed=could_be or level.array)
        elif could_be and (name in _GIVEN or not (level.schema or describes(name))):
            self._note(start, end)

    def _in_pair(self, name: str, start: int, end: int) -> None:
        level = self.level
        if name in _LABELS:
            level.label = max(level.label, self._labelled(start, end), key=_strength)
        elif name in _LABELLED and self.verdict is Verdict.NO and level.value is None:
            level.value = (start, end)

    def _after_label(self, start: int, end: int) -> None:
        """`["Authorization", "Bearer ..."]`: names and values in turns, as some libraries have headers. A list of names
        looks the same, so a value must look like one, too."""
        level = self.level
        if level.flag is not _NO:  # ["--api-key", "..."]
            if level.hides is not Verdict.YES and (level.flag is Verdict.YES or self._could_be(start, end)):
                self._note(start, end)
            level.flag = _NO
        elif self.body.startswith(b"--", start):
            level.flag = self._labelled(start, end)
        elif not level.odd:
            level.label = self._labelled(start, end)
        elif level.label is Verdict.YES and level.hides is not Verdict.YES:
            value = self.body[start : min(end, start + 4096)].strip()
            if could_be_secret(value) or _SCHEMED.match(value) is not None:
                self._note(start, end)
        level.odd = not level.odd

    def _could_be(self, start: int, end: int) -> bool:
        return could_be_secret(self.body[start : min(end, start + 4096)])

    def _labelled(self, start: int, end: int) -> Verdict:
        if end - start > _LONGEST_NAME:
            return Verdict.NO
        raw = self.body[start:end]
        if self.level.array and b" " in raw:
            return Verdict.NO  # a text, and no name
        return judge(_name(raw)) if b"\\" in raw or STEM.search(raw) else Verdict.NO

    def _note(self, start: int, end: int, *, echoed: bool = True) -> None:
        signature = (self.name or "").lower().endswith(("signature", "sig"))
        self.spans.append((start, end, echoed and not signature))
        if len(self.spans) > MOST:
            raise TooManySecrets

    def _note_accounts(self, start: int, end: int) -> None:
        """The ids in a value. A list of users is no reason to look for each of them everywhere."""
        for first, last, echoed in account_ids.parts(self.body, start, end):
            self.spans.append((first, last, echoed and self.echoes > 0))
            self.echoes -= 1
        if len(self.spans) > MOST:
            raise TooManySecrets

    def on_mark(self, mark: bytes) -> None:
        """Punctuation."""
        if mark == b":":
            self._named()
            return
        if mark != b",":
            if mark in b"{[":
                self._opened(mark == b"[")
            else:
                self._closed()
        self.name, self.verdict, self.account = None, _NO, False

    def _opened(self, array: bool) -> None:
        outer, name = self.level, self.name
        low = "" if name is None or len(name) > 32 else name.lower()
        hides = outer.hides
        if self.verdict is not _NO or hides is not _NO:
            hides = self._hidden_in(low, array)
        if len(self.levels) >= _DEEPEST:
            outer.hides = max(outer.hides, hides, key=_strength)
            return
        self.level = level = _Level()
        self.levels.append(level)
        if hides is not _NO:
            level.hides = hides
        if outer.schema or outer.lists_schemas:
            level.schema = True
        if array:
            level.array, level.pairs = True, low not in _DESCRIBING
        elif low in _LIST_SCHEMAS:
            level.lists_schemas = True

    def _hidden_in(self, name: str, array: bool) -> Verdict:
        if self.verdict is not Verdict.NO:
            return self.verdict
        outer = self.level.hides
        return Verdict.MAYBE if outer is Verdict.YES and describes(name) else outer

    def _named(self) -> None:
        if self.string is None:
            return
        start, end = self.string
        self.string = None
        raw = self.body[start if end - start <= _LONGEST_NAME else end - _LONGEST_NAME : end]
        self.name = _name(raw)
        self.verdict = judge(self.name) if STEM.search(raw) or b"\\" in raw else _NO
        self.account = account_ids.names_one(self.name)
        if self.level.label is not _NO and self.name.lower() in _LABELLED:
            self.verdict = self.level.label

    def _closed(self) -> None:
        level = self.level
        if level.value is not None and level.label is not _NO and not level.array:
            self.name, self.verdict = None, level.label
            self._judge(*level.value)
        if len(self.levels) > 1:
            self.levels.pop()
            self.level = self.levels[-1]

    def reset(self) -> None:
        """An event has ended, whole or not."""
        self.level = _Level()
        self.levels = [self.level]
        self.string, self.name, self.verdict, self.account = None, None, Verdict.NO, False


def is_labelled(name: str, fields: Iterable[tuple[str, object]]) -> bool:
    """Whether `name` of an object with these fields is the value of a secret, since another field names one."""
    if name.lower() not in _LABELLED:
        return False
    said = (each for field, each in fields if isinstance(each, str) and field in _IN_PAIRS and field.lower() in _LABELS)
    return any(judge(each) is Verdict.YES for each in said)


def describes(name: str) -> bool:
    """Whether a field of this name (in lower case) under a name that promises a secret is none itself."""
    return name in _DESCRIBING or is_about(name)


def _strength(verdict: Verdict) -> int:
    return verdict.value


def _name(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    if "\\" in text:
        try:
            return str(json.loads(f'"{text}"', strict=False))
        except ValueError:
            return text
    return text


def _in_json(
    body: bytes, spans: list[Field], tokens: re.Pattern[bytes], inside: re.Pattern[bytes], depth: int = 0
) -> Sliced[None]:
    walk = _Walk(body, spans, outermost=depth == 0)
    at = seen = texts = 0
    most = _MOST_TOKENS + len(body) // 3
    if tokens is _LINE_TOKEN and (field := _STREAM.match(body)) is not None:
        at = field.end()
    while at < len(body):
        seen += 1
        if seen % _TOKENS == 0:
            if seen > most:
                raise TooManySecrets
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
            if body[at : at + 1] in _OPENING and depth < _DEEPEST_TEXT and end - at <= _LONGEST_TEXT:
                yield from _in_text(body, at, end, spans, depth)
                texts += end - at
                if texts > _NEAR:
                    texts = 0
                    yield
            at = end + (body[end : end + 1] == b'"')
        elif first == b",":  # the commonest of all
            walk.name, walk.verdict, walk.account = None, Verdict.NO, False
        elif first in b"{}[]:":
            walk.on_mark(first)
        elif first in b"\r\n":
            if body.count(b"\n", start, at) > 1 or body.count(b"\r", start, at) > 1:
                walk.reset()
        else:
            walk.on_word(start, at)


def _in_text(body: bytes, start: int, end: int, spans: list[Field], depth: int) -> Sliced[None]:
    """JSON in a string, such as the arguments of a tool call."""
    if body.find(b'\\"', start, min(end, start + _NEAR)) < 0 or not (yield from _may_name(body, start, end)):
        return
    yield from _in_escaped(body, start, end, spans, _STRING_ESCAPE, depth + 1)


def _in_encoded(body: bytes, start: int, end: int, spans: list[Field]) -> Sliced[None]:
    """JSON in a value of a form: `payload=%7B%22password%22...`."""
    if end - start <= _LONGEST_TEXT:
        yield from _in_escaped(body, start, end, spans, _FORM_ESCAPE, 1)


def _in_escaped(
    body: bytes, start: int, end: int, spans: list[Field], escape: re.Pattern[bytes], depth: int
) -> Sliced[None]:
    pieces: list[bytes] = []
    places: list[int] = []  # of each escape, in the plain text
    longer = [0]  # by how much what is written is longer, before each of them and behind the last
    last, at = start, 0
    for number, found in enumerate(escape.finditer(body, start, end)):
        meant = _meant(found)
        pieces += (body[last : found.start()], meant)
        at += found.start() - last
        places.append(at)
        longer.append(longer[-1] + len(found[0]) - len(meant))
        at += len(meant)
        last = found.end()
        if number % _TOKENS == _TOKENS - 1:
            yield
    plain = b"".join((*pieces, body[last:end]))
    within: list[Field] = []
    yield from _in_json(plain, within, _TOKEN, _INSIDE, depth)
    for first, beyond, echoed in within:
        first, beyond = (start + each + longer[bisect_left(places, each)] for each in (first, beyond))
        spans.append((first, beyond, echoed))
    if len(spans) > MOST:
        raise TooManySecrets


def _may_name(body: bytes, start: int, end: int) -> Sliced[bool]:
    """Whether something in a text may promise a secret."""
    for at in range(start, end, _NEAR):
        beyond = min(end, at + _NEAR + 16)
        if (
            STEM.search(body, at, beyond)
            or account_ids.STEM.search(body, at, beyond)
            or body.find(b"\\u", at, min(end, at + _NEAR)) >= 0
        ):
            return True
        yield
    return False


def _meant(found: re.Match[bytes]) -> bytes:
    if found[1]:
        code = int(found[1], 16)
        return bytes((code,)) if len(found[1]) == 2 else chr(code).encode("utf-8", "surrogatepass")
    return _ESCAPES.get(found[0], found[0][1:])


# Forms


def _in_form(body: bytes, spans: list[Field]) -> Sliced[None]:
    at = seen = 0
    while at < len(body):
        end = yield from _next(body, b"&", at)
        name, mark, value = body[at : min(end, at + _LONGEST_NAME)].partition(b"=")
        if mark and is_secret_part(name, value or body[at + len(name) + 1 : min(end, at + 4096)]):
            spans.append((at + len(name) + 1, end, True))
        elif mark and _JSON_VALUE.match(body, at + len(name) + 1, end):
            yield from _in_encoded(body, at + len(name) + 1, end, spans)
            seen += 32 + (end - at >> 6)
        elif b"%3" in body[at : min(end, at + _LONGEST_ADDRESS)]:
            _in_address(body, at, end, spans)
            seen += min(end - at, _LONGEST_ADDRESS) >> 2
        if len(spans) > MOST:
            raise TooManySecrets
        at = end + 1
        seen += 1
        if seen >= _TOKENS:
            seen = 0
            yield


def _in_address(body: bytes, start: int, end: int, spans: list[Field]) -> None:
    """An address in a form: `next=https%3A%2F%2F...%3Ftoken%3D...`."""
    address = body[start : min(end, start + _LONGEST_ADDRESS)].decode("latin-1")
    if may_have_parts(address):
        spans += [(start + first, start + last, True) for first, last, _ in secret_parts(address)]


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
            raise TooManySecrets
        seen += 1
        if seen % 256 == 0:
            yield
