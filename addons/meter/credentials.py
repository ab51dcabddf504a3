"""Where a request carries its key, and another one in its place."""

from collections.abc import Iterator

from addons.core.chat import read_bearer
from addons.core.headers import Fields

_BEARER = b"authorization"
_PLAIN = (b"x-api-key", b"api-key", b"x-goog-api-key")
_PROTOCOLS = b"sec-websocket-protocol"
_IN_PROTOCOL = "openai-insecure-api-key."
"""How browsers pass a key with a websocket: https://platform.openai.com/docs/guides/realtime-websocket"""


def keys_in(fields: Fields) -> Iterator[str]:
    """The keys in a head, as they stand there."""
    for name, value in fields:
        low, text = name.lower(), value.decode("utf-8", "surrogateescape")
        if low == _BEARER:
            if (key := read_bearer(text)) is not None:
                yield key
        elif low in _PLAIN and text.strip():
            yield text.strip()
        elif low == _PROTOCOLS:
            for each in text.split(","):
                if each.strip().startswith(_IN_PROTOCOL):
                    yield each.strip().removeprefix(_IN_PROTOCOL)


def replaced(fields: Fields, key: str, other: str) -> Fields:
    """The head with another key wherever this one stands."""
    old, new = key.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape")
    carriers = (_BEARER, *_PLAIN, _PROTOCOLS)
    return tuple(
        (name, value.replace(old, new)) if old in value and name.lower() in carriers else (name, value)
        for name, value in fields
    )
