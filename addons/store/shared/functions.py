"""The functions that Redis runs for relay: functions.lua, under a name that changes with its text.

So an old relay and a new one can use the same Redis while one takes the other's place.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("functions.lua")


@lru_cache(1)
def library() -> tuple[str, str]:
    """The name of the library, and its text."""
    source = _SOURCE.read_text(encoding="utf-8")
    name = f"relay_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    return name, source.replace("{{library}}", name)
