"""What each address has under way, and has asked for in the last minute, under limits for all of them.

What is known of an address is dropped with its last connection, or a minute after its last request where these are
counted. Both have a bound: so many connections as a process can have, and `MOST` addresses that have none.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from addons.core.minute import MINUTE, Minute

MOST = 50_000
"""Addresses without a connection whose requests are remembered; beyond it, the one silent for longest is forgotten."""


@dataclass(slots=True)
class _Count:
    under_way: int = 0
    asked: Minute = field(default_factory=Minute)
    seen: float = 0.0


class PerAddress:
    """All addresses. `now` is in seconds on any clock that does not go back."""

    def __init__(self) -> None:
        self._busy: dict[str, _Count] = {}
        self._idle: OrderedDict[str, _Count] = OrderedDict()
        """Those seen longest ago stand first."""

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)

    def under_way(self, address: str) -> int:
        """How many connections it has."""
        count = self._busy.get(address)
        return count.under_way if count is not None else 0

    def enter(self, address: str) -> None:
        """One more connection of it."""
        count = self._busy.get(address)
        if count is None:
            count = self._busy[address] = self._idle.pop(address) if address in self._idle else _Count()
        count.under_way += 1

    def leave(self, address: str, now: float) -> None:
        """One less."""
        count = self._busy[address]
        count.under_way -= 1
        if not count.under_way:
            del self._busy[address]
            if count.asked.at(now):
                self._rest(address, count, now)

    def ask(self, address: str, limit: int, now: float) -> int | None:
        """Count a request, unless that would be more than `limit` in a minute: then seconds until one is admitted."""
        count = self._busy.get(address) or self._idle.get(address) or _Count()
        if count.asked.at(now) >= limit:
            return count.asked.retry_after(now, limit)
        count.asked.add(now, 1)
        if not count.under_way:
            self._rest(address, count, now)
        return None

    def _rest(self, address: str, count: _Count, now: float) -> None:
        count.seen = now
        self._idle[address] = count
        self._idle.move_to_end(address)
        while self._idle:
            first = next(iter(self._idle.values()))
            if len(self._idle) <= MOST and first.seen > now - MINUTE:
                return
            self._idle.popitem(last=False)
