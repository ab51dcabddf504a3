"""Health: the few paths that are relay's alone, for whoever watches over it."""

import asyncio
import json

from mitmproxy import http

from addons import errors
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.store import Store, StoreError

READY = "/readyz"
_PATIENCE = 5.0
"""Seconds that a store has to answer: who balances load asks every few."""
_NOBODY = "0" * 40
"""A session that nobody has."""


class Health:
    """Answers `/healthz` (this process runs) and `/readyz` (it would keep a conversation, too)."""

    serves = (Kind.OWN,)

    def __init__(self, store: Store) -> None:
        self.store = store

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer at once, but where the store has to be asked."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None:
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
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.store.load(_NOBODY, exchange.settings.chat.session_ttl)
        except (StoreError, TimeoutError):
            refuse(flow, exchange, errors.Unavailable("会话存储不可用。", "The session store is away."))
            return
        answer(flow, _ok())


def _asks_the_store(exchange: Exchange) -> bool:
    return exchange.path == READY


def _ok() -> http.Response:
    return json_response(json.dumps({"status": "ok"}).encode())
