"""The address of a Redis: text in, parts or a ValueError that says what was expected out.

    redis://[user[:password]@]host[:port][/database]
    rediss://...                                          the same over TLS
    redis+sentinel://[user[:password]@]host[:port],host[:port].../master[/database]
    rediss+sentinel://...

User and password are Redis's own, and percent-encoded. Sentinels are asked without any.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from addons.core.urls import is_host

EXPECTED = (
    "expected the address of a Redis such as redis://127.0.0.1:6379/0, rediss://user:password@redis.example.com, or "
    "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster"
)
_PORT, _SENTINEL_PORT = 6379, 26379
_SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is. With a `master` the hosts are sentinels, who know where the master of this name is."""

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    user: str | None = None
    password: str | None = None
    database: int = 0
    master: str | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return f"RedisAddress({self.shown})"

    @property
    def shown(self) -> str:
        """What may be printed."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        name = f"master {self.master} of {hosts}" if self.master else hosts
        return f"{name}, database {self.database}" if self.database else name


def parse_redis(text: str) -> RedisAddress:
    """The parts of an address. Raises ValueError, saying what was expected."""
    scheme, separator, rest = text.partition("://")
    if (
        not separator
        or scheme not in _SCHEMES
        or not text.isascii()
        or not text.isprintable()
        or set(text) & set(" \\?#")
    ):
        raise ValueError(EXPECTED)
    sentinel = scheme.endswith("+sentinel")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    names = path.split("/") if path else []
    master = unquote(names.pop(0)) if sentinel and names else None
    if (sentinel and not master) or len(names) > 1 or (not sentinel and "," in hosts) or (at and not login):
        raise ValueError(EXPECTED)
    return RedisAddress(
        tuple(_host(each, _SENTINEL_PORT if sentinel else _PORT) for each in hosts.split(",")),
        scheme.startswith("rediss"),
        unquote(user) or None,
        unquote(password) if colon else None,
        _database(names[0] if names else ""),
        master,
    )


def _host(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(EXPECTED)
        port = port[1:]
    else:
        host, colon, port = text.partition(":")
        if colon and not port:
            raise ValueError(EXPECTED)
    if (
        not is_host(host)
        or not (port.isdecimal() if port else True)
        or not 0 < (number := int(port or default)) < 65536
    ):
        raise ValueError(EXPECTED)
    return host, number


def _database(text: str) -> int:
    if text and (not text.isdecimal() or len(text) > 4):
        raise ValueError(EXPECTED)
    return int(text or 0)
