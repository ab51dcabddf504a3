"""Whose a connection or a request is: addresses, and the headers in which proxies name them."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IpAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SITE = 64
"""Bits of an IPv6 address that name a site: whoever has one of its addresses has all of them (RFC 6177)."""
_LONGEST = 64
"""Characters of an address with a port, and of an entry that is looked at."""


def parse_address(text: str) -> IpAddress | None:
    """An address as proxies write them, with or without a port; None for anything else. IPv4 within IPv6 is IPv4.

    >>> parse_address("203.0.113.9:51000"), parse_address("[2001:db8::1]:443"), parse_address("unknown")
    (IPv4Address('203.0.113.9'), IPv6Address('2001:db8::1'), None)
    """
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


def parse_network(text: str) -> Network:
    """A network such as 10.0.0.0/8, or one address. Raises ValueError.

    >>> parse_network("10.0.0.0/8"), parse_network("::1")
    (IPv4Network('10.0.0.0/8'), IPv6Network('::1/128'))
    """
    return ip_network(text.strip())


def is_within(address: IpAddress, networks: Iterable[Network]) -> bool:
    """Whether it is in one of these."""
    return any(address in network for network in networks)


def counted_as(address: IpAddress) -> str:
    """What is counted together: an IPv4 address, an IPv6 site.

    >>> counted_as(IPv6Address("2001:db8:1:2:3::4"))
    '2001:db8:1:2::/64'
    """
    if isinstance(address, IPv4Address):
        return str(address)
    site = int(address) >> (128 - _SITE) << (128 - _SITE)
    return f"{IPv6Address(site)}/{_SITE}"


def forwarded_for(values: Sequence[str], trusted: Sequence[Network]) -> IpAddress | None:
    """The client that `X-Forwarded-For` names, or a header with one address alone.

    Each proxy writes at the end whom it has seen, so only what trusted ones have written counts: from the right, the
    first address that is none of theirs. What stands further to the left, the client may have written. None where the
    last entry is no address; where one before it is none, who stands behind it is all that is known.

    >>> str(forwarded_for(["6.6.6.6, 203.0.113.9", "10.0.0.7"], [parse_network("10.0.0.0/8")]))
    '203.0.113.9'
    """
    found: IpAddress | None = None
    for value in reversed(values):
        for entry in reversed(value.split(",")):
            address = parse_address(entry)
            if address is None:
                return found
            found = address
            if not is_within(address, trusted):
                return found
    return found
