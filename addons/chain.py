"""Chain: relay's addons in their order, seen by mitmproxy as one, failing closed.

mitmproxy logs an exception in a hook and lets the flow go on as if nothing had happened. Here a raising hook ends its
exchange with an error for the client, and nothing passes raw. Addons that only look on (`optional = True`) cost their
own result alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mitmproxy import http

from addons import errors
from addons.exchange import Exchange, Kind, of
from addons.flow.answers import add_common_headers, error_response, refuse

logger = logging.getLogger(__name__)

HOOKS = (
    "client_connected",
    "client_disconnected",
    "server_connect",
    "server_connected",
    "server_connect_error",
    "server_disconnected",
    "upstream_failed",
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
    "websocket_message",
    "websocket_end",
)
_FIRST = "requestheaders"
_LAST = ("response", "error")


Hooks = Sequence[Callable[..., Any]]
_LOOK = 0.02


class Records:
    """Those that are still being written: exchanges that are over, and whose hooks are not."""

    def __init__(self) -> None:
        self.open = 0

    async def written(self, within: float) -> None:
        """Wait until all are, at most so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while self.open and loop.time() < end:
            await asyncio.sleep(_LOOK)


class Chain:
    """The addons that serve under one state of the settings.

    An addon may say which exchanges it `serves`; its flow hooks are not called for others. The kind of an exchange is
    known once the addon that `opens` exchanges has run.
    """

    def __init__(self, addons: Sequence[object], records: "Records | None" = None) -> None:
        self.addons = tuple(addons)
        self.records = records if records is not None else Records()
        self.hooks: dict[str, Hooks] = {name: _hooks(self.addons, name) for name in HOOKS}
        self.served: dict[Kind, dict[str, Hooks]] = {
            kind: {name: _hooks([each for each in self.addons if _serves(each, kind)], name) for name in HOOKS}
            for kind in Kind
        }
        opens = next((at for at, each in enumerate(self.addons, 1) if getattr(each, "opens", False)), len(self.addons))
        self.opening: Hooks = (*_hooks(self.addons[:opens], _FIRST), self._opened)
        self.behind: dict[Kind | None, Hooks] = {
            kind: _hooks([each for each in self.addons[opens:] if kind is None or _serves(each, kind)], _FIRST)
            for kind in (None, *Kind)
        }

    def begin(self, name: str, data: Any) -> Awaitable[None] | None:
        """Run one hook of all addons that it concerns, one after the other; what is left to await, once one of them
        waits."""
        exchange = of(data) if isinstance(data, http.HTTPFlow) else None
        if exchange is not None:
            hooks = self.served[exchange.kind][name]
        else:
            hooks = self.opening if name == _FIRST else self.hooks[name]
        return self._run(hooks, 0, name, data)

    async def run(self, name: str, data: Any) -> None:
        """The same, to its end."""
        if (pending := self.begin(name, data)) is not None:
            await pending

    def _opened(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        return self._run(self.behind[exchange.kind if exchange is not None else None], 0, _FIRST, flow)

    def _run(self, hooks: Hooks, first: int, name: str, data: Any) -> Awaitable[None] | None:
        for position in range(first, len(hooks)):
            hook = hooks[position]
            try:
                pending = hook(data)
            except Exception as error:
                if self._failed(hook, name, data, error):
                    return None
            else:
                if pending is not None:
                    return self._wait(pending, hooks, position, name, data)
        return None

    async def _wait(self, pending: Awaitable[None], hooks: Hooks, position: int, name: str, data: Any) -> None:
        last = name in _LAST
        self.records.open += last
        try:
            try:
                await pending
            except Exception as error:
                if self._failed(hooks[position], name, data, error):
                    return
            if (rest := self._run(hooks, position + 1, name, data)) is not None:
                await rest
        finally:
            self.records.open -= last

    def _failed(self, hook: Callable[..., Any], name: str, data: Any, error: Exception) -> bool:
        """Fail closed; True where the addons behind this one must not go on as if nothing had happened."""
        addon = getattr(hook, "__self__", hook)
        logger.error(f"{name} of {type(addon).__name__} failed: {error!r}", exc_info=error)
        if not isinstance(data, http.HTTPFlow) or getattr(addon, "optional", False):
            return False
        fail_closed(name, data)
        return name in ("requestheaders", "request", "responseheaders")

    def done(self, successor: "Chain | None" = None) -> None:
        """Let the addons go, but for those that go on in `successor`."""
        staying = successor.addons if successor is not None else ()
        for addon in self.addons:
            if hasattr(addon, "done") and not any(addon is other for other in staying):
                addon.done()


def _hooks(addons: Sequence[object], name: str) -> Hooks:
    return tuple(getattr(addon, name) for addon in addons if hasattr(addon, name))


def _serves(addon: object, kind: Kind) -> bool:
    return kind in getattr(addon, "serves", Kind)


def fail_closed(hook: str, flow: http.HTTPFlow) -> None:
    """End an exchange whose hook has raised: with an error while that can be sent, with a break otherwise."""
    if flow.is_replay or (flow.error is not None and hook != "error"):
        return
    error = errors.Unavailable(
        "中转服务内部出错，请联系服务管理员。", "This relay failed internally: ask whoever runs it."
    )
    exchange = of(flow)
    if hook == "requestheaders" or (hook == "request" and not flow.request.stream):
        if flow.response is None:
            _refuse(flow, exchange, error)
    elif hook == "response" and exchange is not None and not exchange.committed:
        flow.response = error_response(exchange.kind, error)
        add_common_headers(flow.response, exchange)
    elif hook == "error" and exchange is not None and not exchange.committed:
        exchange.failure.substitute = exchange.failure.substitute or error_response(exchange.kind, error)
    elif hook in ("request", "responseheaders"):
        if exchange is not None:
            exchange.failure.fault = error
            # The rest of the upstream's answer may still be on its way, where this client's next request would go.
            exchange.client_closes = exchange.client_closes or not flow.request.is_http2
        if flow.killable:
            flow.kill()


def _refuse(flow: http.HTTPFlow, exchange: Exchange | None, error: errors.RelayError) -> None:
    if exchange is None:
        flow.response = error_response(Kind.OWN, error)
    else:
        refuse(flow, exchange, error)
