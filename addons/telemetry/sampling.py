"""Sampling: what is under way in this process, looked at when somebody asks."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mitmproxy import ctx, http
from mitmproxy.connection import ConnectionState

from addons.config.settings import Settings, Upstream
from addons.core.metrics import Numbers
from addons.engine.pool import lending
from addons.engine.pool.places import place_of
from addons.exchange import of
from addons.upstreams.attempts import ATTEMPTS, Pool

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_PROCESS = Path("/proc/self")
"""Linux's; elsewhere memory and files are not told."""


class Sampling:
    """Looks at one process under one state of the settings."""

    def __init__(self, settings: Settings, pool: Pool, under_way: Callable[[], Sequence[http.HTTPFlow]]) -> None:
        self._settings = settings
        self._pool = pool
        self._under_way = under_way

    def sample(self, numbers: Numbers) -> None:
        """Note every gauge. One that fails is left out, and the others are not."""
        numbers.gauges.clear()
        for look in (_process, self._exchanges, self._connections, self._health):
            try:
                look(numbers)
            except Exception:
                logger.exception("a metric is left out")

    def _exchanges(self, numbers: Numbers) -> None:
        flows = self._under_way()
        numbers.set("relay_requests_in_flight", len(flows))
        numbers.set("relay_streams_open", sum(map(_is_stream, flows)))
        numbers.set("relay_queue", len(self._pool.lines))
        server = ctx.master.addons.get("proxyserver")
        if server is not None:
            numbers.set("relay_clients", len(server.connections))

    def _connections(self, numbers: Numbers) -> None:
        busy: dict[str, int] = {}
        for flow in self._under_way():
            exchange = of(flow)
            attempts = ATTEMPTS.of(exchange) if exchange is not None else None
            if exchange is None or attempts is None or not attempts.count:
                continue
            if flow.server_conn.state is ConnectionState.OPEN:
                busy[exchange.upstream.name] = busy.get(exchange.upstream.name, 0) + 1
        for upstream in self._settings.upstreams:
            numbers.set("relay_upstream_connections", busy.get(upstream.name, 0), (upstream.name, "busy"))
            idle = lending.pool.count(place_of(upstream)) if self._is_first_there(upstream) else 0
            numbers.set("relay_upstream_connections", idle, (upstream.name, "idle"))

    def _is_first_there(self, upstream: Upstream) -> bool:
        """Of several at one place the first has its connections: they share them."""
        place = place_of(upstream)
        return next(each for each in self._settings.upstreams if place_of(each) == place) is upstream

    def _health(self, numbers: Numbers) -> None:
        for told in self._pool.health.report(self._settings.upstreams):
            name = (str(told["name"]),)
            numbers.set("relay_upstream_down", int(told["state"] != "ok"), name)
            seconds = told.get("for", 0)
            numbers.set("relay_upstream_cooldown_seconds", seconds if isinstance(seconds, int) else 0, name)
            if isinstance(keys := told.get("keys"), dict):
                for state, count in keys.items():
                    numbers.set("relay_upstream_keys", count, (*name, state))


def _is_stream(flow: http.HTTPFlow) -> bool:
    exchange = of(flow)
    if exchange is None:
        return False
    told = exchange.stream.ended is not None or flow.websocket is not None
    return told or (flow.response is not None and callable(flow.response.stream) and exchange.kind == "chat")


def _process(numbers: Numbers) -> None:
    numbers.set("relay_processes", 1)
    numbers.counters["relay_cpu_seconds"] = {(): time.process_time()}
    if not _PROCESS.is_dir():
        return
    pages = int((_PROCESS / "statm").read_text().split()[1])
    numbers.set("relay_memory_bytes", pages * os.sysconf("SC_PAGE_SIZE"))
    numbers.set("relay_open_files", len(os.listdir(_PROCESS / "fd")))
    if resource is not None:
        numbers.set("relay_open_files_limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
