"""Parent: starts the workers, starts again what ends unasked, replaces them on SIGHUP, ends with them.

1. The first worker goes ahead. Where it can't start none could: everything ends with its exit code, and its words
   stand there once.
2. Who ends unasked is started again, at once; who keeps ending early waits longer each time.
3. SIGHUP: for each worker in turn a new one is started under relay.yaml as it stands now, and takes over when it is
   ready; the old one drains. Where relay.yaml is wrong, or a new worker does not come up, the rest stays as it is.
4. SIGINT and SIGTERM: the workers end as a single relay does, and the parent after them.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from addons import logs
from addons.config import ConfigError, Settings
from addons.ports import Refusal
from addons.store import Store
from addons.sweeper import sweep
from addons.turnstile import Gates
from addons.workers.keeper import Keeper
from addons.workers.processes import Orders, Process, told

START_TIMEOUT = 60.0
"""Seconds until a worker has to be ready."""
STOP_TIMEOUT = 15.0
"""Seconds for the workers to end when told to."""
STEADY = 30.0
"""Seconds after which a worker's end is no longer an early one."""
LONGEST_PAUSE = 30.0

logger = logging.getLogger(__name__)


class Parent:
    """The parent of `count` workers. `reread` gives the orders under relay.yaml as it stands then.

    `reread` may raise ConfigError and Refusal.
    """

    def __init__(
        self,
        count: int,
        orders: Orders,
        reread: Callable[[], Orders],
        listeners: Sequence[socket.socket],
        store: Store,
    ) -> None:
        self.count = count
        self.orders = orders
        self.began_with = orders.settings
        self.reread = reread
        self.listeners = listeners
        self.store = store
        self.keeper = Keeper(store, Gates())
        self.code: int | None = None
        """The exit code, once it is known that all has to end."""
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._current: dict[int, Process] = {}
        self._alive: set[Process] = set()
        self._early: dict[int, int] = {}
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until a signal comes or nothing can be started; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, 0)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        _log_to_stdout(lambda: self.stop(1))
        life = asyncio.create_task(self._live())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([life, stop], return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()  # raises what it has raised
        finally:
            self.stop(1)  # does nothing if it is decided already
            for task in (life, stop, *self._tasks):
                task.cancel()
            await self._end_all()
        return self.code or 0

    def stop(self, code: int) -> None:
        """All has to end, with this exit code; the first call counts."""
        if self.code is None:
            self.code = code
            self._stop.set()

    async def _live(self) -> None:
        sweeping = self._begin(sweep(self.store, self.orders.settings.chat.session_ttl))
        if not (await self._bring_up([1]) and await self._bring_up(range(2, self.count + 1))):
            await self._stop.wait()  # _watch says what was wrong
            return
        self._started = True
        logger.info(f"{self.count} workers serve")
        while True:
            await self._renew.wait()
            self._renew.clear()
            if await self._renew_all():
                sweeping.cancel()
                sweeping = self._begin(sweep(self.store, self.orders.settings.chat.session_ttl))

    async def _bring_up(self, numbers: Sequence[int]) -> bool:
        """The first start of these; True when all of them are ready, False where one of them won't be."""
        for number in numbers:
            try:
                self._current[number] = await self._start(number)
            except OSError as error:
                logger.error(f"worker {number} can't be started: {error.strerror}")
                self.stop(1)
                return False
        for number in numbers:
            if not await self._comes_up(self._current[number]):
                return False
        return True

    async def _start(self, number: int) -> Process:
        process = await Process.start(number, self.orders, self.listeners, self.keeper)
        self._alive.add(process)
        self._begin(self._watch(process))
        return process

    async def _comes_up(self, process: Process) -> bool:
        try:
            return await asyncio.wait_for(asyncio.shield(process.ready), START_TIMEOUT)
        except TimeoutError:
            logger.error(f"{process.name} was not ready within {START_TIMEOUT:g} s")
            process.kill()
            return False

    # Ends

    async def _watch(self, process: Process) -> None:
        code = await asyncio.shield(process.ended)
        self._alive.discard(process)
        if self._stop.is_set() or process.draining:
            return
        if not self._started and not process.ready.result():
            logger.error(f"{process.name} {told(code)} before it was ready; its words are above, if it left any")
            self.stop(code if code > 0 else 1)
        elif self._current[process.number] is process:
            await self._start_again(process, code)

    async def _start_again(self, process: Process, code: int) -> None:
        number, ended = process.number, f"{process.name} {told(code)}"
        while self._current[number] is process:
            pause = self._pause(number, process.age)
            logger.warning(f"{ended}; it is started again{f' in {pause:g} s' if pause else ''}")
            await asyncio.sleep(pause)
            if self._current[number] is not process:
                return  # a renewal was quicker
            try:
                fresh = await self._start(number)
            except OSError as error:
                ended = f"worker {number} can't be started ({error.strerror})"
                continue
            if self._current[number] is process:
                self._current[number] = fresh
            else:
                fresh.retire()

    def _pause(self, number: int, age: float) -> float:
        """Seconds until a worker that has lived for `age` is started again."""
        early = self._early[number] = self._early.get(number, 0) + 1 if age < STEADY else 0
        return min(2.0 ** (early - 2), LONGEST_PAUSE) if early > 1 else 0.0

    async def _end_all(self) -> None:
        for process in self._alive:
            process.end()
        ended = [process.ended for process in self._alive]
        if not ended:
            return
        _, late = await asyncio.wait(ended, timeout=STOP_TIMEOUT)
        for process in self._alive:
            if process.ended in late:
                logger.warning(f"{process.name} did not end within {STOP_TIMEOUT:g} s and is killed")
                process.kill()
        await asyncio.wait(ended)

    # Renewal

    async def _renew_all(self) -> bool:
        """Replace every worker; False where that did not come to its end."""
        before = self.orders
        try:
            self.orders = self.reread()
        except (ConfigError, Refusal) as error:
            logger.error(f"{error}\nrelay.yaml was not read anew; the settings in force stay.")
            return False
        if fixed := _fixed(self.began_with, self.orders.settings):
            logger.warning(f"{' and '.join(fixed)} changed in relay.yaml: that takes a restart of relay")
        for number in range(1, self.count + 1):
            if not await self._replace(number):
                self.orders = before
                return False
        logger.info(f"relay.yaml is read anew: {self.count} new workers serve, the old ones end with their clients")
        return True

    async def _replace(self, number: int) -> bool:
        try:
            fresh = await self._start(number)
        except OSError as error:
            logger.error(f"worker {number} can't be started anew: {error.strerror}; the old one goes on")
            return False
        if not await self._comes_up(fresh):
            logger.error(f"{fresh.name} {told(await fresh.ended)} before it was ready; the old one goes on")
            return False
        old, self._current[number] = self._current[number], fresh
        old.drain()
        return True

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(f"the parent of the workers failed: {error!r}", exc_info=error)
            self.stop(1)


def run(
    count: int,
    orders: Orders,
    reread: Callable[[], Orders],
    listeners: Sequence[socket.socket],
    store: Store,
) -> int:
    """Be the parent of `count` workers until all has to end; the exit code."""

    async def life() -> int:
        return await Parent(count, orders, reread, listeners, store).run()

    return asyncio.run(life())


def _fixed(before: Settings, after: Settings) -> list[str]:
    """The keys that were changed and are read at the parent's start only."""
    pairs = {
        "listen.host": (before.listen.host, after.listen.host),
        "listen.port": (before.listen.port, after.listen.port),
        "workers": (before.workers, after.workers),
        "store": (before.store, after.store),
    }
    return [key for key, (old, new) in pairs.items() if old != new]


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints records as mitmproxy does; who can't print, ends."""

    def __init__(self, on_broken: Callable[[], None]) -> None:
        super().__init__(sys.stdout)
        self.on_broken = on_broken
        self.setFormatter(logging.Formatter("[%(asctime)s.%(msecs)03d] %(message)s", "%H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        """There is nobody left to be told."""
        self.on_broken()


def _log_to_stdout(on_broken: Callable[[], None]) -> None:
    logs.install()
    logging.getLogger().addHandler(_Lines(on_broken))
    logging.getLogger("addons").setLevel(logging.INFO)
