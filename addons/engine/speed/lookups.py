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

Index = dict[bytes, tuple[bytes, ...]]
_INDEX = "relay_values"
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


def values_by_name(headers: Any) -> Index:
    """The values of each header by its name in lower case: worked out once for the same fields, which don't change."""
    fields = headers.fields
    known: tuple[Any, Index] | None = vars(headers).get(_INDEX)
    if known is not None and known[0] is fields:
        return known[1]
    index: Index = {}
    more: dict[bytes, list[bytes]] = {}  # a tuple that grows by one is copied each time
    for name, value in fields:
        low = name.lower()
        if low in index:
            more.setdefault(low, []).append(value)
        else:
            index[low] = (value,)
    for low, values in more.items():
        index[low] += tuple(values)
    if type(fields) is tuple:
        vars(headers)[_INDEX] = (fields, index)
    return index


def _get_all(headers: Any, name: Any) -> list[str]:
    """mitmproxy 12.2.3 converts each name of the fields by a call of its own whenever a header is asked for; so twenty
    headers cost twenty calls a time. Here an index of the names is asked. Remove when MultiDict keeps an index.
    """
    return [value.decode("utf-8", "surrogateescape") for value in values_by_name(headers).get(_low(name), ())]


def _get(headers: Any, key: Any, default: Any = None) -> Any:
    """mitmproxy 12.2.3 inherits `get` from Mapping, which calls `__getitem__` and catches a KeyError; so a header that
    is not there costs an exception, too. Here the index is asked. Remove when MultiDict keeps an index.
    """
    values = values_by_name(headers).get(_low(key))
    if values is None:
        return default
    if len(values) == 1:
        return values[0].decode("utf-8", "surrogateescape")
    return ", ".join([value.decode("utf-8", "surrogateescape") for value in values])


def _getitem(headers: Any, key: Any) -> str:
    """mitmproxy 12.2.3 converts all names here, too, as for `_get_all`; so the index is asked. Remove when MultiDict
    keeps an index.
    """
    values = _get_all(headers, key)
    if not values:
        raise KeyError(key)
    return ", ".join(values)


def _contains(headers: Any, key: Any) -> bool:
    """mitmproxy 12.2.3 inherits `in` from Mapping, which builds the value and catches a KeyError; so the index is
    asked. Remove when MultiDict keeps an index.
    """
    return _low(key) in values_by_name(headers)


_CHANGES: dict[str, Callable[..., Any]] = {
    "get": _get,
    "get_all": _get_all,
    "__getitem__": _getitem,
    "__contains__": _contains,
}
