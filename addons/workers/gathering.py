"""Gathering: the numbers of all workers, kept by their parent, so that a scrape of any of them shows the sum.

1. What a worker tells replaces what it told before; read is it only when somebody asks.
2. Who asks brings its own. The others are asked for theirs, and have `PATIENCE` to answer: one that is stopped or busy
   counts with what it told last.
3. What a worker has counted that is gone is added to what all before it have left. So no counter ever goes back.
"""

import asyncio
import json
import logging
from collections.abc import Callable

from addons.core.metrics import Models, Numbers

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds."""
_MOST_MODELS = 200


class Gathering:
    """Of all workers. `add` notes what the parent itself knows; `ask` has all tell theirs who are not `asker`."""

    def __init__(self, add: Callable[[Numbers], object], ask: Callable[[object], object]) -> None:
        self._add = add
        self._ask = ask
        self._left = Numbers()
        self._told: dict[object, bytes] = {}
        self._models = Models(most=_MOST_MODELS)
        self._awaited: dict[asyncio.Future[None], set[object]] = {}

    def told(self, worker: object, numbers: bytes) -> None:
        """A worker has told its numbers."""
        self._told[worker] = numbers
        for future, awaited in self._awaited.items():
            awaited.discard(worker)
            if not awaited and not future.done():
                future.set_result(None)

    def gone(self, worker: object) -> None:
        """It is gone."""
        told = self._told.pop(worker, None)
        if told is not None and (read := _read(told)) is not None:
            self._left.add_all(read, self._models, gauges=False)
        self.told(worker, b"")  # nobody need wait for it
        del self._told[worker]

    async def all(self, asker: object, numbers: bytes) -> bytes:
        """The sum, for a worker that asks and brings its own."""
        self.told(asker, numbers)
        others = self._told.keys() - {asker}
        if others:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited[future] = set(others)
            try:
                self._ask(asker)
                async with asyncio.timeout(PATIENCE):
                    await future
            except TimeoutError:
                pass
            finally:
                del self._awaited[future]
        return json.dumps(self._sum().to_json(), separators=(",", ":")).encode()

    def _sum(self) -> Numbers:
        found = Numbers()
        found.add_all(self._left, self._models)
        for told in self._told.values():
            if (read := _read(told)) is not None:
                found.add_all(read, self._models)
        try:
            self._add(found)
        except Exception:
            logger.exception("a metric is left out")
        return found


def _read(told: bytes) -> Numbers | None:
    try:
        return Numbers.of_json(json.loads(told))
    except (ValueError, TypeError, KeyError) as error:
        logger.error(f"the numbers of a worker can't be read: {type(error).__name__}")
        return None
