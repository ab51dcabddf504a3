"""The copy of the ledger on this machine, where reports read it: `ledger.db` in the store's folder, as a single relay
has it.

Rows come from the ledger's streams. A machine is a consumer group of each, and acknowledges what it has written; how
far it has come stands in the same file, in the same transaction, so nothing is counted twice. Of several processes with
one folder one writes, the one that has the lock, and another one goes on where it has ended. What all machines have
acknowledged is dropped from the streams after a day, so Redis does not grow with what is kept for reports.
"""

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from addons.core.relay_keys import day_of
from addons.store import StoreError, StoreInUse
from addons.store.folder import lock, make_file, make_folder
from addons.store.ledger import NAME
from addons.store.ledger_file import OF_A_ROW, SETTLEMENT, STRANGERS, Pricer, folding, insert, open_file, transaction
from addons.store.shared.epochs import Epochs
from addons.store.shared.ledger import SETTLED
from addons.store.shared.link import Link
from addons.store.shared.names import Names

logger = logging.getLogger(__name__)

_LOCK = "ledger.lock"
_LOOK = 0.1
"""Seconds between two looks for new rows."""
_AT_ONCE = 500
"""Rows of a stream that are written in one transaction."""
_TRY_AGAIN = 1.0
_TIDY_EVERY = 3600.0
_MARGIN = 7
"""Days that rows are kept beyond `balance.window_days`."""
_AT_LEAST, _AT_MOST = 1, 7
"""Days that rows stay in the streams: where all machines have them, and where one does not come back."""
_POSITIONS = "CREATE TABLE IF NOT EXISTS Positions (stream TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID"
_MOVE = "INSERT INTO Positions VALUES (?, ?) ON CONFLICT (stream) DO UPDATE SET id = excluded.id"

Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]
"""Ids and fields, as redis-py reads them."""


class Mirror:
    """The copy in one folder."""

    def __init__(
        self, link: Link, names: Names, epochs: Epochs, folder: Path, clock: Callable[[], float], keep_days: int
    ) -> None:
        self.keep_days = keep_days
        self.price: Pricer | None = None
        """Asked in a thread of its own, of rows that become sums of days."""
        self._link = link
        self._names = names
        self._epochs = epochs
        self._folder = folder
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relay-ledger")
        self._task: asyncio.Task[None] | None = None
        self._sql: sqlite3.Connection | None = None
        self._group = ""
        self._positions: dict[str, str] = {}
        self._where = {where.stream: where for where in names.partitions}
        self._writes = False
        """It is this process that writes the copy."""
        self._looks = 0
        """That have found nothing."""
        self._apart = False
        """Each stream has to be asked for by itself."""

    def start(self) -> None:
        """Begin. What goes wrong costs reports their newest rows, and nobody anything else."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                await self._follow()
            except StoreInUse:
                pass  # another process of this machine writes it
            except (StoreError, OSError, sqlite3.Error) as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning(f"the copy of the ledger is not written, so reports lack what is new: {error}")
            await asyncio.sleep(_TRY_AGAIN)

    async def catch_up(self) -> None:
        """Write all that is there now, unless another process does. Raises StoreError, OSError and sqlite3.Error."""
        try:
            handle = await self._do(self._open)
        except StoreInUse:
            return
        try:
            for where in self._names.partitions:
                await self._join(where.stream)
                while await self._take([where.stream]):
                    pass
        finally:
            await asyncio.shield(self._do(self._close, handle))
            self._thread.shutdown()

    async def _follow(self) -> None:
        """Write what comes, as long as nothing goes wrong."""
        handle = await self._do(self._open)
        self._writes = True
        try:
            for where in self._names.partitions:
                await self._join(where.stream)
            tidied = 0.0
            while True:
                if time.monotonic() - tidied > _TIDY_EVERY or not tidied:
                    tidied = time.monotonic()
                    await self._tidy()
                found = await self._take_all()
                self._looks += not found
                if found < _AT_ONCE:
                    await asyncio.sleep(_LOOK)
        finally:
            self._writes = False
            await asyncio.shield(self._do(self._close, handle))

    async def _do[**P, T](self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))

    def _open(self) -> int:
        """The lock. Raises StoreInUse where another process has it."""
        make_folder(self._folder)
        handle = lock(self._folder / _LOCK)
        try:
            path = self._folder / NAME
            make_file(path)
            self._sql = open_file(path)
            self._sql.execute(_POSITIONS)
            found = self._sql.execute("SELECT id FROM Positions WHERE stream = ''").fetchone()
            # This copy's name: what it has acknowledged is its own business.
            self._group = found[0] if found else os.urandom(8).hex()
            self._sql.execute(_MOVE, ("", self._group))
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _close(self, handle: int) -> None:
        if self._sql is not None:
            self._sql.close()
            self._sql = None
        os.close(handle)

    async def _join(self, stream: str) -> None:
        """Become a consumer group, so that Redis can tell how far this copy has come."""
        with contextlib.suppress(StoreError):  # it is one already, or Redis is away, which the next call finds
            await self._link.command("XGROUP", "CREATE", stream, self._group, "0", "MKSTREAM")
        self._positions[stream] = await self._do(self._position, stream)

    def _position(self, stream: str) -> str:
        assert self._sql is not None
        found = self._sql.execute("SELECT id FROM Positions WHERE stream = ?", (stream,)).fetchone()
        return found[0] if found else "0"

    async def _take_all(self) -> int:
        """Write the next rows of all streams; the most that one of them had."""
        streams = [where.stream for where in self._names.partitions]
        if not self._apart:
            try:
                return await self._take(streams)
            except StoreError as error:
                if "same slot" not in str(error):
                    raise
                self._apart = True  # they lie on several nodes of a cluster
        return max(await asyncio.gather(*(self._take([stream]) for stream in streams)))

    async def _take(self, streams: Sequence[str]) -> int:
        """Write the next rows of streams, then acknowledge them; the most that one of them had.

        They are asked for by position: what a group has been given it is not given again where the reply is lost.
        """
        positions = [self._positions[stream] for stream in streams]
        found = await self._link.command("XREAD", "COUNT", _AT_ONCE, "STREAMS", *streams, *positions)
        count = 0
        for name, entries in found or ():
            stream, count = name.decode(), max(count, len(entries))
            await self._epochs.check(self._where[stream])
            await self._do(self._write, stream, entries)
            self._positions[stream] = entries[-1][0].decode()
            await self._link.command("XGROUP", "SETID", stream, self._group, self._positions[stream])
        return count

    def _write(self, stream: str, entries: Entries) -> None:
        self._write_rows(stream, [(name.decode(), _row(fields)) for name, fields in entries])

    def _write_rows(self, stream: str, entries: Sequence[tuple[str, list[Any] | None]]) -> None:
        """Positions, and the rows that stand there."""
        assert self._sql is not None
        rows = [row for _, row in entries if row is not None]
        try:
            with transaction(self._sql):
                insert(self._sql, SETTLEMENT, [row[1:] for row in rows if row[0] == SETTLED])
                self._sql.executemany(STRANGERS, [row[1:] for row in rows if row[0] != SETTLED])
                self._sql.execute(_MOVE, (stream, entries[-1][0]))
        except OF_A_ROW as error:
            if len(entries) > 1:  # one row is at fault, and the others are not
                for entry in entries:
                    self._write_rows(stream, [entry])
                return
            logger.error(f"a row of the ledger's stream can't be written, and is passed over ({error})")
            self._write_rows(stream, [(entries[0][0], None)])

    async def _tidy(self) -> None:
        """Drop what is old from the streams, and make sums of days of it here."""
        for where in self._names.partitions:
            groups = await self._link.command("XINFO", "GROUPS", where.stream)
            since = _drop_before(int(self._clock() * 1000), [_last(group) for group in groups])
            await self._link.command("XTRIM", where.stream, "MINID", "~", since)
        until = day_of(self._clock() - (self.keep_days + _MARGIN) * 86400)
        await self._do(self._fold, until)

    def _fold(self, until: str) -> None:
        assert self._sql is not None
        for _ in folding(self._sql, until, self.price):
            pass

    async def catch_up_with_all(self, longest: float) -> None:
        """Wait until what is in the streams by now is in the copy, for so many seconds at most."""
        enough, end = self._looks + 2, time.monotonic() + longest
        while self._writes and self._looks < enough and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def finish(self) -> None:
        """Stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._thread.shutdown()


_SETTLED_LENGTH, _STRANGERS_LENGTH = 14, 5


def _last(group: Sequence[Any]) -> int:
    """How far a machine has come, in milliseconds since the epoch."""
    said = dict(zip(group[::2], group[1::2], strict=True))
    return int(said[b"last-delivered-id"].partition(b"-")[0])


def _drop_before(now: int, acknowledged: Sequence[int]) -> int:
    """From when on rows have to be kept, in milliseconds since the epoch."""
    a_day = 86_400_000
    return max(now - _AT_MOST * a_day, min([now - _AT_LEAST * a_day, *acknowledged]))


def _row(fields: Mapping[bytes, bytes]) -> list[Any] | None:
    """A row as relay has written it; None for what is none: somebody else's, which must not stop all that follow."""
    try:
        row: list[Any] = json.loads(fields[b"row"])
        if len(row) != (_SETTLED_LENGTH if row[0] == SETTLED else _STRANGERS_LENGTH):
            raise ValueError(row[0])
        return row
    except (ValueError, KeyError, TypeError, IndexError):
        logger.error("a row of the ledger's stream is none of relay's")
        return None
