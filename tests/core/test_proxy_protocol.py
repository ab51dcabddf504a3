"""The PROXY protocol: what is taken, what is refused, and that no byte behind a preamble is asked for."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.proxy_protocol import FIRST, LONGEST, LONGEST_LINE, Announced, NoPreamble, announced, missing

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2) + body


def tcp4(source: str, port: int, more: bytes = b"") -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton("10.0.0.1")
    return v2(0x21, 0x11, addresses + port.to_bytes(2) + (8080).to_bytes(2) + more)


def tcp6(source: str, port: int) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "::1")
    return v2(0x21, 0x21, addresses + port.to_bytes(2) + (8080).to_bytes(2))


def read(stream: bytes) -> tuple[Announced | None, bytes]:
    """What a reader makes of a stream, and what it has left of it. Raises NoPreamble, IndexError at its end."""
    taken = FIRST
    if len(stream) < taken:
        raise IndexError
    while count := missing(stream[:taken]):
        taken += count
        if taken > len(stream):
            raise IndexError
    return announced(stream[:taken]), stream[taken:]


@pytest.mark.parametrize(
    ("preamble", "expected"),
    [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 8080\r\n", Announced("203.0.113.9", 51000)),
        (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", Announced("2001:db8::7", 1)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (tcp4("203.0.113.9", 51000), Announced("203.0.113.9", 51000)),
        (tcp4("203.0.113.9", 51000, b"\x04\x00\x03abc"), Announced("203.0.113.9", 51000)),
        (tcp6("2001:db8::7", 443), Announced("2001:db8::7", 443)),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, bytes(12)), None),
        (v2(0x21, 0x00, b""), None),
        (v2(0x21, 0x31, bytes(216)), None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_said(preamble: bytes, expected: Announced | None) -> None:
    assert read(preamble + b"GET / HTTP/1.1\r\n\r\n") == (expected, b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"proxy tcp4 203.0.113.9 10.0.0.1 51000 8080\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 51000\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 8080\n",
        b"PROXY TCP4  203.0.113.9 10.0.0.1 51000 8080\r\n",
        b"PROXY TCP4 203.0.113.999 10.0.0.1 51000 8080\r\n",
        b"PROXY TCP4 203.0.113.9 localhost 51000 8080\r\n",
        b"PROXY TCP4 ::1 ::1 51000 8080\r\n",
        b"PROXY TCP6 203.0.113.9 10.0.0.1 51000 8080\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 8080\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 -1 8080\r\n",
        "PROXY TCP4 203.0.113.9 10.0.0.1 ５1 8080\r\n".encode(),
        b"PROXY UDP4 203.0.113.9 10.0.0.1 51000 8080\r\n",
        b"PROXY TCP4 " + b"9" * 200,
        v2(0x31, 0x11, bytes(12)),
        v2(0x22, 0x11, bytes(12)),
        v2(0x21, 0x12, bytes(12)),
        v2(0x21, 0x11, bytes(11)),
        v2(0x21, 0x21, bytes(35)),
        SIGNATURE + b"\x21\x11" + (LONGEST + 1).to_bytes(2) + bytes(LONGEST + 1),
    ],
    ids=lambda data: repr(data)[:60],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(NoPreamble):
        read(data)


def test_a_line_has_a_longest_length() -> None:
    line = b"PROXY UNKNOWN " + b"x" * (LONGEST_LINE - 16) + b"\r\n"
    assert len(line) == LONGEST_LINE and read(line) == (None, b"")
    with pytest.raises(NoPreamble):
        read(line.replace(b"x\r\n", b"xx\r\n"))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(SIGNATURE.__add__) | st.binary().map(b"PROXY ".__add__))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        _, rest = read(data)
    except (NoPreamble, IndexError):
        return
    assert data.endswith(rest)


@given(st.ip_addresses(v=4), st.integers(0, 65535), st.binary(max_size=50))
def test_both_versions_say_the_same(address: object, port: int, rest: bytes) -> None:
    line = f"PROXY TCP4 {address} 10.0.0.1 {port} 8080\r\n".encode()
    assert read(line + rest) == read(tcp4(str(address), port) + rest) == (Announced(str(address), port), rest)
