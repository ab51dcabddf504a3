"""What is done to the cluster while its clients go on."""

import asyncio
import random
import signal
import time
from collections.abc import Sequence

from tests.support.cluster.cutting import Cutting
from tests.support.cluster.haproxy import HAProxy
from tests.support.cluster.history import Fault
from tests.support.cluster.relays import Relay, await_start
from tests.support.redis_server import RedisServer

STOPPED = 17.0
"""Seconds that a relay stands still: longer than its leases last."""
_PAUSE = (0.5, 1.5)


class Faults:
    """One thing after another, by a seed. At least one relay goes on at any time."""

    def __init__(
        self, relays: Sequence[Relay], haproxy: HAProxy, redis: RedisServer, cutting: Cutting, chance: random.Random
    ) -> None:
        self.done: list[Fault] = []
        self._relays = relays
        self._haproxy = haproxy
        self._redis = redis
        self._cutting = cutting
        self._chance = chance

    async def play(self, seconds: float) -> None:
        """All of them once, then again as long as there is time for that; the last is a rolling restart."""
        end = time.monotonic() + seconds
        while True:
            await self._round()
            if time.monotonic() + 45 > end:
                return

    async def _round(self) -> None:
        stopped, *others = self._chance.sample(list(self._relays), len(self._relays))
        stop = asyncio.create_task(self._stop(stopped))
        for work in self._chance.sample(
            [
                self._cut(),
                self._cut(),
                self._kill(others[0]),
                self._redis_away(0.3 + self._chance.random()),
                self._cut(),
            ],
            5,
        ):
            await work
            await self._pause()
        await stop
        await self._kill(self._chance.choice(list(self._relays)))
        await self._pause()
        await self._redis_away(3.5 + self._chance.random())
        await self._pause()
        await self._cut()
        await self._roll()

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*_PAUSE))

    def _begin(self, kind: str, server: str = "") -> Fault:
        fault = Fault(kind, time.monotonic(), server)
        self.done.append(fault)
        return fault

    async def _away(self, fault: Fault) -> None:
        seen = await asyncio.to_thread(self._haproxy.change, fault.server, False, fault.begun)
        assert seen is not None, f"HAProxy has not seen {fault}"
        fault.seen = seen

    async def _kill(self, relay: Relay) -> None:
        """kill -9, and a new one as soon as that was seen."""
        fault = self._begin("kill", relay.name)
        await asyncio.to_thread(relay.kill)
        await self._away(fault)
        await self._start(relay)
        fault.ended = time.monotonic()

    async def _stop(self, relay: Relay) -> None:
        """Have it stand still for longer than its leases last."""
        fault = self._begin("stop", relay.name)
        relay.signal(signal.SIGSTOP)
        fault.seen = fault.begun + STOPPED
        try:
            await self._away(fault)
            await asyncio.sleep(fault.begun + STOPPED - time.monotonic())
        finally:
            relay.signal(signal.SIGCONT)
        fault.ended = time.monotonic()
        await asyncio.to_thread(await_start, relay, self._haproxy, fault.ended)

    async def _redis_away(self, seconds: float) -> None:
        """Kill Redis, and start it again after so long."""
        fault = self._begin("Redis killed")
        fault.seen = fault.begun + 60
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._redis.start)
        fault.seen = fault.ended = time.monotonic()
        await asyncio.sleep(2)

    async def _cut(self) -> None:
        """Answers of Redis get lost for a moment."""
        fault = self._begin("replies cut")
        before = self._cutting.cuts
        self._cutting.share = self._chance.uniform(0.1, 0.6)
        await asyncio.sleep(self._chance.uniform(0.3, 1.0))
        self._cutting.share = 0.0
        fault.ended = time.monotonic()
        fault.kind = f"{self._cutting.cuts - before} replies cut"

    async def _roll(self) -> None:
        """End each as an orchestrator does, and start it again, one after another."""
        for relay in self._chance.sample(list(self._relays), len(self._relays)):
            fault = self._begin("restart", relay.name)
            code = await asyncio.to_thread(relay.end)
            assert code == 0, f"{relay.name} ended with {code}:\n{relay.log[-2000:]}"
            await self._start(relay)
            fault.ended = time.monotonic()

    async def _start(self, relay: Relay) -> None:
        since = time.monotonic()
        relay.start()
        await asyncio.to_thread(await_start, relay, self._haproxy, since)
