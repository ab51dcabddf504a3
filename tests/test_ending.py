"""When an event stream has told its last event, however its bytes are cut."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.ending import Ending, ended

CHUNK = (
    b'data: {"object":"chat.completion.chunk",'
    b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
)
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
BOTH = b'data: {"usage":{"prompt_tokens":1},"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
COUNTED = CHUNK.replace(b"{", b'{"usage":{"prompt_tokens":1},', 1)
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n'

FINISHED = {
    "[DONE]": CHUNK + b"data: [DONE]\n\n",
    "[DONE] alone": b"data: [DONE]\n",
    "[DONE] without a blank": CHUNK + b"data:[DONE]\r\n\r\n",
    "a finish reason, and usage in the next event": CHUNK + STOP + USAGE,
    "both in one event": CHUNK + BOTH,
    "usage all the time": COUNTED + COUNTED + STOP + COUNTED,
    "something behind it": CHUNK + STOP + USAGE + b": ping\n\n",
    "response.completed": COMPLETED,
    "response.failed": COMPLETED.replace(b"completed", b"failed"),
    "response.incomplete": COMPLETED.replace(b"completed", b"incomplete").replace(b"\n", b"\r\n"),
    "a large last event": COMPLETED.replace(b'"r"', b'"' + b"r" * 300_000 + b'"'),
    "a type without an event's name": COMPLETED.partition(b"\n")[2],
    "lines that end in CR": COMPLETED.replace(b"\n", b"\r"),
    "message_stop": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
}

UNFINISHED = {
    "nothing": b"",
    "a chunk": CHUNK,
    "a finish reason alone": CHUNK + STOP,
    "usage all the time, and no end": COUNTED * 3,
    "usage before the reason": COUNTED + STOP,
    "a token that is cut": CHUNK + b"data: [DONE",
    "a last event that is under way": COMPLETED[:-1],
    "usage that is under way": CHUNK + STOP + USAGE[:-2],
    "words about an end": b"data: "
    + json.dumps({"delta": 'data: [DONE]\n\nevent: response.completed\n\n"finish_reason":"stop" "usage":{}'}).encode()
    + b"\n\n",
    "an end in another field": b"id: data: [DONE]\n\nevent: my.response.completed\ndata: x\n\n",
    "another type": b'data: {"type":"response.completed_later"}\n\n',
}


@pytest.mark.parametrize("stream", FINISHED.values(), ids=FINISHED)
def test_the_last_event(stream: bytes) -> None:
    assert ended(stream)


@pytest.mark.parametrize("stream", UNFINISHED.values(), ids=UNFINISHED)
def test_no_last_event(stream: bytes) -> None:
    assert not ended(stream)


@pytest.mark.parametrize("stream", [*FINISHED.values(), *UNFINISHED.values()], ids=[*FINISHED, *UNFINISHED])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_however_it_is_cut(stream: bytes, size: int) -> None:
    if size == 1:
        stream = stream.replace(b"r" * 300_000, b"r" * 3000)
    ending = Ending()
    for start in range(0, len(stream), size):
        ending.feed(stream[start : start + size])
    assert ending.finished == ended(stream)


def test_it_counts_once_its_blank_line_is_there() -> None:
    ending = Ending()
    ending.feed(CHUNK + COMPLETED[:-1])
    assert not ending.finished
    ending.feed(b"\n")
    assert ending.finished


@given(st.lists(st.sampled_from([CHUNK, STOP, COUNTED, b"\n", b"\r\n", b'"usage":{', b"data: ", b"[DON", b"x" * 90])))
def test_nothing_that_is_no_end_is_one(pieces: list[bytes]) -> None:
    ending = Ending()
    for piece in pieces:
        ending.feed(piece)
        assert len(ending._tail) <= 96
    joined = b"".join(pieces)
    assert not ending.finished or (b'"finish_reason":"stop"' in joined and b'"usage":{' in joined)


@pytest.mark.parametrize("piece", [CHUNK, b'"finish_reason":', b"[DONE]", b'"usage" ', b"response.completed", b"\n"])
def test_it_is_linear(piece: bytes) -> None:
    def took(count: int) -> float:
        chunks = [piece * 50] * count
        ending = Ending()
        begun = time.process_time()
        for chunk in chunks:
            ending.feed(chunk)
        return time.process_time() - begun

    small = max(min(took(200) for _ in range(3)), 1e-4)
    assert min(took(1600) for _ in range(3)) < small * 8 * 6
