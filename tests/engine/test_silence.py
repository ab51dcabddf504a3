"""A client is closed over silence only where nobody else sees to what it waits for."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.proxy.server import TimeoutWatchdog

from addons.engine.corrections import silence


class Handler:
    """A connection that has been silent for long."""

    client = SimpleNamespace()

    def __init__(self) -> None:
        self.closed = False
        self.timeout_watchdog = TimeoutWatchdog(10, self.on_timeout)
        self.timeout_watchdog.last_activity = time.time() - 11

    async def on_timeout(self) -> None:
        """What the watchdog calls."""

    def is_quiet(self) -> bool:
        """Whether it would be closed at the next look."""
        return self.timeout_watchdog.last_activity + 10 < time.time()


async def _stock(handler: Any) -> None:
    handler.closed = True


@pytest.mark.parametrize(
    ("waits", "seen_to", "closed"), [(False, False, True), (False, True, False), (True, False, False)]
)
def test_who_waits_for_a_hook_is_not_closed_by_a_look_that_had_begun_before(
    waits: bool, seen_to: bool, closed: bool
) -> None:
    handler = Handler()

    async def look() -> None:
        if not waits:
            await silence._go_on(lambda _client: seen_to, _stock, handler)
            return
        with handler.timeout_watchdog.disarm():
            await silence._go_on(lambda _client: seen_to, _stock, handler)
            assert not handler.is_quiet()

    asyncio.run(look())
    assert handler.closed is closed
    assert closed or not handler.is_quiet()
