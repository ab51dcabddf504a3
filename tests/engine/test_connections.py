"""A reader lets others have a turn before it gives more."""

import asyncio
import time

from addons.engine.connections import Patient


def work(seconds: float) -> None:
    """Keep this thread busy."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_others_have_a_turn_between_two_long_pieces() -> None:
    served = 0

    async def other() -> None:
        nonlocal served
        while True:
            served += 1
            await asyncio.sleep(0)

    async def read() -> int:
        task = asyncio.ensure_future(other())
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(1 << 10))
        patient = Patient(reader)
        for _ in range(6):
            assert await patient.read(100)
            work(0.005)
        task.cancel()
        return served

    assert asyncio.run(read()) >= 5


def test_the_end_is_an_end() -> None:
    async def read() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return await Patient(reader).read(65535)

    assert asyncio.run(read()) == b""
