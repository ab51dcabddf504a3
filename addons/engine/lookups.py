"""Lookups: a header by its name, the same answer in a fraction of the time.

mitmproxy asks for single headers all the time (lengths, encodings, connection options), and each time every name is
converted by a call of its own, with an exception for what is not there.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mitmproxy.http import Headers
from mitmproxy.utils import strutils

from addons.engine.wrapping import replace, restore

_SHORT = 64


def install() -> None:
    """Make the changes of this room."""
    for name, function in _CHANGES.items():
        replace(Headers, name, function)


def uninstall() -> None:
    """Take them back."""
    for name in _CHANGES:
        restore(Headers, name)


@lru_cache(1024)
def _low_text(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").lower()


def _low(name: Any) -> Any:
    if type(name) is str and len(name) <= _SHORT:
        return _low_text(name)
    return strutils.always_bytes(name, "utf-8", "surrogateescape").lower()  # and stock's errors, for what is no name


def _get_all(headers: Any, name: Any) -> list[str]:
    low = _low(name)
    return [value.decode("utf-8", "surrogateescape") for key, value in headers.fields if key.lower() == low]


def _get(headers: Any, key: Any, default: Any = None) -> Any:
    values = _get_all(headers, key)
    return ", ".join(values) if values else default


def _getitem(headers: Any, key: Any) -> str:
    values = _get_all(headers, key)
    if not values:
        raise KeyError(key)
    return ", ".join(values)


def _contains(headers: Any, key: Any) -> bool:
    low = _low(key)
    for each, _ in headers.fields:  # noqa: SIM110 - twice as fast as any()
        if each.lower() == low:
            return True
    return False


_CHANGES: dict[str, Callable[..., Any]] = {
    "get": _get,
    "get_all": _get_all,
    "__getitem__": _getitem,
    "__contains__": _contains,
}
