"""Health: the few paths that are relay's alone, for whoever watches over it."""

import json

from mitmproxy import http

from addons.errors import MethodNotAllowed
from addons.exchange import Kind, ongoing
from addons.flow.answers import answer, json_response, refuse


class Health:
    """Answers `/healthz` (this process runs) and `/readyz` (it would take requests)."""

    serves = (Kind.OWN,)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer at once."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None:
            return
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, MethodNotAllowed(flow.request.method, "GET"))
            return
        answer(flow, json_response(json.dumps({"status": "ok"}).encode()))
