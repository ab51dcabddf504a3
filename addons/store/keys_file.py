"""The keys that `./run.sh keys` has handed out: a JSON file in the store's folder, with hashes and never a key.

It is replaced as a whole, so whoever reads it sees one state or the other. A relay that runs looks at it once a second
and with each key that it does not know (addons/meter/keyring.py).
"""

import contextlib
import hmac
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from addons.core.rates import nano
from addons.core.relay_keys import PERIODS, RelayKey
from addons.store import StoreError
from addons.store.folder import make_folder, read_secret

try:
    import fcntl
except ImportError:  # Windows: one command at a time is then up to the user
    fcntl = None  # type: ignore[assignment]

NAME = "keys.json"
_LOCK = "keys.lock"


@dataclass(frozen=True)
class StoredKey:
    """A key as it is kept. `amount` in dollars, as it was written."""

    id: str
    name: str
    hash: str
    created: str
    upstream: str | None = None
    models: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    amount: str | None = None
    per: str = "total"
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None
    expires: str | None = None
    revoked: str | None = None
    """When it was."""
    replaced: bool = False
    """By another one of its name: it is kept so that nobody takes it for a caller's own."""

    def key(self) -> RelayKey:
        """What it may do. Raises ValueError where the file was written by somebody else."""
        if self.per not in PERIODS:
            raise ValueError("per")
        return RelayKey(
            self.id,
            self.name,
            self.upstream,
            tuple(self.models),
            tuple(self.paths),
            None if self.amount is None else nano(Decimal(self.amount)),
            self.per,
            self.requests,
            self.tokens,
            self.parallel,
            None if self.expires is None else date.fromisoformat(self.expires),
            revoked=self.revoked is not None,
        )


def hash_of(secret: bytes, key: str) -> str:
    """What is kept of a key: a hash, keyed with the store's secret."""
    return hmac.digest(secret, b"relay key\0" + key.encode("utf-8", "surrogatepass"), "sha256").hex()


def caller_of(secret: bytes, key: str) -> str:
    """What the use of a caller's own key is counted under: the beginning of a keyed hash."""
    return hmac.digest(secret, b"caller\0" + key.encode("utf-8", "surrogatepass"), "sha256").hex()[:24]


class KeySource(Protocol):
    """Where keys that were handed out are found."""

    def state(self) -> object:
        """What changes when they do; None where there are none."""

    def read(self) -> list[StoredKey]:
        """All of them. Raises StoreError."""


class KeysFile:
    """The file in a store's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> object:
        """As `KeySource.state`."""
        return state(self._folder)

    def read(self) -> list[StoredKey]:
        """As `KeySource.read`."""
        return read(self._folder)


def read(folder: Path) -> list[StoredKey]:
    """The keys in a store's folder. Raises StoreError where the file can't be read: then nobody knows who is who."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder / NAME} can't be read: {error.strerror}") from None
    try:
        return parsed(text)
    except ValueError:
        raise StoreError(f"{folder / NAME} is damaged: restore it, or move it away and hand out new keys") from None


def parsed(text: str | bytes) -> list[StoredKey]:
    """The keys that a text has. Raises ValueError where that is damaged."""
    try:
        found = [StoredKey(**each) for each in json.loads(text)["keys"]]
        for each in found:
            each.key()
    except (TypeError, KeyError, ArithmeticError) as error:
        raise ValueError(f"no keys: {error}") from None
    return found


def written(keys: Sequence[StoredKey]) -> str:
    """Keys as a text."""
    return json.dumps({"keys": [asdict(each) for each in keys]}, ensure_ascii=False, indent=1)


def state(folder: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        found = (folder / NAME).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[tuple[bytes, list[StoredKey]]]:
    """The store's secret and its keys, to be changed in place: kept at the end. One at a time. Raises StoreError."""
    make_folder(folder)
    try:
        with open(os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read(folder)
            yield read_secret(folder / "secret"), keys
            put(folder, written(keys))
    except OSError as error:
        raise StoreError(f"{folder} can't be written: {error.strerror}") from None


def put(folder: Path, text: str) -> None:
    """Replace the file. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=f"{NAME}.", dir=folder)  # readable by the owner alone
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, folder / NAME)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
