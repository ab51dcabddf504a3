"""Where sessions live: a shelf on the disk, owned by one thread.

A shelf over dbm.sqlite3 (Python 3.13) keeps what was said across restarts. Its objects belong to the thread that opened
them, so one thread does all the work and the event loop only waits for it. Values are JSON, not pickles: a store that
someone tampered with must not run code. Beside the shelf's own table a small one, `Life`, tells when each session was
last used and whose it is: sweeping reads an index instead of every session.

Keys and session ids are never stored, only keyed hashes of them. What is deleted is gone from the disk after the next
sweep, the write-ahead log included (`secure_delete`, and a checkpoint that truncates the log).
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import shelve
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from addons.core.sessions import Session

try:
    import fcntl
except ImportError:  # Windows: one relay a store is then up to the user
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

SWEEP_BATCH = 500
"""Sessions forgotten in one transaction, so that a message never waits long behind a sweep."""

_LIFE = "CREATE TABLE IF NOT EXISTS Life (key TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID"


class StoreError(Exception):
    """The store can't be opened, read or written; the text says why and names no key and no content."""


class StoreInUse(StoreError):
    """Another relay has this store."""


class JsonShelf(shelve.Shelf[bytes]):
    """A shelf whose values are bytes of JSON, stored as they are."""

    def __getitem__(self, key: str) -> bytes:
        value: bytes = self.dict[key.encode(self.keyencoding)]  # type: ignore[attr-defined]
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        self.dict[key.encode(self.keyencoding)] = value  # type: ignore[attr-defined]


class Shelf:
    """The shelf itself, for use by one thread. Times are seconds since the epoch."""

    def __init__(self, folder: Path, max_sessions: int, max_per_owner: int) -> None:
        self.folder = folder
        self.max_sessions = max_sessions
        self.max_per_owner = max_per_owner
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(folder / "lock")
        try:
            self.secret = _secret(folder / "secret")
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        path = self.folder / "sessions.db"
        try:
            self._open_file(path)
        except (sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.OperationalError) or not _is_damage(error):
                raise
            aside = path.with_name(f"sessions.damaged-{time.strftime('%Y%m%d-%H%M%S')}.db")
            # A warning: over an error that is logged while it starts mitmproxy ends itself.
            logger.warning(f"the session store is damaged ({error}): set aside as {aside.name}, a new one is begun.")
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{path}{suffix}", f"{aside}{suffix}")
            self._open_file(path)

    def _open_file(self, path: Path) -> None:
        import dbm.sqlite3

        fresh = not path.exists()
        if fresh:
            path.touch(mode=0o600)
        self.shelf = JsonShelf(dbm.sqlite3.open(path, "c", 0o600))  # noqa: SIM115
        self.sql: sqlite3.Connection = self.shelf.dict._cx  # type: ignore[attr-defined]
        try:
            self.sql.execute("PRAGMA secure_delete=ON")
            self.sql.execute(_LIFE)
            self.sql.execute("CREATE INDEX IF NOT EXISTS Life_at ON Life (at)")
            self.sql.execute("CREATE INDEX IF NOT EXISTS Life_owner ON Life (owner, at)")
            if self.sql.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("file is malformed")
            self.count: int = self.sql.execute("SELECT count(*) FROM Life").fetchone()[0]
        except BaseException:
            self.shelf.dict.close()  # type: ignore[attr-defined]
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.sql.execute("ROLLBACK")
            raise
        self.sql.execute("COMMIT")

    def load(self, key: str, since: float) -> Session:
        """The session under `key`, if it was used after `since`; an empty one otherwise."""
        row = self.sql.execute("SELECT at FROM Life WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] <= since:
            return Session()
        try:
            return Session.from_json(self.shelf[key])
        except (KeyError, ValueError) as error:
            logger.error(f"a stored session can't be read and is begun anew: {error}")
            return Session()

    def save(self, key: str, owner: str, session: Session, now: float) -> None:
        """Keep `session`; where there are too many, of its owner's or in all, those unused for longest make room."""
        with self._transaction():
            known = self.sql.execute("SELECT 1 FROM Life WHERE key = ?", (key,)).fetchone() is not None
            self.shelf[key] = session.to_json()
            self.sql.execute("INSERT OR REPLACE INTO Life (key, owner, at) VALUES (?, ?, ?)", (key, owner, now))
        if known:
            return
        self.count += 1
        mine = self.sql.execute("SELECT count(*) FROM Life WHERE owner = ?", (owner,)).fetchone()[0]
        if mine > self.max_per_owner:
            oldest = "SELECT key FROM Life WHERE owner = ? AND key != ? ORDER BY at LIMIT ?"
            self._forget(oldest, (owner, key, mine - self.max_per_owner))
        if self.count > self.max_sessions:
            oldest = "SELECT key FROM Life WHERE key != ? ORDER BY at LIMIT ?"
            self._forget(oldest, (key, self.count - self.max_sessions))

    def delete(self, key: str) -> bool:
        """Forget one session; False if there was none."""
        return self._forget("SELECT key FROM Life WHERE key = ? LIMIT 1", (key,)) > 0

    def sweep(self, until: float) -> bool:
        """Forget up to `SWEEP_BATCH` sessions last used at `until` or before; True where there may be more."""
        return (
            self._forget("SELECT key FROM Life WHERE at <= ? ORDER BY at LIMIT ?", (until, SWEEP_BATCH)) == SWEEP_BATCH
        )

    def checkpoint(self) -> None:
        """Empty the write-ahead log: deleted text would stay in it."""
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _forget(self, query: str, arguments: tuple[Any, ...]) -> int:
        with self._transaction():
            keys = [row[0] for row in self.sql.execute(query, arguments)]
            for key in keys:
                self.sql.execute("DELETE FROM Life WHERE key = ?", (key,))
                with contextlib.suppress(KeyError):
                    del self.shelf[key]
        self.count -= len(keys)
        return len(keys)

    def close(self) -> None:
        """Close the file and let the lock go."""
        try:
            self.shelf.close()
        finally:
            os.close(self._lock)


class Store(Protocol):
    """Where sessions live, as whoever needs them sees it: here, or in another process."""

    @property
    def secret(self) -> bytes:
        """32 random bytes that key hashes."""

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session, and its owner's."""

    async def load(self, key: str, ttl: float) -> Session:
        """A session, empty if it was unused for `ttl` seconds."""

    async def save(self, key: str, owner: str, session: Session) -> None:
        """Keep a session."""

    async def delete(self, key: str) -> bool:
        """Forget a session; False if there was none."""

    async def sweep(self, ttl: float) -> None:
        """Forget what was unused for `ttl` seconds."""

    def close(self) -> None:
        """Let go."""


class SessionStore:
    """The store as chat.py sees it: every call is awaited and runs in the store's own thread.

    Raises StoreError from everything that fails there.
    """

    def __init__(self, folder: Path, max_sessions: int, max_per_owner: int, clock: Callable[[], float]) -> None:
        self.clock = clock
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

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session in the store, and its owner's: keyed hashes, in hexadecimal."""
        return names(self.secret, api_key, session_id)

    async def load(self, key: str, ttl: float) -> Session:
        """The session under `key`, empty if it was unused for `ttl` seconds."""
        return await self._run(self._shelf.load, key, self.clock() - ttl)

    async def save(self, key: str, owner: str, session: Session) -> None:
        """Keep `session` under `key`; it is on the disk when this returns."""
        await self._run(self._shelf.save, key, owner, session, self.clock())

    async def delete(self, key: str) -> bool:
        """Forget a session; False if there was none."""
        return await self._run(self._shelf.delete, key)

    async def sweep(self, ttl: float) -> None:
        """Forget what was unused for `ttl` seconds, batch by batch, so that others get their turn between."""
        until = self.clock() - ttl
        while await self._run(self._shelf.sweep, until):
            pass
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


def _is_damage(error: BaseException) -> bool:
    # dbm.sqlite3 raises its own error (an OSError) with SQLite's words in it.
    return any(sign in str(error) for sign in ("not a database", "malformed", "corrupt"))


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StoreInUse(
                f"another relay uses the session store {path.parent}: stop it, or set another store.path in relay.yaml"
            ) from None
    return handle


def _secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
        if len(secret) == 32:
            return secret
    except FileNotFoundError:
        pass
    fresh = path.with_name(f"secret.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path.read_bytes()
