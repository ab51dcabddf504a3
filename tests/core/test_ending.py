"""When an event stream has told its last event, however its bytes are cut."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.ending import MAX_HELD, Ending, ended

CHUNK = (
    b'data: {"object":"chat.completion.chunk",'
    b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
)
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
BOTH = b'data: {"usage":{"prompt_tokens":1},"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
COUNTED = CHUNK.replace(b"{", b'{"usage":{"prompt_tokens":1},', 1)
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n'

GEMINI = (
    b'data: {"candidates": [{"content": {"parts": [{"text": "hi"}]},"finishReason": "STOP","index": 0}],'
    b'"usageMetadata": {"promptTokenCount": 3},"modelVersion": "gemini-2.5-pro"}\r\n\r\n'
)
TWO = CHUNK.replace(b'"index":0', b'"index":1')
USED = b'"usage":{"prompt_tokens":1}'


def used(event: bytes) -> bytes:
    """A chunk that counts, as each does with vLLM's `continuous_usage_stats`."""
    return (
        event.replace(b'"usage":null', USED) if b'"usage":null' in event else event.replace(b"{", b"{" + USED + b",", 1)
    )


LAST_KEY = b'data: {"response":{"id":"r","type":"x"},"sequence_number":9,"type":"response.completed"}\n\n'
HUGE = b"r" * (3 << 20)

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
    "a type that is not the first key": LAST_KEY,
    "a type behind a large answer": LAST_KEY.replace(b'"r"', b'"' + b"r" * 300_000 + b'"'),
    "a name without a type": b'event: response.completed\ndata: {"response":{}}\n\n',
    "a name behind its data": b'data: {"response":{}}\nevent: response.completed\n\n',
    "a name without a blank": b"event:message_stop\ndata: {}\n\n",
    "a last event that is too large to be held": COMPLETED.replace(b'"r"', b'"' + HUGE + b'"'),
    "one behind an event that is": b"data: " + HUGE + b"\n\n" + COMPLETED,
    "[DONE] behind an event that is": b"data: " + HUGE + b"\n\ndata: [DONE]\n",
    "[DONE] with an id": CHUNK + b"id: 7\ndata: [DONE]\n",
    "two choices": used(CHUNK) + used(TWO) + used(STOP) + used(TWO) + used(STOP.replace(b'"index":0', b'"index":1')),
    "two choices, usage at last": CHUNK + TWO + STOP + STOP.replace(b'"index":0', b'"index":1') + USAGE,
    "Gemini's last piece": GEMINI.replace(b'"finishReason": "STOP",', b"") + GEMINI,
    "usage in the choice": CHUNK + STOP.replace(b'"delta":{}', b'"delta":{},' + USED),
    "calls of tools, which are no choices": CHUNK.replace(b'"content":"hi"', b'"tool_calls":[{"index":1}]') + BOTH,
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
    "one of two choices, usage all the time": used(CHUNK) + used(TWO) + used(STOP) + used(TWO),
    "one of two choices, and usage": CHUNK + TWO + STOP + USAGE,
    "the second of two choices": CHUNK + TWO + used(STOP.replace(b'"index":0', b'"index":1')),
    "an event that is too large, of another name": COMPLETED.replace(b"completed", b"created").replace(b"r", HUGE, 1),
    "words about an end in a type's place": b'data: {"text":"response.completed","type":"message"}\n\n',
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
    if size < 1000:
        stream = stream.replace(HUGE, b"r" * 3000).replace(b"r" * 300_000, b"r" * 3000)
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
    joined = b"".join(pieces)
    assert not ending.finished or (b'"finish_reason":"stop"' in joined and b'"usage":{' in joined)


def test_what_is_held_is_bounded() -> None:
    ending = Ending()
    for _ in range(100):
        ending.feed(b"x" * (1 << 16))
        assert len(ending._held) <= MAX_HELD
    ending.feed(b"\n\n" + COMPLETED)
    assert ending.finished


LONG = b'"output":"' + b"x" * (MAX_HELD + 70_000) + b'"'


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"sequence_number":9,"type":"response.completed","response":{' + LONG + b"}}\n\n",
        b'data: {"response":{' + LONG + b'},"sequence_number":9,"type":"response.completed"}\n\n',
        b'data: {"response":{' + LONG + b'}, "type": "response.incomplete", "sequence_number": 9}\r\n\r\n',
    ],
)
@pytest.mark.parametrize("size", [1 << 16, MAX_HELD + 5000, 1 << 22])
def test_the_type_of_a_long_event_may_stand_anywhere_near_its_ends(event: bytes, size: int) -> None:
    stream = CHUNK + event
    ending = Ending()
    for start in range(0, len(stream), size):
        assert not ending.finished
        ending.feed(stream[start : start + size])
    assert ending.finished


MANY = b'"output":[' + b"1," * 30_000 + b"1]"


@pytest.mark.parametrize(
    ("event", "last"),
    [
        (b'data: {"type":"response.completed","response":{' + MANY + b"}}\n\n", True),
        (b'data: {"response":{' + MANY + b'},"type":"response.failed"}\n\n', True),
        (b"data: {" + MANY + b',"item":{"type":"response.completed"}}\n\n', False),
    ],
)
def test_an_event_of_too_many_values_is_judged_by_its_ends(event: bytes, last: bool) -> None:
    assert ended(CHUNK + event) is last


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"item":{"type":"response.completed","a":1},' + LONG + b"}\n\n",
        b'data: {"seen":["a",{"type":"response.failed"}],' + LONG + b"}\n\n",
        b"data: {" + LONG + b',"item":{"a":1,"type":"response.completed"}}\n\n',
        b"data: {" + LONG + b',"seen":[{"type":"response.completed"}],"last":true}\n\n',
    ],
)
@pytest.mark.parametrize("size", [1 << 16, 1 << 22])
def test_a_long_event_that_holds_something_of_such_a_type_is_none(event: bytes, size: int) -> None:
    ending = Ending()
    for start in range(0, len(event), size):
        ending.feed(event[start : start + size])
    assert not ending.finished


def test_a_long_event_that_quotes_one_is_none() -> None:
    quoted = LONG[:-1] + b'\\"type\\":\\"response.completed\\""'
    ending = Ending()
    ending.feed(b'data: {"type":"response.output_text.done",' + quoted + b"}\n\n")
    assert not ending.finished
    ending.feed(COMPLETED)
    assert ending.finished


CALL = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1}]}}]}\n\n'


@pytest.mark.parametrize("sign", [CALL, b'data: {"index":1}\n\n', b'data: "finish_reason":"x"\n\n'])
def test_behind_very_many_signs_only_a_mark_is_an_end(sign: bytes) -> None:
    ending = Ending()
    for _ in range(40):
        ending.feed(sign * 100)
    ending.feed(CHUNK + BOTH)
    assert not ending.finished
    ending.feed(b"data: [DONE]\n")
    assert ending.finished


def test_a_stream_that_is_all_marks_is_not_watched_for_long() -> None:
    ending = Ending()
    for _ in range(40):
        ending.feed(b'data: {"text":"[DONE]"}\n\n' * 100)
    ending.feed(b"data: [DONE]\n\n")
    assert not ending.finished


@pytest.mark.parametrize(
    "piece", [CHUNK, TWO, LAST_KEY[:-9], b'"finish_reason":', b"[DONE]", b'"usage" ', b"response.completed", b"\n"]
)
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
