"""Turns: work in slices (`core.slices`) on the event loop, which serves others between them."""

import asyncio

from addons.core.slices import Sliced


async def in_turns[T](work: Sliced[T]) -> T:
    """The result of `work`; between two of its slices the event loop takes up whatever else is waiting."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
