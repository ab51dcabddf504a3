"""The shelf on the disk, for one thread.

A shelf over dbm.sqlite3 (Python 3.13) keeps what was said across restarts. Values are JSON, not pickles: a store that
someone tampered with must not run code. Beside the shelf's own table a small one, `Life`, tells when each session was
last used and whose it is: sweeping reads an index instead of every session.

What is deleted is gone from the disk after the next sweep, the write-ahead log included (`secure_delete`, and a
checkpoint that truncates the log).
"""

import contextlib
import logging
import os
import shelve
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from addons.core.sessions import Session
from addons.store.folder import is_damage, lock, make_file, make_folder, read_secret, store_error
from addons.store.forgotten import Forgotten

logger = logging.getLogger(__name__)

SWEEP_BATCH = 500
"""Sessions forgotten in one transaction, so that a message never waits long behind a sweep."""

_ONE = "SELECT key FROM Life WHERE key = ? LIMIT 1"
_LIFE = "CREATE TABLE IF NOT EXISTS Life (key TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID"


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
        make_folder(folder)
        try:
            self._lock = lock(folder / "lock")
        except OSError as error:
            raise store_error(folder, error) from error
        try:
            self.secret = read_secret(folder / "secret")
            self._open()
            self.forgotten = Forgotten(folder / "forgotten")
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise store_error(folder, error) from error
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        path = self.folder / "sessions.db"
        try:
            self._open_file(path)
        except (sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.OperationalError) or not is_damage(error):
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

        make_file(path)
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
            self.sql.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.sql.execute("ROLLBACK")
            raise

    def load(self, key: str, since: float) -> Session:
        """The session under `key`, if it was used after `since`; an empty one otherwise."""
        if key in self.forgotten:
            return Session()
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
        self.forgotten.drop(key)  # what was to be deleted is overwritten
        if not known:
            self.count += 1
            self._make_room(key, owner)

    def _make_room(self, key: str, owner: str) -> None:
        mine = self.sql.execute("SELECT count(*) FROM Life WHERE owner = ?", (owner,)).fetchone()[0]
        if mine > self.max_per_owner:
            oldest = "SELECT key FROM Life WHERE owner = ? AND key != ? ORDER BY at LIMIT ?"
            self._try_to_forget(oldest, (owner, key, mine - self.max_per_owner))
        if self.count > self.max_sessions:
            oldest = "SELECT key FROM Life WHERE key != ? ORDER BY at LIMIT ?"
            self._try_to_forget(oldest, (key, self.count - self.max_sessions))

    def _try_to_forget(self, query: str, arguments: tuple[Any, ...]) -> None:
        # The turn is kept and will be answered. The next new session makes room for two.
        try:
            self._forget(query, arguments)
        except sqlite3.Error as error:
            logger.warning(f"old sessions could not make room: {error}")

    def delete(self, key: str) -> bool:
        """Forget one session; False if there was none. Where the disk has no room for that it is done later."""
        if key in self.forgotten:
            return False
        try:
            return self._forget(_ONE, (key,)) > 0
        except sqlite3.Error as error:
            if not is_no_room(error) or not self.forgotten.add(key):
                raise
            logger.warning(f"a session is deleted as soon as there is room on the disk: {error}")
            return True

    def sweep(self, until: float) -> bool:
        """Forget up to `SWEEP_BATCH` sessions last used at `until` or before; True where there may be more.

        Before that, those that could not be deleted when they should.
        """
        for key in list(self.forgotten):
            try:
                self._forget(_ONE, (key,))
            except sqlite3.Error as error:
                if not is_no_room(error):
                    raise
                break
            self.forgotten.drop(key)
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
                # Not by the shelf, whose errors have lost their codes.
                self.sql.execute("DELETE FROM Dict WHERE key = CAST(? AS BLOB)", (key,))
        self.count -= len(keys)
        return len(keys)

    def close(self) -> None:
        """Close the file and let the lock go."""
        try:
            self.forgotten.close()
            self.shelf.close()
        finally:
            os.close(self._lock)


def is_no_room(error: sqlite3.Error) -> bool:
    # Where a limit is not the disk's (a quota, a file's size), SQLite has only an error of I/O to tell.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
