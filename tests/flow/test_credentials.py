"""The keys in a head."""

import pytest

from addons import errors
from addons.flow.credentials import keys_in, replaced, shows_others

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


@pytest.mark.parametrize(
    "beside",
    [
        (b"x-api-key", b"mine"),
        (b"API-Key", b"mine"),
        (b"Authorization", b"Basic bWluZTptaW5l"),
        (b"x-portkey-key", b"sk-mine-0123456789"),
        (b"Helicone-Auth", b"Bearer mine-0123456789"),
        protocols("mine"),
    ],
)
def test_a_key_beside_those_of_relay_is_seen(beside: tuple[bytes, bytes]) -> None:
    ours = (b"Authorization", b"Bearer rk-a")
    assert shows_others((ours, beside), "", ["rk-a"])
    assert not shows_others((ours, (beside[0], b"")), "", ["rk-a"])


@pytest.mark.parametrize("query", ["?key=mine", "?a=b&api_key=mine", "?x=sk-mine-0123456789", "?access_token=m"])
def test_one_in_a_query_as_well(query: str) -> None:
    assert shows_others(((b"Authorization", b"Bearer rk-a"),), query, ["rk-a"])


def test_other_headers_show_none() -> None:
    key = "rk-0123456789abcdefghijklmnopqrstuv"
    head = (
        (b"Host", b"relay"),
        (b"Authorization", f"Bearer {key}".encode()),
        (b"x-api-key", key.encode()),
        protocols(key),
        (b"OpenAI-Organization", b"org-0123456789abcdef"),
        (b"Idempotency-Key", b"stainless-node-retry-3f2c9f0e-8f0d-4a57-9a39-2b6a0f0c1d2e"),
        (b"User-Agent", b"OpenAI/Python 1.2.3"),
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    )
    for query in ("", "?model=gpt-4o", "?after=file_1&limit=20"):
        assert not shows_others(head, query, [key])
