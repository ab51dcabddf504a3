"""Where a request carries its key, and another one in its place."""

from collections.abc import Collection, Iterator

from addons import errors
from addons.core.chat import read_bearer
from addons.core.headers import Fields
from addons.core.secret_names import Verdict, judge
from addons.core.secrets import KEY, may_hold_key

_MOST = 8
"""Keys in one head; nobody has use for more than two."""
_BEARER = b"authorization"
_PLAIN = (b"x-api-key", b"api-key", b"x-goog-api-key")
_PROTOCOLS = b"sec-websocket-protocol"
_IN_PROTOCOL = "openai-insecure-api-key."
"""How browsers pass a key with a websocket: https://platform.openai.com/docs/guides/realtime-websocket"""


_ALWAYS_KEYS = (_BEARER, *_PLAIN)
_CARRIERS = (*_ALWAYS_KEYS, _PROTOCOLS)


def keys_in(fields: Fields) -> Iterator[str]:
    """The keys in a head, as they stand there, each once.

    Raises BadRequest where there are too many: each has to be looked at, since none that relay has handed out may go
    up.
    """
    found: set[str] = set()
    for key in _shown_in(fields):
        if key in found:
            continue
        if len(found) == _MOST:
            raise errors.BadRequest(
                f"请求头中的密钥过多，最多 {_MOST} 个。", f"Too many keys in the head: at most {_MOST} are taken."
            )
        found.add(key)
        yield key


def _shown_in(fields: Fields) -> Iterator[str]:
    for name, value in fields:
        low, text = name.lower(), value.decode("utf-8", "surrogateescape")
        if low == _BEARER:
            if (key := read_bearer(text)) is not None:
                yield key
            elif text.strip() and len(text.split()) == 1:
                yield text.strip()  # of a client that has forgotten the scheme
        elif low in _PLAIN and text.strip():
            yield text.strip()
        elif low == _PROTOCOLS:
            for each in text.split(","):
                if each.strip().startswith(_IN_PROTOCOL):
                    yield each.strip().removeprefix(_IN_PROTOCOL)


def shows_others(fields: Fields, query: str, keys: Collection[str]) -> bool:
    """Whether a head or a query shows a key besides these, or something that looks like one. Raises as `keys_in`."""
    if any(each not in keys for each in keys_in(fields)):
        return True
    known = [key.encode("utf-8", "surrogateescape") for key in sorted(keys, key=len, reverse=True)]
    shown = [query.encode("utf-8", "surrogateescape")]
    for name, value in fields:
        if name.lower() in _ALWAYS_KEYS and value.strip() and not any(key in value for key in known):
            return True
        shown.append(value)
    names = [each.partition("=")[0].lower() for each in query.removeprefix("?").split("&")]
    if any(name == "key" or judge(name) is Verdict.YES for name in names):
        return True
    text = b"\n".join(shown)
    for key in known:
        text = text.replace(key, b"*")  # so that "Bearer" has something behind it
    return may_hold_key(text) and KEY.search(text) is not None


def replaced(fields: Fields, keys: Collection[str], other: str) -> Fields:
    """The head with another key wherever one of these is shown, and without what else has one of them in it.

    A key that stands in `Authorization` by itself gets the scheme that upstream expects.
    """
    new = other.encode("utf-8", "surrogateescape")
    head = list(fields)
    for key in sorted(keys, key=len, reverse=True):
        old = key.encode("utf-8", "surrogateescape")
        head = [
            (name, _placed(name, value, old, new)) if old in value else (name, value)
            for name, value in head
            if old not in value or name.lower() in _CARRIERS
        ]
    return tuple(head)


def _placed(name: bytes, value: bytes, old: bytes, new: bytes) -> bytes:
    if name.lower() == _BEARER and value.strip() == old:
        return b"Bearer " + new
    return value.replace(old, new)
