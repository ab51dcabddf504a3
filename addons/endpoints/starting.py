"""Starting: what clients hear until a shared store is reached for the first time.

Until then nobody knows which keys were handed out, and so whether callers with keys of their own are served.
"""

from mitmproxy import http

from addons import errors
from addons.core.paths import OWN
from addons.exchange import Kind, ongoing
from addons.flow.answers import refuse


class Starting:
    """Refuses all but the questions after relay's health."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Say that it is not yet time."""
        for kind in Kind:
            exchange = ongoing(flow, kind)
            if exchange is not None and not (kind is Kind.OWN and exchange.path in OWN):
                error = errors.Unavailable(
                    "中转服务正在启动：还连不上它的存储，请稍后再试。",
                    "This relay is starting: its store can't be reached yet. Try again soon.",
                )
                refuse(flow, exchange, error)
                return
