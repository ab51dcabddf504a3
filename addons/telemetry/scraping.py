"""Scraping: `GET /metrics`, for those who may read it.

Who that is, relay.yaml says. With `metrics.token`: whoever shows it as bearer. With `metrics.listen`: whoever reaches
that address, and nobody at the first one (listener.py). With neither: programs on this machine. A connection from
there is not enough, since a server beside relay connects from there for others, and a page in a browser makes it ask,
too: the request must not have been passed on by anybody who says so, come from a page, or name another host; and where
relay.yaml says that proxies stand before relay (`listen.client_address`) it must show a token.
"""

import asyncio
import hmac
import json

from mitmproxy import http

from addons import addresses, errors
from addons.config.settings import MetricsSettings
from addons.core.chat import read_bearer
from addons.core.metrics import Models, Numbers
from addons.core.paths import METRICS
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, refuse
from addons.store import StoreError
from addons.store.counts import count_kept
from addons.store.ledger import Book
from addons.telemetry.sharing import Sharing
from addons.workers.remote_store import Channel


class Scraper:
    """Makes the text of a scrape. A worker asks its parent by `channel`; a single process has store and ledger."""

    def __init__(self, sharing: Sharing, channel: Channel | None) -> None:
        self.sharing = sharing
        self.channel = channel
        self.store: object = None
        self.book: Book | None = None
        self._one = asyncio.Lock()

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The numbers of all processes as text, and its content type. Raises Unavailable."""
        async with self._one:
            try:
                numbers = await self._gather()
            except (StoreError, ValueError) as error:
                raise errors.Unavailable("指标暂不可用。", "The metrics are away for the moment.") from error
            return await asyncio.to_thread(_written, numbers, accept)

    async def _gather(self) -> Numbers:
        if self.channel is not None:
            return Numbers.of_json(json.loads(await self.channel.gather_numbers(self.sharing.packed())))
        numbers, models = Numbers(), Models(most=1 << 20)
        numbers.add_all(self.sharing.numbers(), models)  # a copy: counting goes on meanwhile
        count_kept(numbers, self.store, self.book)
        return numbers


def _written(numbers: Numbers, accept: str) -> tuple[bytes, str]:
    # Where nobody scrapes, nobody need wait for Prometheus' library.
    from addons.telemetry.exposition import exposition

    return exposition(numbers, accept)


def shows_token(settings: MetricsSettings, authorization: str) -> bool:
    """Whether a request shows `metrics.token`, if there is one."""
    if settings.token is None:
        return True
    shown = read_bearer(authorization) or ""
    return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), settings.token.encode())


class MetricsPage:
    """Answers `/metrics` at relay's own address."""

    serves = (Kind.OWN,)

    def __init__(self, scraper: Scraper) -> None:
        self.scraper = scraper

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Refuse those who may not read it."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None or exchange.path != METRICS:
            return
        exchange.body.cap = 0
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "GET"))
        elif (error := _refusal(flow, exchange)) is not None:
            refuse(flow, exchange, error)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Gather them, and answer."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None or exchange.path != METRICS:
            return
        try:
            body, content_type = await self.scraper.scrape(flow.request.headers.get("accept", ""))
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        answer(flow, http.Response.make(200, body, {"Content-Type": content_type, "Cache-Control": "no-store"}))


def _refusal(flow: http.HTTPFlow, exchange: Exchange) -> errors.RelayError | None:
    settings = exchange.settings.metrics
    if settings.token is not None:
        if shows_token(settings, flow.request.headers.get("authorization", "")):
            return None
        return wrong_token()
    if _is_from_here(flow, exchange):
        return None
    return errors.Forbidden(
        "指标只对本机程序开放，请联系服务管理员。",
        "The metrics are for programs on relay's own machine: ask whoever runs it (metrics.token or metrics.listen in "
        "relay.yaml).",
        code="metrics_not_allowed",
    )


def wrong_token() -> errors.RelayError:
    """The error for who does not show the token."""
    return errors.Unauthorized(
        "请以 Authorization: Bearer 提供指标令牌。",
        "Show the token of the metrics: Authorization: Bearer ... (metrics.token in relay.yaml).",
    )


def _is_from_here(flow: http.HTTPFlow, exchange: Exchange) -> bool:
    peer = flow.client_conn.peername
    if exchange.settings.listen.client_address.source != "peer":
        return False  # proxies stand before relay, and one that forgets to name its client stands for anybody
    if peer is None or exchange.forwarded or exchange.origin or "sec-fetch-site" in flow.request.headers:
        return False
    return addresses.is_loopback(str(peer[0])) and addresses.is_loopback(_host(flow.request.host_header or ""))


def _host(named: str) -> str:
    """The host of a Host header, without the port."""
    return named.partition("]")[0] if named.startswith("[") else named.partition(":")[0]
