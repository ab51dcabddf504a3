"""Parent: starts the workers, starts again what ends unasked, replaces them on SIGHUP, ends with them.

1. The first worker goes ahead. Where it can't start none could: everything ends with its exit code, and its words
   stand there once.
2. Who ends unasked is started again, at once; who keeps ending early waits longer each time. From the moment the first
   one serves that holds for whoever is still starting, too, and for who is not ready in time.
3. SIGHUP: relay.yaml is read anew. For each worker in turn a new one is started with what it says now, and takes over
   when it is ready; the old one drains. Where relay.yaml is wrong, or a new worker does not come up, the workers that
   are left go on.
4. SIGINT and SIGTERM: the workers end as a single relay does, and the parent after them. They may have had the same
   signal, so those that serve are told by the channel: a second signal would end them at once. A second one to the
   parent does that, to all of them.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from addons import logs, signals
from addons.addresses import Refusal
from addons.config.settings import ConfigError, Settings, taking_restart
from addons.store import Store
from addons.store.expiry import sweep
from addons.store.ledger import Book
from addons.workers.processes import Orders, Process, exit_text
from addons.workers.store_server import StoreServer

START_TIMEOUT = 60.0
"""Seconds until a worker has to be ready."""
STOP_TIMEOUT = 15.0
"""Seconds for the workers to end when told to."""
ANNOUNCED = 4.0
"""Seconds more than `limits.drain` that they have for it: some of it passes before they take no more clients."""
STEADY = 30.0
"""Seconds after which a worker's end is no longer an early one."""
LONGEST_PAUSE = 30.0
ATTEMPTS = 3
"""Starts of a worker that shall replace another, where the system has killed the ones before."""

logger = logging.getLogger(__name__)


class Parent:
    """The parent of `count` workers. `reread` reads relay.yaml again and gives the orders under it.

    `reread` may raise ConfigError and Refusal.
    """

    def __init__(
        self,
        count: int,
        orders: Orders,
        reread: Callable[[], Orders],
        listeners: Sequence[socket.socket],
        store: Store,
        announce: Callable[[], None] = lambda: None,
        book: Book | None = None,
    ) -> None:
        self.count = count
        self.orders = orders
        self.began_with = orders.settings
        self.reread = reread
        self.listeners = listeners
        self.store = store
        self.announce = announce
        """Called as soon as somebody answers."""
        self.store_server = StoreServer(store, book)
        self.code: int | None = None
        """The exit code, once it is known that all has to end."""
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._current: dict[int, Process] = {}
        self._alive: set[Process] = set()
        self._early: dict[int, int] = {}
        self._serving = False
        """The first worker has come up: relay has been there for its clients, and shall go on."""
        self._all_told = False
        self._gently = False
        """What is under way has `limits.drain` to come to its end."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until a signal comes or nothing can be started; the exit code."""
        loop = asyncio.get_running_loop()
        for number in signals.ENDING:
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        _log_to_stdout(lambda: self.stop(1), self.orders.settings.log)
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
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing left that could be renewed
            signals.leave(loop)
        return self.code or 0

    def stop(self, code: int) -> None:
        """All has to end, with this exit code; the first call counts."""
        if self.code is None:
            self.code = code
            self._stop.set()

    def _signalled(self, number: signal.Signals) -> None:
        if not self._stop.is_set():
            self._gently = number is signal.SIGTERM
            self.stop(0)
            return
        self.code = 128 + number  # as a shell tells of who was ended by a signal
        for process in self._alive:
            process.kill()

    async def _live(self) -> None:
        sweeping = self._begin(sweep(self.store, self.orders.settings.chat.session_ttl))
        if not await self._bring_up():
            await self._stop.wait()  # what was wrong is said already
            return
        while True:
            await self._renew.wait()
            self._renew.clear()
            if await self._renew_all():
                sweeping.cancel()
                sweeping = self._begin(sweep(self.store, self.orders.settings.chat.session_ttl))

    async def _bring_up(self) -> bool:
        """The first start of all; True when the first worker is ready, False where it won't be."""
        try:
            first = self._current[1] = await self._start(1)
        except OSError as error:
            logger.error(_unstarted(1, error))
            self.stop(1)
            return False
        if not await asyncio.shield(first.ready):
            return False
        self._serving = True
        self.announce()
        for number in range(2, self.count + 1):
            try:
                self._current[number] = await self._start(number)
            except OSError as error:
                self._begin(self._start_again(number, None, _unstarted(number, error)))
        return True

    async def _start(self, number: int) -> Process:
        process = await Process.start(number, self.orders, self.listeners, self.store_server)
        self._alive.add(process)
        self._begin(self._watch(process))
        return process

    async def _watch(self, process: Process) -> None:
        if await self._comes_up(process):
            self._tell()
        code = await asyncio.shield(process.ended)
        self._alive.discard(process)
        if self._stop.is_set() or process.draining:
            return
        if not self._serving and not process.was_ready:
            logger.error(f"{process.name} {exit_text(code)} before it was ready; {_why(process, code)}")
            self.stop(code if code > 0 else 128 - code if code else 1)
        elif self._current.get(process.number) is process:
            await self._start_again(process.number, process, f"{process.name} {exit_text(code)}")

    async def _comes_up(self, process: Process) -> bool:
        try:
            return await asyncio.wait_for(asyncio.shield(process.ready), START_TIMEOUT)
        except TimeoutError:
            logger.error(f"{process.name} was not ready within {START_TIMEOUT:g} s")
            process.late = True
            process.kill()
            return False

    def _tell(self) -> None:
        """Say it once when all of them serve."""
        if not self._all_told and sum(each.serves for each in self._current.values()) == self.count:
            self._all_told = True
            logger.info(f"{self.count} workers serve")

    # Ends

    async def _start_again(self, number: int, process: Process | None, ended: str) -> None:
        """Start one in place of `process`, however often it takes; None where there was none yet."""
        age = process.age if process is not None and process.was_ready else 0.0
        while self._current.get(number) is process:
            pause = self._pause(number, age)
            logger.warning(f"{ended}; it is started again{f' in {pause:g} s' if pause else ''}")
            await asyncio.sleep(pause)
            if self._current.get(number) is not process:
                return  # a renewal was quicker
            try:
                fresh = await self._start(number)
            except OSError as error:
                ended, age = _unstarted(number, error), 0.0
                continue
            if self._current.get(number) is process:
                self._current[number] = fresh
            else:
                fresh.retire()

    def _pause(self, number: int, age: float) -> float:
        """Seconds until a worker that has lived for `age` is started again."""
        early = self._early[number] = self._early.get(number, 0) + 1 if age < STEADY else 0
        return min(2.0 ** (early - 2), LONGEST_PAUSE) if early > 1 else 0.0

    async def _end_all(self) -> None:
        longest = self.orders.settings.limits.drain
        if self._gently and longest and self._alive:
            await self._drain_all(longest)
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

    async def _drain_all(self, longest: float) -> None:
        """Wait until all have ended by themselves, or for so many seconds."""
        for process in self._alive:
            process.leave()
        for listener in self.listeners:
            listener.close()  # else the kernel goes on to take clients whom nobody serves
        ended = [process.ended for process in self._alive]
        await asyncio.wait(ended, timeout=ANNOUNCED + longest)
        for process in [each for each in self._alive if each.ended.done()]:
            self._alive.discard(process)

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
        fresh = await self._successor(number)
        if fresh is None:
            return False
        old = self._current.get(number)
        self._current[number] = fresh
        if old is not None:
            old.drain()
        return True

    async def _successor(self, number: int) -> Process | None:
        """A worker that serves and shall replace another, None where none comes up.

        One that the system has killed says nothing against relay.yaml or relay: it is tried again.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                fresh = await self._start(number)
            except OSError as error:
                logger.error(f"{_unstarted(number, error)}; the old one goes on")
                return None
            if await asyncio.shield(fresh.ready):
                return fresh
            code = await asyncio.shield(fresh.ended)
            again = code < 0 and not fresh.late and attempt < ATTEMPTS
            then = "it is started again" if again else "the old one goes on"
            logger.error(f"{fresh.name} {exit_text(code)} before it was ready; {then}")
            if not again:
                break
        return None

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


def _unstarted(number: int, error: OSError) -> str:
    return f"worker {number} can't be started ({error.strerror or error})"


def _why(process: Process, code: int) -> str:
    """Where to look for the reason of an end."""
    if code == -signal.SIGKILL and not process.late:
        return "the system kills like this where memory is short: set workers to a smaller number"
    return "its words are above, if it left any"


def run(
    count: int,
    orders: Orders,
    reread: Callable[[], Orders],
    listeners: Sequence[socket.socket],
    store: Store,
    announce: Callable[[], None] = lambda: None,
    book: Book | None = None,
) -> int:
    """Be the parent of `count` workers until all has to end; the exit code. `announce` is called once one serves."""

    async def life() -> int:
        return await Parent(count, orders, reread, listeners, store, announce, book).run()

    return asyncio.run(life())


def _fixed(before: Settings, after: Settings) -> list[str]:
    """The keys that were changed and are read at the parent's start only."""
    return [*taking_restart(before, after), *(["store"] if before.store != after.store else [])]


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints records as mitmproxy does; who can't print, ends."""

    def __init__(self, on_broken: Callable[[], None], log: str) -> None:
        super().__init__(sys.stdout)
        self.on_broken = on_broken
        text = logging.Formatter("[%(asctime)s.%(msecs)03d] %(message)s", "%H:%M:%S")
        self.setFormatter(logs.JsonLines() if log == "json" else text)

    def handleError(self, record: logging.LogRecord) -> None:
        """There is nobody left to be told."""
        self.on_broken()


def _log_to_stdout(on_broken: Callable[[], None], log: str) -> None:
    logs.install()
    logging.getLogger().addHandler(_Lines(on_broken, log))
    logging.getLogger("addons").setLevel(logging.INFO)
