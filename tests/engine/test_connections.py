"""A reader lets others have a turn before it gives more."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.tunnel import TunnelLayer

from addons.engine.corrections.connections import _drain_writers
from addons.engine.corrections.reading import LetGo, Patient, _in_pieces


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


def test_whoever_reads_hears_that_the_connection_is_somebody_else_s() -> None:
    async def life() -> None:
        reader = asyncio.StreamReader()
        patient = Patient(reader)
        waiting = asyncio.ensure_future(patient.read(100))
        await asyncio.sleep(0)
        patient.let_go()
        reader.feed_eof()
        with pytest.raises(LetGo):
            await waiting
        with pytest.raises(LetGo):
            await patient.read(100)

    asyncio.run(life())


def test_a_cancellation_closes_nothing_that_is_somebody_else_s() -> None:
    """Whoever read the connection was to be ended, and hears of both at once."""

    async def life() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"answer")
        patient = Patient(reader)
        assert await patient.read(100)

        async def read_on() -> bytes:
            work(0.004)
            patient.let_go()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return await patient.read(100)

        with pytest.raises(LetGo):
            await asyncio.ensure_future(read_on())

    asyncio.run(life())


class Full:
    """A writer that has something to drain."""

    async def drain(self) -> None:
        await asyncio.sleep(10)


@pytest.mark.parametrize("left", [False, True], ids=["its own", "somebody else's"])
def test_a_cancellation_while_writers_drain(left: bool) -> None:
    async def life() -> None:
        handler: Any = SimpleNamespace(transports={}, _drain_lock=asyncio.Lock())
        task = asyncio.ensure_future(_drain_writers(handler))
        mine = SimpleNamespace(handler=task, writer=None)
        handler.transports["client"] = SimpleNamespace(handler=None, writer=Full())
        if not left:
            handler.transports["upstream"] = mine
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(LetGo if left else asyncio.CancelledError):
            await task

    asyncio.run(life())


def reads(data: bytes, size: int = 65535) -> list[int]:
    """The lengths of what a reader gives of data that costs no work."""

    async def read() -> list[int]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        patient, found = Patient(reader), []
        while piece := await patient.read(size):
            found.append(len(piece))
        return found

    return asyncio.run(read())


@pytest.mark.parametrize(
    "unit",
    [b"a" * 100 + b"\n", b"\x17\x03" * 50, bytes(range(256)), b"data: x\n\n" * 4 + b":" * 200],
    ids=["lines", "one", "any", "events"],
)
def test_what_looks_like_little_work_is_given_as_it_came(unit: bytes) -> None:
    data = (unit * (50_000 // len(unit)))[:50_000]
    assert reads(data) == [len(data)]


@pytest.mark.parametrize("unit", [b"1\r\na\r\n", b"\x81\x80\0\0\0\0", b"\x81\x01a", b"a:\n", b"\0\0\0\6\1\0\0\0\0"])
def test_of_what_looks_like_much_less_is_given_until_it_proves_little(unit: bytes) -> None:
    data = unit * (60_000 // len(unit))
    found = reads(data)
    assert found[0] == 1 << 12
    assert found[1] == 1 << 13
    assert sum(found) == len(data)


def test_no_more_is_given_than_is_asked_for() -> None:
    assert reads(b"a" * 1000, 300) == [300, 300, 300, 100]


# -- what comes through TLS


class Tunnel:
    """In the place of a tunnel."""


def given(data: bytes) -> list[bytes]:
    """What the layers above TLS are given of one read, with b"" for each pause."""

    def stock(_tunnel: Any, event: events.DataReceived) -> Any:
        yield event.data

    event = events.DataReceived(Server(address=("example.com", 443)), data)
    said = _in_pieces(stock, cast(TunnelLayer, Tunnel()), event)
    return [b"" if isinstance(each, commands.Log) else each for each in said]


def test_what_was_in_cipher_is_given_a_little_at_a_time_where_it_is_much_work() -> None:
    frames = (b"\0\0\0\0\0\0\0\0\1" * 7000)[:60_000]
    pieces = given(frames)
    assert b"".join(pieces) == frames
    assert max(map(len, pieces)) == 4096
    assert pieces[1::2] == [b""] * (len(pieces) // 2)


@pytest.mark.parametrize("data", [b"data: hello\n\n" * 300, bytes(range(32, 127)) * 600, b"\0" * 4096])
def test_anything_else_is_given_as_it_came(data: bytes) -> None:
    assert given(data) == [data]
