"""Faults on purpose, for people who test their apps: which request meets one, and of which kind.

The same chances, shares and order of requests give the same faults. A request may ask for one by a header, whatever the
shares say.
"""

import json
from collections.abc import Callable, Mapping

KINDS = ("429", "500", "break", "silence", "slow")
"""Refused for its rate; failed; broken off in the midst of its body; never answered; answered late."""
HEADER = "x-relay-fault"
NONE = "none"
"""What the header says where no fault is wanted."""
RETRY_AFTER = 1
"""Seconds that a 429 tells to wait."""
LATE = 3.0
"""Seconds before a late answer begins."""
BREAKS_AFTER = 100
"""Bytes of a body after which it is broken off."""
EXPECTED = f"expected a share such as 0.2, or kinds such as 429=0.1,break=0.05; kinds are {', '.join(KINDS)}"


def shares(text: str) -> Mapping[str, float]:
    """The share of requests that meet each kind: `0.2` is one in five, of all kinds alike. Raises ValueError.

    >>> shares("429=0.1,break=0.05")
    {'429': 0.1, 'break': 0.05}
    """
    if "=" not in text:
        share = _share(text)
        return dict.fromkeys(KINDS, share / len(KINDS))
    found: dict[str, float] = {}
    for part in text.split(","):
        kind, _, value = part.strip().partition("=")
        if kind not in KINDS or kind in found:
            raise ValueError(EXPECTED)
        found[kind] = _share(value)
    if sum(found.values()) > 1:
        raise ValueError("all shares together are at most 1")
    return found


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise ValueError(EXPECTED) from None
    if not 0 <= share <= 1:
        raise ValueError(EXPECTED)
    return share


class Faults:
    """Says of each request, in the order in which they come, which fault it meets."""

    def __init__(self, wanted: Mapping[str, float], chance: Callable[[], float]) -> None:
        """`chance` gives a number from 0 on, below 1, each time."""
        self._wanted = wanted
        self._chance = chance

    def next(self, asked: str | None = None) -> str | None:
        """One of `KINDS`, or None. `asked` is what the request says in `HEADER`."""
        at = self._chance()  # drawn for each request, so that a header changes nothing for the others
        if asked is not None:
            return asked if asked in KINDS else None
        for kind, share in self._wanted.items():
            if at < share:
                return kind
            at -= share
        return None


def refusal(kind: str) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of a 429 or a 500, as OpenAI has them: https://platform.openai.com/docs/guides/error-codes"""
    headers = {"content-type": "application/json"}
    if kind == "429":
        message, type_, code = "Rate limit reached (a fault on purpose).", "requests", "rate_limit_exceeded"
        headers["retry-after"] = str(RETRY_AFTER)
    else:
        message, type_, code = "The server had an error (a fault on purpose).", "server_error", "server_error"
    error = {"message": message, "type": type_, "param": None, "code": code}
    return int(kind), headers, json.dumps({"error": error}).encode()
