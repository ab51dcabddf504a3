"""Sharing: the numbers of all processes of this relay, brought together when somebody asks.

A single process asks itself. A worker's are with its parent (addons/workers/gathering.py): it tells them once a second
where something was counted, whenever its parent asks, and with each scrape that comes to it. So what a worker had
counted a second before it was killed is never lost, and no counter goes back.
"""

import asyncio
import json
import logging
from collections.abc import Callable

from addons.core.metrics import Numbers
from addons.telemetry.counting import Counting
from addons.telemetry.sampling import Sampling

logger = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two words to the parent."""


class Sharing:
    """The numbers of this process, for whoever asks; `adopt` first."""

    def __init__(self, counting: Counting, send: Callable[[bytes], object] | None = None) -> None:
        """`send` tells the parent; None in a single process."""
        self.counting = counting
        self._send = send
        self._sampling: Sampling | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent = b""
        self._pricing: asyncio.Task[None] | None = None

    def adopt(self, sampling: Sampling) -> None:
        """Look in this way from now on."""
        self._sampling = sampling

    def numbers(self) -> Numbers:
        """Those of this process, as they are now. What waits for a price is priced until somebody asks again."""
        if self._sampling is not None:
            self._sampling.sample(self.counting.numbers)
        if self.counting.waits_for_prices and (self._pricing is None or self._pricing.done()):
            self._pricing = asyncio.get_running_loop().create_task(self._price())
        return self.counting.numbers

    def packed(self) -> bytes:
        """The same for the parent."""
        return json.dumps(self.numbers().to_json(), separators=(",", ":")).encode()

    async def _price(self) -> None:
        try:
            await self.counting.price()
        except Exception:
            logger.exception("requests are not priced")

    # A worker's

    def start(self) -> None:
        """Tell the parent from now on. Twice is harmless."""
        if self._send is not None and self._timer is None:
            self.tell()
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tell_again)

    def stop(self) -> None:
        """Tell it for the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.tell()

    def tell(self) -> None:
        """Tell the parent now. Never raises."""
        if self._send is None:
            return
        try:
            self._send(self.packed())
        except Exception:
            logger.exception("numbers are not told")

    def _tell_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tell_again)
        counters = self.counting.numbers.to_json()["counters"]
        counters.pop("relay_cpu_seconds", None)
        told = json.dumps(counters).encode()
        if told != self._sent:  # where nothing ended, nothing is told
            self._sent = told
            self.tell()
