"""Secrets that a stream says in pieces: `"content":"sk-01"`, `"content":"2345..."`.

An event stream (SSE), or lines of JSON, is read event by event, which is a line. Its texts are told apart by the name
of their field and by the indices that stand in their event (`choices[].index`, `output_index`), and each text is
joined. Any field may hold a text (`content`, `reasoning_content`, `thinking`, `partial_json`), but for a few that never
do.
"""

import json
import re
from contextlib import suppress

from addons.core import bounded_json, secret_fields
from addons.core.known_secrets import KnownSecrets
from addons.core.secrets import KEY, Span, TooManySecrets, is_fingerprint, may_hold_key, note, replaced
from addons.core.slices import Sliced

_PIECE = re.compile(
    rb'"(?:(index|output_index|content_index|summary_index)"\s{0,16}+:\s{0,16}+([0-9]{1,9}+)'
    rb"|(?!(?:id|object|model|type|role|event|status|system_fingerprint|item_id|call_id|response_id|service_tier"
    rb'|finish_reason|native_finish_reason|obfuscation|created_at|provider)")'
    rb'([A-Za-z_][A-Za-z0-9_]{0,63}+)"\s{0,16}+:\s{0,16}+"((?:[^"\\\r\n]++|\\[^\r\n])*+)")'
)
_LINES = re.compile(rb"\}[ \t\r]{0,8}+\n\s{0,8}+\{")
_NEAR = 1 << 12  # the longest piece that is found wherever it stands in a line longer than a step
_STEP = 1 << 16
_LONGEST_EVENT = 1 << 14  # one with several pieces that is parsed
_MOST = 200_000
"""Pieces of one stream."""
_END = b"\n\0\n"  # stands between two texts

type _Text = tuple[bytes, tuple[int, ...]]
"""The name of a text's field, and the indices in its events."""
type _Piece = tuple[int, int, bytes]
"""Where a piece begins and ends in the body, and what it says."""


def is_in_pieces(body: bytes) -> bool:
    """Whether a body looks like an event stream, lines of JSON, or an array of chunks (Gemini's)."""
    start = body[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"{":
        return _LINES.search(body, 0, _STEP) is not None
    return start[:1] == b"[" or secret_fields.is_stream(start)


def masking(body: bytes, known: KnownSecrets) -> Sliced[bytes]:
    """A stream in which each piece has lost its part of whatever secret is spread over several of them.

    Raises TooManySecrets for a stream of more pieces than are joined.
    """
    texts = yield from _texts(body)
    pieces: list[_Piece] = []
    structured: list[Span] = []
    said = 0
    for parts in texts.values():
        joined = b"".join(word for _, _, word in parts)
        if len(parts) > 1 and joined[:64].lstrip()[:1] in (b"{", b"["):  # arguments of a call, as JSON
            for start, end, _ in (yield from secret_fields.finding(joined)):
                if end > start and not is_fingerprint(joined[start:end]):
                    note(structured, (said + start, said + end, known.shown(joined[start:end])))
        pieces += parts
        pieces.append((-1, -1, _END))
        said += len(joined) + len(_END)
        if len(pieces) % 64 == 0:
            yield
    spans = yield from _spans(b"".join(word for _, _, word in pieces), known, structured)
    if not spans:
        return body
    return replaced(body, (yield from _edits(pieces, spans)))


def _texts(body: bytes) -> Sliced[dict[_Text, list[_Piece]]]:
    texts: dict[_Text, list[_Piece]] = {}
    at = read = count = 0
    mark = b"\n" if b"\n" in body[:_STEP] else b"\r"
    while at < len(body):
        end = body.find(mark, at, at + _STEP)
        whole = end >= 0
        if not whole:
            end = min(len(body), at + _STEP)
        pieces: list[tuple[bytes, _Piece]] = []
        indices: list[int] = []
        last = at
        for found in _PIECE.finditer(body, at, end):
            last = found.end()
            if found[1]:
                indices.append(int(found[2]))
            else:
                pieces.append((found[3], (*found.span(4), _said(found[4]))))
        count += len(pieces)
        if count > _MOST:
            raise TooManySecrets
        if pieces:
            _assign(texts, pieces, indices, body[at:end] if len(pieces) > 1 and len(indices) > 1 else b"")
        read += end - at + 16 * len(pieces)
        at = end + 1 if whole or end == len(body) else max(last, end - _NEAR)
        if read > _STEP:
            read = 0
            yield
    return texts


def _assign(
    texts: dict[_Text, list[_Piece]], pieces: list[tuple[bytes, _Piece]], indices: list[int], event: bytes
) -> None:
    """Add the pieces of an event to their texts."""
    where = _trimmed(indices)
    names = [name for name, _ in pieces]
    each: list[tuple[int, ...]] | None = None
    if event and len(set(names)) < len(names):  # several choices in one event
        each = _indices_of(event, names)
    for number, (name, piece) in enumerate(pieces):
        key = (name, each[number] if each is not None else where)
        if key not in texts:
            texts[key] = []
        texts[key].append(piece)


def _trimmed(indices: list[int]) -> tuple[int, ...]:
    """Indices of an event; where there is none it is as if it were zero."""
    while indices and not indices[-1]:
        indices = indices[:-1]
    return tuple(indices)


def _indices_of(event: bytes, names: list[bytes]) -> list[tuple[int, ...]] | None:
    """The indices that enclose each piece of an event; None where they can't be told."""
    if len(event) > _LONGEST_EVENT:
        return None
    found: list[tuple[bytes, tuple[int, ...]]] = []
    with suppress(ValueError, RecursionError):
        _enclosed(bounded_json.parse(event[event.index(b"{") :].decode()), [], found)
    wanted = set(names)
    found = [each for each in found if each[0] in wanted]
    return [indices for _, indices in found] if [name for name, _ in found] == names else None


def _enclosed(value: object, indices: list[int], found: list[tuple[bytes, tuple[int, ...]]]) -> None:
    if isinstance(value, list):
        for part in value:
            _enclosed(part, indices, found)
    elif isinstance(value, dict):
        own = value.get("index")
        if isinstance(own, int):
            indices = [*indices[:8], own]
        for name, part in value.items():
            if isinstance(part, str):
                found.append((name.encode("utf-8", "replace"), _trimmed(indices)))
            else:
                _enclosed(part, indices, found)


def _said(raw: bytes) -> bytes:
    if b"\\" not in raw:
        return raw
    try:
        said: str = json.loads(b'"' + raw + b'"', strict=False)
    except ValueError:
        return raw
    return said.encode("utf-8", "surrogatepass")


def _spans(text: bytes, known: KnownSecrets, found: list[Span]) -> Sliced[list[Span]]:
    """Where secrets stand besides those found, and what is shown for each: in order, none in another."""
    for value in known:
        at = text.find(value)
        while at >= 0:
            note(found, (at, at + len(value), known.shown(value)))
            at = text.find(value, at + len(value))
            if len(found) % 2000 == 0:
                yield
        yield
    if b"%" in text or b"\\" in text:
        yield from known.finding_escaped(text, found)
    for start in range(0, len(text), _STEP):
        if may_hold_key(text[start : start + _STEP + 512]):
            for at_key in KEY.finditer(text, start, start + _STEP + 512):
                if at_key.start() < start + _STEP and not is_fingerprint(at_key[0]):
                    note(found, (at_key.start(), at_key.end(), at_key[0][:3] + b"***"))
        yield
    spans: list[Span] = []
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if not spans or span[0] >= spans[-1][1]:
            spans.append(span)
    return spans


def _edits(pieces: list[_Piece], spans: list[Span]) -> Sliced[list[Span]]:
    """What becomes of the pieces that have part of `spans`; what is shown for one stands in its first piece."""
    edits: list[Span] = []
    begun = at = 0  # where this piece begins, and the first span that it or a later one has part of
    for number, (start, end, word) in enumerate(pieces):
        if number % 1024 == 0:
            yield
        ends = begun + len(word)
        left: list[bytes] = []
        kept = begun
        while at < len(spans) and spans[at][0] < ends:
            first, last, shown = spans[at]
            if first >= begun:
                left += (word[kept - begun : first - begun], shown)
            kept = min(last, ends)
            if last > ends:
                break
            at += 1
        if start >= 0 and (left or kept > begun):
            text = b"".join((*left, word[kept - begun :]))
            encoded = json.dumps(text.decode("utf-8", "surrogateescape"), ensure_ascii=False)[1:-1]
            edits.append((start, end, encoded.encode("utf-8", "surrogateescape")))
        begun = ends
    return edits
