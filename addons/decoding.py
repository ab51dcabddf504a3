"""Reading compressed bodies without letting a few bytes become gigabytes.

Clients and upstreams compress as they like and bodies pass untouched; whoever reads one reads a decoded copy, and says
how much of it. mitmproxy's own decoding has no such bound.
"""

import io
import zlib

import brotli
import zstandard
from mitmproxy import http

_STEP = 1 << 16


class TooLong(ValueError):
    """The decoded body is over the limit."""


def decode(body: bytes, encoding: str, limit: int, *, cut: bool = False) -> bytes:
    """`body` decoded by a Content-Encoding, at most `limit` bytes of it.

    With `cut`, what is over the limit, or missing at the end, is left out; else it is TooLong, or a ValueError for what
    is no such encoding or broken. Several encodings are undone from the last to the first, as RFC 9110 (8.4) has them
    applied.
    """
    for name in reversed([part.strip().lower() for part in encoding.split(",") if part.strip()]):
        if name == "identity":
            continue
        try:
            body = _DECODERS[name](body, limit + 1, cut)
        except KeyError:
            raise ValueError(f"unknown content encoding {name[:20]!r}") from None
        except (zlib.error, zstandard.ZstdError, brotli.error, EOFError) as error:
            raise ValueError(f"broken {name}: {error}") from None
    if len(body) > limit:
        if not cut:
            raise TooLong(f"over {limit} bytes when decoded")
        body = body[:limit]
    return body


def content_of(message: http.Message, limit: int) -> bytes:
    """The decoded body of a message, at most `limit` bytes of it; as it is where it can't be decoded."""
    body = message.raw_content or b""
    try:
        return decode(body, message.headers.get("content-encoding", ""), limit, cut=True)
    except ValueError:
        return body[:limit]


def _gzip(body: bytes, limit: int, cut: bool) -> bytes:
    return _zlib(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), body, limit, cut)


def _deflate(body: bytes, limit: int, cut: bool) -> bytes:
    # "deflate" is zlib's format by the standard and raw deflate by widespread mistake.
    zlib_format = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _zlib(zlib.decompressobj(wbits=zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS), body, limit, cut)


def _zlib(decoder: "zlib._Decompress", body: bytes, limit: int, cut: bool) -> bytes:
    decoded = decoder.decompress(body, limit)
    if not decoder.eof and len(decoded) < limit and not cut:
        raise EOFError("it ends too early")
    return decoded


def _brotli(body: bytes, limit: int, cut: bool) -> bytes:
    decoder = brotli.Decompressor()
    piece = decoder.process(body, output_buffer_limit=_STEP)
    decoded = bytearray(piece)
    while len(decoded) < limit and not decoder.is_finished():
        if not (piece := decoder.process(b"", output_buffer_limit=_STEP)):
            if cut:
                break
            raise EOFError("it ends too early")
        decoded += piece
    return bytes(decoded)


def _zstd(body: bytes, limit: int, cut: bool) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        io.BytesIO(body), read_across_frames=True
    ) as reader:
        decoded = bytearray()
        while len(decoded) < limit and (chunk := reader.read(min(_STEP, limit - len(decoded)))):
            decoded += chunk
        return bytes(decoded)


_DECODERS = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
