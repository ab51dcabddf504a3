import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addons.core.sse import Event, Parser

CHAT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'


def parse(stream: bytes, *cuts: int, max_event: int = 1 << 20) -> tuple[list[Event], Parser]:
    """The events of a stream that arrives in packets, cut at these offsets."""
    parser = Parser(max_event)
    events: list[Event] = []
    for start, end in pairwise([0, *sorted(cuts), len(stream)]):
        events += parser.feed(stream[start:end])
    events += parser.close()
    return events, parser


def state(parser: Parser) -> tuple[object, ...]:
    return parser.oversized, parser.pending, parser.retry, parser.last_id


def naive(stream: bytes) -> list[Event]:
    """The standard's algorithm word for word, on a whole stream."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events: list[Event] = []
    data, kind, last_id, seen_id, retry = "", "", None, None, None
    for line in text.split("\n")[:-1]:
        if line == "":
            last_id = seen_id
            if data:
                events.append(Event(data.removesuffix("\n"), kind or "message", last_id, retry))
            data, kind, retry = "", "", None
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            kind = value
        elif field == "id" and "\0" not in value:
            seen_id = value
        elif field == "retry" and value and set(value) <= set("0123456789"):
            retry = int(value)
    return events


ENDS = (b"\n", b"\r", b"\r\n", b"\n\n")
FIELDS = (b"data", b"data:", b"data: ", b"data:  ", b"event: ", b"event:x", b"id:", b"id: 7", b"id: a\0b", b"retry: 10")
SLIPS = (b":", b": note", b" ", b"\0", b"retry:", b"retry: 1x", b"Data: ", b"datax:", b"\xef\xbb\xbf", b"\xe4", b"\xff")
TEXT = ("你".encode(), "🎉".encode(), "\u2028\x85\x0b\x0c\x1c".encode(), b"[DONE]", b"x")
streams = st.lists(st.sampled_from(ENDS + FIELDS + SLIPS + TEXT), max_size=40).map(b"".join)


@given(streams, st.data())
def test_any_cut_gives_the_same_events_as_the_whole(stream: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    max_event = data.draw(st.sampled_from([4, 10, 25, 1 << 20]))
    whole, parser = parse(stream, max_event=max_event)
    cut, cut_parser = parse(stream, *cuts, max_event=max_event)
    assert cut == whole
    assert state(cut_parser) == state(parser)
    assert cut_parser.remainder == parser.remainder
    bytewise, byte_parser = parse(stream, *range(len(stream)), max_event=max_event)
    assert bytewise == whole
    assert state(byte_parser) == state(parser)
    assert byte_parser.remainder == parser.remainder


@given(streams)
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n")
@example(b"data: \xe4\xbd\ndata: x\r\r\n")
def test_events_are_those_of_the_standard(stream: bytes) -> None:
    assert parse(stream)[0] == naive(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
            [Event("first event", id="1"), Event("second event", id="")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
        (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
        (b"event: add\ndata: 738\n\nevent: remove\ndata: 2153\n\n", [Event("738", "add"), Event("2153", "remove")]),
    ],
    ids=["stock ticker", "comment, ids and an unfinished event", "empty data", "optional blank", "named events"],
)
def test_examples_of_the_standard(stream: bytes, events: list[Event]) -> None:
    assert parse(stream)[0] == events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"\xef\xbb\xbfdata: x\n\n", [Event("x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: x\r\rdata: y\r\n\r\n", [Event("x"), Event("y")]),
        ("data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode(), [Event("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg")]),
        (b"data: \xe4\xbd\n\n", [Event("\ufffd")]),
        (
            b"id: 1\n\ndata: x\n\nid: 2\0\ndata: y\n\nid\ndata: z\n\n",
            [Event("x", id="1"), Event("y", id="1"), Event("z", id="")],
        ),
        (b"retry: 3000\ndata: x\n\ndata: y\n\n", [Event("x", retry=3000), Event("y")]),
        (
            "retry: \u0661\nretry: -1\nretry: +1\nretry: 1_0\nretry: 1.0\nretry:\nretry\ndata: x\n\n".encode(),
            [Event("x")],
        ),
        (b"retry: " + b"9" * 5000 + b"\ndata: x\n\n", [Event("x")]),
        (b"event: a\n\ndata: x\n\n", [Event("x")]),
        (b"event: a\nevent:\ndata: x\n\n", [Event("x")]),
        (b"DATA: x\n data: x\ndata : x\nfoo\n\n", []),
        (b"data: a: b\n\n", [Event("a: b")]),
        (b"data:\x00\n\n", [Event("\0")]),
        (b": ping\ndata: x\n: ping\n\n: ping\n\n", [Event("x")]),
        (b"\n\r\n\r\r\n\n", []),
    ],
    ids=[
        "a byte order mark is removed",
        "only one",
        "cr and crlf end lines",
        "nothing else does",
        "a broken character is replaced",
        "an id holds on; with nul it is ignored",
        "retry is of its event",
        "retry takes ascii digits alone",
        "an endless retry is ignored",
        "a type without data is forgotten",
        "an empty type is message",
        "field names are exact",
        "only the first colon counts",
        "nul is data",
        "comments are nothing",
        "blank lines are nothing",
    ],
)
def test_rules_easy_to_miss(stream: bytes, events: list[Event]) -> None:
    assert parse(stream)[0] == events
    assert parse(stream, *range(len(stream)))[0] == events


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = Parser()
    assert parser.feed(b"data: x\r\n\r") == [Event("x")]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: y\r\n\r\n") == [Event("y")]


def test_retry_counts_without_data_too() -> None:
    assert parse(b"retry: 10\n\n")[1].retry == 10


@pytest.mark.parametrize(
    ("stream", "pending", "remainder"),
    [
        (CHAT, False, ""),
        (b"", False, ""),
        (CHAT + b": ping", False, ""),
        (CHAT + b": ping\n", False, ""),
        (CHAT + b"data: [DONE]\n", True, "[DONE]"),
        (CHAT + b"data: [DONE]", True, "[DONE]"),
        (CHAT + b"data: a\ndata: \xe4\xbd", True, "a\n\ufffd"),
        (CHAT + b"dat", True, ""),
        (CHAT + b"event: x\n", True, ""),
        (b"\xef\xbb", True, ""),
    ],
    ids=[
        "whole",
        "empty",
        "comment",
        "comment line",
        "one newline",
        "none",
        "cut text",
        "cut name",
        "no data",
        "cut BOM",
    ],
)
def test_what_is_left_at_the_end_is_told_but_no_event(stream: bytes, pending: bool, remainder: str) -> None:
    events, parser = parse(stream)
    assert len(events) == 2 * stream.startswith(CHAT)
    assert (parser.pending, parser.remainder) == (pending, remainder)


def test_feeding_a_closed_parser_is_a_mistake() -> None:
    parser = Parser()
    parser.close()
    with pytest.raises(ValueError, match="closed"):
        parser.feed(b"data: x\n\n")


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_an_event_over_the_bound_is_dropped_whole(step: int) -> None:
    long = b"event: long\nid: 9\ndata: " + b"x" * 200 + b"\ndata: tail\n\n"
    many = b"data\n" * 50 + b"\n"
    stream = b"data: before\n\n" + long + b"data: between\n\n" + many + b":" + b"c" * 500 + b"\ndata: after\n\n"
    events, parser = parse(stream, *range(0, len(stream), step), max_event=100)
    assert events == [Event("before"), Event("between"), Event("after")]
    assert state(parser) == (2, False, None, None)


def test_the_bound_is_exact() -> None:
    event = b"data: " + b"x" * 93 + b"\n"
    assert parse(event + b"\n", max_event=100)[0] == [Event("x" * 93)]
    assert parse(event + b"\n", max_event=99)[1].oversized == 1
    assert parse(event[:-1], max_event=99)[1].pending


@pytest.mark.parametrize("line", [b"data: x", b": x", b"x"], ids=["data", "comment", "unknown field"])
def test_an_endless_line_takes_no_memory(line: bytes) -> None:
    parser = Parser(1 << 16)
    chunk = b"x" * (1 << 16)
    parser.feed(line)
    tracemalloc.start()
    for _ in range(500):
        parser.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 18
    assert parser.feed(b"\n\ndata: y\n\n") == [Event("y")]


@pytest.mark.parametrize("line", [b"data: x\n", b"data\n", b": x\n", b"x\r", b"\n", b"x" * 997], ids=repr)
def test_time_is_linear_however_the_stream_is_cut(line: bytes) -> None:
    def seconds(size: int, step: int) -> float:
        stream = line * (size // len(line)) + b"\n\n"
        parser = Parser(1 << 25)
        began = time.process_time()
        for start in range(0, len(stream), step):
            parser.feed(stream[start : start + step])
        return time.process_time() - began

    # Quadratic work would take minutes at these sizes.
    assert seconds(8 << 20, 1 << 30) < 20
    assert seconds(1 << 18, 1) < 5


@pytest.mark.parametrize("offset", range(-4, 3))
def test_a_large_chunk_is_read_as_one(offset: int) -> None:
    # Chunks are worked through in slices of 64 KiB: the end of a line, and of an event, may lie on the seam.
    text = "x" * ((1 << 16) - len("data: ") + offset)
    stream = f"data: {text}\r\n\r\ndata: 你\r\n\r\n".encode()
    assert parse(stream)[0] == [Event(text), Event("你")]
