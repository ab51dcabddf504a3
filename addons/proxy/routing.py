"""Routing: which upstream a request goes to, and in which headers.

Reverse mode points at an address that does not exist (`relay.invalid`); only a request that this addon has judged is
given a real one. So whatever fails before that, nothing reaches an upstream.
"""

import re
from urllib.parse import unquote

from mitmproxy import http

from addons.config.settings import Settings, Upstream
from addons.core import headers, paths
from addons.core.secrets import scrub
from addons.errors import BadRequest, NotFound
from addons.exchange import Exchange, Kind, RecordState, SessionPath, attach, of
from addons.flow.answers import add_common_headers, refuse
from addons.flow.capture import Watch
from addons.flow.upstream import set_upstream

_MOST_ROUTES = 20
"""That a refusal names."""
_LINE_VERSIONS = frozenset(("HTTP/1.0", "HTTP/1.1"))
_BINARY = {b"h2": frozenset(("HTTP/2.0",)), b"h3": frozenset(("HTTP/3",))}
"""What a request's version can be, by the protocol that was agreed on in TLS; without one it comes from a line."""
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


class Routing:
    """Opens every exchange: names its kind and its upstream, cleans its headers, refuses what is not served."""

    opens = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        by_name = {upstream.name: upstream for upstream in settings.upstreams}
        self.watch = Watch()
        self.told = settings.log == "json" or settings.telemetry.otlp is not None
        self.routes: dict[str, Upstream] = {route.path: by_name[route.upstream] for route in settings.routes}
        self.own = {path: Kind.CHAT for path in settings.chat.paths}
        self.own |= {path: Kind.BALANCE for path in settings.balance.paths}
        self.own |= {path: Kind.OWN for path in paths.OWN if path != paths.METRICS or _has_metrics(settings)}
        self.folders = frozenset(settings.chat.paths)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Judge a request by its head."""
        if flow.is_replay or flow.error or not flow.live:
            return  # not a client's: replayed, refused already, or read from a file
        request = flow.request
        target = paths.resolve(request.path, self.routes, self.own, self.folders)
        upstream = self.routes[target.route] if target.route else self.settings.upstreams[0]
        session_id = paths.session_in(target.path, self.folders)
        kind = Kind.PASS if session_id is None else Kind.CHAT
        kind = Kind.OWN if self._is_page(target) or self._is_key_page(target) else self.own.get(target.path, kind)
        websocket = _is_websocket(request)
        up = headers.upward(request.headers.fields, websocket=websocket)
        watching = self.watch()
        exchange = attach(
            flow,
            Exchange(
                self.settings,
                upstream,
                kind,
                target.path,
                routed=target.route is not None,
                origin=up.origin,
                forwarded=up.forwarded,
                client_closes=up.closes,
                record=RecordState(
                    watched=watching.watched or self.settings.telemetry.content,
                    saved=watching.saved,
                    later=not (self.told or watching.at_once),
                ),
            ),
        )
        if session_id is not None:
            exchange.session_path = SessionPath(_unquoted(session_id))
        if (error := self._refusal(flow, up)) is not None:
            exchange.client_closes = True
            refuse(flow, exchange, error)
            return
        if kind == Kind.PASS and not _served(target):
            exchange.kind = Kind.OWN
            refuse(flow, exchange, _unknown_path(target.path, self.settings))
            return
        request.headers.fields = up.fields
        if kind == Kind.PASS:
            set_upstream(flow, upstream, upstream.path(target.path) + target.query)

    def _refusal(self, flow: http.HTTPFlow, up: headers.Upward) -> BadRequest | None:
        listen = self.settings.listen
        if listen.tls is not None and listen.tls.plain == "refuse" and not flow.client_conn.tls_established:
            return BadRequest("请使用 https://。", "Use https://: plain HTTP is refused here.", code="https_required")
        return _malformed(flow, up)

    def _is_page(self, target: paths.Target) -> bool:
        return self.settings.page.enabled and target.route is None and target.path == paths.PAGE

    def _is_key_page(self, target: paths.Target) -> bool:
        return target.route is None and target.path in paths.KEY_PAGES

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Clean an answer's headers, upstream's or relay's own."""
        exchange = of(flow)
        if exchange is None or flow.response is None:
            return
        switching = flow.response.status_code == 101
        if not exchange.refused:
            fields = flow.response.headers.fields
            flow.response.headers.fields = headers.downward(fields, origin=exchange.origin, websocket=switching)
            if flow.request.http_version == "HTTP/1.0" and "transfer-encoding" in flow.response.headers:
                # A client of HTTP/1.0 knows no chunks: the end of the connection is the end of its answer.
                del flow.response.headers["transfer-encoding"]
                exchange.client_closes = True
        if not switching:
            add_common_headers(flow.response, exchange)


def _has_metrics(settings: Settings) -> bool:
    """Whether `/metrics` is served here."""
    return settings.metrics.enabled and settings.metrics.listen is None


def _malformed(flow: http.HTTPFlow, up: headers.Upward) -> BadRequest | None:
    """What mitmproxy lets pass, and an upstream may read in another way than relay."""
    request = flow.request
    if up.broken is not None:
        name = up.broken.decode("latin-1")[:40]
        return BadRequest(
            f"请求头 {name} 含有换行或空字符。", f"The header {name} holds a line break or NUL.", code="invalid_header"
        )
    if not paths.is_sendable(request.data.path):
        return BadRequest(
            "请求路径或查询参数中有空格、控制字符或 #，请先做百分号编码（空格写作 %20，# 写作 %23）。",
            "The path or query holds a blank, a control character or `#`: percent-encode it (%20, %23).",
            code="invalid_path",
        )
    versions = _BINARY.get(flow.client_conn.alpn or b"", _LINE_VERSIONS)
    if request.http_version not in versions or not _TOKEN.fullmatch(request.data.method):
        return BadRequest(
            "请求格式有误，不是有效的 HTTP 请求。", "This is not a valid HTTP request: check its method and version."
        )
    return None


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
    routes = [f"{route.path}/..." for route in settings.routes]
    more_zh, more_en = ("等", ", ...") if len(routes) > _MOST_ROUTES else ("", "")
    served = ("/v1/...", *settings.chat.paths[:1], *settings.balance.paths[:1], *routes[:_MOST_ROUTES])
    return NotFound(
        f"没有这个路径：{shown}。可用的路径：{'、'.join(served)}{more_zh}。",
        f"Unknown path: {shown}. This relay serves {', '.join(served)}{more_en}.",
        code="unknown_path",
    )
