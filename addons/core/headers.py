"""Which headers pass, in one pass over their fields.

Hop-by-hop headers are those of https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1, and whatever `Connection` names.
Kept are `Transfer-Encoding`, by which mitmproxy frames, and a websocket's handshake.
"""

import re
from functools import lru_cache
from typing import NamedTuple

Fields = tuple[tuple[bytes, bytes], ...]

MOST = 1000
"""Fields of one head: servers take 100 (Apache, Envoy) to 2000 (Node). Each costs work in every hook."""

_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
}
# What tells of hops before relay: an upstream must not see who asked, and some refuse a request that came through
# others.
_EARLIER_HOPS = {b"forwarded", b"x-real-ip", b"via", b"true-client-ip"}
_EARLIER_HOPS_PREFIXES = (b"x-forwarded-", b"cf-")
_DOWN = _HOP_BY_HOP | {b"alt-svc"}
_CORS = {b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-allow-credentials"}
_FORBIDDEN = re.compile(rb"[\r\n\0]")
_OPTIONS = {b"close", b"keep-alive", b"upgrade", b"connection"}
_DOWN_TO_BROWSERS = _DOWN | _CORS
_KEPT = re.compile(rb"(?i)\btimeout=([0-9]{1,6})")
_FRAMING = {b"transfer-encoding", b"content-length", b"host"}
_SHORT = 64
"""Bytes of a name that is remembered. Strangers may send thousands of names, of 60 KB each."""


class Upward(NamedTuple):
    """A request's fields as upstream gets them, and what their removal left to remember."""

    fields: Fields
    closes: bool
    """The client wants its connection closed after the answer."""
    origin: bool
    """The request has an Origin: a browser's script sent it."""
    forwarded: bool = False
    """It tells of hops before relay: whoever connects is not who asks."""
    broken: bytes | None = None
    """The name of a header whose value no header may have: a line break, a folded line, a NUL (RFC 9110, 5.5)."""


# What becomes of a request header. Plain numbers: this is the hottest comparison there is.
_YES, _NO, _ORIGIN, _CONNECTION, _UPGRADE, _EARLIER = range(6)


def _going_up(name: bytes) -> int:
    """Judge a header by its name. The same few dozen names come again and again; no long one is kept for that."""
    return _known_verdict(name) if len(name) <= _SHORT else _verdict(name)


def _verdict(name: bytes) -> int:
    low = name.lower()
    for known, verdict in ((b"origin", _ORIGIN), (b"connection", _CONNECTION), (b"upgrade", _UPGRADE)):
        if low == known:
            return verdict
    if low in _EARLIER_HOPS or low.startswith(_EARLIER_HOPS_PREFIXES):
        return _EARLIER
    return _NO if low in _HOP_BY_HOP else _YES


_known_verdict = lru_cache(4096)(_verdict)


def upward(fields: Fields, *, websocket: bool) -> Upward:
    """The request headers that go up. With `websocket`, `Connection` and `Upgrade` stay."""
    kept = []
    named: set[bytes] = set()
    origin = forwarded = False
    for field in fields:
        verdict = _going_up(field[0])
        if verdict == _YES:
            kept.append(field)
        elif verdict == _ORIGIN:
            origin = True
            kept.append(field)
        elif verdict == _CONNECTION:
            named |= _tokens(field[1])
            if websocket:
                kept.append(field)
        elif verdict == _UPGRADE and websocket:
            kept.append(field)
        elif verdict == _EARLIER:
            forwarded = True
    broken = None
    if _FORBIDDEN.search(b"".join([value for _, value in fields])):
        broken = next(name for name, value in fields if _FORBIDDEN.search(value))
    return Upward(_without(kept, named), b"close" in named, origin, forwarded, broken)


def downward(fields: Fields, *, origin: bool, websocket: bool = False) -> Fields:
    """The response headers that reach the client.

    With `origin`, upstream's own CORS headers make room for relay's. `Connection: close` stays, since it is true of
    both hops: mitmproxy closes the client's connection along with the upstream's.
    """
    if websocket:
        return tuple(field for field in fields if field[0].lower() != b"alt-svc")
    drop = _DOWN_TO_BROWSERS if origin else _DOWN
    kept = []
    named: set[bytes] = set()
    for field in fields:
        low = _lower(field[0])
        if low == b"connection":
            named |= _tokens(field[1])
            if b"close" not in named:
                continue
        elif low in drop:
            continue
        kept.append(field)
    return _without(kept, named)


def _lower(name: bytes) -> bytes:
    return _known_lower(name) if len(name) <= _SHORT else name.lower()


_known_lower = lru_cache(4096)(bytes.lower)


def _tokens(value: bytes) -> set[bytes]:
    """What a Connection header names; framing is not its to name."""
    return {token.strip() for token in value.lower().split(b",")} - _FRAMING


def _without(kept: list[tuple[bytes, bytes]], named: set[bytes]) -> Fields:
    if named - _OPTIONS:
        return tuple((name, value) for name, value in kept if (low := name.lower()) not in named or low in _OPTIONS)
    return tuple(kept)


def seconds_kept(fields: Fields, version: bytes) -> float | None:
    """How long a server keeps a connection after its answer, a second less than it says itself (`Keep-Alive:
    timeout=5`, RFC 2068, 19.7.1.1); 0 where the answer is the last, None where it does not say.

    >>> seconds_kept(((b"Keep-Alive", b"timeout=5, max=100"),), b"HTTP/1.1")
    4.0
    """
    persistent, longest = version != b"HTTP/1.0", None
    for name, value in fields:
        if len(name) != 10:  # both names have ten letters
            continue
        lower = name.lower()
        if lower == b"connection":
            tokens = _tokens(value)
            if b"close" in tokens:
                return 0.0
            persistent = persistent or b"keep-alive" in tokens
        elif lower == b"keep-alive" and (found := _KEPT.search(value)):
            longest = max(0.0, int(found[1]) - 1.0)
    return longest if persistent else 0.0


def size(fields: Fields) -> int:
    """What the fields take on the wire in HTTP/1, in bytes."""
    total = 4 * len(fields)
    for name, value in fields:
        total += len(name) + len(value)
    return total
