"""ClientAddresses: whose a request is, where proxies before relay say so in a header.

A proxy serves many clients over one connection, one request after the other. While a request lasts, the connection's
`peername` is its client's address, which is what limits, log lines and records read; when it is over, its record gets a
copy of the connection, so that it keeps the address it had.

What a connection announces by itself (PROXY protocol) is read before there is one: engine/corrections/preambles.py.
"""

import weakref
from dataclasses import dataclass

from mitmproxy import connection, http

from addons import engine
from addons.config.settings import Settings
from addons.core import headers
from addons.core.client_address import forwarded_for, is_within, parse_address

_Address = tuple[str, int]


@dataclass(slots=True)
class _Named:
    """A request of a proxy's, and its client."""

    flow: weakref.ref[http.HTTPFlow]
    address: _Address


@dataclass(slots=True)
class _Proxy:
    """A connection of a proxy that is believed."""

    own: _Address
    named: list[_Named]
    """Requests under way, and those whose records have no copy yet."""


class ClientAddresses:
    """Names the client of each request that comes by a proxy which is believed."""

    def __init__(self, settings: Settings) -> None:
        self.adopt(settings)
        self._proxies: dict[str, _Proxy] = {}

    def adopt(self, settings: Settings) -> None:
        """Go on under other settings; a connection stays what it was."""
        self.settings = settings.listen.client_address
        name = self.settings.header.encode()
        self._goes_up = bool(headers.upward(((name, b""),), websocket=False).fields)

    def is_proxy(self, client: connection.Client) -> bool:
        """Whether others speak over this connection."""
        return client.id in self._proxies

    def client_connected(self, client: connection.Client) -> None:
        """Is it one of the proxies? One that came while relay started was not asked whose its connection is."""
        if engine.came_before(client):
            client.error = "relay is starting"
        if self.settings.source != "header" or not client.peername:
            return
        address = parse_address(client.peername[0])
        if address is not None and is_within(address, self.settings.networks):
            self._proxies[client.id] = _Proxy(client.peername, [])

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Read the header, and take it out where Routing would let it pass: it is no business of upstream's."""
        if self.settings.source != "header" or flow.is_replay or not flow.live:
            return
        values = flow.request.headers.get_all(self.settings.header)
        if values and self._goes_up:
            del flow.request.headers[self.settings.header]
        if (proxy := self._proxies.get(flow.client_conn.id)) is None:
            return  # a client itself, whatever it says
        self._freeze(proxy)
        found = forwarded_for(values, self.settings.networks)
        address = (str(found), 0) if found is not None else proxy.own
        flow.client_conn.peername = address
        proxy.named.append(_Named(weakref.ref(flow), address))

    def response(self, flow: http.HTTPFlow) -> None:
        """The line of the log that is printed next is about this one."""
        self._name(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The same."""
        self._name(flow)

    def _name(self, flow: http.HTTPFlow) -> None:
        proxy = self._proxies.get(flow.client_conn.id)
        for named in proxy.named if proxy is not None and not flow.is_replay else ():
            if named.flow() is flow:
                flow.client_conn.peername = named.address

    def client_disconnected(self, client: connection.Client) -> None:
        """Forget the proxy's connection."""
        if (proxy := self._proxies.pop(client.id, None)) is not None:
            self._freeze(proxy)
            client.peername = proxy.own

    def _freeze(self, proxy: _Proxy) -> None:
        """Give the records of what is over a copy of the connection."""
        under_way = []
        for named in proxy.named:
            flow = named.flow()
            if flow is None:
                continue
            if flow.live:
                under_way.append(named)
                continue
            shared = flow.client_conn
            flow.client_conn = shared.copy()
            flow.client_conn.id = shared.id
            flow.client_conn.peername = named.address
        proxy.named = under_way
