"""Which headers pass, in one pass over their fields.

Hop-by-hop headers are those of https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1, and whatever `Connection` names.
Kept are `Transfer-Encoding`, by which mitmproxy frames, and a websocket's handshake.
"""

from dataclasses import dataclass

Fields = tuple[tuple[bytes, bytes], ...]

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
_UP = _HOP_BY_HOP | _EARLIER_HOPS
_DOWN = _HOP_BY_HOP | {b"alt-svc"}
_CORS = {b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-allow-credentials"}
_OPTIONS = {b"close", b"keep-alive", b"upgrade", b"connection"}
_FRAMING = {b"transfer-encoding", b"content-length", b"host"}


@dataclass(frozen=True, slots=True)
class Upward:
    """A request's fields as upstream gets them, and what their removal left to remember."""

    fields: Fields
    closes: bool
    """The client wants its connection closed after the answer."""
    origin: bool
    """The request has an Origin: a browser's script sent it."""
    broken: bytes | None = None
    """The name of a header whose value no header may have: a line break, a folded line, a NUL (RFC 9110, 5.5)."""


def upward(fields: Fields, *, websocket: bool) -> Upward:
    """The request headers that go up. With `websocket`, `Connection` and `Upgrade` stay."""
    kept = []
    named: set[bytes] = set()
    closes = origin = False
    broken = None
    for name, value in fields:
        low = name.lower()
        if b"\n" in value or b"\r" in value or b"\0" in value:
            broken = name
        if low == b"origin":
            origin = True
        elif low == b"connection":
            named |= _tokens(value)
            closes = b"close" in named
            if websocket:
                kept.append((name, value))
            continue
        elif low == b"upgrade" and websocket:
            pass
        elif low in _UP or low.startswith(_EARLIER_HOPS_PREFIXES):
            continue
        kept.append((name, value))
    return Upward(_without(kept, named), closes, origin, broken)


def downward(fields: Fields, *, origin: bool, websocket: bool = False) -> Fields:
    """The response headers that reach the client.

    With `origin`, upstream's own CORS headers make room for relay's. `Connection: close` stays, since it is true of
    both hops: mitmproxy closes the client's connection along with the upstream's.
    """
    if websocket:
        return tuple(field for field in fields if field[0].lower() != b"alt-svc")
    drop = _DOWN | _CORS if origin else _DOWN
    kept = []
    named: set[bytes] = set()
    for name, value in fields:
        low = name.lower()
        if low == b"connection":
            named |= _tokens(value)
            if b"close" not in named:
                continue
        elif low in drop:
            continue
        kept.append((name, value))
    return _without(kept, named)


def _tokens(value: bytes) -> set[bytes]:
    """What a Connection header names; framing is not its to name."""
    return {token.strip() for token in value.lower().split(b",")} - _FRAMING


def _without(kept: list[tuple[bytes, bytes]], named: set[bytes]) -> Fields:
    if named - _OPTIONS:
        return tuple((name, value) for name, value in kept if (low := name.lower()) not in named or low in _OPTIONS)
    return tuple(kept)


def size(fields: Fields) -> int:
    """What the fields take on the wire in HTTP/1, in bytes."""
    return sum(len(name) + len(value) + 4 for name, value in fields)
