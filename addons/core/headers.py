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
_FRAMING = {b"transfer-encoding", b"content-length", b"host"}


@dataclass(frozen=True, slots=True)
class Upward:
    """A request's fields as upstream gets them, and what their removal left to remember."""

    fields: Fields
    closes: bool
    """The client wants its connection closed after the answer."""
    origin: bool
    """The request has an Origin: a browser's script sent it."""


def upward(fields: Fields, *, websocket: bool) -> Upward:
    """The request headers that go up. With `websocket`, `Connection` and `Upgrade` stay."""
    kept = []
    named: set[bytes] = set()
    closes = origin = False
    for name, value in fields:
        low = name.lower()
        if low == b"origin":
            origin = True
        elif low == b"connection":
            tokens = {token.strip() for token in value.lower().split(b",")}
            named |= tokens - _FRAMING
            closes = closes or b"close" in tokens
            if websocket:
                kept.append((name, value))
            continue
        elif low == b"upgrade" and websocket:
            named.discard(low)
        elif low in _UP or low.startswith(_EARLIER_HOPS_PREFIXES):
            continue
        kept.append((name, value))
    if named - {b"close", b"keep-alive", b"upgrade"}:
        kept = [(name, value) for name, value in kept if name.lower() not in named or name.lower() == b"upgrade"]
    return Upward(tuple(kept), closes, origin)


def downward(fields: Fields, *, origin: bool, websocket: bool = False) -> Fields:
    """The response headers that reach the client.

    With `origin`, upstream's own CORS headers make room for relay's. `Connection: close` stays, since it is true of
    both hops: mitmproxy closes the client's connection along with the upstream's.
    """
    if websocket:
        return tuple(field for field in fields if field[0].lower() != b"alt-svc")
    drop = _DOWN | _CORS if origin else _DOWN
    return tuple(
        (name, value)
        for name, value in fields
        if (low := name.lower()) not in drop or (low == b"connection" and b"close" in value.lower())
    )


def names(fields: Fields) -> set[bytes]:
    """The lower-case names among `fields`."""
    return {name.lower() for name, _ in fields}


def size(fields: Fields) -> int:
    """What the fields take on the wire in HTTP/1, in bytes."""
    return sum(len(name) + len(value) + 4 for name, value in fields)
