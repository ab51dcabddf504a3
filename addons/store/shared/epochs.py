"""Epochs: whether Redis still has what was spent, and what to do where it has not.

A Redis may be emptied: by a restart without its file, by a failover to a replica that had nothing, by FLUSHALL. Each
partition has an epoch, a text that is gone then. A request is admitted under the epoch that its relay knows; where
Redis has none, or another one, every machine first adds what its copy of the ledger says was spent: of several the most
counts, and none twice. So a budget that was used up stays so.

The same brings over what a relay has spent that had a folder of its own, when Redis sees it for the first time.
"""

import asyncio
import contextlib
import logging
import secrets
import sqlite3
from pathlib import Path

from addons.store import StoreError
from addons.store.folder import make_file, make_folder
from addons.store.ledger import NAME
from addons.store.ledger_file import open_file, spent, transaction
from addons.store.shared.kept import Kept
from addons.store.shared.link import Link
from addons.store.shared.names import Names, Partition

logger = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS Epochs (name TEXT PRIMARY KEY, epoch TEXT NOT NULL) WITHOUT ROWID"
_NOTE = "INSERT INTO Epochs VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch"
_MARK_MS = 30 * 86_400_000
"""For how long it is known what a machine has added."""


class Epochs:
    """Those that this machine knows."""

    def __init__(self, link: Link, names: Names, kept: Kept, folder: Path) -> None:
        self._link = link
        self._names = names
        self._known = kept.epochs
        self._path = folder / NAME
        self._joining: dict[str, asyncio.Future[None]] = {}

    def of(self, where: Partition) -> str:
        """Under which a request may be admitted; "" is none."""
        return self._known.get(where.epoch, "")

    async def begin(self) -> None:
        """Read what is known from before, and look at all of them. Raises StoreError."""
        if not self._known:
            self._known.update(await asyncio.to_thread(self._read))
        await self.look()

    async def look(self) -> None:
        """Whether Redis still has them. Raises StoreError."""
        before = dict(self._known)
        await asyncio.gather(*map(self._join, self._names.partitions))
        if self._known != before:
            await asyncio.to_thread(self._write, dict(self._known))

    async def join(self, where: Partition) -> None:
        """Go on under the epoch that Redis has, or begin one; before that, add what was spent. Raises StoreError."""
        joining = self._joining.get(where.epoch)
        if joining is None:
            joining = self._joining[where.epoch] = asyncio.ensure_future(self._join_and_note(where))
            joining.add_done_callback(lambda _: self._joining.pop(where.epoch))
        await asyncio.shield(joining)

    async def _join_and_note(self, where: Partition) -> None:
        await self._join(where)
        await asyncio.to_thread(self._write, {where.epoch: self.of(where)})

    async def _join(self, where: Partition) -> None:
        known, found = self.of(where), await self._link.command("GET", where.epoch)
        if found is not None and found.decode() == known:
            return
        if found is None or known:
            await self._add(where)
        if found is None:
            found = await self._link.function("join", (where.epoch,), (secrets.token_hex(8),))
        self._known[where.epoch] = found.decode()

    async def _add(self, where: Partition) -> None:
        mine = await asyncio.to_thread(self._spent_in, where)
        for key, day, amount in mine:
            touched = (where.account(key), where.restored(key, day))
            await self._link.function("restore", touched, (day, amount, _MARK_MS))
        if mine:
            keys = len({key for key, _, _ in mine})
            logger.warning(f"Redis had nothing of {keys} key(s): what they have spent is added from {self._path}")

    # In a thread

    def _read(self) -> dict[str, str]:
        try:
            with contextlib.closing(self._open()) as sql:
                return dict(sql.execute("SELECT name, epoch FROM Epochs").fetchall())
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the copy of the ledger can't be read: {error}") from None

    def _write(self, known: dict[str, str]) -> None:
        try:
            with contextlib.closing(self._open()) as sql, transaction(sql):
                sql.executemany(_NOTE, known.items())
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the copy of the ledger can't be written: {error}") from None

    def _spent_in(self, where: Partition) -> list[tuple[str, str, int]]:
        """Key, day and nano-dollars."""
        try:
            with contextlib.closing(self._open()) as sql:
                found = list(spent(sql))
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"what was spent until now can't be read from {self._path}: {error}") from None
        return [(key, day, amount) for key, day, amount in found if amount and self._names.partition(key) is where]

    def _open(self) -> sqlite3.Connection:
        make_folder(self._path.parent)
        make_file(self._path)
        sql = open_file(self._path)
        sql.execute(_TABLE)
        return sql
