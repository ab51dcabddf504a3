"""Silence: when nothing moves on a client's connection, who is it that is waited for?"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mitmproxy.connection import Client
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog

from addons.engine.wrapping import wrap


def install(is_seen_to: Callable[[Client], bool]) -> None:
    """Make the changes of this room. `is_seen_to` says whether others give up, in time, what a client waits for."""
    wrap(ConnectionHandler, "on_timeout", partial(_go_on, is_seen_to))
    wrap(TimeoutWatchdog, "watch", _watch_on)


async def _go_on(is_seen_to: Callable[[Client], bool], stock: Any, handler: Any) -> None:
    """mitmproxy 12.2.3 closes a client when nothing has moved on its connection for `tcp_timeout`; so an upstream that
    is silent for too long costs a client its connection without a word. Here who gives up the upstream answers. It also
    closes one whose hook has begun to wait since the watch last looked, which a slow turn is enough for. Remove when a
    time-out of the upstream runs the `error` hook, and TimeoutWatchdog looks at its blocker before it calls.
    """
    if handler.timeout_watchdog.blocker or is_seen_to(handler.client):
        handler.timeout_watchdog.register_activity()
    else:
        await stock(handler)


async def _watch_on(stock: Any, watchdog: Any) -> None:
    """mitmproxy 12.2.3 watches a connection until it has been silent once; so it would not be watched any more behind
    `_go_on`. Here it is as long as it is not closed. Remove when `_go_on` is removed.
    """
    task = asyncio.current_task()
    while True:
        await stock(watchdog)
        cancelled = task is not None and task.cancelling()
        if cancelled or watchdog.last_activity + watchdog.timeout < time.time():
            return
