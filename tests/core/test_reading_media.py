import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.cli.fake_openai.api import PNG
from addons.core.reading.media import decoded_size, dimensions, picture, placeholder

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"\0" * 10 + b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 480, 640) + b"\x03"
WEBP = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")


@pytest.mark.parametrize(
    ("data", "measures"),
    [
        (PNG, (1, 1)),
        (b"GIF89a" + struct.pack("<HH", 640, 480), (640, 480)),
        (JPEG, (640, 480)),
        (WEBP, (640, 480)),
        (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 640, 480), (640, 480)),
        (b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 5 + struct.pack("<I", 639 | 479 << 14), (640, 480)),
        (PNG[:18], None),
        (b"", None),
    ],
    ids=["png", "gif", "jpeg", "webp", "lossy webp", "lossless webp", "cut", "nothing"],
)
def test_measures(data: bytes, measures: tuple[int, int] | None) -> None:
    assert dimensions(data) == measures


@given(
    st.binary(max_size=64), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X"])
)
def test_no_picture_raises(data: bytes, start: bytes) -> None:
    dimensions(start + data)


@given(st.text(max_size=50))
def test_no_source_raises(source: str) -> None:
    picture(source)
    picture("data:image/png;base64," + source)
    placeholder("file", source)


def test_sizes_are_those_of_what_is_encoded() -> None:
    assert [decoded_size(encoded) for encoded in ("", "QQ==", "QUI=", "QUJD", "QUJDRA")] == [0, 1, 2, 3, 4]
