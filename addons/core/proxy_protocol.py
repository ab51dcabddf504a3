"""The PROXY protocol: what HAProxy and others say of a connection before its first byte.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt: version 1 is a line of text, version 2 is binary. Whoever
reads one asks `missing` how much more to read until nothing is, and then `announced` what was said:

>>> line = b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 8080\\r\\n"
>>> missing(line[:FIRST]), missing(line)
(1, 0)
>>> announced(line)
Announced(host='203.0.113.9', port=51000)
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

FIRST = 12
"""Bytes that every preamble has, at least."""
LONGEST_LINE = 107
"""Bytes of a line of version 1, its end included (section 2.1)."""
LONGEST = 2048
"""Bytes behind the fixed head of version 2. Addresses take 216 at most; what HAProxy may add is a few hundred."""

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_WORD = b"PROXY "
_HEAD = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_MOST_PORT = 65535


class Announced(NamedTuple):
    """The client's address, as the proxy has seen it."""

    host: str
    port: int


class NoPreamble(ValueError):
    """What came is no preamble, or one that can't be read."""


def missing(data: bytes) -> int:
    """How many bytes more have to come, at least; 0 where the preamble is whole. None of them is behind its end.

    `data` has `FIRST` bytes or more. Raises NoPreamble.
    """
    if data.startswith(_SIGNATURE):
        if len(data) < _HEAD:
            return _HEAD - len(data)
        length = int.from_bytes(data[14:_HEAD])
        if length > LONGEST:
            raise NoPreamble(f"a preamble of {length} bytes")
        return _HEAD + length - len(data)
    if not data.startswith(_WORD) or len(data) > LONGEST_LINE:
        raise NoPreamble("no PROXY protocol")
    if data.endswith(b"\n"):
        return 0
    if len(data) == LONGEST_LINE:
        raise NoPreamble(f"a line over {LONGEST_LINE} bytes")
    return 1


def announced(data: bytes) -> Announced | None:
    """What a whole preamble says; None where it says that the peer speaks for itself, as it does in a health check, or
    that its client has no address in a network. Raises NoPreamble."""
    return _binary(data) if data.startswith(_SIGNATURE) else _line(data)


def _line(data: bytes) -> Announced | None:
    if not data.endswith(b"\r\n"):
        raise NoPreamble("a line without its end")
    try:
        words = data[:-2].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise NoPreamble("a line that is not ASCII") from None
    match words:
        case ["PROXY", "UNKNOWN", *_]:
            return None
        case ["PROXY", "TCP4" | "TCP6" as family, source, destination, port, to]:
            kind = IPv4Address if family == "TCP4" else IPv6Address
            _port(to)
            try:
                kind(destination)
                return Announced(str(kind(source)), _port(port))
            except AddressValueError:
                raise NoPreamble("a line without addresses") from None
    raise NoPreamble("a line that is none of the PROXY protocol")


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 5 and int(text) <= _MOST_PORT):
        raise NoPreamble("a line without ports")
    return int(text)


def _binary(data: bytes) -> Announced | None:
    command, family, body = data[12], data[13], data[_HEAD:]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise NoPreamble("another version of the PROXY protocol")
    if family in (_UNSPEC, _UNIX):
        return None
    if family == _TCP4 and len(body) >= 12:
        return Announced(str(IPv4Address(body[:4])), int.from_bytes(body[8:10]))
    if family == _TCP6 and len(body) >= 36:
        return Announced(str(IPv6Address(body[:16])), int.from_bytes(body[32:34]))
    raise NoPreamble("a preamble without addresses of TCP")
