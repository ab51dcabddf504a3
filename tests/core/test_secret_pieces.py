"""Secrets in the pieces of a stream: each text is joined by itself."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from addons.core import secret_pieces
from addons.core.known_secrets import KnownSecrets
from addons.core.slices import at_once

KEY = "0a1b2c3d4e5f60718293"
OTHER = "sk-proj-ZYXWVUTSRQPO9876"
type Event = dict[str, Any]


def known() -> KnownSecrets:
    found = KnownSecrets(b"0" * 32)
    found.add(KEY.encode())
    return found


def sse(events: list[Event]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


def lines(events: list[Event]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def array(events: list[Event]) -> bytes:
    return json.dumps(events, indent=2).encode()


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def cleaned(body: bytes) -> bytes:
    assert secret_pieces.is_in_pieces(body)
    return at_once(secret_pieces.masking(body, known()))


def delta(**fields: object) -> Event:
    return {"id": "c", "choices": [{"index": 0, "delta": fields}]}


@pytest.mark.parametrize("form", [sse, lines, array])
@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning", "thinking", "refusal", "summary", "any"])
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_any_text_is_joined(form: Callable[[list[Event]], bytes], name: str, key: str) -> None:
    pieces = ["it is ", key[:5], key[5:11], key[11:], " I think"]
    shown = cleaned(form([delta(**{name: piece}) for piece in pieces]))
    assert key[5:11].encode() not in shown and key[11:].encode() not in shown
    assert b"***" in shown and b"it is " in shown and b" I think" in shown


@pytest.mark.parametrize(
    "event",
    [
        lambda piece: {"type": "content_block_delta", "index": 1, "delta": {"partial_json": piece}},
        lambda piece: {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": piece},
        lambda piece: delta(tool_calls=[{"index": 1, "function": {"arguments": piece}}]),
    ],
)
def test_arguments_are_read_as_json(event: Callable[[str], Event]) -> None:
    shown = cleaned(sse([event(piece) for piece in ('{"pass', 'word": "hun', "ter2", '", "user": "bob"}')]))
    assert b"hun" not in shown and b"ter2" not in shown and b"bob" in shown


def test_texts_that_come_by_turns_are_told_apart() -> None:
    for both in (False, True):
        events: list[Event] = []
        for one, two in zip(("a " + KEY[:7], KEY[7:], " b"), ("b " + OTHER[:7], OTHER[7:], " c"), strict=True):
            choices = [{"index": 0, "delta": {"content": one}}, {"delta": {"content": two}, "index": 1}]
            events += [{"choices": choices}] if both else [{"choices": [choice]} for choice in choices]
        # now and then only one of them goes on
        events.insert(1, {"choices": [{"index": 1, "delta": {"content": ""}}]})
        events.insert(1, delta(reasoning="and so"))
        shown = cleaned(sse(events))
        assert KEY[7:].encode() not in shown and OTHER[7:].encode() not in shown
        assert shown.count(b"***") == 2 and b"and so" in shown


def test_a_stream_without_secrets_is_the_same_object() -> None:
    body = sse([delta(content=piece) for piece in ("one ", "two ", '{"a": ', "1}")])
    assert at_once(secret_pieces.masking(body, known())) is body


def test_lines_that_end_otherwise_and_long_ones() -> None:
    for body in (
        sse([delta(content=piece) for piece in (KEY[:9], KEY[9:])]).replace(b"\n", b"\r"),
        sse([delta(content=piece) for piece in (KEY[:9], KEY[9:])]).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf"
        + sse([delta(x="a" * 200_000), delta(content=KEY[:9]), delta(x=["b"] * 70_000, content=KEY[9:])]),
    ):
        assert KEY[9:].encode() not in cleaned(body)


def test_what_is_one_answer_is_in_no_pieces() -> None:
    assert not secret_pieces.is_in_pieces(b'{"content": "a",\n"b": {"c": 1}}\n')
    assert not secret_pieces.is_in_pieces(b"")
