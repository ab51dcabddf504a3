"""AddressLimits: what one client's address may have and ask for (`limits.per_address`).

Whose a connection is has been found out before: by the engine (PROXY protocol), or by ClientAddresses, whose proxies
are no clients themselves: of what comes over their connections, each request counts as one while it lasts.

A connection too many is not just closed. Its first request gets a 429 in the shape that its caller reads, and says what
to do: SDKs take a closed connection for a network that fails, and their users would look there. `SPARE` of an address
may wait for that at a time, for `PATIENCE`; those beyond are closed as soon as they are accepted, which costs least.

Addresses of this machine itself have no limit: whoever is here needs no relay to use it up, and a proxy here that
nobody has told relay about would be taken for one client. Each process counts for itself.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from mitmproxy import connection, http

from addons.config.settings import Settings
from addons.core import paths
from addons.core.client_address import counted_as, parse_address
from addons.core.per_address import PerAddress
from addons.engine.transports import close_client
from addons.errors import RateLimited
from addons.exchange import Exchange, Kind, Part, of
from addons.flow.answers import refuse
from addons.proxy.client_addresses import ClientAddresses

SPARE = 8
PATIENCE = 5.0
"""Seconds for which a connection too many is kept: to hear its request, and to say what is wrong."""
_COME_BACK = 5
"""Seconds; nobody knows when a connection ends."""
_BETWEEN_LINES = 60.0  # seconds

_COUNTED = Part[str]("address_limits.counted")
"""The address for which an exchange counts as under way."""

logger = logging.getLogger(__name__)


class AddressLimits:
    """Counts, and refuses what is too much. `clock` tells seconds, and never goes back."""

    def __init__(
        self, settings: Settings, addresses: ClientAddresses, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = settings.limits.per_address
        self.known = PerAddress()
        self._addresses = addresses
        self._clock = clock
        self._counted: dict[str, str] = {}
        """Addresses of the clients that are counted, by client."""
        self._under_way: defaultdict[str, set[Exchange]] = defaultdict(set)
        """Of proxies' connections: the exchanges that are counted."""
        self._over: dict[str, tuple[str, asyncio.TimerHandle]] = {}
        """Those that are too many."""
        self._spare: Counter[str] = Counter()
        """How many of these there are, by address."""
        self._silent_until = float("-inf")

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings; who is connected stays."""
        self.limits = settings.limits.per_address

    def client_connected(self, client: connection.Client) -> None:
        """One more connection, or one too many."""
        if self._addresses.is_proxy(client) or (address := _address(client)) is None:
            return
        if not self._is_full(address):
            self._counted[client.id] = address
            self.known.enter(address)
        elif self._spare[address] < SPARE:
            loop = asyncio.get_running_loop()
            close = loop.call_later(PATIENCE, close_client, client, "relay: too many connections of its address")
            self._over[client.id] = address, close
            self._spare[address] += 1
        else:
            client.error = "too many connections of this address"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """One more request, or one too many. What relay has refused already, preflights and who watches over relay
        count for nobody."""
        exchange = of(flow)
        if exchange is None or exchange.refused or (exchange.kind == Kind.OWN and exchange.path in paths.OWN):
            return
        if flow.client_conn.id in self._over:
            exchange.client_closes = True
            refuse(flow, exchange, _too_many(self.limits.connections))
            return
        if self._addresses.is_proxy(flow.client_conn):
            address = _address(flow.client_conn)
            if address is None:
                return
            if self._is_full(address):
                refuse(flow, exchange, _too_many(self.limits.connections))
                return
            self.known.enter(_COUNTED.keep(exchange, address))
            self._under_way[flow.client_conn.id].add(exchange)
        else:
            address = self._counted.get(flow.client_conn.id)
        limit = self.limits.requests
        if limit is not None and address is not None:
            again = self.known.ask(address, limit, self._clock())
            if again is not None:
                refuse(flow, exchange, _too_often(limit, again))

    def _is_full(self, address: str) -> bool:
        most = self.limits.connections
        if most is None or self.known.under_way(address) < most:
            return False
        now = self._clock()
        if now >= self._silent_until:
            self._silent_until = now + _BETWEEN_LINES
            logger.warning(
                f"{address} has {most} connections, as many as limits.per_address allows: more are refused. If it is a "
                "proxy, let it say who its clients are: listen.client_address"
            )
        return True

    def response(self, flow: http.HTTPFlow) -> None:
        """It is over, unless it goes on as a websocket."""
        if flow.websocket is None:
            self._ended(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """It is over."""
        self._ended(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """It is over."""
        self._ended(flow)

    def _ended(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is not None and (address := _COUNTED.take(exchange)) is not None:
            self.known.leave(address, self._clock())
            self._under_way[flow.client_conn.id].discard(exchange)

    def client_disconnected(self, client: connection.Client) -> None:
        """One less."""
        if (address := self._counted.pop(client.id, None)) is not None:
            self.known.leave(address, self._clock())
        for exchange in self._under_way.pop(client.id, ()):
            if (address := _COUNTED.take(exchange)) is not None:
                self.known.leave(address, self._clock())
        if (over := self._over.pop(client.id, None)) is not None:
            address, close = over
            close.cancel()
            self._spare[address] -= 1
            if not self._spare[address]:
                del self._spare[address]

    def done(self) -> None:
        """No timer outlives the addon."""
        for _, close in self._over.values():
            close.cancel()


def _address(client: connection.Client) -> str | None:
    """What a client is counted as; None where it is not."""
    address = parse_address(client.peername[0]) if client.peername else None
    return None if address is None or address.is_loopback else counted_as(address)


def _too_many(most: int | None) -> RateLimited:
    return RateLimited(
        f"此网络地址的连接数已达上限 {most}，请关闭不用的连接后重试。",
        f"Your network address has {most} connections, as many as it may: close some, or try again later.",
        code="too_many_connections",
        headers={"retry-after": str(_COME_BACK)},
    )


def _too_often(limit: int, again: int) -> RateLimited:
    return RateLimited(
        f"此网络地址每分钟的请求数已达上限 {limit}，请在 {again} 秒后再试。",
        f"Your network address has reached its limit of {limit} requests a minute: try again in {again} s.",
        headers={"retry-after": str(again)},
    )
