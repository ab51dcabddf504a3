"""Sweeper: conversations that nobody has gone on with are forgotten, on the disk, too."""

import asyncio
import logging

from mitmproxy import connection

from addons.config import Settings
from addons.store import SessionStore, StoreError

logger = logging.getLogger(__name__)


class Sweeper:
    """Sweeps the store from time to time, from the first client on."""

    optional = True

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self.ttl = settings.chat.session_ttl
        self.store = store
        self._task: asyncio.Task[None] | None = None

    @property
    def interval(self) -> float:
        """Seconds between two sweeps: often enough that text outlives its time by a tenth at most."""
        return min(max(self.ttl / 10, 1.0), 60.0)

    def client_connected(self, client: connection.Client) -> None:
        """Start sweeping; there is no loop yet when the addons are made."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            try:
                await self.store.sweep(self.ttl)
            except StoreError as error:
                logger.warning(f"sweeping the session store failed: {error}")
            await asyncio.sleep(self.interval)

    def done(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
