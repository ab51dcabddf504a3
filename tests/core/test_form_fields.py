"""Multipart forms: what clients write is read, and what parsers may read in different ways is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.form_fields import Form, form, is_of_ascii
from addons.core.top_level import NoObject, Repeated

PLAIN = "multipart/form-data; boundary=B"
NAMED = 'Content-Disposition: form-data; name="{}"'
EIGHT_BITS = "Content-Transfer-Encoding: 8bit"
FILE = 'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg'


def part(head: str, value: bytes | str = "x") -> bytes:
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


MODEL = part(NAMED.format("model"), "whisper-1")
READ = Form({"model": "whisper-1"}, ("file",))

WRITTEN: dict[str, tuple[str, bytes]] = {
    "a browser": (
        "multipart/form-data; boundary=----WebKitFormBoundaryAb",
        b'------WebKitFormBoundaryAb\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'------WebKitFormBoundaryAb\r\nContent-Disposition: form-data; name="file"; filename="a %22b%22;c.mp3"\r\n'
        b"Content-Type: audio/mpeg\r\n\r\n\x00\xff\r\n\r\n--\r\n------WebKitFormBoundaryAb--\r\n",
    ),
    "curl": (
        "multipart/form-data; boundary=------------------------d7449666",
        b'--------------------------d7449666\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--------------------------d7449666\r\nContent-Disposition: form-data; name="file"; filename="a\\"b.mp3"'
        b"\r\nContent-Type: application/octet-stream\r\n\r\nx\r\n--------------------------d7449666--\r\n",
    ),
    "form-data-encoder, of OpenAI's library for Node": (
        "multipart/form-data; boundary=form-data-boundary-yl3a",
        b'--form-data-boundary-yl3a\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--form-data-boundary-yl3a\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
        b"Content-Type: audio/mpeg\r\nContent-Length: 1\r\n\r\nx\r\n--form-data-boundary-yl3a--\r\n\r\n",
    ),
    ".NET": (
        'multipart/form-data; boundary="b-1"',
        b"--b-1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\n"
        b"whisper-1\r\n--b-1\r\n"
        b"Content-Disposition: form-data; name=file; filename=a.mp3; filename*=utf-8''a%E4%BD%A0.mp3"
        b"\r\n\r\nx\r\n--b-1--\r\n",
    ),
    "Ruby": (
        "multipart/form-data; boundary=-----------RubyMultipartPost-a",
        b'-------------RubyMultipartPost-a\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'-------------RubyMultipartPost-a\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
        b"Content-Length: 1\r\nContent-Type: audio/mpeg\r\nContent-Transfer-Encoding: binary\r\n\r\nx\r\n"
        b"-------------RubyMultipartPost-a--\r\n",
    ),
    "Apache's client": (
        "multipart/form-data; boundary=B; charset=UTF-8",
        whole(
            part(f"{NAMED.format('model')}\r\nContent-Type: text/plain; charset=UTF-8\r\n{EIGHT_BITS}", "whisper-1"),
            part('Content-Disposition: form-data; name="file"; filename=""'),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), WRITTEN.values(), ids=WRITTEN)
def test_what_clients_write_is_read(kind: str, body: bytes) -> None:
    assert form(body, kind) == READ


FIELDS = {"model": "gpt-image-1", "n": "2", "prompt": "一"}


def test_several_files_are_read() -> None:
    """As httpx writes them for OpenAI's library for Python."""
    image = 'Content-Disposition: form-data; name="image[]"; filename="{}"\r\nContent-Type: image/png'
    fields = [part(NAMED.format(name), value) for name, value in FIELDS.items()]
    files = [part(image.format("你好.png"), b"PNG\r\n--\xff"), part(image.format("upload"), b"PNG")]
    mask = part("Content-Disposition: form-data; name=\"mask\"; filename*=utf-8''%E4%BD%A0.png")
    found = form(whole(*fields, *files, mask), "multipart/form-data; boundary=B")
    assert found == Form(FIELDS, ("image[]", "image[]", "mask"))


def test_lists_repeat_and_hold_what_was_said_last() -> None:
    twice = whole(part(NAMED.format("include[]"), "a"), part(NAMED.format("include[]"), "b"))
    assert form(twice, PLAIN).fields == {"include[]": "b"}
    with pytest.raises(Repeated):
        form(whole(MODEL, MODEL), PLAIN)


N = NAMED.format("n")
HIDDEN: dict[str, bytes] = {
    "behind a filename in another header": part(f"{N}\r\nContent-Type: text/plain\r\nX: a; name=foo\r\nX: a"),
    "a header twice": part(f"{N}\r\n{N}"),
    "a name that is encoded": part("Content-Disposition: form-data; name*=UTF-8''n"),
    "both names": part("Content-Disposition: form-data; name=\"x\"; name*=UTF-8''n"),
    "two names": part('Content-Disposition: form-data; name="x"; name="n"'),
    "a name in the name of a file": part('Content-Disposition: form-data; name="x"; filename="\\"; name=n; a=\\""'),
    "a name behind a backslash": part('Content-Disposition: form-data; name="x"; filename="a\\"; name="n"'),
    "a name in a name": part('Content-Disposition: form-data; name="x; name=n"'),
    "blanks around the sign": part('Content-Disposition: form-data; name = "n"'),
    "capital letters": part('Content-Disposition: form-data; Name="n"'),
    "a FILENAME that some don't know": part('Content-Disposition: form-data; name="n"; FILENAME="x"'),
    "parameters that nobody sends": part('Content-Disposition: form-data; name="n"; x="filename="'),
    "no form-data": part('Content-Disposition: attachment; name="n"'),
    "no disposition": part("Content-Type: text/plain"),
    "no head": b"--B\r\n\r\n10\r\n",
    "a head without an end": b"--B\r\n" + N.encode() + b"\r\n",
    "a folded line": part(f'{N};\r\n filename="x"'),
    "a blank before the colon": part('Content-Disposition : form-data; name="n"'),
    "bare line feeds": part(f"X: a\n{N}"),
    "bare carriage returns": part(f"X: a\r{N}"),
    "a NUL": part(f"{N}\r\nX: \0"),
    "an encoding": part(f"{N}\r\nContent-Transfer-Encoding: base64", "MTA="),
    "a charset": part(f"{N}\r\nContent-Type: text/plain; charset=utf-7", "+ADEAMA-"),
    "a charset of the form": part(NAMED.format("_charset_"), "utf-16"),
    "a form in the form": part(f"{N}\r\nContent-Type: multipart/mixed; boundary=C"),
    "no UTF-8": part(N, b"\xff"),
    "a field that is too long": part(N, " " * (1 << 20) + "10"),
    "a long head": part(f"{N}\r\nX: " + "x" * 5000),
    "many headers": part(N + "".join(f"\r\nX-{each}: x" for each in range(20))),
    "an empty name": part(NAMED.format("")),
}


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_what_may_be_read_in_another_way_is_refused(hidden: bytes) -> None:
    with pytest.raises(NoObject):
        form(whole(MODEL, hidden, part(FILE)), PLAIN)


FRAMES: dict[str, bytes] = {
    "something before": b"x\r\n" + whole(MODEL),
    "something behind": whole(MODEL) + b"x",
    "parts behind the end": whole(MODEL) + whole(MODEL),
    "no end": MODEL,
    "bare line feeds": whole(MODEL).replace(b"\r\n", b"\n"),
    "blanks behind the boundary": whole(MODEL).replace(b"--B\r\n", b"--B \r\n"),
    "a longer boundary": whole(MODEL.replace(b"--B", b"--Bx"), MODEL),
    "no part": b"",
    "many parts": whole(*[part(NAMED.format(f"f{each}")) for each in range(300)]),
}


@pytest.mark.parametrize("body", FRAMES.values(), ids=FRAMES)
def test_frames_that_are_none(body: bytes) -> None:
    with pytest.raises(NoObject):
        form(body, PLAIN)


@pytest.mark.parametrize(
    "kind",
    [
        *("multipart/form-data", "multipart/form-data; xboundary=A; boundary=B", "multipart/form-data; boundary="),
        *("multipart/form-data; boundary=A; boundary=B", "multipart/form-data; boundary=B, application/json"),
        *("multipart/form-data; boundary*=B", "multipart/form-data-x; boundary=B", "multipart/mixed; boundary=B"),
        *("multipart/form-data; boundary=B; charset=utf-7", 'multipart/form-data; boundary="\\B"'),
    ],
)
def test_a_content_type_names_one_boundary(kind: str) -> None:
    with pytest.raises(NoObject):
        form(whole(MODEL), kind)


def test_charsets() -> None:
    assert all(is_of_ascii(f"application/json{more}") for more in ("", "; charset=utf-8", '; Charset="UTF-8"'))
    assert not is_of_ascii("application/json; charset=utf-7") and not is_of_ascii(
        "a/b; charset=utf-8; charset = utf-16"
    )


@given(st.binary(max_size=200), st.sampled_from([b"", part(N), MODEL, part(FILE)]))
def test_anything_is_read_or_refused(data: bytes, more: bytes) -> None:
    for body in (data, whole(more + data), whole(MODEL, b"--B\r\n" + data)):
        try:
            form(body, PLAIN)
        except (NoObject, Repeated):
            continue
