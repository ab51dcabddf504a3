"""Timed store: the session store, with a look at the clock around each call."""

import time
from collections.abc import Awaitable

from addons.core.metrics import Numbers
from addons.core.sessions import Session
from addons.store import Lease, LeaseRequest, Store, StoreError


class TimedStore:
    """`store`, whose times go to `numbers`. Waiting for a lease is no time of the store's: others have the session."""

    def __init__(self, store: Store, numbers: Numbers) -> None:
        self._store = store
        self._numbers = numbers

    @property
    def secret(self) -> bytes:
        """As `Store.secret`."""
        return self._store.secret

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """As `Store.key`."""
        return self._store.key(api_key, session_id)

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """As `Store.lease`."""
        return self._store.lease(key, max_waiting, waiter)

    def waiter_left(self, waiter: str) -> None:
        """As `Store.waiter_left`."""
        self._store.waiter_left(waiter)

    async def load(self, key: str, ttl: float) -> Session:
        """As `Store.load`."""
        return await self._timed("load", self._store.load(key, ttl))

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """As `Store.save`."""
        await self._timed("save", self._store.save(lease, owner, session))

    async def delete(self, lease: Lease) -> bool:
        """As `Store.delete`."""
        return await self._timed("delete", self._store.delete(lease))

    async def sweep(self, ttl: float) -> None:
        """As `Store.sweep`."""
        await self._store.sweep(ttl)

    def close(self) -> None:
        """As `Store.close`."""
        self._store.close()

    async def _timed[T](self, operation: str, call: Awaitable[T]) -> T:
        begun, result = time.monotonic(), "ok"
        try:
            return await call
        except StoreError:
            result = "failed"
            raise
        except BaseException:
            result = "given_up"
            raise
        finally:
            self._numbers.observe("relay_store_seconds", (operation, result), time.monotonic() - begun)
