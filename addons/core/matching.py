"""Which recorded exchange answers a request, and how a request differs from the nearest recorded one.

1. `ask` makes an `Ask` of a request: what is compared of it. Headers and keys are not; of a JSON body neither are the
   order of its keys, its whitespace and the fields named volatile; of a form neither is its boundary.
2. `RecordedAnswers` holds records by their Ask and hands them out in the order in which they were recorded.
3. `differences` says in which places two Asks differ.

Records hold no keys: `sk-***1a2b3c4d` stands where one was (core/secrets.py). So keys are cut to `sk-***` on both sides
before they are compared, what a secret field holds is not compared, and the hash of a key of another look stands for
any text.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from addons.core import bounded_json
from addons.core.secret_fields import describes, is_labelled
from addons.core.secret_names import Verdict, judge
from addons.core.secrets import scrub

_KEY_PARAMETERS = {"apikey", "api_key", "api-key", "key"}
_BILLING_DATES = {"start_date", "end_date"}
_MASK = re.compile(r"(?:\*\*\*[0-9a-f]{8})+")
_LONGEST_KEY = 300
_SIGNS = ("sk-", "sess-", "rk-", "pk-", "bearer")
_SECRET = "***"
# What a request may cost that is not in the recording: so many records are compared with it, so many of their values.
_MOST_LEAVES = 5000
_MOST_COMPARED = 300
_MOST_LEAVES_COMPARED = 50_000
_MOST_TEXT_COMPARED = 4 << 20
_MOST_LIKENED = 50
_LONGEST_LIKENED = 100
_SHOWN = 60
_TEXT_PART = 65536
# A form that is over these is compared byte by byte.
_MOST_PARTS = 1000
_LONGEST_HEADING = 1024
_PARAMETER = re.compile(r';\s*+([^\s;="]++)\s*+=\s*+(?:"((?:[^"\\]++|\\.)*+)"|([^\s;"]*+))')
_ESCAPED = re.compile(r"\\(.)")
_EXACT = 2**53
"""From here on a float may stand for several whole numbers."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is compared of a request."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    """Sorted, without keys."""
    body: Any
    """JSON's value, a form as a mapping of names to texts, or words about bytes."""
    text: str
    """All of it in one line: two requests are the same if these are."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which a request differs from a recorded one; None is not there."""

    where: str
    recorded: str | None
    asked: str | None

    def __str__(self) -> str:
        """`temperature: recorded 0.2, asked 0.7`."""
        recorded = "not recorded" if self.recorded is None else f"recorded {self.recorded}"
        asked = "not asked" if self.asked is None else f"asked {self.asked}"
        return f"{self.where}: {recorded}, {asked}"


def ask(method: str, target: str, content_type: str, body: bytes, ignore: Iterable[str] = ()) -> Ask:
    """The Ask of a request: `target` with its query, `body` decoded, `ignore` the volatile fields.

    A volatile field is named as in `user` or `metadata.run`; the objects of a list are all looked into.
    """
    path, _, query = target.partition("?")
    pairs = _query(path, query)
    kind, value = _value(content_type, body, [name.split(".") for name in ignore])
    text = f"{method} {path} {json.dumps(pairs)} {kind} {_canonical(value)}"
    return Ask(method, path, pairs, value, _scrubbed(text))


def service_path(path: str, prefixes: Sequence[str] = (), versions: Sequence[str] = ()) -> str:
    """The path behind whatever an upstream's address put before it; `versions` are prefixes in the place of `/v1`.

    >>> service_path("/proxy/v1/models?limit=2")
    '/v1/models?limit=2'
    >>> service_path("/api/v3/models", versions=["/api/v3"])
    '/v1/models'
    """
    own, mark, query = path.partition("?")
    for version in sorted(versions, key=len, reverse=True):
        if own.startswith(version + "/"):
            return "/v1" + own[len(version) :] + mark + query
    for start in ("/v1/", "/dashboard/billing/"):
        if start in own:
            return own[own.index(start) :] + mark + query
    for prefix in sorted(prefixes, key=len, reverse=True):
        if prefix and own.startswith(prefix + "/"):
            return own[len(prefix) :] + mark + query
    return path


def differences(recorded: Ask, asked: Ask) -> list[Difference]:
    """Where two Asks differ, in the order of the recorded one."""
    before, after = dict(_leaves(recorded)), dict(_leaves(asked))
    return [Difference(where, *_around(before.get(where), after.get(where))) for where in _places(before, after)]


def _places(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Where two requests differ."""
    found = []
    for where in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(where), after.get(where)
        if old != new and not (old is not None and new is not None and _scrubbed(old) == _scrubbed(new)):
            found.append(where)
    return found


class _Masked:
    """A recorded text in which the hashes of keys stand for any text, as far as it holds no quote."""

    def __init__(self, text: str) -> None:
        self._first, *self._rest = _MASK.split(text)

    def fits(self, text: str) -> bool:
        """Whether `text` is this one with keys of its own. Each key ends where what follows it first stands: trying
        every end of every key would take for ever."""
        if not text.startswith(self._first):
            return False
        at = len(self._first)
        for number, piece in enumerate(self._rest, 1):
            begin = at + 1
            if number == len(self._rest):
                at = len(text) - len(piece)
                if at < begin or at > begin + _LONGEST_KEY or not text.endswith(piece):
                    return False
            else:
                at = text.find(piece, begin, begin + _LONGEST_KEY + len(piece))
            if at < 0 or '"' in text[begin - 1 : at]:
                return False
            at += len(piece)
        return True


class RecordedAnswers[T]:
    """Records by what was asked. The same request gets them in the order of their recording, then the last again."""

    def __init__(self) -> None:
        self._entries: list[tuple[str | None, Ask, T]] = []
        self._by_text: defaultdict[tuple[str | None, str], list[T]] = defaultdict(list)
        self._patterns: dict[tuple[str | None, str], _Masked] = {}
        self._handed_out: defaultdict[tuple[str | None, str], int] = defaultdict(int)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, upstream: str | None, asked: Ask, record: T) -> None:
        """Put a record at the end. `upstream` is the one it belongs to, None where it answers for any."""
        key = (upstream, asked.text)
        self._entries.append((upstream, asked, record))
        self._by_text[key].append(record)
        if _MASK.search(asked.text):
            self._patterns[key] = _Masked(asked.text)

    def find(self, upstream: str | None, asked: Ask) -> T | None:
        """The record whose turn it is, or None where there is none for this request."""
        for owner in dict.fromkeys((upstream, None)):
            key = self._key(owner, asked.text)
            if key is not None:
                records = self._by_text[key]
                turn = self._handed_out[key]
                self._handed_out[key] += 1
                return records[min(turn, len(records) - 1)]
        return None

    def _key(self, owner: str | None, text: str) -> tuple[str | None, str] | None:
        if (owner, text) in self._by_text:
            return owner, text
        fitting = (key for key, pattern in self._patterns.items() if key[0] == owner and pattern.fits(text))
        return next(fitting, None)

    def nearest(self, upstream: str | None, asked: Ask) -> tuple[T, list[Difference]] | None:
        """The record that differs least, and in what; None where there is none at all.

        Records of the same method and path go first; among those that differ equally, the later one. Only the newest
        are looked at, fewer where they are large.
        """
        own = [entry for entry in self._entries if entry[0] in (upstream, None)]
        same = [entry for entry in own if (entry[1].method, entry[1].path) == (asked.method, asked.path)]
        if same:
            known, record = min(_newest(same), key=_Unlikeness(asked))
            return record, differences(known, asked)
        if not own:
            return None
        _, known, record = max(own[-_MOST_LIKENED:], key=lambda entry: _likeness(entry[1], asked))
        places = (("method", known.method, asked.method), ("path", known.path, asked.path))
        return record, [Difference(where, old, new) for where, old, new in places if old != new]


def _newest[T](entries: Sequence[tuple[str | None, Ask, T]]) -> Iterator[tuple[Ask, T]]:
    """The newest records first, one at least, and as many as may be compared."""
    room = _MOST_TEXT_COMPARED
    for _, known, record in islice(reversed(entries), _MOST_COMPARED):
        yield known, record
        room -= len(known.text)
        if room <= 0:
            return


class _Unlikeness:
    """In how many places a record differs from a request; those are the farthest that there was no room to compare."""

    def __init__(self, asked: Ask) -> None:
        self._asked = dict(_leaves(asked))
        self._room = _MOST_LEAVES_COMPARED

    def __call__(self, entry: tuple[Ask, object]) -> float:
        """The key to sort by."""
        if self._room <= 0:
            return float("inf")
        known = dict(_leaves(entry[0]))
        self._room -= len(known) + len(self._asked)
        return len(_places(known, self._asked))


def _likeness(known: Ask, asked: Ask) -> float:
    """How like two paths are, by their last characters: comparing takes up to the square of their length."""
    one, other = (f"{each.path[-_LONGEST_LIKENED:]} {each.method[:10]}" for each in (known, asked))
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


# -- what is compared


def _query(path: str, query: str) -> tuple[tuple[str, str], ...]:
    volatile = _KEY_PARAMETERS | (_BILLING_DATES if "/dashboard/billing/" in path else set())
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        pairs = [(query, "")]
    shown = [(name, _SECRET if _is_secret(name, value) else value) for name, value in pairs]
    return tuple(sorted((name, value) for name, value in shown if name.lower() not in volatile))


def _value(content_type: str, body: bytes, ignore: Sequence[Sequence[str]]) -> tuple[str, Any]:
    if not body:
        return "nothing", None
    if (form := _form(content_type, body)) is not None:
        return "form", _plain({name: value for name, value in form.items() if [name] not in ignore})
    try:
        value = bounded_json.loads(body.decode(json.detect_encoding(body), "surrogatepass"))
        for path in ignore:
            _drop(value, path)
        return "json", _plain(value)
    except (ValueError, RecursionError):
        return "bytes", _words(body)


def _drop(value: Any, path: Sequence[str]) -> None:
    if isinstance(value, list):
        for each in value:
            _drop(each, path)
    elif isinstance(value, dict):
        if len(path) == 1:
            value.pop(path[0], None)
        elif path[0] in value:
            _drop(value[path[0]], path[1:])


def _is_secret(name: str, value: Any) -> bool:
    """Whether a recording may hold a fingerprint in this value's place: what is asked can't be held against it."""
    return isinstance(value, str) and value != "" and judge(name) is Verdict.YES


def _plain(value: Any, hidden: bool = False) -> Any:
    """The value with 1.0 as 1: both are one number in JSON. With `hidden` it stands under the name of a secret."""
    if isinstance(value, dict):
        return {key: _plain_field(key, each, value, hidden) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, hidden) for each in value]
    if hidden and isinstance(value, str) and value:
        return _SECRET
    return int(value) if isinstance(value, float) and abs(value) < _EXACT and value.is_integer() else value


def _plain_field(name: str, value: Any, fields: Mapping[str, Any], hidden: bool) -> Any:
    if judge(name) is Verdict.YES:
        return _plain(value, hidden=True)
    if is_labelled(name, fields.items()):
        return _plain(value, hidden=True)
    return _plain(value, hidden and not describes(name.lower()))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _words(body: bytes) -> str:
    return f"{len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()}"


def _scrubbed(text: str) -> str:
    lowered = text.lower()
    return scrub(text) if any(sign in lowered for sign in _SIGNS) else text


def _form(content_type: str, body: bytes) -> dict[str, str] | None:
    """The parts of a multipart body, name to text or words about a file; None for what is none."""
    kind, _, parameters = content_type.partition(";")
    boundary = _parameters(";" + parameters).get("boundary") if len(parameters) <= _LONGEST_HEADING else None
    if not kind.strip().lower().startswith("multipart/") or not boundary:
        return None
    parts: dict[str, str] = {}
    seen: Counter[str] = Counter()
    mark = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    for piece in (b"\r\n" + body).split(mark, _MOST_PARTS + 1)[1:]:
        if piece.startswith(b"--"):
            return parts
        heading, blank, content = piece.partition(b"\r\n\r\n")
        if not blank or len(heading) > _LONGEST_HEADING or len(parts) >= _MOST_PARTS:
            return None
        name, value = _part(heading.decode("utf-8", "replace"), content)
        seen[name] += 1
        parts[f"{name}#{seen[name]}" if seen[name] > 1 else name] = value
    return None


def _part(heading: str, content: bytes) -> tuple[str, str]:
    given: dict[str, str] = {}
    for line in heading.split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            given = _parameters(value)
    name, filename = given.get("name", ""), given.get("filename", given.get("filename*"))
    if filename is None and len(content) <= _TEXT_PART:
        try:
            return name, content.decode()
        except UnicodeDecodeError:
            pass
    return name, f"file {filename or ''}, {_words(content)}"


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header of at most `_LONGEST_HEADING` characters: email's own reader is slow with quotes."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        found.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted else plain)
    return found


# -- what differs


def _leaves(asked: Ask) -> Iterator[tuple[str, str]]:
    for name, value in asked.query:
        yield f"?{name}", json.dumps(value, ensure_ascii=False)
    if isinstance(asked.body, dict | list):
        for where, value in islice(_walk(asked.body, ""), _MOST_LEAVES):
            yield where or "body", _canonical(value)
    else:
        yield "body", "nothing" if asked.body is None else str(asked.body)


def _walk(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _walk(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _walk(each, f"{where}[{index}]")
    else:
        yield where, value


def _around(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """Both texts, of long ones the part where they begin to differ. No key is shown."""

    def show(text: str | None, begin: int) -> str | None:
        return None if text is None else _cut(text, begin)

    if old is None or new is None:
        return show(old, 0), show(new, 0)
    old, new = _scrubbed(old), _scrubbed(new)
    same = _shared(old, new)
    begin = max(0, same - _SHOWN // 3) if max(len(old), len(new)) > _SHOWN else 0
    return show(old, begin), show(new, begin)


def _shared(old: str, new: str) -> int:
    """How many characters both begin with."""
    step = 4096
    for start in range(0, min(len(old), len(new)), step):
        first, second = old[start : start + step], new[start : start + step]
        if first != second:
            same = next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
            return start + (min(len(first), len(second)) if same is None else same)
    return min(len(old), len(new))


def _cut(text: str, begin: int) -> str:
    text = _scrubbed(text)
    end = begin + _SHOWN
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if len(text) > end else ''}"
