"""Decoding is bounded, goes in slices, and gives the same whichever way it is called."""

import gzip
import time
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from addons.core.slices import at_once
from addons.flow.decoding import TooLong, Undecodable, decode, decoding, decoding_partly, listener


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(body) + encoder.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
MB = 1 << 20


@pytest.mark.parametrize("encoding", ENCODERS)
@given(st.binary(max_size=300), st.integers(1, 2000))
def test_what_was_encoded_is_decoded(encoding: str, piece: bytes, times: int) -> None:
    body = piece * times
    encoded = ENCODERS[encoding](body)
    assert decode(encoded, encoding, len(body)) == body
    assert decode(encoded, encoding, len(body) // 2, cut=True) == body[: len(body) // 2]
    if body:
        with pytest.raises(TooLong):
            decode(encoded, encoding, len(body) - 1)


@pytest.mark.parametrize("encoding", [name for name in ENCODERS if name != "zstd"])
def test_what_breaks_off_is_an_error_or_cut(encoding: str) -> None:
    body = bytes(range(256)) * 200
    encoded = ENCODERS[encoding](body)[:-9]
    with pytest.raises(ValueError, match="broken"):
        decode(encoded, encoding, MB)
    assert body.startswith(decode(encoded, encoding, MB, cut=True))


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_bomb_is_decoded_to_its_limit_alone_and_in_slices(encoding: str) -> None:
    bomb = ENCODERS[encoding](b" " * (64 * MB))
    work = decoding(bomb, encoding, 4 * MB)
    slices, longest = 0, 0.0
    with pytest.raises(TooLong):
        while True:
            begun = time.process_time()
            next(work)
            longest = max(longest, time.process_time() - begun)
            slices += 1
    assert slices >= 8
    assert longest < 0.2


def test_several_encodings_are_undone_in_turn() -> None:
    assert at_once(decoding(brotli.compress(gzip.compress(b"x")), "gzip, identity, br", 9)) == b"x"


def test_at_most_four_encodings_are_undone() -> None:
    body = b"x"
    for count in range(1, 7):
        body = gzip.compress(body)
        names = ", ".join(["gzip"] * count)
        if count <= 4:
            assert decode(body, names, 99) == b"x"
        else:
            assert listener(names) is None
            for cut in (False, True):
                with pytest.raises(Undecodable, match="encodings"):
                    decode(body, names, 99, cut=cut)
    with pytest.raises(Undecodable):
        decode(b"", "br," * 10_000, 99)
    assert decode(gzip.compress(b"x"), "identity," * 99 + "gzip", 99) == b"x", "these cost nothing"


def test_a_listener_undoes_several_encodings() -> None:
    hear = listener("gzip, br")
    assert hear is not None
    inner, outer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16), brotli.Compressor()
    for piece in (b"data: one\n\n", b"data: two\n\n"):
        compressed = inner.compress(piece) + inner.flush(zlib.Z_SYNC_FLUSH)
        assert hear(outer.process(compressed) + outer.flush()) == piece


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_listener_hears_raw_deflate_too(size: int) -> None:
    hear = listener("deflate")
    assert hear is not None
    sent = raw_deflate(b"data: one\n\n")
    assert b"".join(hear(sent[at : at + size]) for at in range(0, len(sent), size)) == b"data: one\n\n"


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "deflate", "br", "zstd"])
def test_a_listener_hears_what_has_come_so_far(encoding: str) -> None:
    pieces = [b"data: one\n\n", b"data: two\n\n"]
    hear = listener(encoding)
    assert hear is not None
    if encoding == "br":
        compressor = brotli.Compressor()
        sent = [compressor.process(piece) + compressor.flush() for piece in pieces]
    elif encoding in ("gzip", "deflate"):
        encoder = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        sent = [encoder.compress(piece) + encoder.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    elif encoding == "zstd":
        frames = zstandard.ZstdCompressor().compressobj()
        sent = [frames.compress(piece) + frames.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces]
        assert decode(b"".join(sent), "zstd", 99, cut=True) == b"".join(pieces), "its end is missing"
    else:
        sent = pieces
    assert [hear(piece) for piece in sent] == pieces


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_listener_gives_up_on_bombs_and_nonsense(encoding: str) -> None:
    bomb = listener(encoding)
    assert bomb is not None
    with pytest.raises(ValueError):
        for _ in range(2):
            bomb(ENCODERS[encoding](b" " * (8 * MB)))
    nonsense = listener(encoding)
    assert nonsense is not None
    with pytest.raises(ValueError):
        for _ in range(9):
            nonsense(b"\xff\xfe nonsense " * 9)


@pytest.mark.parametrize("encoding", ["x-unknown", "gzip, x-unknown"])
def test_nobody_listens_to_what_cannot_be_heard(encoding: str) -> None:
    assert listener(encoding) is None


def test_all_members_of_a_gzip_are_decoded_and_heard() -> None:
    parts = [b"data: one\n\n", b"", b"data: two\n\n" * 9]
    body = b"".join(map(gzip.compress, parts))
    assert decode(body, "gzip", MB) == b"".join(parts)
    assert decode(body + bytes(300), "x-gzip", MB) == b"".join(parts)
    hear = listener("gzip")
    assert hear is not None
    assert b"".join(hear(body[at : at + 7]) for at in range(0, len(body), 7)) == b"".join(parts)
    assert (listener("gzip") or bytes)(body) == b"".join(parts)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_can_be_decoded_is_and_the_rest_is_told(encoding: str) -> None:
    body = bytes(range(256)) * 200
    encoded = ENCODERS[encoding](body)
    assert at_once(decoding_partly(encoded, encoding, MB)) == (body, True, False)
    assert at_once(decoding_partly(encoded, encoding, 9)) == (body[:9], False, False)
    decoded, whole, left = at_once(decoding_partly(encoded[:-9], encoding, MB))
    assert (body.startswith(decoded), whole, left) == (True, False, False)
    decoded, whole, left = at_once(decoding_partly(encoded + b"\0 and more", encoding, MB))
    assert (body.startswith(decoded), whole, left) == (True, False, True)


def test_a_zstd_that_breaks_off_is_an_error() -> None:
    encoded = zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 300_000)
    skipped = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    assert decode(skipped + encoded + encoded, "zstd", MB) == b"x" * 600_000
    for end in (1, 5, len(encoded) - 4):
        with pytest.raises(ValueError, match="too early"):
            decode(encoded + encoded[:-end], "zstd", MB)


def test_only_a_few_encodings_are_undone() -> None:
    with pytest.raises(ValueError, match="at most 4"):
        decode(b"", ", ".join(["gzip"] * 100), MB)
