"""What an answer says of its usage, wherever it stands and however it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.answer_usage import AnswerUsage, Reported
from addons.core.metered import Metered
from tests.support import dialects


def event(value: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


def heard(*chunks: bytes, images: bool = False) -> Reported:
    answer = AnswerUsage(images=images, words=True)
    for chunk in chunks:
        answer.feed(chunk)
    return answer.told()


def delta(words: str, **more: Any) -> bytes:
    return event({"id": "x", "model": "gpt-4o-2024-08-06", "choices": [{"delta": {"content": words}}], **more})


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
DONE = b"data: [DONE]\n\n"

STREAMS: dict[str, tuple[bytes, Metered | None]] = {
    "in the last chunk": (delta("a") + event({"choices": [], "usage": USAGE}) + DONE, Metered(9, 4, 2)),
    "in a middle chunk": (delta("a") + delta("b", usage=USAGE) + delta("c", usage=None) + DONE, Metered(9, 4, 2)),
    "in every chunk, rising": (
        b"".join(delta("a", usage={"prompt_tokens": 9, "completion_tokens": n}) for n in range(5)) + DONE,
        Metered(9, 4),
    ),
    "in a last event without its blank line": (
        delta("a") + event({"choices": [], "usage": USAGE})[:-1],
        Metered(9, 4, 2),
    ),
    "in a last event without any end": (delta("a") + event({"choices": [], "usage": USAGE})[:-2], Metered(9, 4, 2)),
    "in a last event that was cut behind it": (
        delta("a") + b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}, "x": ',
        Metered(9, 4),
    ),
    "in a last event that was cut in it": (delta("a") + b'data: {"usage": {"prompt_tokens": 9, "completion', None),
    "with nulls behind what is known": (
        event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 3}}})
        + event({"type": "message_delta", "usage": {"input_tokens": None, "output_tokens": 7}}),
        Metered(8, 7, 3),
    ),
    "in no chunk": (delta("a", usage=None) + DONE, None),
    "at the choice": (event({"choices": [{"delta": {}, "usage": {"prompt_tokens": 3}}]}) + DONE, Metered(3)),
    "of a response": (
        event({"type": "response.created", "response": {"model": "gpt-5", "usage": None}}, "response.created")
        + event(
            {"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 6}}},
            "response.completed",
        ),
        Metered(5, 6),
    ),
    "of a response that was cut short": (
        event({"type": "response.incomplete", "response": {"usage": {"input_tokens": 5, "output_tokens": 6}}}),
        Metered(5, 6),
    ),
    "Anthropic's in two parts": (
        event({"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 3}}})
        + event({"type": "message_delta", "usage": {"output_tokens": 7}}),
        Metered(8, 7, 3),
    ),
    "in a text of the model alone": (delta('{"usage": {"prompt_tokens": 1000000}}') + DONE, None),
    "behind an error": (
        event({"choices": [], "usage": USAGE}) + event({"error": {"message": "x"}}),
        Metered(9, 4, 2),
    ),
}


@pytest.mark.parametrize(("stream", "usage"), STREAMS.values(), ids=STREAMS)
def test_usage_of_a_stream(stream: bytes, usage: Metered | None) -> None:
    assert heard(stream).usage == usage
    assert heard(*[stream[at : at + 1] for at in range(len(stream))]).usage == usage
    assert heard(stream.replace(b"\n", b"\r\n")).usage == usage


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 600), max_size=8))
def test_chunks_make_no_difference(name: str, cuts: list[int]) -> None:
    stream, usage = STREAMS[name]
    places = sorted(min(cut, len(stream)) for cut in cuts)
    pieces = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    assert heard(*pieces).usage == usage


def test_model_and_tier_are_those_that_were_served() -> None:
    told = heard(delta("a", service_tier="flex") + event({"choices": [], "usage": USAGE, "service_tier": "default"}))
    assert (told.model, told.asked) == (None, {"service_tier": "default"})
    told = heard(event({"type": "response.completed", "response": {"model": "gpt-5", "usage": {"input_tokens": 1}}}))
    assert told.model == "gpt-5"
    usage = {"input_tokens": 1, "cache_read_input_tokens": 0, "service_tier": "standard", "speed": "fast"}
    told = heard(json.dumps({"model": "claude-opus-4-6", "usage": usage}).encode())
    assert told.asked == {"service_tier": "standard", "speed": "fast"}


def test_pieces_are_counted_for_an_estimate() -> None:
    assert heard(*[delta("a")] * 20).pieces == 20
    assert heard(b": ping\n\n" * 5 + delta("a")).pieces == 1


def test_errors_are_noticed_and_words_about_them_are_not() -> None:
    assert heard(delta("a") + event({"error": {"message": "overloaded"}})).failed
    assert heard(event({"type": "error", "error": {}}, "error")).failed
    assert not heard(delta('an error {"error": 1}') + DONE).failed


def test_an_error_in_place_of_an_answer_is_noticed() -> None:
    assert heard(b'{"error": {"message": "overloaded"}}').failed
    assert not heard(b'{"error": null, "usage": {"input_tokens": 1}}').failed


ANSWERS: dict[str, tuple[bytes, Metered | None]] = {
    "a completion": (json.dumps({"model": "gpt-4o", "choices": [], "usage": USAGE}).encode(), Metered(9, 4, 2)),
    "with blanks and a mark before it": (b"\xef\xbb\xbf\n " + json.dumps({"usage": USAGE}).encode(), Metered(9, 4, 2)),
    "usage in a string": (json.dumps({"choices": [{"text": '"usage": {"prompt_tokens": 5}'}]}).encode(), None),
    "no JSON": (b"<html>", None),
    "nothing": (b"", None),
    "a long one, its usage at the end": (
        b'{"object":"list","data":[' + b"0.123," * 100_000 + b'1],"model":"m","usage":{"prompt_tokens":8}}',
        Metered(8),
    ),
    "a long one, its usage at the beginning": (
        b'{"usage":{"prompt_tokens":8},"model":"m","data":["' + b"x" * 500_000 + b'"]}',
        Metered(8),
    ),
    "a long one without": (b'{"data":["' + b"x" * 500_000 + b'"]}', None),
    "a long one that speaks of it": (
        b'{"data":["' + b"x" * 500_000 + b'\\"usage\\":{\\"prompt_tokens\\":8}"]}',
        None,
    ),
}


@pytest.mark.parametrize(("body", "usage"), ANSWERS.values(), ids=ANSWERS)
def test_usage_of_json(body: bytes, usage: Metered | None) -> None:
    told = heard(*[body[at : at + 65_536] for at in range(0, len(body), 65_536)])
    assert (told.usage, told.pieces, told.size) == (usage, 0, len(body))


def test_a_last_event_that_is_too_long_tells_at_its_end() -> None:
    text = "x" * (2 << 20)
    last = event({"type": "response.completed", "response": {"output": text, "usage": {"input_tokens": 5}}})
    told = heard(*[last[at : at + 10_000] for at in range(0, len(last), 10_000)], event({"type": "other"}))
    assert told.usage == Metered(5)


def test_a_last_event_that_is_too_long_and_has_no_end_is_heard() -> None:
    last = event({"type": "response.completed", "response": {"usage": {"input_tokens": 5}, "output": "x" * (1 << 20)}})
    told = heard(delta("a"), *[last[at : at + 10_000] for at in range(0, len(last) - 2, 10_000)])
    assert told.usage == Metered(5)
    assert heard(delta("a"), last[:-2]).usage == Metered(5)


def test_names_that_can_not_be_written_down_are_none() -> None:
    told = heard(b'{"model": "gpt\\ud800", "service_tier": "\\udfff", "usage": {"prompt_tokens": 3}}')
    assert (told.model, told.asked, told.usage) == (None, {}, Metered(3))


def test_asking_twice_tells_the_same() -> None:
    answer = AnswerUsage(words=True)
    answer.feed(delta("a") + event({"choices": [], "usage": USAGE})[:-1])
    assert answer.told() == answer.told()
    assert answer.told().usage == Metered(9, 4, 2)


FAKE = {"usage": {"prompt_tokens": 0, "completion_tokens": 0}, "text": "x" * 100_000}


def test_usage_that_a_model_or_a_caller_has_written_does_not_count() -> None:
    content = [{"type": "tool_use", "input": FAKE}]
    usage = {"input_tokens": 500, "output_tokens": 30_000}
    assert heard(json.dumps({"content": content, "usage": usage}).encode()).usage == Metered(500, 30_000)
    assert heard(json.dumps({"usage": usage, "content": content}).encode()).usage == Metered(500, 30_000)
    assert heard(json.dumps({"content": content}).encode()).usage is None
    schema = {"a": {f"{n}": {"type": "string"} for n in range(12_000)}, **FAKE}
    response = {"model": "gpt-5", "text": {"format": {"schema": schema}}, "usage": usage}
    last = event({"type": "response.completed", "response": response}, "response.completed")
    assert heard(last).usage == Metered(500, 30_000) and heard(last).model == "gpt-5"


def test_usage_in_the_midst_of_a_long_answer_is_found() -> None:
    body = {"a": "x" * 100_000, "usage": USAGE, "model": "m", "b": "y" * 100_000}
    told = heard(json.dumps(body).encode())
    assert (told.usage, told.model) == (Metered(9, 4, 2), "m")


def test_the_tier_of_any_event_counts() -> None:
    told = heard(delta("a", service_tier="priority") + event({"choices": [], "usage": USAGE}))
    assert told.asked == {"service_tier": "priority"}


def test_a_response_that_has_failed_is_noticed() -> None:
    assert heard(event({"type": "response.failed", "response": {"usage": None}}, "response.failed")).failed
    assert heard(b'{"object": "response", "status": "failed", "error": null}').failed


def test_what_may_be_words_is_at_least_as_much_as_the_tokens() -> None:
    words = " ".join(["word"] * 50)
    assert heard(*[delta("hi")] * 20).text >= 20
    assert heard(delta("hi") + delta(words)).text >= 50


def test_images_are_counted_as_images() -> None:
    body = json.dumps({"data": [{"b64_json": "x" * 200_000}], "usage": {"input_tokens": 5, "output_tokens": 272}})
    assert heard(body.encode(), images=True).usage == Metered(5, 272, output_image=272)


def test_of_ever_new_fields_of_usage_no_more_are_kept() -> None:
    answer = AnswerUsage()
    answer.feed(b'data: {"usage":{"input_tokens":1}}\n\n')
    for number in range(50):
        fields = ",".join(f'"{number}-{each}":0' for each in range(100))
        answer.feed(b'data: {"usage":{' + fields.encode() + b',"input_tokens":%d}}\n\n' % number)
    assert len(answer._usage) <= 100
    assert answer.told().usage == Metered(input=49)


def test_memory_is_bounded() -> None:
    answer = AnswerUsage()
    answer.feed(b"data: ")
    for _ in range(100):
        answer.feed(b"x" * 100_000)
    assert len(answer._held) <= (1 << 20) + 100_000
    whole = AnswerUsage()
    for _ in range(100):
        whole.feed(b'{"a": "' + b"x" * 100_000)
    assert len(whole._held) <= 200_000 and len(answer._held) <= (1 << 20) + 100_000


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("how", ["events", "CRLF", "array", "whole"])
def test_gemini_tells_its_usage_with_each_piece(how: str, step: int) -> None:
    pieces = dialects.gemini_pieces()
    data = {
        "events": dialects.sse(pieces),
        "CRLF": dialects.sse(pieces).replace(b"\n", b"\r\n"),
        "array": json.dumps(pieces).encode(),
        "whole": json.dumps(pieces[-1]).encode(),
    }[how]
    answer = AnswerUsage(gemini=True)
    for start in range(0, len(data), step):
        answer.feed(data[start : start + step])
    told = answer.told()
    assert told.usage == Metered(input=12000, output=100, cached=9000, reasoning=60)
    assert told.model == "gemini-2.5-pro" and not told.failed


def test_no_other_answer_is_read_as_gemini_s_nor_its_own_as_another() -> None:
    both = {"usage": {"prompt_tokens": 5, "completion_tokens": 6}, **dialects.gemini_pieces()[-1]}
    for gemini, usage in ((False, Metered(5, 6)), (True, Metered(12000, 100, cached=9000, reasoning=60))):
        answer = AnswerUsage(gemini=gemini)
        answer.feed(json.dumps(both).encode())
        assert answer.told().usage == usage
