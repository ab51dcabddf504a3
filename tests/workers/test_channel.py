import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.workers import channel
from addons.workers.channel import HIGH, Frame, FrameTooLarge, Unpacker, Wire, pack, receive
from tests.support.pairs import settle, socketpair

heads = st.lists(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text())), min_size=1)


@given(st.lists(st.tuples(heads, st.binary()), max_size=5), st.data())
def test_frames_arrive_however_they_are_cut(sent: list[tuple[list[object], bytes]], data: st.DataObject) -> None:
    wire = b"".join(pack(head, body) for head, body in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    unpacker, got = Unpacker(), list[tuple[list[object], bytes]]()
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        unpacker.feed(wire[start:end])
        while (frame := unpacker.next()) is not None:
            got.append((frame.head, frame.body))
    assert got == sent


def test_lone_surrogates_arrive() -> None:
    unpacker = Unpacker()
    unpacker.feed(pack(["failed", 1, "\ud800 \U0001f600"]))
    assert unpacker.next() == Frame(["failed", 1, "\ud800 \U0001f600"])


def test_a_frame_over_the_cap_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "FRAME_CAP", 100)
    exactly = len(pack(["save"], b"x" * 91))
    assert exactly == 4 + 100
    with pytest.raises(FrameTooLarge, match="101 bytes; at most 100"):
        pack(["save"], b"x" * 92)


@pytest.mark.parametrize(
    "junk",
    [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x03abc"],
    ids=["a length over the cap", "nothing in it", "an object", "an empty array", "no JSON"],
)
def test_junk_is_no_frame(junk: bytes) -> None:
    unpacker = Unpacker()
    unpacker.feed(junk)
    with pytest.raises(ValueError):
        unpacker.next()


# The first frame, without a loop


def test_the_first_frame_is_read_and_not_a_byte_more() -> None:
    with socketpair() as (one, other):
        one.sendall(pack(["hello"], b"\x00\n\xff") + b"more")
        assert receive(other, 1) == Frame(["hello"], b"\x00\n\xff")
        assert other.recv(9) == b"more"


@pytest.mark.parametrize("said", [b"", b"\x00\x00", b"\x00\x00\x00\x09[1"], ids=["nothing", "half a length", "half"])
def test_the_first_frame_has_its_time(said: bytes) -> None:
    with socketpair() as (one, other):
        one.sendall(said)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            receive(other, 0.05)
        assert time.monotonic() - began < 2


def test_an_end_before_the_first_frame_is_told() -> None:
    with socketpair() as (one, other):
        one.sendall(b"\x00\x00\x00\x09[1")
        one.close()
        with pytest.raises(ConnectionResetError):
            receive(other, 5)


# In a loop


class End:
    """One end of a pair, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[Frame] = []
        self.closed = 0
        self.wire = Wire(sock, self.heard.append, self._closed)

    def _closed(self) -> None:
        self.closed += 1


@contextlib.contextmanager
def ends() -> Iterator[tuple[End, End]]:
    """Both ends of a pair, not started yet."""
    one, other = (End(sock) for sock in socket.socketpair())
    try:
        yield one, other
    finally:
        one.wire.close()
        other.wire.close()


def test_frames_go_both_ways() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.send(pack(["before the loop"]))
            one.wire.start()
            other.wire.start()
            for number in range(3):
                one.wire.send(pack([number], b"x"))
                other.wire.send(pack([-number]))
            await settle()
            assert other.heard == [Frame(["before the loop"]), *(Frame([number], b"x") for number in range(3))]
            assert one.heard == [Frame([-number]) for number in range(3)]

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["before the loop", "in the loop"])
def test_what_a_socket_does_not_hold_arrives(when: str) -> None:
    async def scenario() -> None:
        large = [Frame([number], bytes([number]) * 3_000_000) for number in range(3)]
        with ends() as (one, other):
            if when == "in the loop":
                one.wire.start()
            for frame in large:
                one.wire.send(pack(*frame))
            if when == "before the loop":
                one.wire.start()
            other.wire.start()
            async with asyncio.timeout(20):
                while len(other.heard) < 3:
                    await asyncio.sleep(0)
            assert other.heard == large

    asyncio.run(scenario())


def test_the_other_end_s_going_is_told_once() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            other.wire.start()
            one.wire.close()
            one.wire.close()
            one.wire.send(pack(["nobody"]))
            await settle()
            other.wire.close()
            assert (one.closed, other.closed) == (1, 1)

    asyncio.run(scenario())


def test_last_words_are_heard_though_nobody_listens_any_more() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            other.wire.send(pack(["save"], b"x" * 100_000))
            one.wire.send(pack(["never read"]))
            other.wire.close()  # killed
            one.wire.send(pack(["a reply to nobody"]))
            one.wire.send(pack(["another one"]))
            assert one.heard == []
            await settle()
            assert one.heard == [Frame(["save"], b"x" * 100_000)]
            assert one.closed == 1

    asyncio.run(scenario())


def test_a_frame_that_was_cut_off_is_dropped() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            other.wire._sock.send(pack(["whole"]) + pack(["half"])[:-1])
            other.wire.close()
            await settle()
            assert (one.heard, one.closed) == ([Frame(["whole"])], 1)

    asyncio.run(scenario())


def test_who_sends_much_waits_for_a_slow_reader() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            sent = 0

            async def send() -> None:
                nonlocal sent
                for number in range(100):
                    await one.wire.room()
                    one.wire.send(pack([number], b"x" * 100_000))
                    sent += 1

            sending = [asyncio.ensure_future(send()) for _ in range(3)]
            await settle()
            assert sent < 30
            assert len(one.wire._out) <= HIGH + 100_100
            other.wire.start()
            await asyncio.wait_for(asyncio.gather(*sending), 20)
            async with asyncio.timeout(20):
                while len(other.heard) < 300:
                    await asyncio.sleep(0)

    asyncio.run(scenario())


def test_nobody_waits_for_who_is_gone() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            one.wire.send(pack(["x"], b"x" * (2 * HIGH)))
            waiting = asyncio.ensure_future(one.wire.room())
            await settle()
            assert not waiting.done()
            other.wire.close()
            await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_a_send_that_fails_ends_the_channel_on_both_sides() -> None:
    class Failing(socket.socket):
        def send(self, *_: object) -> int:
            raise OSError(errno.ENOBUFS, "no buffer space")

    async def scenario() -> None:
        first, second = socket.socketpair()
        one, other = End(Failing(fileno=first.detach())), End(second)
        one.wire.start()
        other.wire.start()
        one.wire.send(pack(["lost"]))
        await settle()
        assert (one.closed, other.closed) == (1, 1)

    asyncio.run(scenario())


def test_a_pause_gives_no_frame_and_loses_none() -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            other.wire.start()

            def one_at_a_time(frame: Frame) -> None:
                other.heard.append(frame)
                other.wire.pause()

            other.wire._on_frame = one_at_a_time
            for number in range(5):
                one.wire.send(pack([number]))
            one.wire.close()
            for number in range(5):
                await settle()
                assert other.heard == [Frame([each]) for each in range(number + 1)]
                assert not other.closed
                other.wire.resume()
                other.wire.resume()
            await settle()
            assert other.closed == 1

    asyncio.run(scenario())


def test_junk_ends_the_channel(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            other.wire.start()
            one.wire.send(pack(["good"]) + b"\x00\x00\x00\x0csk-secret-xx" + pack(["after"]))
            await settle()
            assert other.heard == [Frame(["good"])]
            assert (one.closed, other.closed) == (1, 1)

    asyncio.run(scenario())
    assert "can't be read: JSONDecodeError" in caplog.text
    assert "sk-secret" not in caplog.text


def test_a_flush_sends_what_is_left_and_has_its_time() -> None:
    with ends() as (one, _):
        one.wire.send(pack(["x"], b"x" * 2_000_000))
        began = time.monotonic()
        one.wire.flush(0.05)
        assert 0.04 < time.monotonic() - began < 2
        assert one.wire._out

    async def scenario() -> None:
        with ends() as (one, other):
            one.wire.start()
            one.wire.send(pack(["x"], b"x" * 2_000_000))
            reading = asyncio.to_thread(receive, other.wire._sock, 5)
            task = asyncio.ensure_future(reading)
            await asyncio.sleep(0.01)
            one.wire.flush(5)
            assert not one.wire._out
            assert len((await task).body) == 2_000_000

    asyncio.run(scenario())
