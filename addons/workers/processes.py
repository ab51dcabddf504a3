"""One worker as its parent sees it: a mitmdump from its start to its end."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from addons.config.settings import Settings
from addons.workers.names import CHANNEL, DRAIN, END, LEAVE, LISTENERS, METRICS, NUMBER, READY, SETTINGS
from addons.workers.store_server import StoreServer


@dataclass(frozen=True)
class Orders:
    """What workers are started with."""

    settings: Settings
    command: Sequence[str]
    """How to start a mitmdump under these settings."""
    metrics: Sequence[socket.socket] = ()
    """Where it serves `/metrics` alone."""


class Process:
    """A worker's process, with the channel to it."""

    def __init__(
        self, number: int, server: StoreServer, sock: socket.socket, process: asyncio.subprocess.Process
    ) -> None:
        self.number = number
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when the worker serves, with True, or when it has ended before, with False."""
        self.draining = False
        self.late = False
        """Its parent has killed it since it was not ready in time."""
        self._server = server
        self._sock = sock
        self._process = process
        self._begun = time.monotonic()
        self._served = asyncio.create_task(server.serve(sock, self._hear))
        self.ended = asyncio.create_task(self._wait())
        """Done, with the exit code, when process and channel are gone. The code is that of `subprocess`."""

    @classmethod
    async def start(cls, number: int, orders: Orders, listeners: Sequence[socket.socket], server: StoreServer) -> Self:
        """Start one. Raises OSError where the system does not let us.

        It has a session of its own, so that what a terminal sends reaches the parent alone.
        """
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as text:
            try:
                text.write(orders.settings.text.encode())
                text.seek(0)
                passed = {
                    CHANNEL: [theirs.fileno()],
                    LISTENERS: [each.fileno() for each in listeners],
                    METRICS: [each.fileno() for each in orders.metrics],
                    SETTINGS: [text.fileno()],
                }
                process = await asyncio.create_subprocess_exec(
                    *orders.command,
                    stdin=subprocess.DEVNULL,
                    env=_environment(os.environ, number, passed),
                    pass_fds=[descriptor for descriptors in passed.values() for descriptor in descriptors],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(number, server, ours, process)

    @property
    def name(self) -> str:
        """What log lines call it."""
        return f"worker {self.number} (process {self._process.pid})"

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._begun

    @property
    def was_ready(self) -> bool:
        """Whether it has ever served."""
        return self.ready.done() and self.ready.result()

    @property
    def serves(self) -> bool:
        """Whether it serves now, as far as is known."""
        return self.was_ready and not self.ended.done()

    def _hear(self, note: str) -> None:
        if note == READY and not self.ready.done():
            self.ready.set_result(True)

    async def _wait(self) -> int:
        code = await self._process.wait()
        # The end of file may still be on its way; what the worker has said before it is heard first.
        await self._served
        if not self.ready.done():
            self.ready.set_result(False)
        return code

    def drain(self) -> None:
        """Have it take no more clients, and end with the last one. One that does not serve yet has none."""
        self.draining = True
        if self.was_ready:
            self._server.tell(self._sock, DRAIN)
        else:
            self.end()

    def leave(self) -> None:
        """The same where no other takes its place: whoever asks /readyz hears of it before."""
        self.draining = True
        if self.was_ready:
            self._server.tell(self._sock, LEAVE)
        else:
            self.end()

    def retire(self) -> None:
        """End it now: it is one too many."""
        self.draining = True
        self.end()

    def end(self) -> None:
        """Have it end now, as Ctrl-C ends a single relay."""
        if self.was_ready:
            # Not by a signal: whoever ends us may have sent it one, and a second would cut its end short.
            self._server.tell(self._sock, END)
        else:
            # As SIGINT does, but without a traceback where Python itself is still on its way up.
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)


def _environment(environ: Mapping[str, str], number: int, passed: Mapping[str, Sequence[int]]) -> dict[str, str]:
    # PYTHONPATH is run.sh's, so that relay is found; it is nobody else's business.
    variables = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    variables[NUMBER] = str(number)
    return variables | {name: ",".join(map(str, descriptors)) for name, descriptors in passed.items()}


def exit_text(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
