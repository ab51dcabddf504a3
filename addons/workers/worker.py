"""Worker: what is different in a mitmdump that is one of several.

Its parent tells it who it is by variables of the environment, which are gone as soon as they are read. It has no
server until relay is up and then takes the parent's sockets; it says `ready`; and on `drain` it takes no more clients,
lets what is under way come to its end, and ends. On `leave`, and on SIGTERM, it ends so with all relay, after
`limits.drain` in any case, and /readyz says it before.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any, Self

from mitmproxy import ctx

from addons import engine
from addons.config.mitmproxy_options import ONE_PROCESS
from addons.engine.corrections.output import ErrorsOnly
from addons.store import StoreError
from addons.workers.draining import Draining, drain
from addons.workers.names import CHANNEL, DRAIN, END, LEAVE, LISTENERS, METRICS, NUMBER, NUMBERS, READY, SETTINGS
from addons.workers.remote_store import Channel

_KEPT = "relay_worker"

logger = logging.getLogger(__name__)


class Worker:
    """This process, as its parent sees it. Kept by mitmproxy's master, where a reload of relay finds it again."""

    def __init__(self, number: int, channel: Channel, listeners: tuple[socket.socket, ...], settings: str) -> None:
        self.number = number
        self.channel = channel
        self.listeners = listeners
        self.settings = settings
        """The text of relay.yaml. The file itself may have been edited since."""
        self.metrics: tuple[socket.socket, ...] = ()
        """Where `/metrics` alone is served."""
        self.tell_numbers: Callable[[], object] = lambda: None
        """Called when the parent wants this worker's numbers."""
        self.draining = False
        self._leaving = False
        self._clients: Draining | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_filter = ErrorsOnly()

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """Read what the parent has passed, and take it out of the environment. Raises StoreError."""
        number, channel, listeners, text = (environ.pop(name) for name in (NUMBER, CHANNEL, LISTENERS, SETTINGS))
        with open(int(text), encoding="utf-8", newline="") as file:
            settings = file.read()
        sockets = tuple(_inherited(each) for each in listeners.split(","))
        worker = cls(int(number), Channel(_inherited(channel)), sockets, settings)
        worker.metrics = tuple(_inherited(each) for each in environ.pop(METRICS, "").split(",") if each)
        return worker

    def settle_in(self, master: object) -> None:
        """Print in blocks; and what all workers would say while they start, only the first one says."""
        engine.print_in_blocks(master)
        if self.number > 1:
            self._start_filter.begin(master)

    def serve(self, clients: Draining) -> None:
        """Take clients from now on; `clients` knows what is under way."""
        self._clients = clients
        self.channel.start(self._hear, ctx.master.shutdown)
        self._begin(drain(clients, announced=False) if self.draining else self._open())

    def leave(self, longest: float) -> None:
        """All relay ends, or this process alone: what is under way has so many seconds, whether or not it drains for
        a successor already."""
        if self.draining and not self._leaving:
            self._begin(_end_in(longest))
        elif not self.draining:
            self._begin(drain(self._clients, announced=True, listeners=self.listeners, longest=longest))
        self.draining = self._leaving = True

    async def _open(self) -> None:
        await asyncio.sleep(0)  # for mitmproxy to be up
        if name := next((name for name in ONE_PROCESS if name != "server" and getattr(ctx.options, name, None)), None):
            # On the command line it would have been seen by the parent.
            logger.error(
                f"{name} in mitmproxy's config.yaml is for one process: set workers to 1, or take it out there"
            )
            raise SystemExit(1)
        proxyserver = ctx.master.addons.get("proxyserver")
        ctx.options.update(server=True)
        await proxyserver.setup_servers()
        if not all(server.is_running for server in proxyserver.servers):
            raise SystemExit(1)  # the log says why
        if not _has_errored():
            self._start_filter.end()
            self.channel.note(READY)

    def _hear(self, note: str) -> None:
        if note == NUMBERS:
            self.tell_numbers()
        elif note == END:
            ctx.master.shutdown()
        elif note == LEAVE and self._clients is not None:
            self.leave(self._clients.longest)
        elif note == DRAIN and not self.draining:
            self.draining = True  # there is a successor, who goes on with the same queue
            self._begin(drain(self._clients, announced=False))

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def join(master: Any, environ: MutableMapping[str, str]) -> Worker | None:
    """What this process is; None for one that works alone. Ends it where its parent is gone already."""
    before: Worker | None = getattr(master, _KEPT, None)
    if before is not None:  # made by the code before a reload
        worker = Worker(before.number, Channel.resumed(before.channel), before.listeners, before.settings)
        worker.draining, worker.metrics = before.draining, before.metrics
    elif NUMBER in environ:
        try:
            worker = Worker.from_environment(environ)
        except StoreError as error:
            logger.error(str(error))
            raise SystemExit(1) from None
        worker.settle_in(master)
    else:
        return None
    setattr(master, _KEPT, worker)
    return worker


async def _end_in(seconds: float) -> None:
    await asyncio.sleep(seconds)
    ctx.master.shutdown()


def _inherited(descriptor: str) -> socket.socket:
    os.set_inheritable(int(descriptor), False)
    return socket.socket(fileno=int(descriptor))


def _has_errored() -> bool:
    """Whether mitmproxy is about to end itself, as it does over any error while it starts."""
    check = ctx.master.addons.get("errorcheck")
    return bool(check is not None and check.logger.has_errored)
