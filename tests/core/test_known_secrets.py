"""Secrets that an exchange has named, found wherever else they stand."""

import base64
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import known_secrets, secret_pieces
from addons.core.known_secrets import KnownSecrets, unescaped
from addons.core.secrets import fingerprint, scrubbing
from addons.core.slices import at_once

SECRET = b"0" * 32
KEY = "A+b/0123456789abcdef"
SHOWN = fingerprint(KEY, SECRET)


def known(*values: str) -> KnownSecrets:
    found = KnownSecrets(SECRET)
    for value in values:
        found.add(value.encode(), encoded=True)
    return found


@pytest.mark.parametrize(
    "spell",
    [
        str,
        lambda key: quote(key, safe=""),
        lambda key: "".join(f"%{ord(one):02X}" for one in key),
        lambda key: "".join(f"\\u{ord(one):04x}" for one in key),
        lambda key: "".join(f"\\\\\\u{ord(one):04X}" for one in key),
        lambda key: key.replace("/", "\\/"),
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    ],
    ids=["plain", "quoted", "percent", "escaped", "escaped thrice", "a slash", "base64", "base64 for addresses"],
)
@pytest.mark.parametrize("before", ["", "x" * 16_380, "\\n" * 8_190, "%41" * 5_461, "\\" * 16_383 + " "])
def test_it_is_found_however_it_is_spelt(spell: Callable[[str], str], before: str) -> None:
    text = f"{before}{spell(KEY)} after"
    shown = at_once(known(KEY).masking(text.encode())).decode()
    assert SHOWN in shown and shown.endswith(" after")
    assert spell(KEY) not in shown


@pytest.mark.parametrize("length", [8, 12, len(KEY) - 1])
def test_the_beginning_of_one_at_a_cut_is_none(length: int) -> None:
    assert known(KEY).without_cut(b"x " + KEY[:length].encode()) == b"x ***"


@pytest.mark.parametrize("text", ["", "x", KEY[:7], f"{KEY[:12]} x", "x" * 10_000])
def test_what_begins_none_stays(text: str) -> None:
    assert known(KEY).without_cut(text.encode()) == text.encode()


@given(st.text(max_size=40), st.lists(st.text(min_size=8, max_size=30), min_size=1, max_size=4))
def test_no_known_secret_is_left(text: str, keys: list[str]) -> None:
    found = known(*keys)
    shown = found.mask(text.join(["", *keys, ""]))
    if not any(key in each.decode() for key in keys for each in map(found.shown, found)):
        assert not any(key in shown for key in keys)


@given(st.text(alphabet="\\u0041%xX/\"' ", max_size=60))
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert known("never-to-be-found").mask(text) == text


def test_a_key_over_the_border_of_a_slice_is_found() -> None:
    for start in range(65_500, 65_560, 7):
        data = b"x" * start + b" sk-0123456789abcdef tail"
        assert at_once(scrubbing(data)) == b"x" * start + b" sk-*** tail"


def test_an_endless_key_is_cut_whole() -> None:
    assert at_once(scrubbing(b"a sk-" + b"0" * 1_000_000 + b" b")) == b"a sk-*** b"


def test_a_short_word_is_not_looked_for() -> None:
    assert known("word").mask("a word of it") == "a word of it"


@pytest.mark.parametrize("size", [10, 10_000])
def test_who_names_too_many_is_found_out(size: int) -> None:
    found = known(*(f"{number:04}".ljust(size, "x") for number in range(1000)))
    assert found.overfull
    assert len(found) <= known_secrets.MOST
    assert sum(map(len, found)) <= known_secrets.MOST_BYTES


@given(st.binary(max_size=200))
def test_unescaping_never_fails(data: bytes) -> None:
    assert len(unescaped(data)) <= len(data)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.text(st.characters(exclude_characters="%\\"), max_size=10),
    st.sampled_from([KEY, "".join(f"%{ord(letter):02x}" for letter in KEY), KEY[:6] + "%" + KEY[6:].encode().hex("%")]),
)
def test_pieces_of_a_stream_lose_their_part(cuts: list[int], text: str, spelt: str) -> None:
    said = f"{text} {spelt} {text}"
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(said[at : at + cut])
        at += cut
    pieces.append(said[at:])
    body = b"".join(b'data: {"content":%s}\n\n' % known_json(piece) for piece in pieces)
    shown = at_once(secret_pieces.masking(body, known(KEY)))
    assert "".join(said_in(shown)) == said.replace(spelt, SHOWN)


def known_json(text: str) -> bytes:
    import json

    return json.dumps(text).encode()


def said_in(body: bytes) -> list[str]:
    import json

    return [json.loads(line[6:])["content"] for line in body.split(b"\n") if line]
