"""Secrets in addresses, within others as well, and in cookies."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.secret_heads import cookies, is_session, may_have_parts, meant, secret_parts
from addons.core.secrets import TooManySecrets

MARK = "Zq01Opaque-Mark_WmLkJh"


def values(address: str) -> list[str]:
    return [meant(address[start:end], depth) for start, end, depth in secret_parts(address)]


def nested(address: str, times: int) -> str:
    for _ in range(times):
        address = f"https://a.example/login?next={quote(address, safe='')}&lang=en"
    return address


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("/v1/x?api_key=abc&y=2", ["abc"]),
        ("/v1/x?y=2#access_token=abc;b", ["abc"]),
        ("/v1/x;password=abc?a=1", ["abc"]),
        ("/?redirect=https%3A%2F%2Fx%2F%3Faccess_token%3Dabc%26x%3D1&secret=d", ["abc", "d"]),
        ("/?redirect=https%3a%2f%2fx%2f%23a%3D1%3bpwd%3dabc", ["abc"]),
        ("/?r=%2F%3Fr%3D%252F%253Fapi%25255Fkey%253Dabc%2526a%253D1%26b%3D2", ["abc"]),
        ("/?r=/x?api_key=abc", ["abc"]),
        ("/?api_key=a%26b%3Fc&x=1", ["a&b?c"]),
        ("/?api_key=a%2526b&x=1", ["a%26b"]),
        ("/?r=%3Fapi_key%3Da%2526b%26x", ["a&b"]),
        ("/a%3Ftoken%3D0123456789abcdefgh", ["0123456789abcdefgh"]),
        ("/?token=short&key=a%20b&max_tokens=5&api_key_id=abc&token_type=bearer", []),
        ("/?q=what+is+password%3Dabc", []),
        ("/?api_key=&secret", []),
        ("/v1/models", []),
    ],
)
def test_secret_parts_of_an_address(address: str, found: list[str]) -> None:
    assert values(address) == found


@given(st.text(st.characters(codec="ascii"), min_size=1, max_size=20), st.integers(0, 3), st.sampled_from("?#&;"))
def test_a_part_is_found_in_addresses_within_addresses(key: str, times: int, mark: str) -> None:
    address = nested(f"https://x/{mark}access_token={quote(key, safe='')}&scope=all", times)
    assert values(address) == [key]
    assert may_have_parts(address) or mark in ";&"


def test_what_ends_early_hides_nothing_behind_it() -> None:
    address = nested(f"/?api_key={MARK}", 2)
    (start, end, _), *_ = secret_parts(address)
    assert address[:start].endswith("api_key%253D")
    assert address[end:] == "%26lang%3Den&lang=en"


def test_an_address_of_very_many_parts_is_not_looked_through() -> None:
    assert values("/?" + "a=1&" * 4000 + "api_key=abc") == ["abc"]
    with pytest.raises(TooManySecrets):
        values("/?" + "a=1%26" * 5000)


@given(st.text("?&;#=%23526bBfFdDkey ", max_size=200))
def test_parts_stand_in_order_and_none_in_another(address: str) -> None:
    last = 0
    for start, end, _ in secret_parts(address):
        assert last <= start < end <= len(address)
        last = end


@pytest.mark.parametrize(
    ("value", "sets", "found"),
    [
        (b"a=1; session=abc", False, [b"1", b"abc"]),
        (b" a = b=c ;;x; d=", False, [b"b=c", b"x"]),
        (b'a="b c"', False, [b"b c"]),
        (b"path=abc; secure", False, [b"abc", b"secure"]),
        (b"sid=abc; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT; HttpOnly; SameSite=Lax", True, [b"abc"]),
        (b"path=abc; Path=/", True, [b"abc"]),
        (b"secure; Secure", True, [b"secure"]),
        (b"a=1; Path=/, sid=abc; Odd=def", True, [b"1", b"/, sid=abc", b"def"]),
        (b"", False, []),
    ],
)
def test_cookies_are_told_apart(value: bytes, sets: bool, found: list[bytes]) -> None:
    told = cookies(value, sets=sets)
    assert told is not None
    assert [value[start:end] for start, end, _ in told] == found


def test_too_many_cookies_are_not_told_one_by_one() -> None:
    assert cookies(b"a=b;" * 300, sets=False) is None


def test_a_cookie_of_a_session_is_a_secret_however_short() -> None:
    assert is_session(b"PHPSESSID") and is_session(b"connect.sid") and is_session(b"XSRF-TOKEN")
    assert not is_session(b"theme") and not is_session(b"")
