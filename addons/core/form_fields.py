"""The fields of a multipart form (RFC 7578), read in the one way that all parsers agree on.

1. `Content-Type` names one boundary, and nothing else but a charset in which ASCII is ASCII.
2. Each part has one `Content-Disposition` with one plain `name`; of what else it says only the name of a file counts,
   and nothing is encoded.
3. Whatever is written in another way is refused and not passed over: what one parser passes over another one reads.

What OpenAI's libraries, curl, browsers, Go, Ruby, Java and .NET write passes; .NET sets no quotation marks around
names, Ruby says `Content-Transfer-Encoding: binary`.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from addons.core.slices import Sliced, at_once
from addons.core.top_level import NoObject, Repeated

_MOST_PARTS = 200
_LONGEST_HEAD = 4096
_MOST_HEADERS = 8
_SLICE = 1 << 20
_SHORT = 1 << 16
_BESIDE = "something stands before or behind the form's parts, or their end is missing"
_LONGEST_FIELD = 1 << 20
"""Bytes. What is longer is a file, and has a `filename`."""
_QUOTED = r'"(?:[^"\\\r\n]|\\[^\r\n])*+"'
_TYPE = re.compile(
    rf'multipart/form-data((?:[ \t]*;[ \t]*[a-z]+=(?:{_QUOTED}|[^\s;,"\\]+))++)[ \t]*+(?:;[ \t]*+)?', re.IGNORECASE
)
_OF_TYPE = re.compile(rf'([a-z]+)=({_QUOTED}|[^\s;,"\\]+)', re.IGNORECASE)
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)")
_PARAMETER = rf'[ \t]*;[ \t]*(?:name|filename\*?)=(?:{_QUOTED}|[^\s;,"\\=]+)'
_DISPOSITION = re.compile(rf"form-data((?:{_PARAMETER})++)[ \t]*+(?:;[ \t]*+)?")
_OF_DISPOSITION = re.compile(rf';[ \t]*(name|filename\*?)=({_QUOTED}|[^\s;,"\\=]+)')
_NAMING = re.compile(r"(?<![a-z])name\*?[ \t]*=", re.IGNORECASE)
_NAME = re.compile(r'[^"\\;=\x00-\x1f\x7f]{1,100}')
_CHARSET = re.compile(r'charset\*?[ \t]*=[ \t]*"?([^\s;"]*)', re.IGNORECASE)
_CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1")
"""In which ASCII is ASCII."""
_IDENTITIES = ("binary", "8bit", "7bit")
"""Values of `Content-Transfer-Encoding` that change nothing."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds."""

    fields: Mapping[str, str]
    """The value of each field; of a list's (`include[]`) the last one."""
    files: tuple[str, ...]
    """The name of each file's field."""


def form(body: bytes, content_type: str) -> Form:
    """`reading_form` without a pause."""
    return at_once(reading_form(body, content_type))


def reading_form(body: bytes, content_type: str) -> Sliced[Form]:
    """Read a whole form, in slices. Raises NoObject for one that parsers might read in different ways, and Repeated."""
    mark = b"--" + _boundary(content_type)
    marks = yield from _found(body, mark)
    if any(at and body[at - 2 : at] != b"\r\n" for at in marks) or len(marks) > _MOST_PARTS:
        raise NoObject("the form's parts are not divided by line breaks of CR LF, or are too many")
    if not marks or marks[0] > _LONGEST_HEAD or len(body) - marks[-1] > len(mark) + _LONGEST_HEAD:
        raise NoObject(_BESIDE)
    before, behind = body[: marks[0]], body[marks[-1] + len(mark) :]
    if before.strip(b"\r\n") or not behind.startswith(b"--") or behind[2:].strip(b"\r\n"):
        raise NoObject(_BESIDE)
    fields: dict[str, str] = {}
    files: list[str] = []
    for begin, end in itertools.pairwise(marks):
        begin, end = begin + len(mark), end - 2
        head, divided, _ = body[begin : min(end, begin + _LONGEST_HEAD + 4)].partition(b"\r\n\r\n")
        if not divided or not head.startswith(b"\r\n"):
            raise NoObject("the head of a form's part is none, or too long")
        name, is_file = _named(_headers(head[2:]))
        if is_file:
            files.append(name)
            continue
        begin += len(head) + len(divided)
        if end - begin > _LONGEST_FIELD:
            raise NoObject("a field of the form is too long")
        if name in fields and not name.endswith("[]"):
            raise Repeated(name)
        fields[name] = _text(body[begin:end])
        if end - begin > _SHORT:
            yield
    return Form(fields, tuple(files))


def _found(body: bytes, mark: bytes) -> Sliced[list[int]]:
    """Where a mark stands, at most one more often than a form may have parts."""
    found: list[int] = []
    for start in range(0, len(body), _SLICE):
        end, at = min(len(body), start + _SLICE + len(mark) - 1), start
        while len(found) <= _MOST_PARTS and (at := body.find(mark, at, end)) >= 0:
            found.append(at)
            at += len(mark)
        if end < len(body):
            yield
    return found


def _boundary(content_type: str) -> bytes:
    found = _TYPE.fullmatch(content_type.strip(" \t"))
    pairs = [(name.lower(), value.strip('"')) for name, value in _OF_TYPE.findall(found[1])] if found else []
    given = dict(pairs)
    if len(given) != len(pairs) or given.keys() - {"boundary", "charset"} or not given.get("boundary"):
        raise NoObject("a multipart form without a boundary, or with more than that in its content-type")
    boundary = str(given["boundary"])
    if "\\" in boundary or given.get("charset", "utf-8").lower() not in _CHARSETS:
        raise NoObject("the form's boundary or charset is not plain")
    return boundary.encode("latin-1", "replace")


def _headers(head: bytes) -> dict[str, str]:
    """The headers of a part, by their names in lower case."""
    lines = _text(head).split("\r\n")
    found: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in found or len(lines) > _MOST_HEADERS:
            raise NoObject(
                "the head of a form's part holds a line that is no header, one that stands twice, or too many"
            )
        found[header[1].lower()] = header[2]
    kind = found.get("content-type", "")
    if kind.strip().lower().startswith("multipart/") or not is_of_ascii(kind):
        raise NoObject("a part of the form is a form, or has a charset that can't be read")
    if found.get("content-transfer-encoding", "binary").strip().lower() not in _IDENTITIES:
        raise NoObject("a part of the form is encoded")
    return found


def is_of_ascii(content_type: str) -> bool:
    """Whether a content-type names no charset, or one in which ASCII is ASCII: in UTF-7 other letters may be meant."""
    return all(charset.lower() in _CHARSETS for charset in _CHARSET.findall(content_type))


def _named(headers: Mapping[str, str]) -> tuple[str, bool]:
    """The name of a part's field, and whether it is a file."""
    said = headers.get("content-disposition", "")
    found = _DISPOSITION.fullmatch(said)
    pairs = _OF_DISPOSITION.findall(found[1]) if found is not None else []
    given = dict(pairs)
    name = given.get("name", "").strip('"')
    if len(given) != len(pairs) or len(_NAMING.findall(said)) != 1 or _NAME.fullmatch(name) is None:
        raise NoObject('a part of the form has no plain Content-Disposition: form-data; name="..."')
    if name == "_charset_":
        raise NoObject("the form names a charset of its own")
    return name, len(given) > 1


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NoObject("the form is not UTF-8") from None
