import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.completion import Completion, Usage, usage

NAMES = ["id", "model", "choices", "usage", "error", "index", "delta", "message", "content", "refusal", "tool_calls"]
NAMES += [
    "function_call",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "cached_tokens",
]
NAMES += ["type", "text"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("text"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=30,
)


def chunk(delta: object, finish_reason: str | None = None, index: object = 0, **more: object) -> dict[str, object]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "model": "gpt-3.5-turbo-0125", "choices": [choice], **more}


def gather(*chunks: object, max_text: int = 1000) -> Completion:
    completion = Completion(max_text)
    for one in chunks:
        completion.add(one)
    return completion


@given(st.lists(values, max_size=5), st.integers(0, 20))
def test_no_json_value_raises(chunks: list[object], max_text: int) -> None:
    completion = gather(*chunks, max_text=max_text)
    assert completion.text is None or len(completion.text) <= max_text
    assert completion.refusal is None or len(completion.refusal) <= max_text
    assert completion.tool_calls >= 0
    assert not completion.done
    assert Completion.from_json(chunks, max_text).done


def test_a_stream_adds_up() -> None:
    completion = gather(
        chunk({"role": "assistant", "content": ""}, id="", model=""),
        chunk({"content": "你"}),
        chunk({"content": "好\ud800\r\n"}),
        chunk({"content": "other"}, index=1),
        chunk({}, "stop"),
        {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}},
    )
    assert completion.text == "你好\ud800\r\n"
    assert (completion.id, completion.model) == ("chatcmpl-1", "gpt-3.5-turbo-0125")
    assert (completion.finish_reason, completion.usage) == ("stop", Usage(9, 2, 11, 0))
    assert (completion.refusal, completion.tool_calls, completion.error) == (None, 0, None)
    assert not completion.done
    completion.finish()
    assert completion.done


def test_a_body_is_read_whole() -> None:
    body = {
        "id": "chatcmpl-1",
        "model": "gpt-4o",
        "choices": [
            {"index": 1, "message": {"content": "second"}, "finish_reason": "length"},
            {"index": 0, "message": {"content": "first", "refusal": None}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    completion = Completion.from_json(body)
    assert (completion.text, completion.finish_reason, completion.done) == ("first", "stop", True)
    assert completion.usage == Usage(9, 2, 11, 4)


def test_no_content_is_not_an_empty_one() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call, call]}, "finish_reason": "tool_calls"}]}
    completion = Completion.from_json(body)
    assert (completion.text, completion.tool_calls) == (None, 2)
    assert gather(chunk({"content": ""})).text == ""
    assert gather(chunk({"content": None, "refusal": "I "}), chunk({"refusal": "can't"})).refusal == "I can't"


def test_a_tool_call_in_pieces_is_one() -> None:
    pieces = [{"index": 0, "id": "call_1"}], [{"index": 0, "function": {}}], [{"index": 1, "id": "call_2"}]
    assert gather(*(chunk({"tool_calls": piece}) for piece in pieces)).tool_calls == 2
    assert gather(*(chunk({"function_call": {"arguments": "x"}}) for _ in range(3))).tool_calls == 1


def test_tool_calls_are_bounded() -> None:
    assert gather(*(chunk({"tool_calls": [{"index": n}]}) for n in range(5000))).tool_calls == 1024


def test_text_is_cut_at_the_bound() -> None:
    completion = gather(chunk({"content": "你好吗"}), chunk({"content": "x"}), max_text=3)
    assert (completion.text, completion.truncated) == ("你好吗", True)
    assert not gather(chunk({"content": "你好吗"}), max_text=3).truncated
    assert gather(chunk({"refusal": "long"}), max_text=0).refusal == ""


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, "x", {"type": "text", "text": "b"}]
    assert gather(chunk({"content": parts})).text == "ab"


def test_choices_without_index_count_by_position() -> None:
    completion = Completion.from_json({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]})
    assert completion.text == "a"


def test_the_last_usage_counts() -> None:
    first, last = {"prompt_tokens": 1, "completion_tokens": 1}, {"prompt_tokens": 5, "completion_tokens": 7}
    assert gather({"usage": first}, {"usage": last}, {"usage": None}, {"usage": {}}).usage == Usage(5, 7, 12)
    in_choice = {"choices": [{"index": 0, "delta": {}, "usage": {**last, "total_tokens": 12, "cached_tokens": 3}}]}
    assert gather(in_choice).usage == Usage(5, 7, 12, 3)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"prompt_tokens": 3.0, "completion_tokens": None}, Usage(3, 0, 3)),
        ({"total_tokens": 8}, Usage(0, 0, 8)),
        ({"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}, Usage(3, 4, 7, 2)),
        ({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2, "prompt_tokens_details": None}, Usage(3, 0, 3, 2)),
        ({"prompt_tokens": True, "completion_tokens": "4", "total_tokens": -1}, None),
        ({"prompt_tokens": 1.5, "completion_tokens": float("inf"), "total_tokens": 1 << 63}, None),
        ([], None),
        (None, None),
    ],
    ids=["floats", "total alone", "responses api", "deepseek", "no numbers", "no counts", "array", "null"],
)
def test_usage_is_read_from_any_shape(value: object, read: Usage | None) -> None:
    assert usage(value) == read


@pytest.mark.parametrize(
    ("error", "read"),
    [
        ({"message": "quota", "code": "insufficient_quota"}, {"message": "quota", "code": "insufficient_quota"}),
        ("overloaded", {"message": "overloaded"}),
        (["x"], {"message": "x"}),
        ([1], {"message": ""}),
        (None, None),
        (False, None),
        ("", None),
        ({}, None),
    ],
    ids=repr,
)
def test_an_error_is_kept(error: object, read: object) -> None:
    assert gather(chunk({"content": "a"}), {"error": error}, {"error": None}).error == read


def test_the_first_error_is_the_cause() -> None:
    assert gather({"error": "first"}, {"error": "second"}).error == {"message": "first"}
