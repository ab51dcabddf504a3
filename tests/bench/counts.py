"""relay's own counts, for the soak: `mitmdump ... -s tests/bench/counts.py`.

At SIGUSR1 it collects garbage and writes what there is to the file that RELAY_BENCH_COUNTS names, as JSON.
"""

import asyncio
import collections
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

from mitmproxy import ctx

_WATCHED = ("HTTPFlow", "Exchange", "Client", "Server", "HttpStream", "ProxyConnectionHandler", "LiveConnectionHandler")


# Until there is a loop the signal does nothing: by default it would end the process.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Counts:
    """Answers the signal."""

    def running(self) -> None:
        """There is a loop from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.write)

    def write(self) -> None:
        """Write the counts, in one step."""
        place = Path(os.environ["RELAY_BENCH_COUNTS"])
        fresh = place.with_suffix(".new")
        fresh.write_text(json.dumps(count()))
        fresh.replace(place)


def count() -> dict[str, int]:
    """Tasks, locks, connections, timers, and objects that should not outlive an exchange."""
    gc.collect()
    objects = gc.get_objects()
    kinds = collections.Counter(type(each).__name__ for each in objects)
    found = {"tasks": len(asyncio.all_tasks()), "objects": len(objects)}
    found |= {name: kinds[name] for name in _WATCHED}
    relay: Any = ctx.master.addons.get("relay")
    if relay is not None:
        limits = relay.long_lived.timeouts
        found["locks"] = len(relay.opener.leases)
        found["timers"] = len(limits._clients) + len(limits._connects) + len(limits._open)
    proxyserver: Any = ctx.master.addons.get("proxyserver")
    found["connections"] = len(proxyserver.connections)
    return found


addons = [Counts()]
