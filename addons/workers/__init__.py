"""Workers: several mitmdumps on the same address, and the one process that keeps what they share.

One mitmdump uses one core. With `workers: 4` in relay.yaml `./run.sh` stays as the parent of four:

                        the listening sockets, inherited
      parent  ------------------------------------------------  worker 1   a mitmdump with relay in it
        |                                                       worker 2   the same
        |     the store with its leases, and the ledger, over   ...
        +---- a pair of connected sockets for each worker -----

1. The parent binds and listens, and never accepts. Its workers accept from one queue, which is the kernel's, so a
   worker that is busy, stopped or killed loses no connection that nobody has accepted yet
   (engine/corrections/listening.py).
2. The parent has the session store with its leases, which keep the messages of a session in order, and lends both
   (store_server.py, remote_store.py, channel.py). So a session goes on at whichever worker its next message comes to.
   It has the ledger, too, so one process decides what fits into a budget. Nothing else is shared.
3. The end of file on such a pair tells each side that the other is gone: a worker's leases are free then, and workers
   without a parent end by themselves.
4. The parent starts again what ends unasked (parent.py, processes.py). It has read relay.yaml for all of them, so that
   an edit takes effect when it shall: SIGHUP replaces the workers one by one by new ones under the new text, and when
   one of those is ready the old one drains (worker.py, draining.py). names.py says how they find each other in the
   environment.
5. Each worker tells the parent what it has counted, and whichever is asked for `/metrics` shows the sum of all
   (gathering.py).
6. Each worker writes what it logs in whole blocks to the one output they all have (engine/corrections/output.py).

The parent runs no mitmproxy: nothing that comes over the network reaches it, but what workers hand on to the store.
"""

import os
from typing import Literal

from addons.config.fields import MAX_WORKERS


def count(workers: int | Literal["auto"]) -> int:
    """How many processes a value of `workers` means on this machine."""
    if workers == "auto":
        return min(os.process_cpu_count() or 1, MAX_WORKERS)
    return workers
