"""Taking out the chunk that a client did not ask for, and not another byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.usage_chunk import UsageChunk


def event(value: object, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(value)}{end}".encode()


def text(words: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": words}}], "usage": None})


USAGE = event({"id": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
DONE = b"data: [DONE]\n\n"


def passed(*chunks: bytes) -> list[bytes]:
    chunk = UsageChunk()
    return [chunk.feed(each) for each in (*chunks, b"")]


def test_whole_events_pass_at_once() -> None:
    assert passed(text("a"), text("b") + text("c"), USAGE, DONE) == [text("a"), text("b") + text("c"), b"", DONE, b""]
    assert passed(text("a") + USAGE + DONE) == [text("a") + DONE, b""]


KEPT = {
    "usage beside choices": event({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}),
    "no usage": event({"choices": [], "usage": None}),
    "Azure's first chunk": event({"choices": [], "prompt_filter_results": []}),
    "a model that writes of it": text('{"choices":[],"usage":{}}'),
    "an error": event({"error": {"message": 'choices [] "usage"'}}),
    "no JSON": b'data: {"choices":[],"usage":{"\n\n',
    "a comment": b': "usage" "choices"\n\n',
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_what_looks_like_it_stays(kept: bytes) -> None:
    assert b"".join(passed(text("a"), kept, DONE)) == text("a") + kept + DONE


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_lines_may_end_in_three_ways(end: str) -> None:
    usage = event({"choices": [], "usage": {"total_tokens": 1}}, end)
    first, last = event({"choices": [1]}, end), f"data: [DONE]{end}".encode()
    assert b"".join(passed(first + usage + last)) == first + last


@given(st.data())
def test_however_it_is_cut_the_same_comes_out(data: st.DataObject) -> None:
    pieces = data.draw(
        st.lists(st.sampled_from([text("a"), text("你好"), USAGE, KEPT["usage beside choices"]]), max_size=6)
    )
    whole = b"".join([*pieces, DONE])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]
    assert b"".join(passed(*chunks)) == whole.replace(USAGE, b"")


def test_a_break_leaves_what_had_come() -> None:
    half = text("b")[:-5]
    assert b"".join(passed(text("a"), half)) == text("a") + half


def test_an_event_that_is_too_long_passes_as_it_comes() -> None:
    long = b'data: {"b64": "' + b"x" * 200_000
    chunk = UsageChunk()
    assert chunk.feed(long) == long
    assert chunk.feed(b"y" * 1000) == b"y" * 1000
    assert chunk.feed(b'"}\n\n' + USAGE[:10]) == b'"}\n\n'
    assert chunk.feed(USAGE[10:] + DONE) == DONE
