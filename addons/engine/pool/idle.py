"""Idle connections to upstreams: those that rest, how long and how many, and who may have one."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from addons.engine.pool.places import Place
from addons.engine.pool.upstream_connection import UpstreamConnection

MOST = 128
"""That rest for one place."""
BEHIND_PROXY = 15.0
"""Seconds that a connection rests at most that leads by a proxy: it alone knows whether upstream has closed."""
_LOOK = 1.0
"""Seconds between two looks at what rests."""
_RENEW = 3.0
"""Seconds before its end from which a connection is not ready any more: one look, and time to make another far away."""
_LONGEST_PAUSE = 60.0
"""Seconds between two attempts to keep a connection ready for an upstream that can't be reached."""

type Dial = Callable[[Place], Awaitable[UpstreamConnection]]


@dataclass
class _Warmth:
    """Connections that are to be ready for a place."""

    count: int
    pause: float = 0.0
    next_try: float = 0.0
    dialing: int = 0


class Pool:
    """Connections that nobody uses, by their places. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest = 60.0
        """Seconds that one may rest, `limits.upstream_idle`."""
        self.connect_within = 10.0
        """Seconds to connect in, where nobody waits for it: `limits.connect`."""
        self._clock = clock
        self._idle: dict[Place, dict[UpstreamConnection, None]] = {}
        self._warm: dict[Place, _Warmth] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def rest(self, connection: UpstreamConnection, *, keeps: float | None = None) -> None:
        """Its exchange is over. `keeps` is how many seconds upstream says that it keeps it."""
        longest = self.longest if connection.place.way is None else min(self.longest, BEHIND_PROXY)
        if keeps is not None:
            longest = min(longest, keeps)
        connection.rest(self._clock() + longest)
        resting = self._idle.setdefault(connection.place, {})
        resting[connection] = None
        if len(resting) > MOST:
            oldest = next(iter(resting))
            del resting[oldest]
            oldest.discard("relay: too many idle connections")
        self._see_to_it()

    def take(self, place: Place) -> UpstreamConnection | None:
        """The connection that was used last, for a client that has none; None where none can be used."""
        resting = self._idle.get(place)
        while resting:
            connection, _ = resting.popitem()
            if connection.is_fit(self._clock()):
                connection.leave(_close)
                return connection
            connection.discard("relay: closed by upstream")
        return None

    def keep_own(self, connection: UpstreamConnection) -> bool:
        """Go on with a connection that one has already; False where it must not be used any more."""
        resting = self._idle.get(connection.place, {})
        if connection not in resting:
            return False
        del resting[connection]
        if connection.is_fit(self._clock()):
            return True
        connection.discard("relay: closed by upstream")
        return False

    def orphan(self, connection: UpstreamConnection) -> bool:
        """Its client leaves; whether it rests, and may go on without."""
        resting = self._idle.get(connection.place, {})
        if connection not in resting:
            return False
        if not connection.is_fit(self._clock()):  # whoever reads it may have its end in hand
            del resting[connection]
            connection.discard("relay: closed by upstream")
            return False
        connection.leave(self._changed)
        return True

    def _changed(self, connection: UpstreamConnection) -> None:
        """Something came, or its end, while nobody had it: it is nobody's answer."""
        self._idle.get(connection.place, {}).pop(connection, None)
        _close(connection)

    def count(self, place: Place) -> int:
        """How many rest."""
        return len(self._idle.get(place, ()))

    # Time

    def adopt(self, longest: float, connect_within: float, warm: Mapping[Place, int], dial: Dial) -> None:
        """Go on under these settings. `warm` is how many connections are to be ready for a place."""
        self.longest, self.connect_within = longest, connect_within
        self._dial = dial
        self._warm = {place: _Warmth(count) for place, count in warm.items() if count}
        with contextlib.suppress(RuntimeError):  # mitmproxy reads relay.yaml before its loop runs
            self.start()

    def start(self) -> None:
        """From now on connections are kept ready, where that is wanted. Raises RuntimeError without a running loop."""
        asyncio.get_running_loop()
        if self._timer is None:
            self._look()

    def _see_to_it(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        for resting in self._idle.values():
            for connection in [each for each in resting if not each.is_fit(now)]:
                del resting[connection]
                connection.discard("relay: idle")
        self._idle = {place: resting for place, resting in self._idle.items() if resting}
        for place, warmth in self._warm.items():
            self._keep_warm(place, warmth, now)
        if self._idle or self._warm:
            self._see_to_it()

    def _keep_warm(self, place: Place, warmth: _Warmth, now: float) -> None:
        soon = now + min(_RENEW, self.longest / 4)  # all are as old as one another, and would be gone at once
        ready = sum(each.expires_at > soon for each in self._idle.get(place, ()))
        while now >= warmth.next_try and ready + warmth.dialing < warmth.count:
            warmth.dialing += 1
            task = asyncio.get_running_loop().create_task(self._make_ready(place, warmth))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _make_ready(self, place: Place, warmth: _Warmth) -> None:
        try:
            async with asyncio.timeout(self.connect_within):
                connection = await self._dial(place)
            if not connection.is_untouched:
                connection.discard("relay: it speaks unasked")
                raise OSError("upstream speaks unasked")
        except OSError:  # a TimeoutError among them
            warmth.pause = min(_LONGEST_PAUSE, max(1.0, 2 * warmth.pause))
            warmth.next_try = self._clock() + warmth.pause
            return
        finally:
            warmth.dialing -= 1
        warmth.pause = 0.0
        connection.leave(self._changed)
        self.rest(connection)

    def close(self) -> None:
        """Close what rests with nobody, and keep nothing ready any more."""
        self._warm = {}
        for task in self._tasks:
            task.cancel()
        for resting in self._idle.values():
            for connection in resting:
                if connection.seat is None:
                    connection.discard("relay: ends")
        self._idle = {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _close(connection: UpstreamConnection) -> None:
    connection.discard("relay: closed by upstream")
