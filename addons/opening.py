"""Opening: the store that settings ask for: in a folder, at the parent of workers, or in a Redis of several relays."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from addons.config.settings import STORE_FIXED, Settings, StoreSettings, is_fixed
from addons.meter.prices import Prices
from addons.store import Store, StoreError
from addons.store.absent import AbsentLedger, AbsentStore, NoKeys
from addons.store.embedded import EmbeddedStore
from addons.store.keys_file import KeysFile, KeySource
from addons.store.leases import LocalLeases
from addons.store.ledger import NAME as LEDGER
from addons.store.ledger import Book, LocalLedger
from addons.store.settlements import Ledger
from addons.store.shared.opened import Shared
from addons.workers.worker import Worker

_LEASES = "relay_leases"
_BOOKS = "relay_books"
_SHARED = "relay_shared"
_FIRST = 3.0
"""Seconds that clients of a relay that starts wait for a shared store; then they hear that it is not there."""


class Opened(NamedTuple):
    """A store, in its parts."""

    store: Store
    ledger: Ledger
    keys: KeySource
    ready: bool = True
    """False for a shared one that was not reached yet: nobody is served then."""


class Opener:
    """Opens stores for one process. What outlives code that is loaded anew is kept by mitmproxy's master."""

    def __init__(self, master: object, worker: Worker | None) -> None:
        self._master = master
        self._worker = worker
        self.leases = _leases_of(master)
        self._store: Store | None = None
        self._kept: StoreSettings | None = None
        self._shared: Shared | None = None
        self._reaching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, settings: Settings, prices: Prices) -> Opened:
        """The store for `settings`; what is open already, if nothing of it changes. Raises StoreError, and changes
        nothing then."""
        kept, before = settings.store, self._kept
        if before is not None and is_fixed(before, kept):
            raise StoreError(STORE_FIXED)
        if kept.kind == "redis":
            return self._open_shared(settings, prices)
        if self._worker is not None:
            channel = self._worker.channel
            self._kept = kept
            return Opened(channel.store, channel.ledger(kept.path / LEDGER), KeysFile(kept.path))
        self._store = self._open_embedded(kept)
        self._kept = kept
        return Opened(self._store, self._ledger(settings, prices), KeysFile(kept.path))

    def _open_embedded(self, kept: StoreSettings) -> Store:
        old, before = self._store, self._kept
        if old is None or before is None:
            return _embedded(kept, self.leases)
        if before == kept:
            return old
        if before.path == kept.path:
            old.close()  # one folder has one owner
            try:
                return _embedded(kept, self.leases)
            except StoreError:
                self._store = _embedded(before, self.leases)
                raise
        store = _embedded(kept, self.leases)
        old.close()
        return store

    def _ledger(self, settings: Settings, prices: Prices) -> Ledger:
        """One that is open stays open until this process ends: what is under way under other settings is settled
        there."""
        books = _books_of(self._master)
        book = books.get(settings.store.path)
        if book is None:
            days = settings.balance.window_days
            book = books[settings.store.path] = Book(settings.store.path, time.time, days, prices.cost_once_loaded)
        book.price, book.keep_days = prices.cost_once_loaded, settings.balance.window_days
        return LocalLedger(book)

    def _open_shared(self, settings: Settings, prices: Prices) -> Opened:
        shared = self._shared
        if shared is None:
            before = getattr(self._master, _SHARED, None)
            shared = self._shared = Shared(settings, time.time, before)
            if self._master is not None:
                setattr(self._master, _SHARED, shared.kept)
            if shared.kept.secret is not None:
                shared.begin()
        self._kept = settings.store
        shared.adopt(settings)
        shared.mirror.price = prices.cost_once_loaded
        if shared.sessions is None:
            return Opened(AbsentStore(), AbsentLedger(settings.store.path), NoKeys(), ready=False)
        return Opened(shared.sessions, shared.ledger, shared.keys)

    async def reach(self, reached: Callable[[], None]) -> None:
        """Where the store is shared, reach it, and call `reached`, which opens it. This waits for a moment; what takes
        longer goes on by itself."""
        if self._shared is not None and self._shared.sessions is None and self._reaching is None:
            self._reaching = self._begin(self._reach(self._shared, reached))
            await asyncio.wait([self._reaching], timeout=_FIRST)

    async def _reach(self, shared: Shared, reached: Callable[[], None]) -> None:
        await shared.reach()
        reached()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def let_go(self) -> None:
        """The code is loaded anew, which opens stores of its own: what is under way comes to its end in this one."""
        if self._store is not None:
            self._store.close()
        if self._reaching is not None:
            self._reaching.cancel()
        if self._shared is not None:
            self._begin(self._shared.retire())

    async def close(self) -> None:
        """This process ends: what waits is written, and everything closed."""
        if self._store is not None:
            self._store.close()
        if self._reaching is not None:
            self._reaching.cancel()
        if self._shared is not None:
            await self._shared.finish()
        for book in _books_of(self._master).values():
            book.close()


def _embedded(kept: StoreSettings, leases: LocalLeases) -> EmbeddedStore:
    return EmbeddedStore(kept.path, kept.max_sessions, kept.max_sessions_per_key, time.time, leases)


def _leases_of(master: object) -> LocalLeases:
    """The leases of this process. They outlive a store that is opened anew, and code that is loaded anew: messages are
    under way meanwhile."""
    leases = LocalLeases(getattr(master, _LEASES, None))
    if master is not None:
        setattr(master, _LEASES, leases)
    return leases


def _books_of(master: object) -> dict[Path, Book]:
    """The ledgers of this process by their folders. They outlive code that is loaded anew, as leases do."""
    books: dict[Path, Book] = getattr(master, _BOOKS, {})
    if master is not None:
        setattr(master, _BOOKS, books)
    return books
