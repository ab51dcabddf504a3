"""Whose a request is: addresses as proxies write them, and which of several counts."""

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.client_address import counted_as, forwarded_for, is_within, parse_address, parse_network

TRUSTED = [parse_network("10.0.0.0/8"), parse_network("fd00::/8")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("203.0.113.9:51000", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("203.0.113", None),
        ("0203.0.113.9", None),
        ("203.0.113.9" + "0" * 100, None),
    ],
)
def test_an_address(text: str, expected: str | None) -> None:
    assert parse_address(text) == (None if expected is None else ip_address(expected))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "", "lan", "10.0.0.0/8/8"])
def test_no_network(text: str) -> None:
    with pytest.raises(ValueError):
        parse_network(text)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        (["203.0.113.9, 10.1.1.1", "fd00::5"], "203.0.113.9"),
        (["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        (["6.6.6.6, nonsense, 10.0.0.6"], "10.0.0.6"),
        (["6.6.6.6, nonsense"], None),
        (["6.6.6.6,"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_last_one_that_is_no_proxy_counts(values: list[str], expected: str | None) -> None:
    found = forwarded_for(values, TRUSTED)
    assert found == (None if expected is None else ip_address(expected))


@given(st.lists(st.text(max_size=20), max_size=4), st.ip_addresses())
def test_what_a_client_writes_itself_counts_for_nothing(lies: list[str], client: object) -> None:
    address = parse_address(str(client))
    if address is None or is_within(address, TRUSTED):
        return
    assert forwarded_for([*lies, f"{client}", "10.0.0.9"], TRUSTED) == address


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_a_network_of_64_bits_is_one_client(address: IPv6Address, low: int) -> None:
    same = IPv6Address(int(address) >> 64 << 64 | low)
    assert counted_as(address) == counted_as(same)
    other = IPv6Address(int(address) ^ 1 << 64)
    assert counted_as(address) != counted_as(other)
