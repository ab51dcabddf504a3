"""Cors: browsers may call relay from any page.

A preflight is answered by relay itself, since OpenAI's own answer allows its own origins only. Keys travel in headers
that a script sets by itself, never in cookies, so `*` gives nothing away.

On every other answer to a browser the headers are added by `add_common_headers` in addons/flow/answers.py, once
`downward` in addons/core/headers.py has taken away upstream's own.
"""

from mitmproxy import http

from addons.exchange import Kind, ongoing
from addons.flow.answers import answer


class Cors:
    """Answers preflights."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer an OPTIONS that a browser sends before the real request."""
        exchange = ongoing(flow, *Kind)
        headers = flow.request.headers
        if exchange is None or flow.request.method != "OPTIONS":
            return
        asked = headers.get("Access-Control-Request-Method")
        if asked is None or not exchange.origin:
            return
        allow = {"Access-Control-Allow-Methods": asked, "Access-Control-Max-Age": "600"}
        if (wanted := headers.get("Access-Control-Request-Headers")) is not None:
            allow["Access-Control-Allow-Headers"] = wanted
        response = http.Response.make(204, b"", allow)
        del response.headers["content-length"]  # RFC 9110, 8.6: none with 204
        answer(flow, response)
