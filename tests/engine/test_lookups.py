"""A header is found as mitmproxy finds it, whatever the fields and the name."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mitmproxy.http import Headers

from tests.support.side_by_side import engine

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


CHANGES: dict[str, Use] = {
    **USES,
    "clear": lambda headers, name: headers.clear(),
    "add": lambda headers, name: headers.add(name, "more"),
    "insert": lambda headers, name: headers.insert(0, name, "first"),
    "set_all": lambda headers, name: headers.set_all(name, ["one", "two"]),
    "popitem": lambda headers, name: headers.popitem(),
    "fields": lambda headers, name: setattr(headers, "fields", ((b"Accept", b"others"), *headers.fields[:1])),
    "the same fields anew": lambda headers, name: setattr(headers, "fields", tuple(list(headers.fields))),
    "fields in a list": lambda headers, name: setattr(headers, "fields", list(headers.fields)),
    "a list that changes": lambda headers, name: headers.fields.append((b"accept", b"x")),  # type: ignore
    "set_state": lambda headers, name: headers.set_state(((b"accept", b"state"),)),
    "len": lambda headers, name: len(headers),
    "iter": lambda headers, name: list(headers),
    "bytes": lambda headers, name: bytes(headers),
    "copies": lambda headers, name: [
        (each.get("accept"), each.pop("accept", None), each.get("accept"), headers.get("accept"))
        for each in (headers.copy(), copy.copy(headers), copy.deepcopy(headers), pickle.loads(pickle.dumps(headers)))
    ],
    "get_state": lambda headers, name: Headers.from_state(headers.get_state()).get("accept"),
}


@settings(max_examples=300, deadline=None)
@given(FIELDS, st.lists(st.tuples(st.sampled_from(list(CHANGES)), st.sampled_from(NAMES) | RAW)))
@example((), [("fields in a list", ""), ("a list that changes", ""), ("get", ""), ("a list that changes", "")])
def test_what_is_found_follows_what_is_changed(fields: Any, steps: list[tuple[str, Any]]) -> None:
    def outcomes() -> list[Any]:
        headers = Headers(fields)
        done = []
        for change, name in steps:
            for use in (CHANGES[change], USES["get"], USES["in"], USES["get_all"]):
                try:
                    done.append(use(headers, name if use is CHANGES[change] else "Accept"))
                except Exception as error:
                    done.append((type(error), str(error)))
            done.append(headers.fields)
        return done

    with engine(fast=False):
        stock = outcomes()
    with engine(fast=True):
        assert outcomes() == stock


class Name(str):
    """A name that is written otherwise than it looks."""

    def encode(self, *_args: Any, **_kwargs: Any) -> bytes:
        return b"other"


ODD: dict[str, list[Any]] = {
    "longer than any that are kept": ["a" * 63, "a" * 64, "a" * 65, "A" * 64, "A" * 65, "a" * 5000, "ä" * 64],
    "text and bytes of the same name": ["accept", b"accept", "ACCEPT", b"ACCEPT", "x-ä", "x-ä".encode(), "X-Ä"],
    "a name of its own kind": ["accept", Name("accept"), "accept", Name("other"), "other"],
    "what is no name": [None, 5, True, 1, 1.0, ["accept"], ("accept",), {}, bytearray(b"accept"), "accept"],
    "what cannot be encoded": ["\ud800", "accept", "\ud800", "\udcff", "\udcff"],
    "more than can be kept": [f"name-{number}" for number in range(1100)] * 2,
}


@pytest.mark.parametrize("names", ODD.values(), ids=ODD.keys())
def test_names_that_are_odd(names: list[Any]) -> None:
    """Each is asked for twice, since the first time may have left something."""
    raw = [name.lower().encode() for name in names if type(name) is str and name.isascii()]
    fields = tuple(
        (each, b"value of " + each) for each in (*raw[:1050:50], b"accept", b"other", "x-ä".encode(), b"\xff")
    )
    with engine(fast=False):
        stock = [_outcome(USES[use], fields, name) for name in names for use in ("get", "[]", "in", "get_all")]
    with engine(fast=True):
        for _ in range(2):
            assert [
                _outcome(USES[use], fields, name) for name in names for use in ("get", "[]", "in", "get_all")
            ] == stock


def test_several_fields_of_a_name_are_folded() -> None:
    with engine(fast=True):
        headers = Headers([(b"Accept", b"a"), (b"ACCEPT", b"b")])
        assert headers["accept"] == "a, b"
        assert headers.get_all(b"accept") == ["a", "b"]
