"""Embedded: the store in a folder of this machine, in one process.

The objects of a shelf belong to the thread that opened them, so one thread does all the work and the event loop only
waits for it. Keys and session ids are never stored, only keyed hashes of them.
"""

import asyncio
import contextlib
import hmac
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from addons.core.sessions import Session
from addons.store import Lease, LeaseLost, LeaseRequest, StoreError
from addons.store.leases import LocalLeases
from addons.store.shelf import Shelf

logger = logging.getLogger(__name__)


class EmbeddedStore:
    """Sessions in a folder: every call is awaited and runs in the store's own thread."""

    def __init__(
        self,
        folder: Path,
        max_sessions: int,
        max_per_owner: int,
        clock: Callable[[], float],
        leases: LocalLeases | None = None,
    ) -> None:
        """Open it. `leases` are those of a store that this one replaces. Raises StoreError."""
        self.clock = clock
        self.leases = leases if leases is not None else LocalLeases()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="relay-store")
        try:
            self._shelf = self._thread.submit(_named(Shelf), folder, max_sessions, max_per_owner).result()
        except BaseException:
            self._thread.shutdown()
            raise

    @property
    def secret(self) -> bytes:
        """32 random bytes, made at the first start; they key the hashes of what must not be stored."""
        return self._shelf.secret

    @property
    def sessions(self) -> int:
        """How many are kept."""
        return self._shelf.count

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session in the store, and its owner's: keyed hashes, in hexadecimal."""
        return names(self.secret, api_key, session_id)

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """As `Store.lease`."""
        return self.leases.lease(key, max_waiting, waiter)

    def waiter_left(self, waiter: str) -> None:
        """As `Store.waiter_left`."""
        self.leases.waiter_left(waiter)

    async def load(self, key: str, ttl: float) -> Session:
        """The session under `key`, empty if it was unused for `ttl` seconds."""
        return await self._run(self._shelf.load, key, self.clock() - ttl)

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """As `Store.save`."""
        self._check(lease)
        await self._run(self._shelf.save, lease.key, owner, session, self.clock())

    async def delete(self, lease: Lease) -> bool:
        """As `Store.delete`."""
        self._check(lease)
        return await self._run(self._shelf.delete, lease.key)

    def _check(self, lease: Lease) -> None:
        """Raise LeaseLost. Whoever has the session next loads it behind what is now queued for the thread."""
        if not self.leases.holds(lease):
            raise LeaseLost("the session was given to somebody else meanwhile")

    async def sweep(self, ttl: float) -> None:
        """Forget what was unused for `ttl` seconds, batch by batch, so that others get their turn between."""
        until = self.clock() - ttl
        try:
            while await self._run(self._shelf.sweep, until):
                pass
        except StoreError:
            with contextlib.suppress(StoreError):  # gives back the room of the log, which the next sweep may need
                await self._run(self._shelf.checkpoint)
            raise
        await self._run(self._shelf.checkpoint)

    async def _run[**P, T](self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            future = self._thread.submit(_named(work), *args, **kwargs)
        except RuntimeError:
            raise StoreError("the session store is closed") from None
        # Shielded: a caller that is cancelled must not leave a write half done, nor is there a way to stop a thread.
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Finish what is under way, and close; later calls of other methods raise StoreError."""
        try:
            closing = self._thread.submit(_named(self._shelf.close))
        except RuntimeError:
            return  # closed already
        self._thread.shutdown()
        if (error := closing.exception()) is not None:
            logger.error(f"closing the session store failed: {error}")


def names(secret: bytes, api_key: str, session_id: str) -> tuple[str, str]:
    """The name of a session in the store, and its owner's: hashes keyed with the store's secret, in hexadecimal."""
    owner = _hash(secret, b"owner", api_key)
    return _hash(secret, b"session " + owner.encode(), session_id), owner


def _hash(secret: bytes, label: bytes, text: str) -> str:
    return hmac.digest(secret, label + b"\0" + text.encode("utf-8", "surrogatepass"), "sha256").hex()[:40]


def _named[**P, T](work: Callable[P, T]) -> Callable[P, T]:
    """`work`, with everything that can go wrong on a disk raised as StoreError."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error

    return run
