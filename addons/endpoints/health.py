"""Health: the few paths that are relay's alone, for whoever watches over it."""

import asyncio
import json

from mitmproxy import http

from addons import errors
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.store import Store, StoreError
from addons.upstreams.health import UpstreamHealth

READY = "/readyz"
_PATIENCE = 5.0
"""Seconds that a store has to answer: who balances load asks every few."""
_NOBODY = "0" * 40
"""A session that nobody has."""


class Health:
    """Answers `/healthz` (this process runs) and `/readyz` (it would keep a conversation, too).

    The latter says how the upstreams are, as well, for whoever looks.
    """

    serves = (Kind.OWN,)

    def __init__(self, store: Store, upstreams: UpstreamHealth) -> None:
        self.store = store
        self.upstreams = upstreams

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
        # Whatever has become of an upstream, this relay serves: its health changes no status.
        answer(flow, _ok(upstreams=self.upstreams.report(exchange.settings.upstreams)))


def _asks_the_store(exchange: Exchange) -> bool:
    return exchange.path == READY


def _ok(**more: object) -> http.Response:
    return json_response(json.dumps({"status": "ok", **more}).encode())
