"""Tracing: makes spans of exchanges, and has them sent in batches while relay goes on.

At most `MOST` spans wait. A collector that is away, hangs or refuses is asked again later and later; what does not fit
meanwhile is dropped and counted (`relay_spans`), with a line in the log once a minute. What a collector refuses is not
sent again, but where it says that it has too much to do.
"""

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from mitmproxy import http

from addons.core.metrics import Numbers
from addons.core.observed import Observed
from addons.core.span_content import answered, asked
from addons.core.spans import export, parent_of, spans_of
from addons.core.urls import Address
from addons.flow.decoding import content_of
from addons.telemetry.collector import post

logger = logging.getLogger(__name__)

MOST = 4096
"""Spans that wait."""
_BATCH = 512
_SOON = 0.5
"""Seconds that a span waits for others to come along."""
_LONGEST_PAUSE = 30.0
_BETWEEN_LINES = 60.0
_AGAIN = (429, 502, 503, 504)
"""https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes"""
_LEFT_OUT = "relay"
"""relay's own small pages: whoever watches asks for them every second."""
_READ = 1 << 16

VERSION = "0.2.0"
"""relay's own, as pyproject.toml has it."""


class Tracing:
    """The spans of this process."""

    def __init__(self, numbers: Numbers) -> None:
        self.address: Address | None = None
        """The collector's; None: nobody wants any."""
        self._numbers = numbers
        self._waiting: deque[dict[str, Any]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._quiet_until = float("-inf")

    def over(self, seen: Observed) -> None:
        """An exchange is over."""
        parent = parent_of(seen.parent)
        if self.address is None or seen.endpoint == _LEFT_OUT or (parent is not None and not parent.sampled):
            return
        for span in spans_of(seen, _ids(), parent):
            if len(self._waiting) < MOST:
                self._waiting.append(span)
            else:
                self._drop(1, f"{MOST} wait already")
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def stop(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()
        if self._waiting:
            self._drop(len(self._waiting), "relay ends")
            self._waiting.clear()

    async def _send(self) -> None:
        pause = _SOON
        while self._waiting and self.address is not None:
            await asyncio.sleep(pause)
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                sent = await self._post(self.address, batch)
            except Exception as error:
                sent, reason = False, f"{type(error).__name__}: {error}"
            else:
                reason = "it has too much to do"
            if sent:
                pause = _SOON
                continue
            pause = min(_LONGEST_PAUSE, max(1.0, 2 * pause))
            room = MOST - len(self._waiting)
            if room < len(batch):
                self._drop(len(batch) - room, reason)
            self._waiting.extendleft(reversed(batch[:room]))
            self._say(f"spans can't be sent ({reason}); they are tried again in {pause:g} s")

    async def _post(self, address: Address, batch: list[dict[str, Any]]) -> bool:
        """Whether the collector has taken it, or will not ever."""
        body = await asyncio.to_thread(lambda: json.dumps(export(batch, VERSION), separators=(",", ":")).encode())
        status = await post(address, body)
        if 200 <= status < 300:
            self._numbers.count("relay_spans", ("sent",), len(batch))
            return True
        if status in _AGAIN:
            return False
        self._drop(len(batch), f"the collector answers {status}")
        return True

    def _drop(self, count: int, why: str) -> None:
        self._numbers.count("relay_spans", ("dropped",), count)
        self._say(f"spans are dropped: {why}")

    def _say(self, text: str) -> None:
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _BETWEEN_LINES
            logger.warning(text)


def _ids() -> Iterator[str]:
    while True:
        yield os.urandom(8).hex()


def content(flow: http.HTTPFlow) -> dict[str, str]:
    """What was asked and answered, as the record has it: clean by now."""
    found = {"input": asked(content_of(flow.request, _READ))}
    if flow.response is not None:
        stream = flow.response.headers.get("content-type", "").startswith("text/event-stream")
        found["output"] = answered(content_of(flow.response, _READ), stream=stream)
    return found
