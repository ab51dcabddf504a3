"""Absent: what stands in for a shared store that was not reached yet. Nothing is kept, and nothing admitted."""

import secrets
from pathlib import Path
from typing import NoReturn

from addons.core.accounts import Claim
from addons.core.relay_keys import Per
from addons.core.sessions import Session
from addons.store import Lease, LeaseRequest, StoreError
from addons.store.keys_file import StoredKey
from addons.store.ledger import NAME
from addons.store.settlements import Settlement

_SAID = "the store was not reached yet"


class AbsentStore:
    """A Store that fails."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        """For what is hidden in records meanwhile."""

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """Of nobody."""
        return "", ""

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """Raises StoreError when it is awaited."""
        return LeaseRequest(self._fail)

    async def _fail(self) -> Lease:
        _fail()

    def waiter_left(self, waiter: str) -> None:
        """Nobody waits."""

    async def load(self, key: str, ttl: float) -> Session:
        """Raises StoreError."""
        _fail()

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """Raises StoreError."""
        _fail()

    async def delete(self, lease: Lease) -> bool:
        """Raises StoreError."""
        _fail()

    async def sweep(self, ttl: float) -> None:
        """There is nothing."""

    def close(self) -> None:
        """There is nothing."""


class AbsentLedger:
    """A Ledger that fails."""

    passes = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    async def reserve(self, claim: Claim) -> None:
        """Raises StoreError."""
        _fail()

    def settle(self, settlement: Settlement) -> None:
        """Nothing was admitted."""

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """Raises StoreError."""
        _fail()


class NoKeys:
    """A KeySource without any."""

    def state(self) -> object:
        """There are none."""
        return None

    def read(self) -> list[StoredKey]:
        """There are none."""
        return []


def _fail() -> NoReturn:
    raise StoreError(_SAID)
