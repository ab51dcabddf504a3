"""Which names promise a secret: of fields in JSON, forms and queries, and of headers.

A name is cut into words, at `_`, `-`, `.`, blanks and where camel case begins a new one, and judged by them. Three
verdicts, since `key` and `token` have a second meaning in this trade:

1. YES: `password`, `client_secret`, `Set-Cookie`, `x-api-key`, `refreshToken`.
2. MAYBE: `key`, `token`, `monkey`: only where the value could be a secret (`could_be_secret`).
3. NO: `max_tokens`, `key_findings`, `prompt_cache_key`.
"""

import enum
import re
from functools import lru_cache


class Verdict(enum.Enum):
    """What a name says of its value."""

    NO = 0
    MAYBE = 1
    YES = 2


_LONGEST = 128
"""Characters of a name that are read: its end, where the noun stands."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # linear: each letter belongs to one word

_SECRET = frozenset(
    re.findall(
        r"[a-z]+",
        "apikey apitoken secret secretkey clientsecret password passwd pwd passphrase cookie authorization authtoken "
        "accesstoken accesskey refreshtoken idtoken sessiontoken privatekey credential signature jwt",
    )
)
_SECRET_LAST = frozenset(("auth", "sig", "bearer"))
_GLUED = ("apikey", "secret", "password", "passwd", "accesstoken", "authtoken", "credential", "cookie")
_NOUNS = frozenset(("key", "token"))
# `prompt_cache_key`, `next_page_token`, `eos_token`, `sort_key`: what these name is no secret.
_HARMLESS = frozenset(
    re.findall(
        r"[a-z]+",
        "cache idempotency sort order primary foreign partition group routing public page pagination next previous "
        "continuation cursor max min total stop eos bos pad unk sep cls mask special start end first last new "
        "dictionary object map lookup index",
    )
)
_ISSUED = frozenset(("access", "api", "auth", "refresh", "session", "bearer", "user"))
_HEADER_LAST = frozenset(("access", "pass"))
_HARMLESS_HEADERS = frozenset(("sec-websocket-key", "idempotency-key", "sec-websocket-accept"))
_COULD_BE = re.compile(rb"[\x21-\x7e]{16,4096}+")


@lru_cache(4096)
def judge(name: str) -> Verdict:
    """What the name of a field promises.

    >>> judge("openaiApiKey"), judge("token"), judge("max_tokens")
    (<Verdict.YES: 2>, <Verdict.MAYBE: 1>, <Verdict.NO: 0>)
    """
    written = [word.lower() for word in _WORD.findall(name[-_LONGEST:])]
    words = [_singular(word) for word in written]
    if not words:
        return Verdict.NO
    harmless = not _HARMLESS.isdisjoint((*written, *words))
    last = words[-1]
    if _SECRET.intersection(words) or last in _SECRET_LAST or any(word.endswith(_GLUED) for word in words):
        return Verdict.YES
    if last not in _NOUNS:
        return Verdict.MAYBE if last.endswith(("key", "token")) and not harmless else Verdict.NO
    if len(words) == 1:
        return Verdict.MAYBE
    # `api_keys` and `access_tokens` may hold some; `total_tokens` counts what a model reads and writes.
    counted = last == "token" and name.lower().endswith("tokens") and words[-2] not in _ISSUED
    return Verdict.NO if counted or harmless else Verdict.YES


@lru_cache(1024)
def judge_header(name: str) -> bool:
    """Whether a header of this name holds a secret."""
    low = name.lower()
    if low in _HARMLESS_HEADERS or low.startswith("access-control-"):
        return False
    return judge(low) is not Verdict.NO or low.rpartition("-")[2] in _HEADER_LAST


def could_be_secret(value: bytes) -> bool:
    """Whether a value could be a key or a token: 16 characters or more and no blank."""
    return _COULD_BE.match(value) is not None and not re.search(rb"[^\x21-\x7e]", value[:4096])


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
