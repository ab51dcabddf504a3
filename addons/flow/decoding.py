"""Reading compressed bodies without letting a few bytes become gigabytes.

Clients and upstreams compress as they like and bodies pass untouched; whoever reads one reads a decoded copy, and says
how much of it. mitmproxy's own decoding has no such bound.

Decoding goes in slices of `_STEP` decoded bytes: zlib makes some 300 MB a second, and nobody else runs meanwhile.
"""

import io
import zlib
from collections.abc import Callable

import brotli
import zstandard
from mitmproxy import http

from addons.core.slices import Sliced, at_once

_STEP = 1 << 18
_PIECE = 1 << 16  # encoded bytes at a time: zlib copies what it has not taken yet
_WINDOW = 1 << 23  # the largest that RFC 9659 allows a zstd of the web
_MOST_ENCODINGS = 4  # of one body; real ones have one, and each of a thousand costs a pass over all of it
_BIT = 32  # encoded bytes at a time where the decoder has no bound of its own
_MOST_MEMBERS = 64  # of a gzip, that begin in one chunk that is listened to
_EARLY = "it ends too early"
_FOLLOWED = "something follows its end"
_GZIP = b"\x1f\x8b"
_HEARD = 1 << 17  # decoded bytes of one chunk that is listened to


class TooLong(ValueError):
    """The decoded body is over the limit."""


class Undecodable(ValueError):
    """The body is not what its Content-Encoding says, or that says too much."""


def decode(body: bytes, encoding: str, limit: int, *, cut: bool = False) -> bytes:
    """`decoding` without a pause, for bounds that are small or work that nobody waits for."""
    return at_once(decoding(body, encoding, limit, cut=cut))


def decoding(body: bytes, encoding: str, limit: int, *, cut: bool = False) -> Sliced[bytes]:
    """`body` decoded by a Content-Encoding, at most `limit` bytes of it, in slices.

    With `cut`, what is over the limit, or missing at the end, is left out; else it is TooLong, or Undecodable for what
    is no such encoding or broken. Several encodings, four at most, are undone from the last to the first, as RFC 9110
    (8.4) has them applied. What follows the end of a gzip or a deflate is passed over, as browsers and curl do.
    """
    for name in _undone(encoding):
        body, why = yield from _DECODERS[name](body, limit + 1)
        if len(body) <= limit and why not in ("", _FOLLOWED) and not (cut and why == _EARLY):
            raise Undecodable(f"broken {name}: {why}")
    if len(body) > limit:
        if not cut:
            raise TooLong(f"over {limit} bytes when decoded")
        body = body[:limit]
    return body


def decoding_partly(body: bytes, encoding: str, limit: int) -> Sliced[tuple[bytes, bool, bool]]:
    """As much of `body` as can be decoded, at most `limit` bytes of it; whether that is all; whether something is left
    that is no such encoding.

    Raises Undecodable for an encoding that is unknown.
    """
    whole, left = True, False
    for name in _undone(encoding):
        body, why = yield from _DECODERS[name](body, limit + 1)
        whole = whole and not why and len(body) <= limit
        left = left or why not in ("", _EARLY)
    return body[:limit], whole, left


def _undone(encoding: str) -> list[str]:
    """What is to be undone, in order. Raises Undecodable."""
    names = _names(encoding)
    if len(names) > _MOST_ENCODINGS:
        raise Undecodable(f"{len(names)} content encodings, at most {_MOST_ENCODINGS} are undone")
    for name in names:
        if name not in _DECODERS:
            raise Undecodable(f"unknown content encoding {name[:20]!r}")
    return names[::-1]


def _names(encoding: str) -> list[str]:
    names = (part.strip().lower() for part in encoding.split(","))
    return [name for name in names if name and name != "identity"]


def content_of(message: http.Message, limit: int) -> bytes:
    """The decoded body of a message, at most `limit` bytes of it; as it is where it can't be decoded."""
    body = message.raw_content or b""
    try:
        return decode(body, message.headers.get("content-encoding", ""), limit, cut=True)
    except ValueError:
        return body[:limit]


def listener(encoding: str) -> Callable[[bytes], bytes] | None:
    """What decodes a body chunk by chunk while it comes, for somebody who listens for its end; None where that can't
    be done. It gives up with ValueError where a chunk is broken, or becomes too much to be listened to."""
    names = _names(encoding)
    if len(names) > _MOST_ENCODINGS or any(name not in _LISTENERS for name in names):
        return None
    steps = [_LISTENERS[name]() for name in reversed(names)]

    def decode_chunk(chunk: bytes) -> bytes:
        for step in steps:
            chunk = step(chunk)
        return chunk

    return decode_chunk


def _gzip_listener() -> Callable[[bytes], bytes]:
    return _zlib_listener(zlib.MAX_WBITS | 16)


def _deflate_listener() -> Callable[[bytes], bytes]:
    """Raw or not, which the first two bytes tell."""
    begun, decode = b"", None

    def decode_chunk(chunk: bytes) -> bytes:
        nonlocal begun, decode
        if decode is None:
            begun += chunk
            if len(begun) < 2:
                return b""
            chunk, decode = begun, _zlib_listener(_deflate_wbits(begun))
        return decode(chunk)

    return decode_chunk


def _zlib_listener(wbits: int) -> Callable[[bytes], bytes]:
    decoder, has_members = zlib.decompressobj(wbits=wbits), wbits > zlib.MAX_WBITS

    def decode_chunk(chunk: bytes) -> bytes:
        nonlocal decoder
        decoded = b""
        for _ in range(_MOST_MEMBERS):
            if decoder.eof and has_members and chunk:  # a gzip is a series of members
                decoder = zlib.decompressobj(wbits=wbits)
            try:
                decoded += decoder.decompress(chunk, _HEARD)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            if decoder.unconsumed_tail or len(decoded) > _HEARD:
                break
            chunk = decoder.unused_data if has_members else b""
            if not decoder.eof or not chunk.strip(b"\0"):
                return decoded
        raise ValueError("too much at once")

    return decode_chunk


def _brotli_listener() -> Callable[[bytes], bytes]:
    decoder = brotli.Decompressor()

    def decode_chunk(chunk: bytes) -> bytes:
        try:
            decoded = bytes(decoder.process(chunk, output_buffer_limit=_HEARD))
        except brotli.error as error:
            raise ValueError(str(error)) from None
        if len(decoded) >= _HEARD or not decoder.can_accept_more_data():
            raise ValueError("too much at once")
        return decoded

    return decode_chunk


def _zstd_listener() -> Callable[[bytes], bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj(
        write_size=_HEARD, read_across_frames=True
    )

    def decode_chunk(chunk: bytes) -> bytes:
        decoded = bytearray()
        try:
            for start in range(0, len(chunk), _BIT):
                decoded += decoder.decompress(chunk[start : start + _BIT])
                if len(decoded) >= _HEARD:
                    raise ValueError("too much at once")
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        return bytes(decoded)

    return decode_chunk


_LISTENERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": _gzip_listener,
    "x-gzip": _gzip_listener,
    "deflate": _deflate_listener,
    "br": _brotli_listener,
    "zstd": _zstd_listener,
}


type _Decoded = Sliced[tuple[bytes, str]]
"""What could be decoded, and why it is not all that there is: nothing where it is, or where the limit is reached."""


def _gzip(body: bytes, limit: int) -> _Decoded:
    return _zlib(zlib.MAX_WBITS | 16, body, limit)


def _deflate(body: bytes, limit: int) -> _Decoded:
    return _zlib(_deflate_wbits(body), body, limit)


def _deflate_wbits(body: bytes) -> int:
    # "deflate" is zlib's format by the standard and raw deflate by widespread mistake.
    zlib_format = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS


def _zlib(wbits: int, body: bytes, limit: int) -> _Decoded:
    decoded = bytearray()
    decoder = zlib.decompressobj(wbits=wbits)
    piece, at, taken = b"", 0, 0
    try:
        while len(decoded) < limit:
            if decoder.eof:
                # A gzip is a series of members (RFC 1952, 2.2), and may be padded with zeros.
                at -= len(decoder.unused_data)
                if wbits <= zlib.MAX_WBITS or not body.startswith(_GZIP, at):
                    return bytes(decoded), "" if (yield from _is_padding(body, at)) else _FOLLOWED
                decoder, piece = zlib.decompressobj(wbits=wbits), b""
            if not piece:
                piece, at = body[at : at + _PIECE], min(at + _PIECE, len(body))
            more = decoder.decompress(piece, min(_STEP, limit - len(decoded)))
            if not piece and not more and not decoder.eof:  # it holds nothing back, having taken all of its input
                return bytes(decoded), _EARLY
            decoded += more
            piece = decoder.unconsumed_tail
            taken += len(more) + 1000
            if taken >= _STEP:
                taken = 0
                yield
    except zlib.error as error:
        return bytes(decoded), str(error)
    return bytes(decoded), ""


def _is_padding(body: bytes, at: int) -> Sliced[bool]:
    for start in range(at, len(body), _STEP):
        if body[start : start + _STEP].strip(b"\0"):
            return False
        yield
    return True


def _brotli(body: bytes, limit: int) -> _Decoded:
    decoder = brotli.Decompressor()
    decoded = bytearray()
    piece = body
    try:
        while not decoder.is_finished():
            more = decoder.process(piece, output_buffer_limit=_STEP)
            piece = b""
            decoded += more
            if len(decoded) >= limit:
                return bytes(decoded), ""
            if not more and not decoder.is_finished():
                return bytes(decoded), _EARLY
            yield
    except brotli.error as error:
        return bytes(decoded), str(error)
    return bytes(decoded), ""


def _zstd(body: bytes, limit: int) -> _Decoded:
    decoded = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(
            io.BytesIO(body), read_across_frames=True
        ) as reader:
            while len(decoded) < limit and (chunk := reader.read(min(_STEP, limit - len(decoded)))):
                decoded += chunk
                yield
    except zstandard.ZstdError as error:
        return bytes(decoded), str(error)
    if len(decoded) >= limit:
        return bytes(decoded), ""
    return bytes(decoded), "" if (yield from _ends_with_a_frame(body)) else _EARLY


def _ends_with_a_frame(zstd: bytes) -> Sliced[bool]:
    """Whether the last frame is whole: the library does not tell. RFC 8878 (3.1)."""
    at = blocks = 0
    while at < len(zstd):
        if int.from_bytes(zstd[at : at + 4], "little") & ~0xF == 0x184D2A50:  # one to be skipped
            at += 8 + int.from_bytes(zstd[at + 4 : at + 8], "little")
            continue
        try:
            has_checksum = zstandard.get_frame_parameters(zstd[at : at + 18]).has_checksum
            at += zstandard.frame_header_size(zstd[at : at + 18])
        except zstandard.ZstdError:
            return False
        last = False
        while not last and at < len(zstd):
            block = int.from_bytes(zstd[at : at + 3], "little")
            last, repeated = bool(block & 1), block >> 1 & 3 == 1
            at += 3 + (1 if repeated else block >> 3)
            blocks += 1
            if blocks % 4096 == 0:
                yield
        if not last:
            return False
        at += 4 * has_checksum
    return at == len(zstd)


_DECODERS: dict[str, Callable[[bytes, int], _Decoded]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
