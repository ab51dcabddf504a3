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
_BIT = 32  # encoded bytes at a time where the decoder has no bound of its own
_HEARD = 1 << 17  # decoded bytes of one chunk that is listened to
_MOST_ENCODINGS = 4  # of one body; real ones have one, and each of a thousand costs a pass over all of it


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
    is no such encoding, or broken. Several encodings, four at most, are undone from the last to the first, as RFC 9110
    (8.4) has them applied.
    """
    names = _names(encoding)
    if len(names) > _MOST_ENCODINGS:
        raise Undecodable(f"{len(names)} content encodings, at most {_MOST_ENCODINGS} are undone")
    for name in reversed(names):
        try:
            body = yield from _DECODERS[name](body, limit + 1, cut)
        except KeyError:
            raise Undecodable(f"unknown content encoding {name[:20]!r}") from None
        except (zlib.error, zstandard.ZstdError, brotli.error, EOFError) as error:
            raise Undecodable(f"broken {name}: {error}") from None
    if len(body) > limit:
        if not cut:
            raise TooLong(f"over {limit} bytes when decoded")
        body = body[:limit]
    return body


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
    return _zlib_listener(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16))


def _deflate_listener() -> Callable[[bytes], bytes]:
    """Raw or not, which the first two bytes tell."""
    begun, decode = b"", None

    def decode_chunk(chunk: bytes) -> bytes:
        nonlocal begun, decode
        if decode is None:
            begun += chunk
            if len(begun) < 2:
                return b""
            chunk, decode = begun, _zlib_listener(_deflate_decoder(begun))
        return decode(chunk)

    return decode_chunk


def _zlib_listener(decoder: "zlib._Decompress") -> Callable[[bytes], bytes]:
    def decode_chunk(chunk: bytes) -> bytes:
        try:
            decoded = decoder.decompress(chunk, _HEARD)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if decoder.unconsumed_tail:
            raise ValueError("too much at once")
        return decoded

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


def _gzip(body: bytes, limit: int, cut: bool) -> Sliced[bytes]:
    return _zlib(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), body, limit, cut)


def _deflate(body: bytes, limit: int, cut: bool) -> Sliced[bytes]:
    return _zlib(_deflate_decoder(body), body, limit, cut)


def _deflate_decoder(body: bytes) -> "zlib._Decompress":
    # "deflate" is zlib's format by the standard and raw deflate by widespread mistake.
    zlib_format = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS)


def _zlib(decoder: "zlib._Decompress", body: bytes, limit: int, cut: bool) -> Sliced[bytes]:
    decoded = bytearray()
    for start in range(0, len(body), _PIECE):
        piece = body[start : start + _PIECE]
        while piece and len(decoded) < limit and not decoder.eof:
            decoded += decoder.decompress(piece, min(_STEP, limit - len(decoded)))
            piece = decoder.unconsumed_tail
            yield
        if len(decoded) >= limit or decoder.eof:
            break
    while not decoder.eof and len(decoded) < limit:  # what it holds back, having taken all of its input
        if not (more := decoder.decompress(b"", min(_STEP, limit - len(decoded)))):
            break
        decoded += more
        yield
    if not decoder.eof and len(decoded) < limit and not cut:
        raise EOFError("it ends too early")
    return bytes(decoded)


def _brotli(body: bytes, limit: int, cut: bool) -> Sliced[bytes]:
    decoder = brotli.Decompressor()
    decoded = bytearray(decoder.process(body, output_buffer_limit=_STEP))
    while len(decoded) < limit and not decoder.is_finished():
        yield
        if not (piece := decoder.process(b"", output_buffer_limit=_STEP)):
            if cut:
                break
            raise EOFError("it ends too early")
        decoded += piece
    return bytes(decoded)


def _zstd(body: bytes, limit: int, cut: bool) -> Sliced[bytes]:
    with zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(
        io.BytesIO(body), read_across_frames=True
    ) as reader:
        decoded = bytearray()
        while len(decoded) < limit and (chunk := reader.read(min(_STEP, limit - len(decoded)))):
            decoded += chunk
            yield
        return bytes(decoded)


_DECODERS: dict[str, Callable[[bytes, int, bool], Sliced[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
