"""Health: the few paths that are relay's alone, for whoever watches over it."""

import asyncio
import json
import time
from collections.abc import Callable

from mitmproxy import http

from addons import errors
from addons.core.paths import METRICS
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.store import Store, StoreError
from addons.upstreams.health import UpstreamHealth

READY = "/readyz"
_PATIENCE = 5.0
"""Seconds that a store has to answer: who balances load asks every few."""
_WATCHING = 60.0
"""Seconds since somebody has asked /readyz, within which relay takes itself to be watched."""
_ANNOUNCED = 3.0
_ENOUGH = 2
_ARRIVING = 0.3
"""Seconds more, for clients that were sent here until then: they are in the queue of the socket, and would be refused
with it."""
_TICK = 0.05
_NOBODY = "0" * 40
"""A session that nobody has."""


class Readiness:
    """Whether new clients are welcome. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.draining = False
        self._clock = clock
        self._asked_at: float | None = None
        self._heard = 0

    def ask(self) -> bool:
        """Somebody wants to know."""
        self._asked_at = self._clock()
        self._heard += self.draining
        return not self.draining

    async def announce(self) -> None:
        """Say from now on that they are not, and wait until those who watch have heard it: twice, as HAProxy counts, or
        for a few seconds. Where nobody has asked for a while, nobody is waited for."""
        self.draining = True
        if self._asked_at is None or self._clock() - self._asked_at > _WATCHING:
            return
        end = self._clock() + _ANNOUNCED
        while self._heard < _ENOUGH and self._clock() < end:
            await asyncio.sleep(_TICK)
        await asyncio.sleep(_ARRIVING)


class Health:
    """Answers `/healthz` (this process runs) and `/readyz` (it would keep a conversation, too).

    The latter says how the upstreams are, as well, for whoever looks.
    """

    serves = (Kind.OWN,)

    def __init__(self, store: Store, readiness: Readiness, upstreams: UpstreamHealth) -> None:
        self.store = store
        self.readiness = readiness
        self.upstreams = upstreams

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer at once, but where the store has to be asked."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None or exchange.path == METRICS:
            return
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "GET"))
        elif not _asks_the_store(exchange):
            answer(flow, _ok())
        exchange.body.cap = 0

    async def request(self, flow: http.HTTPFlow) -> None:
        """Ask the store."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None or not _asks_the_store(exchange):
            return
        if not self.readiness.ask():
            refuse(flow, exchange, errors.Unavailable("中转服务正在停止。", "This relay is about to end."))
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.store.load(_NOBODY, exchange.settings.chat.session_ttl)
        except (StoreError, TimeoutError):
            refuse(flow, exchange, errors.Unavailable("会话存储不可用。", "The session store is away."))
            return
        # Whatever has become of an upstream, this relay serves: its health changes no status.
        answer(flow, _ok(upstreams=self.upstreams.report(exchange.settings.upstreams)))


def _asks_the_store(exchange: Exchange) -> bool:
    return exchange.path == READY


def _ok(**more: object) -> http.Response:
    return json_response(json.dumps({"status": "ok", **more}).encode())
