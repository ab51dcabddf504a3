"""The store's folder: made, narrowed to its owner, locked, and what can be wrong with it in a sentence.

The folder and what is in it belong to their owner alone: whoever may write there could put other words into a
conversation, and whoever may read knows them all.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import sqlite3
import stat
from pathlib import Path

from addons.store import StoreError, StoreInUse

try:
    import fcntl
except ImportError:  # Windows: one relay a store is then up to the user
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_FILES = re.compile(
    r"lock|forgotten|(?:secret|listen\.pem)(?:\.[0-9]+)?|sessions\.(?:db|damaged-.*)(?:-wal|-shm)?"
    r"|ledger\.lock|ledger\.db(?:-wal|-shm)?|keys\.(?:lock|json(?:\.[a-z0-9_]+)?)"
)
"""The names of relay's files in the folder."""

SECRET = "secret"
"""The file with the secret that keys all hashes."""
# Windows has not all of them.
NO_ROOM = [getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")]
_NO_LOCKS = [getattr(errno, name, None) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOSYS")]


def check(folder: Path) -> None:
    """Make the store's folder where there is none, and find what would keep a store from opening there.

    Raises StoreError, which names the key of relay.yaml and says what to do. A damaged store is none of that.
    """
    try:
        make_folder(folder)
        handle = lock(folder / "lock")
        try:
            read_secret(folder / "secret")
            _try_to_write(folder / "sessions.db")
        finally:
            os.close(handle)
    except (OSError, sqlite3.Error) as error:
        raise store_error(folder, error) from error


def _try_to_write(path: Path) -> None:
    make_file(path)
    sql = sqlite3.connect(path, timeout=1, isolation_level=None)
    try:
        sql.execute("PRAGMA journal_mode=wal")
        sql.execute("BEGIN IMMEDIATE")
        sql.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
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
        raise store_error(folder, error) from error


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
        with contextlib.suppress(FileNotFoundError):  # another process has just replaced it
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


def store_error(folder: Path, error: Exception) -> StoreError:
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
    if number in NO_ROOM or "disk is full" in text:
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


def is_damage(error: BaseException) -> bool:
    # dbm.sqlite3 raises its own error (an OSError) with SQLite's words in it.
    return any(sign in str(error) for sign in ("not a database", "malformed", "corrupt"))


def make_file(path: Path) -> None:
    """An empty file that its owner alone may read, where there is none."""
    if not path.exists():
        path.touch(mode=0o600)


def lock(path: Path) -> int:
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


def read_secret(path: Path) -> bytes:
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
