import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from addons.core.known_secrets import KnownSecrets
from addons.core.secrets import fingerprint, scrub

SECRET = b"0" * 32


def mask(text: str, *keys: str) -> str:
    known = KnownSecrets(SECRET)
    for key in keys:
        known.add(key.encode())
    return known.mask(text)


letters = st.sampled_from(string.ascii_letters + string.digits + "-_")
keys = st.builds(
    lambda prefix, rest: prefix + rest,
    st.sampled_from(["sk-", "sk-proj-", "sk-ant-", "sess-", "rk-", "pk-"]),
    st.text(letters, min_size=20, max_size=60),
)
odd_keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=60)
around = st.text(st.sampled_from(" \n\t\"',;:=/&?<>(){}你好,。"), max_size=8)


@given(keys, around, around)
def test_a_key_never_stays_in_scrubbed_text(key: str, before: str, after: str) -> None:
    assume(not before or not before[-1].isalnum())
    shown = scrub(f"x {before}{key}{after} y")
    assert key not in shown
    assert key[3:11] not in shown
    assert shown.startswith(f"x {before}")
    assert shown.endswith(f"{after} y")


@given(odd_keys, around, around)
def test_a_known_key_never_stays_in_masked_text(key: str, before: str, after: str) -> None:
    shown = fingerprint(key, SECRET)
    assume(key not in shown)
    masked = mask(f"{before}{key}{after}{key}", key)
    assert key not in masked


@given(keys, st.text(st.characters(codec="utf-8", exclude_characters="*"), max_size=30))
def test_unknown_keys_are_masked_beside_known_ones(key: str, text: str) -> None:
    known = "key-of-an-upstream-without-a-prefix"
    masked = mask(f"{text} {known} {key} Bearer {key}", known)
    assert key not in masked
    assert known not in masked
    assert fingerprint(known, SECRET) in masked


@given(keys)
def test_a_fingerprint_survives_masking_again(key: str) -> None:
    shown = fingerprint(key, SECRET)
    once = mask(f"Authorization: Bearer {key}, {key}", key)
    assert once == f"Authorization: Bearer {shown}, {shown}"
    assert mask(once) == once


@given(keys | odd_keys)
def test_a_fingerprint_tells_keys_apart_and_keeps_them_secret(key: str) -> None:
    shown = fingerprint(key, SECRET)
    assert shown == fingerprint(key, SECRET)
    assert shown != fingerprint(key + "x", SECRET)
    assert shown[:3] == key[:3]
    assert shown[3:6] == "***"
    assert shown[6:] != fingerprint(key, b"1" * 32)[6:]  # guessing a key needs the secret, too
    assert len(shown) == 14


def test_a_short_key_shows_nothing_of_itself() -> None:
    assert fingerprint("abcdefghijk", SECRET).startswith("***")
    assert fingerprint("\ud800", SECRET).startswith("***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-abcdefgh12345678.", "Incorrect API key provided: sk-***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ('{"apiKey":"sk-abcdefgh12345678"}', '{"apiKey":"sk-***"}'),
        ("?apiKey=sk-abcdefgh12345678&x=1", "?apiKey=sk-***&x=1"),
        ("SK-ABCDEFGH12345678", "SK-***"),
        ("key sk-abcd****5678 refused", "key sk-*** refused"),
        ("two: sk-abcdefgh1, sk-abcdefgh2", "two: sk-***, sk-***"),
    ],
    ids=lambda text: text,
)
def test_what_looks_like_a_key_is_cut(text: str, shown: str) -> None:
    assert scrub(text) == shown


@pytest.mark.parametrize(
    "text", ["pip install sk-learn", "ask-me-anything-now", "Bearer of news", "risk-averse people", ""]
)
def test_prose_stays(text: str) -> None:
    assert scrub(text) == text
    assert mask(text) == text
