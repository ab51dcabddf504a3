"""What stands in place of pictures, sounds and files: what they are, and how large."""

import base64
import binascii
import re
import struct

from addons.core.reading.page import one_line, size

_DATA_URL = re.compile(r"data:([\w.+/-]*)[^,]{0,200},")
_HEAD = 1 << 16  # base64 characters decoded to find a picture's measures
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def picture(source: str) -> str:
    """`[image: image/png, 12.3 kB, 640×480]` for a data URL, `[image: https://...]` for an address."""
    found = _DATA_URL.match(source)
    if found is None:
        return f"[image: {one_line(source, 200)}]"
    return f"[image: {described(source[found.end() :], found[1] or 'data')}]"


def described(encoded: str, kind: str) -> str:
    """Type, size and, of a picture, measures of what is encoded in base64."""
    parts = [kind, size(decoded_size(encoded))]
    if measures := dimensions(_head(encoded)):
        parts.append(f"{measures[0]}×{measures[1]}")
    return ", ".join(parts)


def placeholder(kind: str, encoded: str, name: str = "") -> str:
    """`[audio: wav, 34 kB]`: something encoded in base64, as a data URL or not."""
    found = _DATA_URL.match(encoded)
    payload = encoded[found.end() :] if found else encoded
    what = name or (found[1] if found else "")
    return f"[{kind}: {one_line(what, 100) + ', ' if what else ''}{size(decoded_size(payload))}]"


def decoded_size(encoded: str) -> int:
    """Bytes of what is encoded in base64."""
    return (len(encoded) - encoded.count("=", max(0, len(encoded) - 2))) * 3 // 4


def _head(encoded: str) -> bytes:
    head = encoded[:_HEAD]
    try:
        return base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF, WebP or JPEG, by its first bytes; None where they don't tell."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", data[16:24])
        if data.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack("<HH", data[6:10])
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except struct.error:
        pass
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if data[at + 1] in _START_OF_FRAME:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + max(length, 2)
    return None
