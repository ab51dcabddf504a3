"""The ledger: what every request has cost, and what is held for those under way. In the store's folder.

1. `Accounts` (addons/core/accounts.py) decides on the event loop, in memory, so nothing comes between asking and
   holding. A hold of a key with a budget is then written, and only what is written goes up.
2. One thread writes. What comes within `GATHER` seconds goes to it at once, in one transaction: a commit each would be
   ten times the work, and each time the thread wakes costs everybody some time.
3. A settlement is written behind its hold, in the same queue. Each has the request's id for its key, so none is written
   twice. Where the disk refuses, settlements wait, and are tried again.
4. What is found held at the start belonged to a relay that was killed: it is settled at its hold, and marked.
5. It has additions only. After `balance.window_days` and a week rows are priced, where that was left open, and folded
   into sums a day, a few at a time between others (ledger_file.py).
6. Nothing that a caller or an upstream says ends the thread: a row that can't be written fails alone.

Commits survive the end of the process, kill -9 included, not the loss of power (`synchronous=NORMAL`).
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from addons.core.accounts import Accounts, Claim, Refused
from addons.core.relay_keys import Per, day_of
from addons.store import StoreError
from addons.store.folder import is_damage, make_file, make_folder, store_error
from addons.store.ledger_file import (
    FAILURES,
    HOLD,
    KILLED,
    OF_A_ROW,
    RELEASE,
    SETTLEMENT,
    STRANGERS,
    UNRECKONED,
    Pricer,
    amount_of,
    folding,
    insert,
    open_file,
    settle_killed,
    spent,
    text_of,
    transaction,
)
from addons.store.settlements import OverLimit, Settlement, Strangers, row_of

logger = logging.getLogger(__name__)

NAME = "ledger.db"
GATHER = 0.002
"""Seconds that a row waits for others to come along, where somebody waits for it."""
_AT_LEISURE = 0.1
"""The same for what nobody waits for: the end of a request whose hold is written, so that a kill costs no budget a
cent, and what callers' own keys have used. Mostly a hold comes meanwhile, and all of it goes in one commit."""
_RETRY = 1.0
_MOST_WAITING = 100_000
"""Rows that wait while the disk refuses. Of more, holds are refused, and settlements lost: their holds are settled at
the next start."""
_FOLD_EVERY = 3600.0
_MARGIN = 7
"""Days that rows are kept beyond `balance.window_days`."""
_MOST_AT_ONCE = 500
_OVER = object()


@dataclass(slots=True)
class _Work:
    """A row that the thread has to write."""

    insert: str
    row: Sequence[object]
    done: Callable[[str | None], None] | None = None
    """Called with None, or with what went wrong; without it the row is tried again."""
    new: Callable[[], None] | None = None
    """Called where the row was not there already."""
    tried: bool = False
    added: bool = False


class Book:
    """The file, and the one thread that writes it. Errors are told as texts: it may outlive the code it is of."""

    def __init__(self, folder: Path, clock: Callable[[], float], keep_days: int, price: Pricer | None = None) -> None:
        """Open it. `price` is asked in the book's thread, of rows that are folded. Raises StoreError."""
        self.path = folder / NAME
        self.clock = clock
        self.keep_days = keep_days
        self.price = price
        self.accounts = Accounts()
        self.closed = False
        self.owners: dict[str, set[str]] = {}
        """The requests of each worker that are under way."""
        self._queue: queue.SimpleQueue[list[_Work] | None] = queue.SimpleQueue()
        self._gathered: list[_Work] = []
        """What goes to the thread next."""
        self._handed = self._taken = self._lost = 0
        """Rows that went to the thread (the loop counts), those that it has taken up (it counts), and those lost."""
        self._lost_at = 0.0
        self._strangers = Strangers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        make_folder(folder)
        try:
            make_file(self.path)
            self._sql = open_file(self.path)
            if killed := settle_killed(self._sql):
                logger.warning(f"{killed} request(s) were under way when relay was killed: settled at what was held")
            self.accounts.load(spent(self._sql))
        except (sqlite3.Error, OSError) as error:
            if is_damage(error):
                raise StoreError(
                    f"store.path: the ledger {self.path} is damaged, so nobody knows what was spent: restore it, or "
                    "move it away, and every budget begins anew"
                ) from None
            raise store_error(folder, error) from error
        self._thread = threading.Thread(target=self._run, name="relay-ledger", daemon=True)
        self._thread.start()

    # On the loop

    def reserve(self, claim: Claim, owner: str, done: Callable[[str | None], None]) -> Refused | None:
        """Admit a request. `done` is called with None once its hold is written, or with what went wrong."""
        now = self.clock()
        if self.closed:
            done("it is closed")
            return None
        refused = self.accounts.reserve(claim, now)
        if refused is not None:
            return refused
        self.owners.setdefault(owner, set()).add(claim.request)
        if not claim.kept:
            done(None)
            return None
        budgeted = claim.terms.budget is not None

        def written(error: str | None) -> None:
            if not budgeted:  # a disk that refuses is no reason to refuse what no budget stands on
                done(None)
                return
            if error is not None:
                self.accounts.cancel(claim.request)
                self.owners[owner].discard(claim.request)
            done(error)

        about = (claim.key, claim.name, claim.upstream, text_of(claim.model), text_of(claim.path))
        row = (claim.request, now, day_of(now), *about, amount_of(claim.amount) if budgeted else UNRECKONED)
        self._put(_Work(HOLD, row, written), GATHER)
        return None

    def settle(self, settlement: Settlement, owner: str = "") -> None:
        """Note how a request has ended."""
        now, day, amount = self.clock(), day_of(settlement.at), settlement.amount
        if settlement.held:
            cost = None if settlement.at_hold else amount or 0
            hold = self.accounts.holds.get(settlement.request)
            settled = self.accounts.settle(settlement.request, cost, settlement.tokens, now)
            if hold is None or settled is None:
                return
            if hold.claim.kept and not settlement.kept:
                self._put(_Work(RELEASE, (settlement.request,)), _AT_LEISURE)
            day = settled[0]
            if settlement.at_hold:
                amount = settled[1]
            if owner in self.owners:
                self.owners[owner].discard(settlement.request)
        if not settlement.kept:
            return
        if self._strangers.has(settlement):
            failed = int(settlement.reason in FAILURES)
            self._put(_Work(STRANGERS, (day, settlement.upstream, 1, failed)), _AT_LEISURE)
            return
        row = row_of(settlement, day, amount)
        if settlement.held:
            self._put(_Work(SETTLEMENT, row), _AT_LEISURE)
        elif settlement.name is not None:
            # A batch, or an answer in the background, is fetched as often as the client likes, and paid for once.
            def spend() -> None:
                self.accounts.spend(settlement.key, amount or 0, settlement.tokens or 0, now)

            self._put(_Work(SETTLEMENT, row, new=spend), GATHER)
        else:
            self._put(_Work(SETTLEMENT, row), _AT_LEISURE)

    def _put(self, work: _Work, wait: float) -> None:
        """Hand it to the thread within `wait` seconds, in its turn."""
        if self._handed - self._taken > _MOST_WAITING:
            if work.done is not None:
                work.done("too many rows wait")
            else:
                self._lose(1)
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._timer = loop, None
        self._gathered.append(work)
        if len(self._gathered) >= _MOST_AT_ONCE:
            self._hand_over()
        elif self._timer is None or self._timer.when() > loop.time() + wait:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(wait, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered:
            works, self._gathered = self._gathered, []
            self._handed += len(works)
            self._queue.put(works)

    def _lose(self, count: int) -> None:
        """Settlements that there is no room for, while the disk refuses."""
        now = time.monotonic()
        self._lost += count
        if now - self._lost_at > _RETRY:
            self._lost_at = now
            logger.error(f"the ledger can't be written: {self._lost} settlement(s) are lost")

    def abandon(self, owner: str) -> None:
        """Settle what a worker had under way that is gone: at what is held."""
        for request in list(self.owners.pop(owner, ())):
            hold = self.accounts.holds.get(request)
            if hold is None:
                continue
            claim = hold.claim
            about = (claim.key, claim.name, claim.upstream, claim.model)
            self.settle(
                Settlement(
                    request,
                    self.clock(),
                    *about,
                    {},
                    claim.path,
                    KILLED,
                    None,
                    None,
                    estimated=True,
                    held=True,
                    at_hold=claim.terms.budget is not None,
                    kept=claim.kept,
                )
            )

    def close(self) -> None:
        """Write what waits, and close."""
        if not self.closed:
            self.closed = True
            self._hand_over()
            self._queue.put(None)
            self._thread.join()

    # In the thread

    def _run(self) -> None:
        waiting: list[_Work] = []
        ended, fold, fold_at = False, None, time.monotonic()
        while not ended:
            patience = 0.0 if fold is not None else max(fold_at - time.monotonic(), 0.0)
            batch, ended = self._next(waiting, patience)
            waiting = self._do(batch)
            if len(waiting) > _MOST_WAITING:
                self._lose(len(waiting) - _MOST_WAITING)
                del waiting[_MOST_WAITING:]
            if fold is None and time.monotonic() >= fold_at:
                fold, fold_at = self._folding(), time.monotonic() + _FOLD_EVERY
            if fold is not None and next(fold, _OVER) is _OVER:
                fold = None
        if waiting:
            self._lose(len(waiting))
        self._sql.close()

    def _folding(self) -> Iterator[None]:
        """Make sums of what is old, a little each time. Whatever goes wrong is tried again in an hour."""
        try:
            until = day_of(self.clock() - (self.keep_days + _MARGIN) * 86400)
            yield from folding(self._sql, until, self.price)
        except Exception as error:
            logger.warning(f"folding the ledger failed: {error}")

    def _next(self, waiting: list[_Work], patience: float) -> tuple[list[_Work], bool]:
        """What is to be done next, within `patience` seconds, and whether nothing follows it."""
        batch = list(waiting)
        until = time.monotonic() + (_RETRY if waiting else patience)
        while len(batch) - len(waiting) < _MOST_AT_ONCE:
            try:
                works = self._queue.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if works is None:
                return batch, True
            batch += works
            self._taken += len(works)
            if not waiting:
                until = 0.0  # what is there already comes along
        return batch, False

    def _do(self, batch: list[_Work]) -> list[_Work]:
        """Do all of it in one transaction, or else one by one; what is to be tried again. Raises nothing."""
        if not batch:
            return []
        try:
            with transaction(self._sql):
                for statement in (HOLD, SETTLEMENT):
                    rows = [work.row for work in batch if work.insert == statement and work.new is None]
                    insert(self._sql, statement, rows)
                for work in batch:
                    if work.new is not None or work.insert not in (HOLD, SETTLEMENT):
                        work.added = self._sql.execute(work.insert, work.row).rowcount > 0
        except OF_A_ROW as error:
            if len(batch) > 1:  # one row is at fault, and the others are not
                return [again for work in batch for again in self._do([work])]
            self._give_up(batch[0], error)
            return []
        except Exception as error:
            return self._refused(batch, error)
        self._tell([partial(work.done, None) for work in batch if work.done is not None])
        self._tell([work.new for work in batch if work.new is not None and work.added])
        return []

    def _refused(self, batch: Sequence[_Work], error: Exception) -> list[_Work]:
        """The disk does not take it: whoever waits hears so, and settlements are tried again."""
        text = f"{type(error).__name__}: {error}"
        self._tell([partial(work.done, text) for work in batch if work.done is not None])
        again = [work for work in batch if work.done is None]
        if fresh := sum(not work.tried for work in again):
            logger.error(f"the ledger can't be written ({text}): {fresh} settlement(s) wait")
        for work in again:
            work.tried = True
        return again

    def _give_up(self, work: _Work, error: Exception) -> None:
        """A row that no disk would take."""
        text = f"{type(error).__name__}: {error}"
        if work.done is not None:
            self._tell([partial(work.done, text)])
        else:
            logger.error(f"a settlement can't be written, and is lost ({text})")

    def _tell(self, calls: Sequence[Callable[[], object]]) -> None:
        """Have the loop make these calls: waking it costs more than they do."""
        if calls and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_make, calls)


def _make(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        try:
            call()
        except Exception:  # the others wait, too
            logger.exception("a row of the ledger is written, and whoever waits for it failed")


class LocalLedger:
    """The ledger of this process."""

    passes = True

    def __init__(self, book: Book) -> None:
        self.book = book
        self.path = book.path

    async def reserve(self, claim: Claim) -> None:
        """As `Ledger.reserve`."""
        written: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def done(error: str | None) -> None:
            if not written.done():
                written.set_result(error)

        refused = self.book.reserve(claim, "", done)
        if refused is not None:
            raise OverLimit(refused)
        error = await written
        if error is not None:
            raise StoreError(f"the ledger can't be written: {error}")

    def settle(self, settlement: Settlement) -> None:
        """As `Ledger.settle`."""
        self.book.settle(settlement)

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """As `Ledger.balance`."""
        return self.book.accounts.balance(key, per, self.book.clock())
