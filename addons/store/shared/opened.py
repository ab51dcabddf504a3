"""All of a shared store, opened: sessions, ledger, keys and the copy of the ledger, over one link."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from addons.config.settings import Settings
from addons.core.redis_address import RedisAddress, parse_redis
from addons.store import StoreError
from addons.store.shared.epochs import Epochs
from addons.store.shared.kept import Kept
from addons.store.shared.keys import SharedKeys
from addons.store.shared.ledger import SharedLedger
from addons.store.shared.link import Link, client_of
from addons.store.shared.mirror import Mirror
from addons.store.shared.names import Names
from addons.store.shared.sessions import SharedSessions
from addons.store.shared.takeover import take_over

logger = logging.getLogger(__name__)

_TRY_AGAIN = 0.5
_RETIRED = 900.0
"""Seconds that leases which old code has given out are given back by it."""
_LAST_ROWS = 2.0
"""Seconds that the copy of the ledger has to be whole."""
_LAST_WORDS = 5.0
"""Seconds that what is left to be written has at the end."""


class Shared:
    """The store of `settings` in Redis. It is used from the loop of `reach` alone."""

    def __init__(self, settings: Settings, clock: Callable[[], float], kept: Kept | None = None) -> None:
        """`kept` is what code before this one has left: it is gone on with. Raises StoreError where redis-py is
        missing."""
        wanted, days = settings.store, settings.balance.window_days
        self.kept = kept if kept is not None else Kept()
        self.process = self.kept.process
        self.names = Names(wanted.prefix)
        self.link = Link(address_of(settings))
        self.keys = SharedKeys(self.link, self.names, self.kept, wanted.path)
        self.epochs = Epochs(self.link, self.names, self.kept, wanted.path)
        passes = wanted.on_failure == "pass"
        self.ledger = SharedLedger(
            self.link, self.names, self.kept, self.epochs, wanted.path, clock, passes=passes, keep_days=days
        )
        self.mirror = Mirror(self.link, self.names, self.epochs, wanted.path, clock, days)
        self.sessions: SharedSessions | None = None
        """None until Redis was reached for the first time."""
        self._settings = settings
        self._listening: asyncio.Task[None] | None = None

    async def reach(self) -> SharedSessions:
        """Reach Redis for the first time, however long that takes; from then on everything works by itself."""
        said = ""
        while True:
            try:
                fresh = secrets.token_bytes(32)
                path = self._settings.store.path
                secret = await take_over(self.link, self.names, path, fresh, others=lambda: self.link.was_away)
                self.kept.secret = secret
                await self.keys.look()
                await self.keys.copy()
                await self.epochs.begin()
                break
            except StoreError as error:
                if str(error) != said and self.link.away_since is None:  # the link says itself that Redis is away
                    said = str(error)
                    logger.warning(f"the store can't be opened: {error}")
                await asyncio.sleep(_TRY_AGAIN)
        return self.begin()

    def begin(self) -> SharedSessions:
        """Begin, Redis having been reached, by this code or by that before it."""
        assert self.kept.secret is not None
        wanted, ttl = self._settings.store, self._settings.chat.session_ttl
        bounds = (wanted.max_sessions, wanted.max_sessions_per_key)
        self.sessions = SharedSessions(self.link, self.names, self.kept, self.kept.secret, ttl, *bounds)
        self.sessions.start()
        channels = (self.names.wake(self.process), self.names.keys)
        self._listening = asyncio.get_running_loop().create_task(self.link.listen(channels, self._hear, self._again))
        self.keys.start()
        self.ledger.start()
        self.mirror.start()
        return self.sessions

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings; those of the way to Redis need a restart."""
        self._settings = settings
        self.ledger.passes = settings.store.on_failure == "pass"
        self.ledger.keep_days = self.mirror.keep_days = settings.balance.window_days
        if self.sessions is not None:
            self.sessions.ttl = settings.chat.session_ttl
            self.sessions.max_sessions = settings.store.max_sessions
            self.sessions.max_per_owner = settings.store.max_sessions_per_key

    def _hear(self, channel: str, text: str) -> None:
        if channel == self.names.keys:
            self.keys.changed()
        elif self.sessions is not None and text:
            self.sessions.wake(text)

    def _again(self) -> None:
        self.keys.changed()
        if self.sessions is not None:
            self.sessions.wake("")

    async def retire(self) -> None:
        """Other code goes on with all of it. What waits for a reply here gets it."""
        if self._listening is not None:
            self._listening.cancel()
        self.keys.finish()
        self.ledger.stop()
        if self.sessions is not None:
            self.sessions.stop()
        await self.mirror.finish()
        end = time.monotonic() + _RETIRED
        while self.sessions is not None and self.sessions.busy and time.monotonic() < end:
            await asyncio.sleep(_TRY_AGAIN)
        await self.link.close()

    async def finish(self) -> None:
        """Write what waits, give back what is held, and let go."""
        if self._listening is not None:
            self._listening.cancel()
        self.keys.finish()
        if self.sessions is not None:
            await self.sessions.finish()
            await self.ledger.finish(_LAST_WORDS)
            if self.ledger.has_written:
                await self.mirror.catch_up_with_all(_LAST_ROWS)
            await self.mirror.finish()
        await self.link.close()


async def catch_up(settings: Settings) -> None:
    """Bring the copy of the ledger on this machine up to date, unless a relay does. Raises StoreError and OSError."""
    link, kept = Link(address_of(settings)), settings.store
    names = Names(kept.prefix)
    epochs = Epochs(link, names, Kept(), kept.path)
    try:
        await epochs.begin()
        await Mirror(link, names, epochs, kept.path, time.time, settings.balance.window_days).catch_up()
    finally:
        await link.close()


async def secret_of(settings: Settings) -> bytes:
    """The secret of all relays on this Redis, for a command. Raises StoreError."""
    link, kept = Link(address_of(settings)), settings.store
    try:
        return await take_over(link, Names(kept.prefix), kept.path, secrets.token_bytes(32))
    finally:
        await link.close()


def check_installed(settings: Settings) -> None:
    """Raise StoreError where redis-py is missing."""
    client_of(address_of(settings))


def address_of(settings: Settings) -> RedisAddress:
    """Where the Redis of `settings` is."""
    return parse_redis(settings.store.url or "")
