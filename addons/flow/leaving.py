"""Leaving: work for a client ends when it leaves. mitmproxy lets hooks go on for clients that are gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from mitmproxy import connection

from addons import errors
from addons.exchange import Exchange


class Waiting:
    """Clients that wait, and what is done for them. It is as long as there are such clients."""

    def __init__(self) -> None:
        self._work: dict[str, set[asyncio.Task[Any]]] = {}

    def __len__(self) -> int:
        return len(self._work)

    async def do[T](
        self, client: connection.Client, work: Coroutine[Any, Any, T], exchange: Exchange | None = None
    ) -> T:
        """The result of `work`. Raises what it raises, and Unavailable once the client has left: with its connection,
        or with the stream of HTTP/2 that `exchange` is."""
        doing = asyncio.ensure_future(work)
        if exchange is not None:
            exchange.waiting.add(doing)
            doing.add_done_callback(exchange.waiting.discard)
        self._work.setdefault(client.id, set()).add(doing)
        try:
            return await doing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if doing.cancelled() and not (task is not None and task.cancelling()):
                raise errors.Unavailable("客户端已断开。", "The client has left.") from None
            doing.cancel()
            raise
        finally:
            tasks = self._work[client.id]
            tasks.discard(doing)
            if not tasks:
                del self._work[client.id]

    def left(self, client: connection.Client) -> None:
        """Nobody waits for the answer any more."""
        for task in list(self._work.get(client.id, ())):
            task.cancel()
