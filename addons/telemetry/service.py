"""Service: all of telemetry in one process, from its start to its end."""

import asyncio
import contextlib
import logging
from typing import Any

from addons import engine, logs
from addons.config.settings import MetricsSettings, Settings
from addons.core.urls import parse_upstream
from addons.meter.gate import Gate
from addons.store import Store
from addons.store.ledger import LocalLedger
from addons.telemetry.counting import Counting
from addons.telemetry.listener import MetricsListener
from addons.telemetry.loop_lag import LoopLag
from addons.telemetry.observing import Arrivals, Observer, Observing, Sink
from addons.telemetry.printing import ExchangeLines
from addons.telemetry.sampling import Sampling
from addons.telemetry.scraping import MetricsPage, Scraper
from addons.telemetry.sharing import Sharing
from addons.telemetry.timed_store import TimedStore
from addons.telemetry.tracing import Tracing, content
from addons.upstreams.attempts import Pool
from addons.workers.worker import Worker

logger = logging.getLogger(__name__)


class Telemetry:
    """What lasts while settings change. `adopt` first, then the addons."""

    def __init__(self, settings: Settings, worker: Worker | None) -> None:
        self.counting = Counting()
        self.observing = Observing(self.counting)
        channel = worker.channel if worker is not None else None
        self.sharing = Sharing(self.counting, channel.tell_numbers if channel is not None else None)
        self.scraper = Scraper(self.sharing, channel)
        self.listener = MetricsListener(self.scraper, self._metrics)
        self.lag = LoopLag(self.counting.numbers.histogram("relay_loop_lag_seconds"))
        self.lines = ExchangeLines(self.counting.numbers)
        self.tracing = Tracing(self.counting.numbers)
        self._worker = worker
        self._settings = settings
        self._log = settings.log
        """What is printed from the start to the end: `log` takes a restart."""
        self._opening: asyncio.Task[None] | None = None

    def _metrics(self) -> MetricsSettings:
        return self._settings.metrics

    def adopt(self, settings: Settings, gate: Gate, pool: Pool, store: Store) -> None:
        """Go on under other settings."""
        self._settings = settings
        self.observing.secret = store.secret
        self.counting.adopt(settings, gate)
        self.sharing.adopt(Sampling(settings, pool, lambda: list(self.observing.under_way)))
        self.scraper.store = store
        self.scraper.book = gate.ledger.book if isinstance(gate.ledger, LocalLedger) else None
        self._caller = gate.keyring.caller
        otlp = settings.telemetry.otlp
        self.tracing.address = parse_upstream(otlp) if otlp is not None else None
        with contextlib.suppress(RuntimeError):  # mitmproxy reads relay.yaml before its loop runs
            asyncio.get_running_loop()
            self.start()

    @property
    def tells(self) -> bool:
        """Whether anybody wants to know of each exchange by itself."""
        return self._log == "json" or self._settings.telemetry.otlp is not None

    def timed(self, store: Store) -> Store:
        """The store, with its times taken where somebody counts."""
        return TimedStore(store, self.counting.numbers) if self._settings.metrics.enabled else store

    def arrivals(self) -> list[object]:
        """The addons that see an exchange first: behind who opens it."""
        on = self._settings.metrics.enabled or self.tells
        return [Arrivals(self.observing, self._caller if self.tells else None)] if on else []

    def pages(self) -> list[object]:
        """The addons that answer."""
        return [MetricsPage(self.scraper)] if self._settings.metrics.enabled else []

    def observers(self) -> list[object]:
        """The addons that see an exchange last."""
        sinks: list[Sink] = []
        if self._settings.metrics.enabled:
            sinks.append(self.counting.over)
        if self._log == "json":
            sinks.append(self.lines.over)
        told = None
        if self._settings.telemetry.otlp is not None:
            sinks.append(self.tracing.over)
            told = content if self._settings.telemetry.content else None
        return [Observer(self.observing, sinks, texts=self.tells, content=told)] if sinks else []

    # Life

    def print_as_json(self, master: Any) -> None:
        """Print lines of JSON from now on, where relay.yaml asks for that."""
        if self._log != "json" or self.lines.file is not None:
            return
        with contextlib.suppress(KeyError):  # a mitmproxy without a list that is printed
            master.options.update(flow_detail=0)
        self.lines.file = engine.print_with(master, logs.JsonLines())

    def start(self) -> None:
        """The loop runs. Twice is harmless."""
        if not self._settings.metrics.enabled:
            return
        self.lag.start()
        if self._worker is not None:
            self._worker.tell_numbers = self.sharing.tell
            self.sharing.start()

    async def open(self) -> None:
        """Listen at `metrics.listen`. Raises Refusal."""
        metrics = self._settings.metrics
        if metrics.enabled and metrics.listen is not None:
            await self.listener.open(metrics.listen, self._worker.metrics if self._worker is not None else ())

    def stop(self) -> None:
        """relay ends, or its code is loaded anew."""
        self.lag.stop()
        self.tracing.stop()
        self.sharing.stop()
        self.listener.close()
