"""Keys in text: how they are found and what is shown in their place.

A key is replaced by a short prefix and a hash, so that two exchanges of one key can still be told to belong together.
The hash is keyed with a secret of this process or of the store: a plain hash of a guessable key could be reversed by
trying.
"""

import hmac
import re

# sk-..., sk-proj-..., sk-ant-..., sess-...: what OpenAI and its likes issue. A dozen characters at least, so that prose
# such as "sk-learn" stays; upstreams that quote a key mask its middle with asterisks.
# What stands right before it may be a Chinese character, an escape (\n) or a percent-encoding (%3D).
KEY = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{2}))"
    r"(?:(?:sk|sess|rk|pk)-[A-Za-z0-9_*.\-]{8,}|Bearer\s+[^\s\"',;]{6,})",
    re.IGNORECASE,
)
_PREFIX = 3


def scrub(text: str) -> str:
    """The text with everything that looks like a key cut to its first characters."""
    return KEY.sub(lambda found: _masked(found[0]), text)


def masked(key: str) -> str:
    """What is shown of a key that is known to be one."""
    return f"{key[:_PREFIX]}***" if len(key) >= 12 else "***"


def _masked(found: str) -> str:
    if found[:6].lower() == "bearer":
        return "Bearer ***"
    return f"{found[:_PREFIX]}***"


def fingerprint(key: str, secret: bytes) -> str:
    """`sk-***1a2b3c4d`: eight hex digits of a keyed hash behind the key's first characters.

    The prefix is shown only where the key is long enough to spare it.
    """
    digest = hmac.digest(secret, key.encode("utf-8", "surrogatepass"), "sha256").hex()[:8]
    prefix = key[:_PREFIX] if len(key) >= 12 else ""
    return f"{prefix}***{digest}"


def mask(text: str, keys: dict[str, str]) -> str:
    """`text` with each known key replaced by its fingerprint, then anything that still looks like one scrubbed.

    `keys` maps a key to what is shown for it.
    """
    for key in sorted(keys, key=len, reverse=True):  # one key may begin with another
        text = text.replace(key, keys[key])
    return KEY.sub(lambda found: found[0] if _is_fingerprint(found[0]) else _masked(found[0]), text)


def _is_fingerprint(text: str) -> bool:
    return "***" in text and re.fullmatch(r"(?:Bearer\s+)?.{0,3}\*{3}[0-9a-f]{8}", text) is not None
