"""Where a request goes, judged by its path alone.

Real apps join a base address and a path carelessly (`//v1/...`, `/v1/v1/dashboard/...`), so a doubled slash or version
at the start is mended. The rest of the path, and the query, stay as they were sent, percent-encodings included.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

_LEADING_SLASHES = re.compile(r"^/{2,}")
_DOUBLED_VERSION = re.compile(r"^(?:/v1/?)+(?=/v1/)")
_DOT_SEGMENT = re.compile(r"(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:[/\\;]|%2f|%5c|%3b|$)", re.IGNORECASE)
_OFFICIAL = ("/v1/", "/dashboard/billing/")
OWN = ("/healthz", "/readyz")
"""Paths of relay's own that have no place in relay.yaml."""
PAGE = "/"
"""Where a person finds out what this is. Under a route it is the upstream's, like any other path there."""


class Target(NamedTuple):
    """A request's path, taken apart."""

    route: str | None
    """The route's prefix that matched, removed from `path`; None for the default upstream."""
    path: str
    """The path behind the prefix, its start mended."""
    query: str
    """`?` and what follows it, as sent; empty where there is none."""


def resolve(raw: str, routes: Mapping[str, object] | tuple[str, ...]) -> Target:
    """Take a request target apart; the longest matching route wins.

    >>> resolve("//deepseek/v1/v1/models?a=%2F", ("/deepseek",))
    Target(route='/deepseek', path='/v1/models', query='?a=%2F')
    """
    path, mark, query = raw.partition("?")
    path = _single_slash(path)
    matching = [route for route in routes if path == route or path.startswith(route + "/")]
    route = max(matching, key=len) if matching else None
    if route is not None:
        path = path[len(route) :] or "/"
    path = _single_slash(path)
    if path.startswith("/v1/"):
        path = _DOUBLED_VERSION.sub("", path)
    return Target(route, path, mark + query)


def _single_slash(path: str) -> str:
    return _LEADING_SLASHES.sub("/", path) if path.startswith("//") else path


def is_official(path: str) -> bool:
    """Whether a path without a route belongs to OpenAI's own interface.

    A dot segment would let a client leave the paths that are served, since upstreams resolve it.
    """
    return (path.startswith(_OFFICIAL) or path == "/v1") and not climbs(path)


def climbs(path: str) -> bool:
    """Whether a path has `.` or `..` for a segment, percent-encoded or not."""
    return ("." in path or "%2" in path) and _DOT_SEGMENT.search(path) is not None
