"""Secrets that an event stream says in pieces: `"content":"sk-01"`, `"content":"2345..."`."""

import json
import re

from addons.core.known_secrets import KnownSecrets
from addons.core.secrets import KEY, TooMany, is_fingerprint, may_hold_key, note
from addons.core.slices import Sliced

_PIECE = re.compile(
    rb'("(?:content|delta|text|arguments|transcript|partial_json)"\s{0,16}+:\s{0,16}+")((?:[^"\\\r\n]++|\\[^\r\n])*+)"'
)
_STEP = 1 << 16
_MOST = 200_000
"""Pieces of one stream."""


def masking(body: bytes, known: KnownSecrets) -> Sliced[bytes]:
    """An event stream in which each piece has lost its part of whatever secret is spread over several of them.

    Raises TooMany for a stream of more pieces than are joined.
    """
    places: list[tuple[int, int]] = []
    words: list[bytes] = []
    at = 0
    while (piece := _PIECE.search(body, at, at + _STEP)) is not None or at + _STEP < len(body):
        if piece is None:
            # A piece may begin where this step ended.
            at = max(at + 1, body.rfind(b"\n", at, at + _STEP) + 1) if b"\n" in body[at : at + _STEP] else at + _STEP
            yield
            continue
        at = piece.end()
        places.append(piece.span(2))
        words.append(_said(piece[2]))
        if len(words) > _MOST:
            raise TooMany
        if len(words) % 1024 == 0:
            yield
    spans = yield from _spans(b"".join(words), known)
    if not spans:
        return body
    return (yield from _without(body, places, words, spans))


def _said(raw: bytes) -> bytes:
    if b"\\" not in raw:
        return raw
    try:
        said: str = json.loads(b'"' + raw + b'"', strict=False)
    except ValueError:
        return raw
    return said.encode("utf-8", "surrogatepass")


def _spans(text: bytes, known: KnownSecrets) -> Sliced[list[tuple[int, int, bytes]]]:
    """Where secrets stand, and what is shown for each: in order, none in another."""
    found: list[tuple[int, int, bytes]] = []
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
    spans: list[tuple[int, int, bytes]] = []
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if not spans or span[0] >= spans[-1][1]:
            spans.append(span)
    return spans


def _without(
    body: bytes, places: list[tuple[int, int]], words: list[bytes], spans: list[tuple[int, int, bytes]]
) -> Sliced[bytes]:
    """`body` with the parts of `spans` taken out of its pieces; what is shown for one stands in its first piece."""
    parts: list[bytes] = []
    last = begun = 0
    at = 0  # the first span that this piece or a later one has part of
    for number, (place, word) in enumerate(zip(places, words, strict=True)):
        if number % 1024 == 0:
            yield
        ends = begun + len(word)
        left: list[bytes] = []
        kept = begun
        while at < len(spans) and spans[at][0] < ends:
            first, end, shown = spans[at]
            if first >= begun:
                left += (word[kept - begun : first - begun], shown)
            kept = min(end, ends)
            if end > ends:
                break
            at += 1
        if left or kept > begun:
            text = b"".join((*left, word[kept - begun :]))
            encoded = json.dumps(text.decode("utf-8", "surrogateescape"), ensure_ascii=False)[1:-1]
            parts += (body[last : place[0]], encoded.encode("utf-8", "surrogateescape"))
            last = place[1]
        begun = ends
    return b"".join((*parts, body[last:]))
