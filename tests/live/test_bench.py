"""The benchmarks' own arithmetic, and a few idle streams in short; what they measure is not judged here."""

import sys

import pytest

from tests.bench import idle, workers

pytestmark = pytest.mark.alone

FIRST = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n26\r\ndata: {"delta":{"content":" word"}}\n\n\r\n'
LAST = b'2b\r\ndata: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n\r\n'
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("count", "others", "cores", "expected"),
    [
        pytest.param(1, 0.5, 2, 100, id="one worker has a core of its own all the same"),
        pytest.param(2, 0.5, 2, 100 * 2 / 1.5, id="two workers get back what was taken"),
        pytest.param(1, 1.5, 2, 200, id="one worker gets back what was taken of its core"),
        pytest.param(2, 0.5, 4, 100, id="nothing was taken where there are cores enough"),
        pytest.param(2, 0.5, 1, 200, id="a core that is not there is not counted"),
        pytest.param(2, 2.0, 2, 0, id="nothing was left"),
    ],
)
def test_the_generator_is_put_aside(count: int, others: float, cores: int, expected: float) -> None:
    assert workers.aside(100, count, others, cores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("came", "begun", "whole"),
    [
        pytest.param([FIRST], True, False, id="silent"),
        pytest.param([FIRST, LAST[:30], LAST[30:] + END], True, True, id="to its end"),
        pytest.param([FIRST, LAST], True, False, id="the body does not end"),
        pytest.param([FIRST, END], True, False, id="the last event is missing"),
        pytest.param([b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], False, False, id="refused"),
    ],
)
def test_a_stream_knows_whether_it_was_lost(came: list[bytes], begun: bool, whole: bool) -> None:
    stream = idle.Stream(b"")
    for data in came:
        stream.data_received(data)
    assert (stream.begun, stream.whole, stream.over.is_set()) == (begun, whole, whole)
    assert stream.answered.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_streams_come_to_their_end() -> None:
    relay, plain = idle.run(30, 0.5)
    assert not relay.fails and not plain.fails, idle.report([relay, plain])
    assert relay.begun == 30
    assert relay.opened["descriptors"] >= relay.before["descriptors"] + 60
