"""Advice: what whoever runs relay can do about an error stands in its log. Callers can do nothing about that, and are
told to ask them."""

import logging
import time

from addons.errors import RelayError

logger = logging.getLogger(__name__)

_PAUSE = 60.0
"""Seconds between two lines that say the same of an upstream: thousands of callers may meet it."""
_MOST = 1000
_said: dict[tuple[str, str], float] = {}
"""When it was said, on the monotonic clock."""


def advise(upstream: str, error: RelayError) -> None:
    """Log the advice of `error`, if it has any, and it was not given a moment ago. `upstream` is its name."""
    if not error.advice:
        return
    now = time.monotonic()
    if now - _said.get((upstream, error.advice), -_PAUSE) < _PAUSE:
        return
    if len(_said) >= _MOST:
        _said.clear()
    _said[upstream, error.advice] = now
    logger.warning(f"upstream {upstream}: {error.code}: {error.advice}")
