"""Epochs: whether Redis still has what was spent, and what to do where it has not.

A Redis may be emptied: by a restart without its file, by a failover to a replica that had nothing, by FLUSHALL. Each
partition has an epoch, a text that is gone then. A request is admitted under the epoch that its relay knows; where
Redis has none, or another one, every machine first adds what its copy of the ledger says was spent: of several the most
counts, and none twice. So a budget that was used up stays so. Nothing of a new epoch gets into a copy before that: it
would be added as if Redis had lost it.

The same brings over what a relay has spent that had a folder of its own, when Redis sees it for the first time.
"""

import asyncio
import contextlib
import logging
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
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
        found = await asyncio.gather(*map(self._join, self._names.partitions))
        await self._note({where.epoch: epoch for where, epoch in zip(self._names.partitions, found, strict=True)})

    async def join(self, where: Partition) -> None:
        """Go on under the epoch that Redis has, or begin one; before that, add what was spent. Raises StoreError."""
        joining = self._joining.get(where.epoch)
        if joining is None:
            joining = self._joining[where.epoch] = asyncio.ensure_future(self._join_and_note(where))
            joining.add_done_callback(lambda _: self._joining.pop(where.epoch))
        await asyncio.shield(joining)

    async def _join_and_note(self, where: Partition) -> None:
        await self._note({where.epoch: await self._join(where)})

    async def check(self, where: Partition) -> None:
        """Go on under the epoch that Redis has, before anything of it is copied. Raises StoreError."""
        found = await self._link.command("GET", where.epoch)
        if found is None or found.decode() != self.of(where):
            await self.join(where)

    async def _note(self, found: Mapping[str, str]) -> None:
        """They hold once they stand in the file, where other processes of this machine look."""
        if any(self._known.get(name) != epoch for name, epoch in found.items()):
            await asyncio.to_thread(self._write, found)
            self._known.update(found)

    async def _join(self, where: Partition) -> str:
        """The epoch that holds, to which this machine has added what it knew."""
        known = self.of(where)
        while (found := await self._link.command("GET", where.epoch)) is None or found.decode() != known:
            noted, mine = await asyncio.to_thread(self._spent_in, where)
            if noted != known:  # by another process of this machine
                known = noted
                continue
            if found is None or known:
                await self._add(where, mine)
            if found is None:
                found = await self._link.function("join", (where.epoch,), (secrets.token_hex(8),))
            break
        joined: str = found.decode()
        return joined

    async def _add(self, where: Partition, mine: Sequence[tuple[str, str, int]]) -> None:
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

    def _write(self, known: Mapping[str, str]) -> None:
        try:
            with contextlib.closing(self._open()) as sql, transaction(sql):
                sql.executemany(_NOTE, known.items())
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the copy of the ledger can't be written: {error}") from None

    def _spent_in(self, where: Partition) -> tuple[str, list[tuple[str, str, int]]]:
        """The epoch that this machine has joined, and key, day and nano-dollars of what was spent until then and
        since."""
        try:
            with contextlib.closing(self._open()) as sql, transaction(sql):
                noted = sql.execute("SELECT epoch FROM Epochs WHERE name = ?", (where.epoch,)).fetchone()
                found = list(spent(sql))
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"what was spent until now can't be read from {self._path}: {error}") from None
        mine = [(key, day, amount) for key, day, amount in found if amount and self._names.partition(key) is where]
        return noted[0] if noted else "", mine

    def _open(self) -> sqlite3.Connection:
        make_folder(self._path.parent)
        make_file(self._path)
        sql = open_file(self._path)
        sql.execute(_TABLE)
        return sql
