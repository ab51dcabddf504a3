"""Sweeper: conversations that nobody has gone on with are forgotten, on the disk, too."""

import asyncio
import logging
from typing import TYPE_CHECKING

from addons.config.settings import Settings
from addons.store import Store, StoreError

if TYPE_CHECKING:  # the parent of workers sweeps without a mitmproxy
    from mitmproxy import connection

logger = logging.getLogger(__name__)


def interval(ttl: float) -> float:
    """Seconds between two sweeps: often enough that text outlives its time by a tenth at most."""
    return min(max(ttl / 10, 1.0), 60.0)


async def sweep(store: Store, ttl: float) -> None:
    """Sweep `store` from time to time, for ever."""
    while True:
        try:
            await store.sweep(ttl)
        except StoreError as error:
            logger.warning(f"sweeping the session store failed: {error}")
        await asyncio.sleep(interval(ttl))


class Sweeper:
    """Sweeps the store from time to time, from the first client on."""

    optional = True

    def __init__(self, settings: Settings, store: Store) -> None:
        self.ttl = settings.chat.session_ttl
        self.store = store
        self._task: asyncio.Task[None] | None = None

    def client_connected(self, client: "connection.Client") -> None:
        """Start sweeping; there is no loop yet when the addons are made."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(sweep(self.store, self.ttl))

    def done(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
