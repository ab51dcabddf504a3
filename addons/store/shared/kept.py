"""What outlives code that is loaded anew: plain values, so that either code can go on with them."""

import asyncio
import secrets
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Kept:
    """What a process knows of itself in a shared store."""

    process: str = field(default_factory=lambda: secrets.token_hex(8))
    """As a holder of leases and of holds."""
    secret: bytes | None = None
    """None until Redis was reached."""
    keys: tuple[int, bytes] | None = None
    """Version and text of those that were handed out."""
    epochs: dict[str, str] = field(default_factory=dict)
    """Of the partitions, by name."""
    # Sessions
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Session and fence by ticket."""
    turns: dict[str, asyncio.Event] = field(default_factory=dict)
    """Set when a ticket should look."""
    waiting: dict[str, set[asyncio.Task[Any]]] = field(default_factory=dict)
    """By client."""
    # Ledger
    held: dict[str, Any] = field(default_factory=dict)
    """Claims that were admitted, by request."""
    strangers: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """Requests of nobody that Redis has not heard of: by day, upstream, and whether they failed."""
    settlements: deque[Any] = field(default_factory=deque)
    """Those that Redis does not have yet."""
    settlements_of_holds: deque[Any] = field(default_factory=deque)
    """The same, where something is held until they are written: they go first."""
