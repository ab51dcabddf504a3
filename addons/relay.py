"""The entry: `mitmdump -s addons/relay.py`.

Reads relay.yaml, puts relay's addons in their order, and hands mitmproxy's hooks on to them.
"""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# mitmproxy puts this file's folder on the path, not the project's. Dropping what an earlier load has left makes a touch
# of this file reload everything.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
for _name in [name for name in sys.modules if name == "addons" or name.startswith("addons.")]:
    del sys.modules[_name]

from mitmproxy import connection, ctx, exceptions, http  # noqa: E402
from mitmproxy.addonmanager import Loader  # noqa: E402

# Imported as a module: mitmproxy takes a name such as `load` in this file for a hook.
from addons import config, engine, logs, views  # noqa: E402
from addons.balance import Balance  # noqa: E402
from addons.chain import HOOKS, Chain  # noqa: E402
from addons.chat import Chat  # noqa: E402
from addons.cors import Cors  # noqa: E402
from addons.faults import Faults  # noqa: E402
from addons.glance import Glance  # noqa: E402
from addons.hosts import Hosts  # noqa: E402
from addons.keep import Keep  # noqa: E402
from addons.limits import Limits  # noqa: E402
from addons.options import MODE, options_for  # noqa: E402
from addons.own import Own  # noqa: E402
from addons.redact import Redact  # noqa: E402
from addons.sessions import Sessions  # noqa: E402
from addons.sockets import Sockets  # noqa: E402
from addons.store import SessionStore, StoreError  # noqa: E402
from addons.streams import Streams  # noqa: E402
from addons.sweeper import Sweeper  # noqa: E402
from addons.trust import Trust  # noqa: E402
from addons.turnstile import Gates  # noqa: E402

logger = logging.getLogger(__name__)


def chain_for(settings: config.Settings, store: SessionStore) -> Chain:
    """relay's addons in the order in which traffic meets them. The order is behaviour:

    who opens the exchange comes first, who refuses comes before who answers, who cleans the record comes last.
    """
    limits = Limits(settings)
    gates = Gates()
    engine.install(settings.limits.header_size, limits.head_begins)
    return Chain(
        (
            Hosts(settings),
            limits,
            Trust(settings),
            Cors(),
            Own(),
            Chat(store, gates),
            Sessions(store, gates),
            Balance(time.time),
            Streams(),
            Sockets(),
            Faults(),
            Glance(),
            Redact(settings, store.secret),
            Keep(settings),
            Sweeper(settings, store),
        )
    )


class Relay:
    """What mitmproxy sees of relay."""

    name = "relay"

    def __init__(self) -> None:
        self.settings: config.Settings | None = None
        self.store: SessionStore | None = None
        self.chain: Chain | None = None
        # mitmproxy listens before it is up, and ends itself over any error logged until then.
        self.up = asyncio.Event()

    def load(self, loader: Loader) -> None:
        """Register relay's only option; everything else stands in relay.yaml."""
        views.register()
        loader.add_option("relay_config", str, "", "Path of relay.yaml (else RELAY_CONFIG, else beside run.sh).")

    def configure(self, updated: set[str]) -> None:
        """Read relay.yaml. One that is wrong stops the start; while relay runs, what was in force stays so."""
        if "relay_config" not in updated:
            return
        try:
            settings = config.load(config.locate(ctx.options.relay_config, os.environ, ROOT), os.environ)
            self._serve(settings)
        except (config.ConfigError, StoreError) as error:
            logger.error(str(error))
            if self.settings is not None:
                raise exceptions.OptionsError("relay.yaml was not read anew; the settings in force stay.") from None

    def _serve(self, settings: config.Settings) -> None:
        old, store = self.chain, self.store
        if store is None or self.settings is None or settings.store != self.settings.store:
            if self.store is not None:
                self.store.close()  # first: it may be the same folder under another bound
            kept = settings.store
            store = SessionStore(kept.path, kept.max_sessions, kept.max_sessions_per_key, time.time)
        self.chain = chain_for(settings, store)
        self.settings, self.store = settings, store
        if old is not None:
            old.done()

    def running(self) -> None:
        """Under bare `mitmdump -s`, take the address and options from relay.yaml: those the user did not set."""
        if self.settings is not None and ctx.options.mode != [MODE]:
            wanted = options_for(self.settings)
            ctx.options.update(**{name: wanted[name] for name in wanted if not ctx.options.has_changed(name)})
        self.up.set()

    async def client_connected(self, client: connection.Client) -> None:
        """Nobody is served before the settings are in force."""
        await self.up.wait()
        if self.chain is None or client.proxy_mode.full_spec != MODE:
            client.error = "relay is starting, or relay.yaml is wrong"
            return
        await self.chain.run("client_connected", client)

    def done(self) -> None:
        """Close the store; what is under way there is finished first."""
        views.unregister()
        if self.chain is not None:
            self.chain.done()
        if self.store is not None:
            self.store.close()


def _hand_on(name: str) -> None:
    async def hook(self: Relay, data: object) -> None:
        if self.chain is not None:
            await self.chain.run(name, data)
        elif isinstance(data, http.HTTPFlow):
            data.kill()

    hook.__name__ = name
    setattr(Relay, name, hook)


for _hook in HOOKS:
    if _hook != "client_connected":
        _hand_on(_hook)

logs.install()
addons = [Relay()]
