"""Sessions in Redis, and the leases on them: what several relays see alike.

A lease is over after 15 seconds unless its holder renews it, which it does every five. A process says about once a
second that it is there, and whoever waits for one that has said nothing for three seconds takes its lease: nobody waits
longer because a relay was killed. A holder that was stopped for so long can't save: the fence of whoever had the
session since is another one. Who waits has a ticket in a queue, in order of arrival whichever process it came to, and
is woken by whoever gives the lease back; where that holder is gone, it looks again by itself.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from addons.core.sessions import Session
from addons.store import Lease, LeaseLost, LeaseRequest, StoreError, TooManyWaiting, WaiterLeft
from addons.store.embedded import names as hashed
from addons.store.shared.kept import Kept
from addons.store.shared.link import Link
from addons.store.shared.names import Names, SessionNames

logger = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds that a lease lasts."""
RENEW = 5.0
ALIVE = 3.0
"""Seconds without a word from a process after which it is taken to be gone by those who wait for it."""
_BEAT = 0.6
_SHORT = 0.8
"""Seconds for which Redis may have been away, and everybody else is still known to be there."""
_LOOK = 0.5
"""Seconds between two looks of whoever waits, where nobody wakes it."""
_PATIENCE = 2.0
"""Seconds without a look after which whoever waits is taken to be gone."""
_FIRST_LOOK = 0.02
"""Seconds until the second look: a lease that is given back while its next holder takes its ticket wakes nobody."""


class SharedSessions:
    """A Store. `secret` is that of all relays on this Redis."""

    def __init__(
        self, link: Link, names: Names, kept: Kept, secret: bytes, ttl: float, max_sessions: int, max_per_owner: int
    ) -> None:
        self.secret = secret
        self.ttl = ttl
        """Seconds that a session is kept after its last use."""
        self.max_sessions = max_sessions
        self.max_per_owner = max_per_owner
        self._link = link
        self._names = names
        self._process = kept.process
        self._held, self._turns, self._waiting = kept.leases, kept.turns, kept.waiting
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._seen_at = -math.inf
        """Seconds on the monotonic clock when this process has last said that it is there."""
        self._doubts_at = time.monotonic() + ALIVE
        """Seconds on the monotonic clock from which on a process that says nothing is gone."""
        self._ending = False
        self._closed = False

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """As `Store.key`; the name has its owner's at its end, since both lie in the same place."""
        name, owner = hashed(self.secret, api_key, session_id)
        return name + owner, owner

    async def _function(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        if self._closed:
            raise StoreError("the session store is closed")
        return await self._link.function(name, keys, arguments)

    async def _beat_once(self) -> None:
        sent = time.monotonic()
        await self._link.command("SET", self._names.alive(self._process), "1", "PX", _ms(ALIVE))
        self._seen_at = sent

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                await self._beat_once()
            await asyncio.sleep(_BEAT)

    def _on_return(self, seconds: float) -> None:
        """Redis was away: everybody first has the time to be seen again."""
        if seconds > _SHORT:
            self._doubts_at = time.monotonic() + ALIVE

    async def _is_gone(self, holder: str) -> bool:
        """Whether the process of a ticket says nothing any more."""
        process = holder.partition(".")[0]
        if not process or process == self._process or time.monotonic() < self._doubts_at:
            return False
        try:
            gone = not await self._link.command_at_once("EXISTS", self._names.alive(process))
        except StoreError:
            return False
        return gone and time.monotonic() >= self._doubts_at

    # Leases

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """As `Store.lease`. Raises StoreError, too."""
        return LeaseRequest(partial(self._acquire, key, max_waiting, waiter))

    def waiter_left(self, waiter: str) -> None:
        """As `Store.waiter_left`."""
        for task in list(self._waiting.get(waiter, ())):
            task.cancel()

    def wake(self, ticket: str) -> None:
        """The turn of a ticket may have come; "" is all of them."""
        for turn in [self._turns[ticket]] if ticket in self._turns else [] if ticket else list(self._turns.values()):
            turn.set()

    async def _acquire(self, key: str, max_waiting: int, waiter: str) -> Lease:
        waiting = asyncio.ensure_future(self._wait(self._names.session(key), key, max_waiting))
        self._waiting.setdefault(waiter, set()).add(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if waiting.cancelled() and not (task is not None and task.cancelling()):
                raise WaiterLeft from None
            waiting.cancel()
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().release()
            raise
        finally:
            tasks = self._waiting[waiter]
            tasks.discard(waiting)
            if not tasks:
                del self._waiting[waiter]

    async def _wait(self, names: SessionNames, key: str, max_waiting: int) -> Lease:
        """Take a ticket, and wait for its turn. Whatever ends this without a lease gives the ticket back."""
        ticket = f"{self._process}.{secrets.token_hex(8)}"
        turn = self._turns[ticket] = asyncio.Event()
        keys = (names.lease, names.queue, names.seen, names.fences)
        arguments = (ticket, max_waiting, _ms(LEASE), _ms(_PATIENCE))
        patience, gone = _FIRST_LOOK, ""
        try:
            while True:
                if time.monotonic() - self._seen_at > 2 * _BEAT:  # it stood still: it has to be seen first
                    await self._beat_once()
                said, *more = await self._function("take", keys, (*arguments, gone))
                if said == b"full":
                    raise TooManyWaiting
                if said == b"mine":
                    return self._hold(ticket, key, int(more[0]))
                left = int(more[0]) / 1000 if more and int(more[0]) else _LOOK
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(patience, left + 0.001)):
                        await turn.wait()
                turn.clear()
                holder = more[1].decode()
                gone = holder if patience == _LOOK and await self._is_gone(holder) else ""
                patience = min(2 * patience, _LOOK)
        except TooManyWaiting:
            raise
        except BaseException:
            self._begin(self._give_back(ticket, names))
            raise
        finally:
            del self._turns[ticket]

    def _hold(self, ticket: str, key: str, fence: int) -> Lease:
        self._held[ticket] = key, fence
        return Lease(key, fence, lambda: self._release(ticket))

    def _release(self, ticket: str) -> None:
        key, _ = self._held.pop(ticket, (None, 0))
        if key is not None:
            self._begin(self._give_back(ticket, self._names.session(key)))

    async def _give_back(self, ticket: str, names: SessionNames) -> None:
        """Until Redis has heard it, or the lease is over by itself: nobody should wait for it when Redis is back."""
        end = time.monotonic() + LEASE
        while not await self._try_to_give_back(ticket, names) and not self._ending and time.monotonic() < end:
            await asyncio.sleep(_LOOK)

    async def _try_to_give_back(self, ticket: str, names: SessionNames) -> bool:
        keys = (names.lease, names.queue, names.seen)
        try:
            following = (await self._function("release_lease", keys, (ticket, _ms(_PATIENCE)))).decode()
            if following in self._turns:
                self.wake(following)
            elif following:
                await self._link.command("PUBLISH", self._names.wake(following.partition(".")[0]), following)
        except StoreError:
            return False
        return True

    def start(self) -> None:
        """Begin to say that this process is there, and to renew leases."""
        self._link.on_return.append(self._on_return)
        loop = asyncio.get_running_loop()
        self._beating = loop.create_task(self._beat())
        self._renewing = loop.create_task(self._renew())

    def stop(self) -> None:
        """Leave that to another one."""
        for task in (self._beating, self._renewing):
            if task is not None:
                task.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            await asyncio.gather(*(self._renew_one(ticket) for ticket in list(self._held)))

    async def _renew_one(self, ticket: str) -> None:
        key, fence = self._held.get(ticket, ("", 0))
        if not key:
            return  # it was given back a moment ago
        names = self._names.session(key)
        with contextlib.suppress(StoreError):  # in five seconds, then
            await self._function("renew", (names.lease,), (fence, _ms(LEASE)))

    # Sessions

    async def load(self, key: str, ttl: float) -> Session:
        """As `Store.load`."""
        stored = await self._function("load", (self._names.session(key).session,), (_ms(ttl),))
        if stored is None:
            return Session()
        try:
            return Session.from_json(stored)
        except ValueError as error:
            logger.error(f"a stored session can't be read and is begun anew: {error}")
            return Session()

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """As `Store.save`; how safe it is then is up to Redis's own settings."""
        names = self._names.session(lease.key)
        keys = (names.session, names.lease, names.owned)
        arguments = (lease.fence, session.to_json(), _ms(self.ttl), self.max_per_owner)
        gone = await self._function("save", keys, arguments)
        if gone is None:
            raise LeaseLost("the session was given to somebody else meanwhile")
        self._begin(self._make_room(names.session, gone))

    async def delete(self, lease: Lease) -> bool:
        """As `Store.delete`."""
        names = self._names.session(lease.key)
        found = await self._function("delete", (names.session, names.lease, names.owned), (lease.fence,))
        if found < 0:
            raise LeaseLost("the session was given to somebody else meanwhile")
        self._begin(self._forget_one(names.session))
        return bool(found)

    async def _make_room(self, session: str, gone: list[bytes]) -> None:
        """Note that a session was used; where there are too many in all, those unused for longest go."""
        with contextlib.suppress(StoreError):
            await self._forget(gone)
            seconds, micro = await self._link.command("TIME")
            now = int(seconds) * 1000 + int(micro) // 1000
            await self._link.command("ZADD", self._names.sessions, now, session)
            await self._link.command("ZREMRANGEBYSCORE", self._names.sessions, "-inf", now - _ms(self.ttl))
            over = int(await self._link.command("ZCARD", self._names.sessions)) - self.max_sessions
            if over > 0:
                oldest = await self._link.command("ZRANGE", self._names.sessions, 0, over - 1)
                for each in oldest:
                    await self._link.command("DEL", each)
                await self._forget(oldest)

    async def _forget_one(self, session: str) -> None:
        with contextlib.suppress(StoreError):  # it is out of the list when its time is over
            await self._forget([session.encode()])

    async def _forget(self, sessions: list[bytes]) -> None:
        if sessions:
            await self._link.command("ZREM", self._names.sessions, *sessions)

    async def sweep(self, ttl: float) -> None:
        """As `Store.sweep`: Redis forgets them by itself."""

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def busy(self) -> bool:
        """Whether somebody has a lease, or waits for one."""
        return bool(self._held or self._waiting)

    async def finish(self) -> None:
        """Give every lease back, and do what is under way."""
        self._ending = True
        self.stop()
        for ticket in list(self._held):
            self._release(ticket)
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # they are taken out of the set in the next turn of the loop

    def close(self) -> None:
        """As `Store.close`; whoever can wait calls `finish` before."""
        self._closed = True


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
