"""The ledger in Redis: who may go up is decided there, in one step for all relays.

1. A hold is a function call that is answered before anything goes up. It names its holder, which is this process, and a
   holder says every five seconds that it is alive.
2. A settlement takes the hold's place in the same step in which its row is written to the ledger's stream. Settlements
   go up in their order, many at once; where Redis is away they wait, and are tried again until it has them.
3. What a holder has left that says nothing for 15 seconds is settled by whichever relay sees it first: at its hold, and
   marked. Should that holder wake up, its own settlement comes too late, and changes nothing.
4. After Redis was away nobody is taken for dead until everybody has had the time to say otherwise.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from addons.core.accounts import Claim, Refused
from addons.core.relay_keys import Per, begins, day_of
from addons.store import StoreError
from addons.store.ledger import NAME
from addons.store.ledger_file import FAILURES, KILLED
from addons.store.settlements import OverLimit, Settlement, Strangers, row_of
from addons.store.shared.epochs import Epochs
from addons.store.shared.kept import Kept
from addons.store.shared.link import Link, is_of_function
from addons.store.shared.names import Names, Partition

logger = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds without a word from a holder after which it is taken to be gone."""
RENEW = 5.0
_SHORT = 2.0
"""Seconds for which Redis may have been away, and everybody else is still known to be there."""
_GATHER = 0.002
"""Seconds that a settlement waits for others to come along."""
_RETRY = 0.2
_ATTEMPTS = 3
_MOST_AT_ONCE = 100
_MOST_WAITING = 100_000
"""Settlements that wait while Redis is away; of more, the holds are settled in their place, as if relay were killed."""
_MARK = 86400.0
"""Seconds for which Redis knows that a request is settled: a settlement is not repeated for longer."""
_MARK_OF_CALLER = 600.0
"""The same where no money of relay keys depends on it: the copies tell a second row of one request by themselves."""
_TELL = 1.0
_ABANDONED_AT_ONCE = 500
_VALID = 2.0
"""Seconds for which it is right, by Redis's clock, to settle what others have left."""

SETTLED, STRANGERS = "settled", "strangers"
"""What a row of the stream begins with."""


class _Held(NamedTuple):
    claim: Claim
    day: str
    """Of its admission, for which it counts."""


class _Work(NamedTuple):
    keys: Sequence[str]
    arguments: Sequence[Any]


class SharedLedger:
    """A Ledger. `path` is where this machine's copy of it lies, for reports."""

    def __init__(
        self,
        link: Link,
        names: Names,
        kept: Kept,
        epochs: Epochs,
        folder: Path,
        clock: Callable[[], float],
        *,
        passes: bool,
        keep_days: int,
    ) -> None:
        self.path = folder / NAME
        self.clock = clock
        self.passes = passes
        """Keys without a budget go up while Redis is away."""
        self.keep_days = keep_days
        self._link = link
        self._names = names
        self._process = kept.process
        self._epochs = epochs
        self._held: dict[str, _Held] = kept.held
        self._strangers = Strangers()
        self._strange = kept.strangers
        self._telling: asyncio.TimerHandle | None = None
        self._urgent: deque[_Work] = kept.settlements_of_holds
        self._waiting: deque[_Work] = kept.settlements
        self._some = asyncio.Event()
        self._lost = 0
        self.has_written = False
        """Something was settled here."""
        self._refused = False
        """It was said that Redis refuses what was spent."""
        self._tasks: list[asyncio.Task[None]] = []
        self._returned = asyncio.Event()
        self._trusted_at = 0.0
        """Monotonic seconds from which on a holder that says nothing is gone."""

    def start(self) -> None:
        """Begin to write, and to look after holders."""
        self._trust_later()
        self._link.on_return.append(self._on_return)
        self._tell_of_strangers()  # those of code before this one
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write()), loop.create_task(self._look_after())]

    def _on_return(self, seconds: float) -> None:
        self._returned.set()
        # Who speaks every five seconds and counts as gone after fifteen has not been missed for so short a time: where
        # the way to Redis breaks now and then, what others have left would never be settled.
        if seconds > _SHORT:
            self._trust_later()

    def stop(self) -> None:
        """Leave that to another one."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for task in self._tasks:
            task.cancel()

    def _trust_later(self) -> None:
        self._trusted_at = time.monotonic() + LEASE

    # Admission

    async def reserve(self, claim: Claim) -> None:
        """As `Ledger.reserve`. Redis keeps the hold when this returns, as safely as its own settings say."""
        terms = claim.terms
        limits = (terms.budget, terms.requests, terms.tokens, terms.parallel)
        if not claim.kept and limits == (None,) * 4:
            return
        now = self.clock()
        held = _Held(claim, day_of(now))
        where = self._names.partition(claim.key)
        self._held[claim.request] = held
        keys = (
            *(*self._account(where, claim.key), where.holds(self._process)),
            *(where.holders, where.done(claim.request), where.epoch),
        )
        since = "" if terms.budget is None else begins(terms.per, now)
        arguments = (
            *(
                claim.request,
                self._process,
                _ms(LEASE),
                claim.amount,
                claim.tokens,
                held.day,
                _row_of_killed(held, now),
            ),
            *("" if terms.budget is None else terms.budget, since),
            *("" if limit is None else limit for limit in limits[1:]),
        )
        try:
            said, *more = await self._reserve(where, keys, arguments)
        except StoreError:
            if self.passes and terms.budget is None:
                return
            raise
        if said == "ok":
            return
        if said == "settled":
            raise StoreError("this request is settled already")
        self._held.pop(claim.request, None)
        if said == "budget":
            raise OverLimit(Refused(said, int(more[0])))
        raise OverLimit(Refused(said, retry_after=int(more[0]) if more else 1))

    async def _reserve(self, where: Partition, keys: Sequence[str], arguments: Sequence[object]) -> list[str]:
        """What Redis says to it, once it knows all that was spent."""
        for _ in range(_ATTEMPTS):
            reply = await self._link.function("reserve", keys, (*arguments, self._epochs.of(where)))
            said: list[str] = [each.decode() for each in reply]
            if said != ["lost"]:
                return said
            await self._epochs.join(where)
        raise StoreError("Redis loses what was spent again and again")

    def _account(self, where: Partition, key: str) -> tuple[str, str]:
        return where.account(key), where.rate(key)

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """As `Ledger.balance`."""
        since = begins(per, self.clock())
        fields = await self._link.command("HGETALL", self._names.partition(key).account(key))
        said = {name.decode(): int(value) for name, value in fields.items()}
        days = {
            kind: sum(n for name, n in said.items() if name[:2] == kind and name[2:] >= since) for kind in ("s:", "h:")
        }
        return days["s:"] if since else said.get("total", 0), days["h:"]

    # Settlement

    def settle(self, settlement: Settlement) -> None:
        """As `Ledger.settle`."""
        day, amount = day_of(settlement.at), settlement.amount
        cost: int | None = None
        if settlement.held:
            held = self._held.pop(settlement.request, None)
            if held is None:
                return
            day = held.day
            if settlement.at_hold:
                amount = held.claim.amount
            cost = amount or 0
        elif settlement.name is not None:
            cost = amount or 0
        if not settlement.held and not settlement.kept:
            return
        where = self._names.partition(settlement.key)
        if self._strangers.has(settlement):
            self._count_stranger(day, settlement)
            return
        row = json.dumps([SETTLED, *row_of(settlement, day, amount)]) if settlement.kept else ""
        tokens: object = "" if settlement.tokens is None else settlement.tokens
        self._put(
            _Work(
                (
                    *self._account(where, settlement.key),
                    *(where.holds(self._process), where.done(settlement.request), where.stream),
                ),
                (
                    *(settlement.request, "" if not settlement.kept or cost is None else cost),
                    *(tokens if cost is not None else "", day, row, _ms(self._mark(settlement)), int(settlement.held)),
                ),
            ),
            self._urgent if settlement.held else self._waiting,
        )

    def _mark(self, settlement: Settlement) -> float:
        """Seconds for which it is known that this was settled."""
        if settlement.held:
            return _MARK
        if settlement.name is None:
            return _MARK_OF_CALLER
        # What is fetched as often as the client likes (a batch, an answer in the background) is paid for once.
        return (self.keep_days + 1) * 86400.0

    def _count_stranger(self, day: str, settlement: Settlement) -> None:
        """Anybody can send keys that are none: of all these Redis hears once a second, in a row for each upstream."""
        self._strange[day, settlement.upstream, settlement.reason in FAILURES] += 1
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_TELL, self._tell_of_strangers)

    def _tell_of_strangers(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for (day, upstream, failed), count in self._strange.items():
            where, request = self._names.partition(""), f"strangers {secrets.token_hex(8)}"
            row = json.dumps([STRANGERS, day, upstream, count, count if failed else 0])
            keys = (*self._account(where, ""), where.holds(self._process), where.done(request), where.stream)
            self._put(_Work(keys, (request, "", "", day, row, _ms(_MARK_OF_CALLER), 0)), self._waiting)
        self._strange.clear()

    def _put(self, work: _Work, queue: deque[_Work]) -> None:
        self.has_written = True
        if len(queue) >= _MOST_WAITING:
            self._lost += 1
            if self._lost == 1:
                logger.error("Redis is away: settlements are lost, and their holds are settled in their place")
            return
        queue.append(work)
        self._some.set()

    async def _write(self) -> None:
        while True:
            if not self._left:
                self._some.clear()
                await self._some.wait()
                await asyncio.sleep(_GATHER)
            # After an absence of Redis the others are many, and nobody should be refused for a hold behind them.
            written = await asyncio.gather(self._write_first(self._urgent), self._write_first(self._waiting))
            if all(written):
                self._lost, self._refused = 0, False
            else:
                await asyncio.sleep(_RETRY)

    @property
    def _left(self) -> int:
        """Settlements that Redis does not have."""
        return len(self._urgent) + len(self._waiting)

    async def _write_first(self, queue: deque[_Work]) -> bool:
        """Write the first ones of a queue; whether Redis has them all."""
        batch = [queue[at] for at in range(min(len(queue), _MOST_AT_ONCE))]
        done = await asyncio.gather(*map(self._write_one, batch))
        count = next((at for at, each in enumerate(done) if not each), len(batch))
        for _ in range(count):
            queue.popleft()
        return count == len(batch)

    async def _write_one(self, work: _Work) -> bool:
        """Whether Redis has it. One that the function itself fails at is given up: it would stop all behind it. What
        Redis refuses for now (it is full, or has too few replicas) waits until it does not."""
        try:
            await self._link.function("settle", work.keys, work.arguments)
        except StoreError as error:
            if not is_of_function(error):
                if self._link.away_since is None and not self._refused:
                    logger.error(f"what was spent waits to be written: {error}")
                    self._refused = True
                return False
            logger.error(f"a settlement can't be written, and is lost ({error})")
        return True

    # Holders

    async def _look_after(self) -> None:
        """Say that this process is alive, and settle what those have left that are not."""
        while True:
            try:
                await self._renew()
                await self._epochs.look()  # by which it is known, too, whether Redis was away
                if time.monotonic() >= self._trusted_at:
                    await self._settle_abandoned()
            except StoreError as error:
                if self._link.away_since is None:
                    logger.error(f"looking after the holds of others failed: {error}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW):
                    await self._returned.wait()
            self._returned.clear()

    async def _renew(self) -> None:
        holding = {self._names.partition(held.claim.key) for held in self._held.values()}
        await asyncio.gather(
            *(self._link.function("live", (each.holders,), (self._process, _ms(LEASE))) for each in holding)
        )

    async def _settle_abandoned(self) -> None:
        seconds, micro = await self._link.command_at_once("TIME")
        until = int(seconds) * 1000 + int(micro) // 1000 + _ms(_VALID)
        counts = await asyncio.gather(*(self._settle_abandoned_in(each, until) for each in self._names.partitions))
        if settled := sum(counts):
            logger.warning(f"{settled} request(s) of a relay that is gone: settled at what was held")

    async def _settle_abandoned_in(self, where: Partition, until: int) -> int:
        arguments = (where.holds_of, where.done_of, _ABANDONED_AT_ONCE, _ms(_MARK), until)
        return int(await self._link.function_at_once("abandon", (where.holders, where.stream), arguments))

    async def finish(self, longest: float) -> None:
        """Write what waits, for so many seconds at most, and leave."""
        self._tell_of_strangers()
        end = time.monotonic() + longest
        while self._left and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self.stop()
        if self._left:
            logger.error(f"Redis is away: {self._left} settlement(s) are lost, and settled at what was held")
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(
                    *(
                        self._link.function("leave", (each.holders, each.holds(self._process)), (self._process,))
                        for each in self._names.partitions
                    )
                )


def _row_of_killed(held: _Held, now: float) -> str:
    """What is written of a request whose holder is gone."""
    claim = held.claim
    if not claim.kept:
        return ""
    amount = None if claim.terms.budget is None else claim.amount
    settlement = Settlement(
        request=claim.request,
        at=now,
        key=claim.key,
        name=claim.name,
        upstream=claim.upstream,
        model=claim.model,
        asked={},
        path=claim.path,
        reason=KILLED,
        usage=None,
        amount=amount,
        estimated=True,
    )
    return json.dumps([SETTLED, *row_of(settlement, held.day, amount)])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
