"""Hosts: which upstream a request goes to, and in which headers.

Reverse mode points at an address that does not exist (`relay.invalid`); only a request that this addon has judged is
given a real one. So whatever fails before that, nothing reaches an upstream.
"""

from base64 import b64encode
from urllib.parse import unquote

from mitmproxy import http

from addons.answers import dress, refuse
from addons.config import Settings, Upstream
from addons.core import headers, paths
from addons.core.secrets import scrub
from addons.errors import NotFound
from addons.exchange import Exchange, Kind, attach, of
from addons.wire import point


class Hosts:
    """Opens every exchange: names its kind and its upstream, cleans its headers, refuses what is not served."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        by_name = {upstream.name: upstream for upstream in settings.upstreams}
        self.routes: dict[str, Upstream] = {route.path: by_name[route.upstream] for route in settings.routes}
        self.own = {path: Kind.CHAT for path in settings.chat.paths}
        self.own |= {path: Kind.BALANCE for path in settings.balance.paths}
        self.own |= {path: Kind.OWN for path in paths.OWN}

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Judge a request by its head."""
        if flow.is_replay or flow.error:
            return
        request = flow.request
        target = paths.resolve(request.path, tuple(self.routes))
        upstream = self.routes[target.route] if target.route else self.settings.upstreams[0]
        session_id = self._session_path(target.path)
        kind = Kind.PASS if session_id is None else Kind.CHAT
        kind = self.own.get(target.path, kind)
        websocket = _is_websocket(request)
        up = headers.upward(request.headers.fields, websocket=websocket)
        exchange = attach(
            flow,
            Exchange(self.settings, upstream, kind, target.path, origin=up.origin, client_closes=up.closes),
        )
        if session_id is not None:
            exchange.notes["session_id"] = _unquoted(session_id)
        if kind is Kind.PASS and not _served(target):
            exchange.kind = Kind.OWN
            refuse(flow, exchange, _unknown_path(target.path, self.settings))
            return
        request.headers.fields = up.fields
        if kind is Kind.PASS:
            point(flow, upstream, upstream.prefix + target.path + target.query)

    def _session_path(self, path: str) -> str | None:
        """The session id in `/chat/{sessionId}`, still encoded; None for other paths."""
        folder, slash, name = path.rpartition("/")
        return name if slash and name and self.own.get(folder) is Kind.CHAT else None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Clean an answer's headers, upstream's or relay's own."""
        exchange = of(flow)
        if exchange is None or flow.response is None:
            return
        switching = flow.response.status_code == 101
        if not exchange.refused:
            fields = flow.response.headers.fields
            flow.response.headers.fields = headers.downward(fields, origin=exchange.origin, websocket=switching)
        if not switching:
            dress(flow.response, exchange)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        """Show relay's own name and password to an HTTP proxy on the way out."""
        for upstream in self.settings.upstreams:
            if upstream.proxy_auth and (upstream.host, upstream.port) == (flow.request.host, flow.request.port):
                token = b64encode(upstream.proxy_auth.encode()).decode()
                flow.request.headers["Proxy-Authorization"] = f"Basic {token}"


def _unquoted(text: str) -> str | None:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None


def _served(target: paths.Target) -> bool:
    """Under a route any path passes; else OpenAI's own do. Neither may climb out of where it belongs."""
    if target.route is None:
        return paths.is_official(target.path)
    return not paths.climbs(target.path)


def _is_websocket(request: http.Request) -> bool:
    return bool(request.headers.get("upgrade", "").lower() == "websocket")


def _unknown_path(path: str, settings: Settings) -> NotFound:
    shown = scrub(path if len(path) <= 80 else path[:80] + "...")
    served = ", ".join(("/v1/...", *settings.chat.paths[:1], *settings.balance.paths[:1]))
    return NotFound(
        f"没有这个路径:{shown}。可用的路径:{served}。",
        f"Unknown path: {shown}. This relay serves {served}.",
        code="unknown_path",
    )
