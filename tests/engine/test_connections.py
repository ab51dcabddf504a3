"""A reader gives less at a time where little is much to do."""

import asyncio
import time

import pytest
from mitmproxy.connection import Connection
from mitmproxy.test import tflow

from addons.engine.connections import Sips

CLIENT, UPSTREAM = tflow.tclient_conn, tflow.tserver_conn


def work(seconds: float) -> None:
    """Keep this thread busy."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def sizes(connection: Connection, each: float, count: int, held: int = 1 << 20) -> list[int]:
    """What so many reads bring, each followed by `each` seconds of work."""

    async def read() -> list[int]:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(held))
        sips, found = Sips(reader, connection), []
        for _ in range(count):
            found.append(len(await sips.read(65535)))
            work(each)
        return found

    return asyncio.run(read())


def test_little_work_is_read_in_ever_larger_pieces() -> None:
    found = sizes(CLIENT(), 0, 12)
    assert found[0] <= 4096 and found[-1] == 65535
    assert found == sorted(found)


def test_much_work_is_read_in_ever_smaller_pieces() -> None:
    found = sizes(UPSTREAM(), 0.03, 8)
    assert found[-1] < found[0] / 8 and min(found) >= 512


def test_what_is_no_more_than_there_is_does_not_grow() -> None:
    assert sizes(CLIENT(), 0, 1, held=100) == [100]


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
        reader.feed_data(bytes(1 << 16))
        sips = Sips(reader, CLIENT())
        for _ in range(6):
            await sips.read(65535)
            work(0.005)
        task.cancel()
        return served

    assert asyncio.run(read()) >= 5


@pytest.mark.parametrize("connection", [CLIENT(), UPSTREAM()], ids=["a client", "an upstream"])
def test_a_websocket_begins_with_little(connection: Connection) -> None:
    async def read() -> tuple[int, int]:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(1 << 16))
        sips = Sips(reader, connection)
        first = len(await sips.read(65535))
        vars(connection)["relay_switched"] = True
        return first, len(await sips.read(65535))

    first, then = asyncio.run(read())
    assert then == 1024 < first
    assert "relay_switched" not in vars(connection)


def test_the_end_is_an_end() -> None:
    async def read() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return await Sips(reader, CLIENT()).read(65535)

    assert asyncio.run(read()) == b""
