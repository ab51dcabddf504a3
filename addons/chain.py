"""Chain: relay's addons in their order, seen by mitmproxy as one, failing closed.

mitmproxy logs an exception in a hook and lets the flow go on as if nothing had happened. Here a raising hook ends its
exchange with an error for the client, and nothing passes raw. Addons that only look on (`optional = True`) cost their
own result alone.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mitmproxy import http

from addons import errors
from addons.answers import dress, error_response, refuse
from addons.exchange import Exchange, Kind, of

logger = logging.getLogger(__name__)

HOOKS = (
    "client_connected",
    "client_disconnected",
    "server_connect",
    "server_connected",
    "server_connect_error",
    "server_disconnected",
    "tls_start_server",
    "tls_established_server",
    "http_connect_upstream",
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
    "websocket_message",
)


class Chain:
    """The addons that serve under one state of the settings. `hooks` maps a hook's name to the bound hooks, in
    order."""

    def __init__(self, addons: Sequence[object]) -> None:
        self.addons = tuple(addons)
        self.hooks: dict[str, tuple[Callable[..., Any], ...]] = {
            name: tuple(getattr(addon, name) for addon in self.addons if hasattr(addon, name)) for name in HOOKS
        }

    async def run(self, name: str, data: Any) -> None:
        """Run one hook of all addons, one after the other."""
        for hook in self.hooks[name]:
            try:
                pending: Awaitable[None] | None = hook(data)
                if pending is not None and inspect.isawaitable(pending):
                    await pending
            except Exception as error:
                addon = getattr(hook, "__self__", hook)
                logger.error(f"{name} of {type(addon).__name__} failed: {error!r}", exc_info=True)
                if isinstance(data, http.HTTPFlow) and not getattr(addon, "optional", False):
                    fail_closed(name, data)
                    if name in ("requestheaders", "request", "responseheaders"):
                        return

    def done(self) -> None:
        """Let the addons go."""
        for addon in self.addons:
            if hasattr(addon, "done"):
                addon.done()


def fail_closed(hook: str, flow: http.HTTPFlow) -> None:
    """End an exchange whose hook has raised: with an error while that can be sent, with a break otherwise."""
    if flow.is_replay or (flow.error is not None and hook != "error"):
        return
    error = errors.Unavailable("中转服务内部出错,请求没有继续。", "This relay failed internally; its log says why.")
    exchange = of(flow)
    if hook == "requestheaders" or (hook == "request" and not flow.request.stream):
        if flow.response is None:
            _refuse(flow, exchange, error)
    elif hook == "response" and exchange is not None and not exchange.committed:
        flow.response = error_response(exchange.kind, error)
        dress(flow.response, exchange)
    elif hook == "error" and exchange is not None and not exchange.committed:
        exchange.substitute = exchange.substitute or error_response(exchange.kind, error)
    elif hook in ("request", "responseheaders"):
        if exchange is not None:
            exchange.fault = error
        if flow.killable:
            flow.kill()


def _refuse(flow: http.HTTPFlow, exchange: Exchange | None, error: errors.RelayError) -> None:
    if exchange is None:
        flow.response = error_response(Kind.OWN, error)
    else:
        refuse(flow, exchange, error)
