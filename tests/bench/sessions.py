"""The session store by itself: writes, reads, and what a sweep costs those who wait."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from addons.core.sessions import Request, Session, Turn
from addons.store.embedded import EmbeddedStore
from tests.bench.tables import ms, table
from tests.support.stores import keep

_TTL = 1800.0
_SAMPLE = 2000
_SESSION = Session((Turn("你是谁?", "我是一名人工智能助手,可以回答问题。" * 4, 120),) * 3, Request("prefix", 2, 300))


async def _pauses(worst: list[float]) -> None:
    """The longest time by which the loop was late; the last value of `worst`."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(0.001)
        worst[0] = max(worst[0], loop.time() - before - 0.001)


@asynccontextmanager
async def _watched(worst: list[float]) -> AsyncIterator[None]:
    task = asyncio.create_task(_pauses(worst))
    try:
        yield
    finally:
        task.cancel()


async def _timed(work: Awaitable[object]) -> float:
    before = time.perf_counter()
    await work
    return time.perf_counter() - before


async def _reads_meanwhile(store: EmbeddedStore, keys: list[str], waits: list[float]) -> None:
    while True:
        waits.append(await _timed(store.load(random.choice(keys), _TTL)))
        await asyncio.sleep(0.002)


async def measure(count: int) -> list[str]:
    """One row: a store of `count` sessions, filled, used, swept."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        store = EmbeddedStore(Path(folder), count + _SAMPLE, count, time.time)
        try:
            keys = [store.key(f"sk-{number // 100}", str(number)) for number in range(count)]
            fill = 0.0
            for key, owner in keys:
                fill += await _timed(keep(store, key, owner, _SESSION))
            sample = random.sample(keys, min(count, _SAMPLE))
            reads = sorted([await _timed(store.load(key, _TTL)) for key, _ in sample])
            writes = sorted([await _timed(keep(store, key, owner, _SESSION)) for key, owner in sample])
            size = sum(path.stat().st_size for path in Path(folder).glob("sessions*"))
            idle, pause, waits = [0.0], [0.0], list[float]()
            async with _watched(idle):
                await asyncio.sleep(0.5)
            async with _watched(pause), asyncio.TaskGroup() as group:
                reading = group.create_task(_reads_meanwhile(store, [key for key, _ in keys], waits))
                swept = await _timed(store.sweep(-60.0))  # whatever was used until a minute from now
                reading.cancel()
        finally:
            store.close()
    return [
        f"{count:,}",
        f"{count / fill:,.0f}",
        ms(writes[len(writes) * 99 // 100]),
        f"{len(reads) / sum(reads):,.0f}",
        ms(reads[len(reads) * 99 // 100]),
        f"{size / count:,.0f}",
        f"{swept:.2f}",
        ms(pause[0]),
        ms(idle[0]),
        ms(max(waits, default=0.0)),
    ]


def section(sizes: list[int]) -> str:
    """One table, a row for each size. One after the other waits for its turn, so rates are those of a single caller."""
    head = ["sessions", "writes/s", "p99 ms", "reads/s", "p99 ms", "bytes each", "sweep s"]
    head += ["loop's pause ms", "without ms", "longest read ms"]
    return table(head, [asyncio.run(measure(size)) for size in sizes])
