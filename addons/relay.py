"""The entry: `mitmdump -s addons/relay.py`.

Reads relay.yaml, puts relay's addons in their order, and hands mitmproxy's hooks on to them.
"""

import asyncio
import contextlib
import difflib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# mitmproxy puts this file's folder on the path, not the project's. Dropping what an earlier load has left makes a touch
# of this file reload everything.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for _name in [name for name in sys.modules if name == "addons" or name.startswith("addons.")]:
    del sys.modules[_name]

from addons.mitmproxy_version import WrongVersion, check_version, end_with_another

# Before all that follows: it imports names of mitmproxy's that another version may not have.
end_with_another()

from mitmproxy import connection, ctx, exceptions, http
from mitmproxy.addonmanager import Loader

# Imported as a module: mitmproxy takes a name such as `load` in this file for a hook.
from addons import addresses, engine, logs, signals, workers
from addons.chain import HOOKS, Chain, Records
from addons.config.mitmproxy_options import DEFAULT_PORT, MODE, SAYS, given_in, options_for
from addons.config.settings import ConfigError, Settings, load_settings, settings_path, taking_restart
from addons.core.log_line import message_line
from addons.core.threads.registry import Threads
from addons.endpoints.balance import Balance
from addons.endpoints.chat import Chat
from addons.endpoints.chat_sessions import Sessions
from addons.endpoints.health import Health, Readiness
from addons.endpoints.key_pages import KeyPages
from addons.endpoints.page import Page
from addons.endpoints.starting import Starting
from addons.flow.capture import watched
from addons.flow.display_path import DisplayPath
from addons.flow.held_bodies import HeldBodies
from addons.inspection import bounded_views, contentviews
from addons.inspection.commands import Commands
from addons.inspection.ending import Ending
from addons.inspection.finishing import Finishing
from addons.inspection.flow_summary import FlowSummary
from addons.inspection.redaction import Noting, Redaction
from addons.inspection.retention import Retention
from addons.inspection.sockets import Sockets
from addons.inspection.thread_commands import ThreadCommands
from addons.inspection.threads import ThreadNotes
from addons.meter.gate import Gate
from addons.meter.keyring import Keyring
from addons.meter.metering import Meter
from addons.meter.prices import PriceList, Prices
from addons.opening import Opened, Opener
from addons.proxy.address_limits import AddressLimits
from addons.proxy.client_addresses import ClientAddresses
from addons.proxy.cors import Cors
from addons.proxy.failures import Failures
from addons.proxy.model_names import ModelNames
from addons.proxy.routing import Routing
from addons.proxy.streaming import Streaming
from addons.proxy.timeouts import Timeouts
from addons.replay.recording import Recording
from addons.store import Store, StoreError
from addons.store.certificate import CertificateError, certificate_of, certificate_path
from addons.store.embedded import EmbeddedStore
from addons.store.expiry import Sweeper
from addons.telemetry.service import Telemetry
from addons.upstreams.attempts import Pool
from addons.upstreams.failover import Failover
from addons.upstreams.health import UpstreamHealth
from addons.workers import draining, worker

logger = logging.getLogger(__name__)

_RENEWED = ("certs", "tcp_timeout")
"""mitmproxy's options that relay.yaml may change while relay runs."""


class LongLived:
    """What outlives a change of settings: clients that are connected, flows on view."""

    def __init__(self, settings: Settings, worker: worker.Worker | None = None) -> None:
        self.telemetry = Telemetry(settings, worker)
        self.pool = Pool(UpstreamHealth())
        self.timeouts = Timeouts(settings)
        self.client_addresses = ClientAddresses(settings)
        self.address_limits = AddressLimits(settings, self.client_addresses)
        self.balance = Balance(time.time)
        self.retention = Retention(settings)
        self.threads = Threads(settings.inspect.keep_threads)
        self.price_list = PriceList()
        self.readiness = Readiness()
        self.under_way: dict[str, http.HTTPFlow] = {}
        self.held = HeldBodies()
        self.records = Records()

    @property
    def longest(self) -> float:
        """`limits.drain`, in seconds."""
        return self.timeouts.limits.drain

    async def announce(self) -> None:
        """relay is about to end."""
        await self.readiness.announce()

    def drain(self) -> None:
        """Send every client away as soon as nothing of it is under way."""
        self.timeouts.drain()

    async def finish(self, within: float) -> None:
        """Wait until what has been served is in the record, at most so many seconds."""
        await self.records.written(within)

    def adopt(self, settings: Settings, gate: Gate, store: Store) -> None:
        """Go on under other settings, with the secret of the store."""
        self.telemetry.adopt(settings, gate, self.pool, store)
        self.pool.health.adopt(store.secret)
        self.timeouts.adopt(settings)
        self.client_addresses.adopt(settings)
        self.address_limits.adopt(settings)
        self.retention.adopt(settings)
        self.balance.adopt(gate)


def chain_for(settings: Settings, opened: Opened, long_lived: LongLived, gate: Gate) -> Chain:
    """relay's addons in the order in which traffic meets them. The order is behaviour:

    who opens the exchange comes first, who refuses comes before who answers, who cleans the record comes last. A store
    of another process is swept there.
    """
    store = opened.store
    redact = Redaction(settings, store.secret)
    summary = FlowSummary()
    threads = ThreadNotes(settings, long_lived.threads, gate.prices, summary.renew)
    telemetry = long_lived.telemetry
    meter = Meter(gate, long_lived.under_way, redact.begin, long_lived.held, telemetry.observing.settled)
    timed = telemetry.timed(store)
    observers = telemetry.observers()
    return Chain(
        (
            Noting(redact),
            Ending(threads.line_up),
            long_lived.client_addresses,
            Routing(settings),
            *telemetry.arrivals(),
            long_lived.timeouts,
            Cors(),
            long_lived.address_limits,
            *([] if opened.ready else [Starting()]),
            Page(settings),
            KeyPages(gate),
            *telemetry.pages(),
            Health(timed, long_lived.readiness, long_lived.pool.health),
            DisplayPath(),
            Recording(redact.response),
            Failover(long_lived.pool),
            Chat(timed, meter),
            Sessions(timed, meter),
            long_lived.balance,
            meter,
            ModelNames(long_lived.held),
            Streaming(),
            Sockets(),
            Failures(),
            *([] if telemetry.tells else observers),
            long_lived.retention,
            redact,
            threads,
            summary,
            Finishing((threads.response, summary.response), threads.forget),
            *(observers if telemetry.tells else []),
            *([Sweeper(settings, store)] if isinstance(store, EmbeddedStore) else []),
        ),
        long_lived.records,
    )


class Relay:
    """What mitmproxy sees of relay."""

    name = "relay"

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.store: Store | None = None
        self.gate: Gate | None = None
        self.chain: Chain | None = None
        self.worker = worker.join(getattr(ctx, "master", None), os.environ)
        self.opener = Opener(getattr(ctx, "master", None), self.worker)
        self.long_lived: LongLived | None = None
        self._says = os.environ.pop(SAYS, "")
        self._introduction: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        # mitmproxy listens before it is up, and ends itself over any error logged until then.
        self.up = asyncio.Event()
        self.taking_over: asyncio.Future[None] | None = None

    @property
    def health(self) -> UpstreamHealth | None:
        """What is known of the upstreams."""
        return self.long_lived.pool.health if self.long_lived is not None else None

    @property
    def prices(self) -> Prices | None:
        """What tokens cost."""
        return self.gate.prices if self.gate is not None else None

    def load(self, loader: Loader) -> None:
        """Register relay's only option; everything else stands in relay.yaml."""
        contentviews.register()
        bounded_views.register()
        if hasattr(ctx.master, "app"):  # mitmweb, which has tornado, that takes a while to load
            from addons.inspection import mitmweb_style, thread_page

            mitmweb_style.install(ctx.master)
            thread_page.install(ctx.master, self)
        if not hasattr(ctx.master, "prompt_for_exit"):  # mitmproxy in the terminal asks first
            signals.end_by(ctx.master.event_loop, self._end)
            if self.worker is None:  # else its parent is asked
                signals.read_again_by(ctx.master.event_loop, self.read_again, ctx.master.shutdown)
        loader.add_option("relay_config", str, "", "Path of relay.yaml (else RELAY_CONFIG, else beside run.sh).")

    def _end(self, number: signal.Signals) -> None:
        """A signal to end has come: SIGTERM lets what is under way come to its end, Ctrl-C does not."""
        longest = self.settings.limits.drain if self.settings is not None else 0.0
        if number is not signal.SIGTERM or not longest or not self.up.is_set():
            self._finishing = asyncio.get_running_loop().create_task(self._finish_records())
            return
        if self.worker is not None:
            self.worker.leave(longest)
            return
        drain = draining.drain(self.long_lived, announced=True, longest=longest)
        self._draining = asyncio.get_running_loop().create_task(drain)

    async def _finish_records(self) -> None:
        """End when what has been served is in the record: cleaning long exchanges takes a while."""
        if self.long_lived is not None:
            await self.long_lived.finish(draining.RECORDS)  # who presses Ctrl-C once more waits no longer
        ctx.master.shutdown()

    def configure(self, updated: set[str]) -> None:
        """Read relay.yaml. One that is wrong stops the start; while relay runs, what was in force stays so."""
        if "relay_config" not in updated:
            return
        try:
            path = settings_path(ctx.options.relay_config, os.environ, ROOT)
            text = self.worker.settings if self.worker is not None else None
            self._serve(load_settings(path, os.environ, text))
        except (ConfigError, StoreError, WrongVersion) as error:
            logger.error(str(error))
            if self.settings is not None:
                raise exceptions.OptionsError("relay.yaml was not read anew; the settings in force stay.") from None

    def read_again(self) -> None:
        """Serve under what relay.yaml says now; where that is wrong, what was in force stays so."""
        before = self.settings
        if before is None or self.chain is None:
            return
        try:
            settings = load_settings(settings_path(ctx.options.relay_config, os.environ, ROOT), os.environ)
            fresh = options_for(settings, certificate_of(settings))
            self._serve(settings)
            self._renew_options(options_for(before, certificate_path(before)), fresh)
        except (ConfigError, StoreError, CertificateError, exceptions.OptionsError) as error:
            logger.error(f"{error}\nrelay.yaml was not read anew; the settings in force stay.")
            return
        if fixed := taking_restart(before, settings):
            logger.warning(f"{' and '.join(fixed)} changed in relay.yaml: that takes a restart of relay")
        logger.warning("relay.yaml is read anew")

    def _renew_options(self, before: Mapping[str, object], after: Mapping[str, object]) -> None:
        """Those that relay.yaml has set, and no command line. A certificate may be another one under the same name."""
        ours = [name for name in _RENEWED if getattr(ctx.options, name) == before[name]]
        ctx.options.update(**{name: after[name] for name in ours if after[name] and before[name]})

    def _serve(self, settings: Settings) -> None:
        check_version()
        if self.long_lived is None:
            self.long_lived = LongLived(settings, self.worker)
        prices = Prices(settings, self.long_lived.price_list)
        opened = self.opener.open(settings, prices)
        keyring = Keyring(settings, opened.store.secret, opened.keys)
        gate = self.gate = Gate(settings, keyring, opened.ledger, prices, pool=self.long_lived.pool)
        self.long_lived.adopt(settings, gate, opened.store)
        engine.install(
            settings.limits.header_size,
            self.long_lived.timeouts.head_begins,
            self.long_lived.timeouts.sees_to,
            fast=settings.engine.fast,
            listeners=self.worker.listeners if self.worker is not None else (),
            settings=settings,
        )
        old, self.chain = self.chain, chain_for(settings, opened, self.long_lived, gate)
        self.settings, self.store = settings, opened.store
        if old is not None:
            old.done(self.chain)

    def running(self) -> None:
        """Under bare `mitmdump -s`, take the address and options from relay.yaml: those the user did not set."""
        # mitmproxy runs this hook as a plain function when it loads a script anew.
        self.taking_over = asyncio.ensure_future(self._take_over())
        if self.settings is not None and ctx.options.mode != [MODE]:
            self._take_options(self.settings)
        if self.chain is not None:
            _refuse_unknown_options()
        if self._says and self.chain is not None:
            json_lines = self.settings is not None and self.settings.log == "json"
            text = message_line(time.time(), "info", self._says) if json_lines else self._says
            self._introduction = asyncio.get_running_loop().create_task(_introduce(text))
        if self.worker is not None and self.long_lived is not None:
            self.worker.serve(self.long_lived)
        # What is there by now stays: a full collection would go through 100,000 objects, for 50 ms and more.
        gc.freeze()
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        """Serve clients as soon as that makes sense."""
        await self.opener.reach(self._reached)
        told = watched() or (self.long_lived is not None and self.long_lived.telemetry.tells)
        if self.gate is not None and (self.gate.keyring.any or told):
            loading = asyncio.ensure_future(self.gate.prices.ready())  # it takes a second
            if told:  # whoever looks sees what each exchange has cost, the first one too
                await asyncio.wait([loading])
        self.up.set()

    def _reached(self) -> None:
        """A shared store is there: serve with it."""
        if self.settings is not None and self.chain is not None:
            self._serve(self.settings)

    async def _take_over(self) -> None:
        await engine.take_over(ctx.master)
        if self.long_lived is None:
            return
        self.long_lived.telemetry.print_as_json(ctx.master)
        self.long_lived.telemetry.start()
        try:
            await self.long_lived.telemetry.open()
        except addresses.Refusal as error:
            logger.error(str(error))
            ctx.master.shutdown()

    def _take_options(self, settings: Settings) -> None:
        try:
            wanted = {
                name: value
                for name, value in options_for(settings, certificate_of(settings)).items()
                if not ctx.options.has_changed(name)
            }
            if {"listen_host", "listen_port"} & wanted.keys():  # else mitmproxy listens there already
                self._check_listening(wanted)
            ctx.options.update(**wanted)
        except (CertificateError, addresses.Refusal, exceptions.OptionsError) as error:
            logger.error(str(error))  # over which mitmproxy ends itself
            self.chain = None
        if (count := workers.count(settings.workers)) > 1:
            logger.warning(f"relay.yaml asks for {count} workers: this is one process; ./run.sh starts them all")

    def _check_listening(self, wanted: Mapping[str, Any]) -> None:
        options = ctx.options
        before = options.listen_port or DEFAULT_PORT
        port = wanted.get("listen_port", options.listen_port) or DEFAULT_PORT
        addresses.check_listening(str(wanted.get("listen_host", options.listen_host)), port, before)

    async def client_connected(self, client: connection.Client) -> None:
        """Nobody is served before the settings are in force."""
        await self.up.wait()
        if self.chain is None or client.proxy_mode.full_spec != MODE:
            client.error = "relay is starting, or relay.yaml is wrong"
            return
        await self.chain.run("client_connected", client)

    def done(self) -> Awaitable[None] | None:
        """Close the store; what is under way there is finished first, which mitmproxy waits for at its end."""
        if ctx.master.should_exit.is_set():  # else the code is only loaded anew
            signals.leave(ctx.master.event_loop)
            for meter in (
                each for each in (self.chain.addons if self.chain is not None else ()) if isinstance(each, Meter)
            ):
                meter.end()
        engine.close()
        if self.long_lived is not None:
            self.long_lived.telemetry.stop()
        bounded_views.unregister()
        contentviews.unregister()
        if self.chain is not None:
            self.chain.done()
        if ctx.master.should_exit.is_set():
            return self.opener.close()
        self.opener.let_go()
        return None


def _refuse_unknown_options() -> None:
    """Log an error for each --set of what is no option: mitmproxy waits for an addon that has it, and says nothing.

    What its own config.yaml names may be meant for mitmweb or mitmdump alone.
    """
    for name in given_in(sys.argv[1:]):
        if name in ctx.options.deferred:
            near = difflib.get_close_matches(name, ctx.options.keys(), n=1)
            advice = f"did you mean {near[0]}?" if near else "--options lists those there are"
            logger.error(f"--set {name}: there is no such option here; {advice}")


async def _introduce(text: str) -> None:
    """Print `text` once mitmproxy has found no error in its start."""
    check = ctx.master.addons.get("errorcheck")
    while check is not None and check.logger in logging.getLogger().handlers:
        await asyncio.sleep(0.01)
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _hand_on(name: str) -> None:
    def hook(self: Relay, data: object) -> Awaitable[None] | None:
        if self.chain is not None:
            return self.chain.begin(name, data)
        if isinstance(data, http.HTTPFlow) and data.killable:
            data.kill()
        return None

    hook.__name__ = name
    setattr(Relay, name, hook)


for _hook in HOOKS:
    if _hook != "client_connected":
        _hand_on(_hook)

logs.install()
_relay = Relay()
addons = [_relay, Commands(_relay), ThreadCommands()]
