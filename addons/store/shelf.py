"""Where sessions live: a shelf on the disk, owned by one thread.

A shelf over dbm.sqlite3 (Python 3.13) keeps what was said across restarts. Its objects belong to the thread that opened
them, so one thread does all the work and the event loop only waits for it. Values are JSON, not pickles: a store that
someone tampered with must not run code. Beside the shelf's own table a small one, `Life`, tells when each session was
last used and whose it is: sweeping reads an index instead of every session.

Keys and session ids are never stored, only keyed hashes of them. What is deleted is gone from the disk after the next
sweep, the write-ahead log included (`secure_delete`, and a checkpoint that truncates the log).

To delete takes room: what was there is overwritten by way of the log. On a full disk the name of a session to delete is
written over a blank of the file `forgotten`, which was made while there was room. From then on nobody reads it, over a
restart, too, and each sweep tries to delete it.

The folder and what is in it belong to their owner alone: whoever may write there could put other words into a
conversation, and whoever may read knows them all.
"""

import asyncio
import contextlib
import errno
import hmac
import io
import logging
import os
import re
import secrets
import shelve
import sqlite3
import stat
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

_FILES = re.compile(r"(?:lock|forgotten|(?:secret|listen\.pem)(?:\.[0-9]+)?|sessions\.(?:db|damaged-.*)(?:-wal|-shm)?)")
"""The names of relay's files in the folder."""

# Windows has not all of them.
_NO_ROOM = [getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")]
_NO_LOCKS = [getattr(errno, name, None) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOSYS")]

_PLACE, _PLACES = 41, 512
"""Bytes of a name of a session and its newline, and how many of them `forgotten` has room for."""

_ONE = "SELECT key FROM Life WHERE key = ? LIMIT 1"
_LIFE = "CREATE TABLE IF NOT EXISTS Life (key TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID"


class StoreError(Exception):
    """The store can't be opened, read or written; the text says why and names no key and no content."""


class StoreInUse(StoreError):
    """Another relay has this store."""


def check(folder: Path) -> None:
    """Make the store's folder where there is none, and find what would keep a store from opening there.

    Raises StoreError, which names the key of relay.yaml and says what to do. A damaged store is none of that.
    """
    try:
        make_folder(folder)
        handle = _lock(folder / "lock")
        try:
            _secret(folder / "secret")
            _try_to_write(folder / "sessions.db")
        finally:
            os.close(handle)
    except (OSError, sqlite3.Error) as error:
        raise unfit(folder, error) from error


def _try_to_write(path: Path) -> None:
    _make_file(path)
    sql = sqlite3.connect(path, timeout=1, isolation_level=None)
    try:
        sql.execute("PRAGMA journal_mode=wal")
        sql.execute("BEGIN IMMEDIATE")
        sql.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
    finally:
        sql.close()


def make_folder(folder: Path) -> None:
    """Make the folder, or narrow one that is there to its owner, with the files of a store in it.

    Raises StoreError where that can't be, or where it is somebody else's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix":
            _make_private(folder)
    except OSError as error:
        raise unfit(folder, error) from error


def _make_private(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"store.path: {folder} belongs to another user ({_name_of(found.st_uid)}), who could read and change every "
            "conversation: make it yours with chown, or name another folder in relay.yaml"
        )
    ours = [path for path in folder.iterdir() if _FILES.fullmatch(path.name)]
    alone = len(ours) == len(list(folder.iterdir())) and not found.st_mode & stat.S_ISVTX
    if found.st_mode & 0o022 and not alone:
        raise StoreError(
            f"store.path: others may write to {folder}, which is not for relay alone: name a folder of its own in "
            "relay.yaml, or take their right with chmod go-w"
        )
    if found.st_mode & 0o077 and alone:
        _narrow(folder, 0o700)
    for path in ours:
        _check_file(path)


def _check_file(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise StoreError(
            f"store.path: {path} is not a file of relay's own (a link, or another user's): take it away, or name "
            "another folder in relay.yaml"
        )
    if found.st_mode & 0o077:
        _narrow(path, 0o600)


def _narrow(path: Path, mode: int) -> None:
    path.chmod(mode)
    if path.stat().st_mode & 0o077:
        logger.warning(f"store.path: {path} can't be kept from others: its file system knows no permissions")
    else:
        logger.warning(f"store.path: others could read or change {path}; now its owner alone can")


def _name_of(uid: int) -> str:
    import pwd  # which Windows has not

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def unfit(folder: Path, error: Exception) -> StoreError:
    """The sentence for what keeps a store from opening in `folder`."""
    if isinstance(error, StoreError):
        return error
    number, text = getattr(error, "errno", None) or 0, str(error)
    if number in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        return StoreError(f"store.path: {folder} is no folder and none can be made there: name another in relay.yaml")
    if number == errno.EROFS or "readonly database" in text:
        return StoreError(f"store.path: {folder} can't be written, it is read-only: name another folder in relay.yaml")
    if number in (errno.EACCES, errno.EPERM):
        return StoreError(
            f"store.path: relay may not write to {folder}: give it the right (chown, chmod u+rwx), or name another "
            "folder in relay.yaml"
        )
    if number in _NO_ROOM or "disk is full" in text:
        return StoreError(f"store.path: there is no room for {folder}: free some, or name another folder in relay.yaml")
    if number in _NO_LOCKS or "locking protocol" in text or "disk I/O error" in text or "unable to open" in text:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else text
        return StoreError(
            f"store.path: the file system of {folder} can't keep a store ({reason}): name a folder on a local disk in "
            "relay.yaml"
        )
    if "database is locked" in text:
        return StoreInUse(
            f"store.path: another program uses the session store {folder}: stop it, or name another folder in "
            "relay.yaml"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else text
    return StoreError(f"store.path: no store can be opened in {folder} ({reason}): name another folder in relay.yaml")


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
            self._lock = _lock(folder / "lock")
        except OSError as error:
            raise unfit(folder, error) from error
        try:
            self.secret = _secret(folder / "secret")
            self._open()
            self.forgotten = Forgotten(folder / "forgotten")
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise unfit(folder, error) from error
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

        _make_file(path)
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
            if not _is_no_room(error) or not self.forgotten.add(key):
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
                if not _is_no_room(error):
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


class Forgotten:
    """Names of sessions that are to be deleted, in a file whose room was taken when there was some."""

    def __init__(self, path: Path) -> None:
        """Read the names; a file that is none of ours is begun anew. Without room for it there are no places."""
        self._file: io.FileIO | None = None
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        try:
            _make_file(path)
            self._file = io.FileIO(path, "r+b")
            data = self._file.read(_PLACES * _PLACE)
            if len(data) < _PLACES * _PLACE:
                data = data.ljust(_PLACES * _PLACE, b"\n")
                self._write(0, data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning(f"on a full disk no session can be deleted, not even later: {error.strerror}")
            return
        for place in range(_PLACES):
            name = data[place * _PLACE : (place + 1) * _PLACE].strip()
            if len(name) == _PLACE - 1 and name.isalnum() and name.isascii():
                self._places[name.decode()] = place
            else:
                self._free.append(place)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def add(self, key: str) -> bool:
        """Remember a name; it is on the disk when this returns. False where there is no place for it."""
        if not self._free:
            return False
        place = self._free.pop()
        try:
            self._write(place, _padded(key))
        except OSError:
            self._free.append(place)
            return False
        self._places[key] = place
        return True

    def drop(self, key: str) -> None:
        """A name need not be remembered any more."""
        place = self._places.pop(key, None)
        if place is not None:
            self._write(place, _padded(""))
            self._free.append(place)

    def _write(self, place: int, data: bytes) -> None:
        if self._file is None:
            return
        self._file.seek(place * _PLACE)
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _padded(name: str) -> bytes:
    return name.encode().ljust(_PLACE - 1) + b"\n"


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


def _is_no_room(error: sqlite3.Error) -> bool:
    # Where a limit is not the disk's (a quota, a file's size), SQLite has only an error of I/O to tell.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _is_damage(error: BaseException) -> bool:
    # dbm.sqlite3 raises its own error (an OSError) with SQLite's words in it.
    return any(sign in str(error) for sign in ("not a database", "malformed", "corrupt"))


def _make_file(path: Path) -> None:
    """An empty file that its owner alone may read, where there is none."""
    if not path.exists():
        path.touch(mode=0o600)


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StoreInUse(
                f"store.path: another relay uses the session store {path.parent}: stop it, or name another folder in "
                "relay.yaml"
            ) from None
        except OSError:
            os.close(handle)
            raise
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
