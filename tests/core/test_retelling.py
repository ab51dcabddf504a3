"""What a stream of an upstream's amounts to while it is retold, wherever it is damaged or left."""

import json
from typing import Any

import pytest

from addons.core.retelling import Retelling
from addons.core.slices import at_once


def event(text: str | None, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def retold(*pieces: bytes, size: int = 1 << 20) -> tuple[Retelling, str]:
    """A stream that came in these pieces, or in smaller ones, to its end."""
    retelling, told = Retelling(9999), b""
    for piece in pieces:
        for start in range(0, len(piece), size):
            told += retelling.feed(piece[start : start + size])
    told += retelling.close()
    events: list[Any] = [json.loads(each.removeprefix(b"data: ")) for each in told.split(b"\n\n")[:-1]]
    return retelling, "".join(each["delta"] for each in events)


DAMAGED = {
    "cut off": event("lost")[:-6] + b"\n\n",
    "its start is lost": event("lost").replace(b'data: {"cho', b"data: "),
    "two in one": b"data: " + event("lost")[6:-2] * 2 + b"\n\n",
    "a line break inside": event("lost").replace(b"lost", b"lo\ndata: st"),
    "Python's": b"data: {'choices': [{'delta': {'content': 'lost'}}]}\n\n",
    "nested too deep": b'data: {"a":' + b"[" * 900 + b"]" * 900 + b"}\n\n",
    "too many values": b'data: {"a":[' + b"1," * 30_000 + b"1]}\n\n",
    "blanks before it": b"data:   {nonsense\n\n",
    "a byte order mark before it": b"data: \xef\xbb\xbf" + event("lost")[6:],
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("size", [1 << 20, 7])
def test_an_event_that_cannot_be_read_makes_the_answer_none(damaged: bytes, size: int) -> None:
    retelling = Retelling(1 << 20)
    stream = event("one ") + damaged + event("three", "stop") + b"data: [DONE]\n\n"
    for start in range(0, len(stream), size):
        retelling.feed(stream[start : start + size])
    assert (retelling.unreadable, retelling.over, retelling.whole) == (True, True, False)
    assert not retelling.overflowed


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_so_it_is_with_a_stream_that_is_read_whole(body: bytes) -> None:
    retelling = Retelling(1 << 20)
    at_once(retelling.reading(event("one ") + body + event("three", "stop")))
    assert retelling.unreadable and not retelling.whole


HARMLESS = [b": ping\n\n", b"data: ping\n\n", b"data:\n\n", b"data: null\n\n", b"data: [PING]\n\n", b'data: ["x"]\n\n']


@pytest.mark.parametrize("other", HARMLESS, ids=repr)
def test_what_can_be_no_piece_of_it_is_passed_over(other: bytes) -> None:
    retelling, text = retold(event("one "), other, event("two", "stop"), other)
    assert (retelling.unreadable, retelling.whole, text) == (False, True, "one two")


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_behind_the_finish_reason_nothing_is_lost_any_more(damaged: bytes) -> None:
    retelling, text = retold(event("all", "stop"), damaged[:9000])
    assert (retelling.unreadable, retelling.whole, text) == (False, True, "all")


LEFT = [b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]\r", b"data:[DONE]", b"id: 7\ndata: [DONE]\n"]


@pytest.mark.parametrize("last", LEFT, ids=repr)
@pytest.mark.parametrize("size", [1 << 20, 5, 1])
def test_done_is_an_end_without_its_blank_line(last: bytes, size: int) -> None:
    retelling, text = retold(event("all") + last, size=size)
    assert (retelling.over, retelling.whole, text) == (True, True, "all")


@pytest.mark.parametrize("last", [b"data: [DON", b"data: [DONE] or not\n", b"x: [DONE]\n", b"data: x\ndata: [DONE]\n"])
def test_what_only_looks_like_it_is_no_end(last: bytes) -> None:
    assert not retold(event("all") + last)[0].whole


ERRORS = {
    "in words": b"event: error\ndata: the model is on fire\n\n",
    "without its blank line": b'data: {"error": {"message": "the model is on fire"}}\n',
    "without any": b'data: {"error": {"message": "the model is on fire"}}',
    "in a list": b'data: [{"error": {"message": "the model is on fire"}}]\n\n',
}


@pytest.mark.parametrize("last", ERRORS.values(), ids=ERRORS)
def test_an_error_is_told(last: bytes) -> None:
    retelling, text = retold(event("some") + last)
    assert (retelling.over, retelling.whole, retelling.unreadable, text) == (True, False, False, "some")
    assert retelling.completion.error == {"message": "the model is on fire"}


def test_an_answer_without_its_end_is_cut_off() -> None:
    retelling, text = retold(event("some") + event("more", "stop")[:-2])
    assert (retelling.over, retelling.whole, text) == (False, False, "some")


# -- JSON where events were announced


def whole(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()


BEFORE = [b"", b"\xef\xbb\xbf", b"\r\n\n \t"]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("size", [1 << 20, 7, 1])
def test_a_whole_completion_is_one(before: bytes, size: int) -> None:
    retelling, told = retold(before + whole('it ends in "}]" \\'), size=size)
    assert told == retelling.completion.text == 'it ends in "}]" \\'
    assert retelling.whole and retelling.over and not (retelling.overflowed or retelling.unreadable)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("size", [1 << 20, 7, 1])
@pytest.mark.parametrize(
    "body", [b'{"error": {"message": "no"}}', b'[{"error": {"message": "no"}}]', b'{"detail": "no"}']
)
def test_an_error_is_told_as_soon_as_it_is_there(before: bytes, body: bytes, size: int) -> None:
    retelling = Retelling(9999)
    data = before + body
    for start in range(0, len(data), size):
        assert not retelling.over
        retelling.feed(data[start : start + size])
    assert retelling.over and retelling.completion.error is not None
    assert "no" in retelling.completion.error.values()
    assert retelling.feed(event("later")) == retelling.close() == b""


@pytest.mark.parametrize("body", [b'{"choices": [', b"{nonsense}", b"[}", b'{"a": "', b"{" * 900 + b"}" * 900])
def test_what_is_no_json_after_all_is_unreadable(body: bytes) -> None:
    retelling, told = retold(body)
    assert retelling.unreadable and retelling.over and not retelling.whole and not told


def test_json_that_is_too_long_overflows() -> None:
    retelling = Retelling(100)
    retelling.feed(whole("x" * 60))
    retelling.feed(b" " * 60)
    assert retelling.overflowed


@pytest.mark.parametrize("size", [1 << 20, 7])
@pytest.mark.parametrize("text", [b'{"code": 500, "message": "no"}', b"no"])
def test_a_field_that_is_called_error_is_one(text: bytes, size: int) -> None:
    retelling, _ = retold(event("one"), b"error: " + text + b"\n\n", event("later"), size=size)
    assert retelling.over and not retelling.whole
    assert retelling.completion.error is not None and retelling.completion.error["message"] == "no"
    assert retelling.completion.text == "one"


# A key that is not told

HIDDEN = "sk-real-MARKx-0123456789"


def told_deltas(*pieces: bytes) -> list[str]:
    retelling = Retelling(9999, HIDDEN)
    said = [*(retelling.feed(piece) for piece in pieces), retelling.close()]
    return [json.loads(each.removeprefix(b"data: "))["delta"] for each in b"".join(said).split(b"\n\n")[:-1]]


def test_a_key_is_not_told_however_it_is_written() -> None:
    escaped = event(HIDDEN).replace(b"sk-", b"\\u0073k\\u002d")
    assert told_deltas(event("你: "), escaped, event("!", "stop")) == ["你: ", "*" * len(HIDDEN), "!"]


@pytest.mark.parametrize("cut", range(1, len(HIDDEN)))
def test_a_key_is_not_told_in_two_deltas(cut: int) -> None:
    told = "".join(told_deltas(event(f"你{HIDDEN[:cut]}"), event(f"{HIDDEN[cut:]}好", "stop")))
    begun = HIDDEN[:cut] if cut <= 8 else ""
    assert told == f"你{begun}{'*' * (len(HIDDEN) - len(begun))}好"


def test_a_key_that_is_cut_off_is_not_told_at_the_end() -> None:
    assert told_deltas(event("it is sk-real-MARK"), event(None, "stop"), b"data: [DONE]\n\n") == ["it is ", "*" * 12]
    assert told_deltas(event("it is sk-real-"), event(None, "stop")) == ["it is sk-real-"]


def test_a_whole_completion_in_place_of_a_stream_holds_no_key_either() -> None:
    body = {"choices": [{"index": 0, "message": {"content": f"it is {HIDDEN}"}, "finish_reason": "stop"}]}
    assert told_deltas(json.dumps(body).encode()) == [f"it is {'*' * len(HIDDEN)}"]
