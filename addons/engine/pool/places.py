"""Where a connection to an upstream leads, and by whom: what two connections must agree in to stand for one another."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from addons.config.settings import Upstream

type Way = tuple[str, tuple[str, int]]
"""Scheme and address of a proxy on the way out."""


@dataclass(frozen=True, slots=True)
class Place:
    """Equal ones may share connections. `login` is `user:password` for the proxy, and `ca` a private authority."""

    host: str
    port: int
    secure: bool
    ca: Path | None = None
    way: Way | None = None
    login: str | None = field(default=None, repr=False)

    @property
    def server_name(self) -> str:
        """What TLS asks for: the name without the dot at its end that DNS knows."""
        return self.host.rstrip(".")


@lru_cache(256)
def place_of(upstream: Upstream) -> Place:
    """Where connections for `upstream` lead."""
    way: Any = upstream.way
    secure = upstream.scheme == "https"
    return Place(
        upstream.host, upstream.port, secure, upstream.ca if secure else None, way, upstream.proxy_auth if way else None
    )


class Places:
    """The places that relay.yaml names, by what a flow tells of them that has no upstream of its own: one that was read
    from a file and is replayed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, bool, Way | None], Place] = {}

    def learn(self, upstream: Upstream) -> Place:
        """Remember it. Of several with one address the first is meant."""
        place = place_of(upstream)
        self._known.setdefault((place.host, place.port, place.secure, place.way), place)
        return place

    def find(self, host: str, port: int, secure: bool, way: Way | None) -> Place:
        """The one that is known, or one with nothing of its own."""
        return self._known.get((host, port, secure, way)) or Place(host, port, secure, None, way)
