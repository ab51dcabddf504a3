"""All of a shared store, opened: sessions, ledger, keys and the copy of the ledger, over one link."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from addons.config.settings import Settings
from addons.core.redis_address import RedisAddress, parse_redis
from addons.store import StoreError
from addons.store.shared.keys import SharedKeys
from addons.store.shared.ledger import SharedLedger
from addons.store.shared.link import Link, client_of
from addons.store.shared.mirror import Mirror
from addons.store.shared.names import Names
from addons.store.shared.sessions import SharedSessions
from addons.store.shared.takeover import take_over

logger = logging.getLogger(__name__)

_TRY_AGAIN = 0.5
_LAST_WORDS = 5.0
"""Seconds that what is left to be written has at the end."""


class Shared:
    """The store of `settings` in Redis. It is used from the loop of `reach` alone."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        """Raises StoreError where redis-py is missing."""
        kept = settings.store
        self.names = Names(kept.prefix)
        self.link = Link(address_of(settings))
        self.process = secrets.token_hex(8)
        """This process, as a holder of leases and of holds."""
        self.keys = SharedKeys(self.link, self.names)
        days = settings.balance.window_days
        self.ledger = SharedLedger(
            self.link, self.names, self.process, kept.path, clock, passes=kept.on_failure == "pass", keep_days=days
        )
        self.mirror = Mirror(self.link, self.names, kept.path, clock, days)
        self.sessions: SharedSessions | None = None
        """None until Redis was reached for the first time."""
        self._settings = settings
        self._listening: asyncio.Task[None] | None = None

    async def reach(self) -> SharedSessions:
        """Reach Redis for the first time, however long that takes; from then on everything works by itself."""
        said = ""
        while True:
            try:
                secret = await take_over(self.link, self.names, self._settings.store.path, secrets.token_bytes(32))
                await self.keys.look()
                break
            except StoreError as error:
                if str(error) != said and self.link.away_since is None:  # the link says itself that Redis is away
                    said = str(error)
                    logger.warning(f"the store can't be opened: {error}")
                await asyncio.sleep(_TRY_AGAIN)
        kept, ttl = self._settings.store, self._settings.chat.session_ttl
        bounds = (kept.max_sessions, kept.max_sessions_per_key)
        sessions = SharedSessions(self.link, self.names, self.process, secret, ttl, *bounds)
        await sessions.start()
        self.sessions = sessions
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
        """Finish as soon as nothing of what is under way needs it: another one takes its place."""
        await self.mirror.finish()
        while (self.sessions is not None and self.sessions.busy) or self.ledger.busy:
            await asyncio.sleep(_TRY_AGAIN)
        await self.finish()

    async def finish(self) -> None:
        """Write what waits, give back what is held, and let go."""
        if self._listening is not None:
            self._listening.cancel()
        self.keys.finish()
        if self.sessions is not None:
            await self.sessions.finish()
            await self.ledger.finish(_LAST_WORDS)
            await self.mirror.finish()
        await self.link.close()


async def catch_up(settings: Settings) -> None:
    """Bring the copy of the ledger on this machine up to date, unless a relay does. Raises StoreError and OSError."""
    link, kept = Link(address_of(settings)), settings.store
    try:
        days = settings.balance.window_days
        await Mirror(link, Names(kept.prefix), kept.path, time.time, days).catch_up()
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
