"""How late /healthz comes while relay handles what a stranger sends.

On a machine that does other things besides, a single late answer tells nothing, so what was late is sent again: what
blocks the loop does so each time.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.live import Live

PROBE = Path(__file__).with_name("probe.py")
LATE = 0.1
"""Seconds that /healthz may take beyond its median."""
PATIENCE = 15.0
_TRIES = 10
_PAUSE = 1.0
"""Seconds before another try, from the third on: a machine may have a bad moment."""

_WORK = 2_000_000
_USUAL = 0.04
"""Rounds of an empty loop, and the seconds they take on the machines on which the bound was found."""

Send = Callable[[Live, Upstream], None]


class Health:
    """What a process tells that asks for /healthz all the time (tests/support/probe.py)."""

    def __init__(self, relay: Live) -> None:
        self.took: list[tuple[float, float]] = []
        """When an answer came, and the seconds since it was asked for."""
        command = [sys.executable, str(PROBE), str(relay.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Health":
        self._thread.start()
        assert live.eventually(lambda: len(self.took) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        failed = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._thread.join(PATIENCE)
        assert failed is None, "/healthz was not answered: see above"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return  # it was killed in the middle of its last line
                at, taken = map(float, line.split())
                self.took.append((at, taken))

    @property
    def median(self) -> float:
        """Seconds that an answer takes."""
        return statistics.median(taken for _, taken in self.took)

    def worst(self, since: float) -> float:
        """The longest wait of those that ended after `since`, with the next two answers."""
        now, seen = time.monotonic(), len(self.took)
        assert live.eventually(lambda: len(self.took) > seen + 2, 60)
        return max(taken for at, taken in self.took if at >= since or at >= now)


def _slowness() -> float:
    """How much longer than usual a fixed piece of work takes here and now; 1 at least.

    A machine of half the speed needs twice as long for a slice of work, and its neighbours may take any share of it.
    """
    begun = time.perf_counter()
    for _ in range(_WORK):
        pass
    return max(1.0, (time.perf_counter() - begun) / _USUAL)


def late_by(relay: Live, upstream: Upstream, send: Send) -> float:
    """Seconds beyond the median that /healthz took at most while `send` was at work; of several tries the least.

    On a slow machine fewer are told: as many as it would have been on one of usual speed.
    """
    with Health(relay) as health:
        least = float("inf")
        for number in range(_TRIES):
            if number > 2:
                time.sleep(_PAUSE)
            upstream.clear()
            begun = time.monotonic()
            send(relay, upstream)
            least = min(least, (health.worst(begun) - health.median) / _slowness())
            if least <= LATE:
                break
        return least
