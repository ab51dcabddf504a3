"""A header is found as mitmproxy finds it, whatever the fields and the name."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers

from tests.engine.side_by_side import engine

NAMES = ["Accept", "accept", "ACCEPT", "X-Ä", "x-ä", "\udcff", "\ud800", "", "Set-Cookie", "set-cookie"]
RAW = st.sampled_from([name.encode("utf-8", "surrogatepass") for name in NAMES] + [b"\xff", b"\xc4"]) | st.binary(
    max_size=4
)
FIELDS = st.lists(st.tuples(RAW, RAW), max_size=6).map(tuple)
WRONG = st.none() | st.integers() | st.floats() | st.just(bytearray(b"accept")) | st.just(("accept",))
NAME = st.sampled_from(NAMES) | RAW | st.text(max_size=4) | WRONG

Use = Callable[[Headers, Any], Any]
USES: dict[str, Use] = {
    "get": lambda headers, name: headers.get(name),
    "get with a default": lambda headers, name: headers.get(name, "none"),
    "get by keyword": lambda headers, name: headers.get(key=name, default=1),  # type: ignore[call-overload]
    "get_all": lambda headers, name: headers.get_all(name),
    "get_all by keyword": lambda headers, name: headers.get_all(name=name),
    "[]": lambda headers, name: headers[name],
    "in": lambda headers, name: name in headers,
    "setdefault": lambda headers, name: headers.setdefault(name, "new"),
    "pop": lambda headers, name: headers.pop(name),
    "pop with a default": lambda headers, name: headers.pop(name, None),
    "del": lambda headers, name: headers.__delitem__(name),
    "assignment": lambda headers, name: headers.__setitem__(name, "new"),
    "update": lambda headers, name: headers.update({name: "new"}),
    "items": lambda headers, name: list(headers.items()),
    "==": lambda headers, name: headers == Headers(headers.fields),
}


def _outcome(use: Use, fields: Any, name: Any) -> Any:
    headers = Headers()
    headers.fields = fields
    try:
        result = use(headers, name)
    except Exception as error:
        return type(error), str(error), headers.fields
    return type(result), result, headers.fields


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@given(fields=FIELDS, name=NAME)
def test_any_name_in_any_fields(use: Use, fields: tuple[tuple[bytes, bytes], ...], name: Any) -> None:
    with engine(fast=False):
        stock = _outcome(use, fields, name)
    with engine(fast=True):
        assert _outcome(use, fields, name) == stock


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("fields", [(("accept", "x"),), ((b"accept",),), ((1, b"x"),), None])
def test_fields_that_are_none(use: Use, fields: Any) -> None:
    with engine(fast=False):
        stock = _outcome(use, fields, "accept")
    with engine(fast=True):
        assert _outcome(use, fields, "accept") == stock


def test_several_fields_of_a_name_are_folded() -> None:
    with engine(fast=True):
        headers = Headers([(b"Accept", b"a"), (b"ACCEPT", b"b")])
        assert headers["accept"] == "a, b"
        assert headers.get_all(b"accept") == ["a", "b"]
