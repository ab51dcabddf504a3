"""Names of models that an upstream knows by others: `upstreams[].models` of relay.yaml, applied to one request.

1. In a JSON body the value of the top-level `model` is replaced, and no other byte: blanks, escapes, the order of the
   fields and a byte order mark stay. A body that is no object, or names no mapped model, stays as it is.
2. Nothing is guessed. A body that begins like an object and can't be read as one, or in which a field stands twice,
   names a model that nobody can tell; so does JSON in UTF-16 or UTF-32. These are refused.
3. In forms, paths and queries nothing is replaced: a mapped name is refused there.

What comes in is decoded: no Content-Encoding any more. Time is linear, in slices, and memory that of three bodies.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal
from urllib.parse import unquote, unquote_plus

from addons.core import bounded_json
from addons.core.form_fields import reading_form
from addons.core.paths import readings
from addons.core.slices import Sliced
from addons.core.top_level import Members, NoObject, Repeated, finding

LONGEST_NAME = 200
"""Characters of a model's name, as relay.yaml may have it."""
_LONGEST_VALUE = 12 * LONGEST_NAME + 2
"""Bytes of such a name in JSON, all of it pairs of escapes."""
_LONGEST_FORM = 1 << 16
"""Bytes of an urlencoded form: these are read at once."""
_LONGEST_PARAMETER = 100
_LONGEST_PATH = 4096
"""Characters of a path that are looked through."""
_MODEL = "model"
_BOM = b"\xef\xbb\xbf"
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+\{")
_SLICE = 1 << 20
"""Bytes that are checked at a time."""
_NAMING = ("model", "deployment")
"""Parameters of a query that name one: OpenAI's, and Azure's."""
_NAMED_IN_PATH = re.compile(
    rf"/(?:models|deployments|engines)/(?=(.{{1,{LONGEST_NAME + 1}}}))", re.IGNORECASE | re.DOTALL
)
_MOST_NAMED = 8
"""Places of a path that are looked at; real ones have one."""

type Models = Mapping[str, str]
"""What callers write, and what goes up in its place."""
type Place = Literal["form", "path", "query"]


class Unmapped(ValueError):
    """Why a body can't go up: which model it names is not known, or can't be changed."""


class MappedInPlace(Unmapped):
    """It names a mapped model where nothing is changed."""

    def __init__(self, model: str, place: Place) -> None:
        super().__init__(f"the model {model!r} stands in a {place}")
        self.model = model
        self.place: Place = place


class NotUtf8(Unmapped):
    """It is JSON in another charset."""


class Twice(Unmapped):
    """A field stands twice at the top level."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the field {name!r} stands twice")
        self.name = name


class Unreadable(Unmapped):
    """It is no JSON object, or no form that all parsers read alike, and looks like one."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A body as it goes up."""

    body: bytes
    """The very object that was given, where nothing is changed."""
    asked: str | None = None
    """The model as its caller has called it; None where none was mapped."""
    sent: str | None = None
    """What stands there now."""


def mapping(body: bytes, content_type: str, models: Models) -> Sliced[Mapped]:
    """What of a decoded body goes up to an upstream with these names, in slices. Raises Unmapped.

    >>> from addons.core.slices import at_once
    >>> at_once(mapping(b'{"n": 1, "model":"a"}', "application/json", {"a": "b"})).body
    b'{"n": 1, "model":"b"}'
    """
    if not models or not body:
        return Mapped(body)
    kind = content_type.strip().lower()
    if kind.startswith("multipart/"):
        yield from _check_form(body, content_type, models)
        return Mapped(body)
    is_object = _OBJECT.match(body) is not None
    if _is_wide(body) and (is_object or "json" in kind or not kind):
        raise NotUtf8("JSON goes in UTF-8")
    if not is_object:
        if "urlencoded" in kind:
            _check_fields(_urlencoded(body), models, "form")
        return Mapped(body)
    return (yield from _mapped(body, models))


def _mapped(body: bytes, models: Models) -> Sliced[Mapped]:
    yield from _check_utf8(body)
    mark = len(_BOM) if body.startswith(_BOM) else 0
    # A letter a byte: places in the text are places in the body, and no other letters make it four times as large. What
    # divides JSON is ASCII, which stands for itself in UTF-8.
    try:
        members = yield from finding(body[mark:].decode("latin-1"))
    except Repeated as error:
        raise Twice(_meant(error.name)) from None
    except NoObject as error:
        raise Unreadable(str(error)) from None
    asked = _named(members)
    if asked is None or asked not in models:
        return Mapped(body)
    start, end = members.spans[_MODEL]
    sent = models[asked]
    return Mapped(b"".join((body[: mark + start], json.dumps(sent).encode(), body[mark + end :])), asked, sent)


def _named(members: Members) -> str | None:
    """The model that an object names. Raises Unreadable."""
    if not members.begins(_MODEL, '"') or members.size(_MODEL) > _LONGEST_VALUE:
        return None
    try:
        return str(bounded_json.parse(_meant(members.raw(_MODEL))))
    except ValueError:
        raise Unreadable("the value of model can't be read") from None


def _meant(text: str) -> str:
    """What was read with a letter a byte; as it is where it has other letters, by escapes."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _check_utf8(body: bytes) -> Sliced[None]:
    """Raise NotUtf8 for another charset: in GBK a byte of a letter may look like a bracket."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(body), _SLICE):
            decoder.decode(body[at : at + _SLICE], at + _SLICE >= len(body))
            yield
    except UnicodeDecodeError:
        raise NotUtf8("the body is not UTF-8") from None


def _is_wide(body: bytes) -> bool:
    """Whether a text is in UTF-16 or UTF-32 (RFC 4627, 3: JSON begins with two characters of ASCII)."""
    return body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:4]


def _check_form(body: bytes, content_type: str, models: Models) -> Sliced[None]:
    """Raise Unmapped where a multipart form names a mapped model, or can't be read."""
    try:
        form = yield from reading_form(body, content_type)
    except Repeated as error:
        raise Twice(error.name) from None
    except NoObject as error:
        raise Unreadable(str(error)) from None
    if any(_is_named(name, (_MODEL,)) for name in form.files):
        raise Unreadable("a file stands in place of the field model")
    _check_fields(form.fields.items(), models, "form", str)


def _urlencoded(body: bytes) -> Iterator[tuple[str, str]]:
    """Raises Unreadable."""
    if len(body) > _LONGEST_FORM:
        raise Unreadable(f"an urlencoded form of more than {_LONGEST_FORM} bytes")
    return _pairs(body.decode("utf-8", "replace"))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of an urlencoded text that may name a model, of up to 64 KB: those that are short."""
    for each in text.split("&"):
        name, _, value = each.partition("=")
        if len(name) <= _LONGEST_PARAMETER and len(value) <= _LONGEST_VALUE:
            yield unquote_plus(name), value


def _check_fields(
    fields: Iterable[tuple[str, str]], models: Models, place: Place, read: Callable[[str], str] = unquote_plus
) -> None:
    """`read` says what a value means."""
    names = _NAMING if place == "query" else (_MODEL,)
    for name, value in fields:
        if _is_named(name, names) and (named := read(value).strip()) in models:
            raise MappedInPlace(named, place)


def _is_named(name: str, names: tuple[str, ...]) -> bool:
    """Whether a field is one of these as some parser reads it: PHP and Ruby take `model[]` for `model`, too."""
    return name.partition("[")[0].strip().casefold() in names


def check_address(path: str, query: str, models: Models) -> None:
    """Raise MappedInPlace where a path, or the query behind it, names a mapped model. `query` has no `?`.

    >>> check_address("/v1/models/a", "", {"a": "b"})
    Traceback (most recent call last):
    addons.core.model_mapping.MappedInPlace: the model 'a' stands in a path
    """
    if (named := _in_path(path, models)) is not None:
        raise MappedInPlace(named, "path")
    if "=" in query:
        _check_fields(_pairs(query), models, "query")


def _in_path(path: str, models: Models) -> str | None:
    """A mapped model that stands in a path where one is named, as a whole: `/models/a`, `/models/a:generate`."""
    path = path[:_LONGEST_PATH]
    for reading in dict.fromkeys((path, unquote(path), *readings(path))):
        for found in islice(_NAMED_IN_PATH.finditer(reading), _MOST_NAMED):
            rest = found[1].rstrip("/")
            for end in (*(at for at, each in enumerate(rest) if each in "/:"), len(rest)):
                if rest[:end] in models:
                    return rest[:end]
    return None
