"""The keys in a head."""

import pytest

from addons import errors
from addons.flow.credentials import keys_in, replaced

MANY = [f"key-{number}" for number in range(9)]


def protocols(*keys: str) -> tuple[bytes, bytes]:
    return b"Sec-WebSocket-Protocol", ", ".join(f"openai-insecure-api-key.{key}" for key in keys).encode()


def test_each_key_is_told_once() -> None:
    head = ((b"Authorization", b"Bearer a"), (b"x-api-key", b" a "), (b"Authorization", b"b"), protocols("b", "c"))
    assert list(keys_in(head)) == ["a", "b", "c"]


def test_eight_keys_are_read_and_the_ninth_is_refused() -> None:
    assert list(keys_in((protocols(*MANY[:8], *MANY[:8]),))) == MANY[:8]
    for head in ((protocols(*MANY),), tuple((b"x-api-key", key.encode()) for key in MANY)):
        with pytest.raises(errors.BadRequest):
            list(keys_in(head))


def test_whoever_wants_the_first_alone_is_told_it() -> None:
    assert next(keys_in((protocols(*MANY),))) == MANY[0]


def test_none_of_them_goes_up() -> None:
    head = ((b"Authorization", b"rk-a"), protocols("rk-b", "other"), (b"Cookie", b"k=rk-b"), (b"Accept", b"*/*"))
    [bearer, offered, accept] = replaced(head, ["rk-a", "rk-b"], "sk-real")
    assert bearer == (b"Authorization", b"Bearer sk-real")
    assert offered == protocols("sk-real", "other")
    assert accept == (b"Accept", b"*/*")
