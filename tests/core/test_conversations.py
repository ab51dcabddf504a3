"""Which conversation a request belongs to."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.conversations import conversation_of, is_stored, previous_response, response_id
from addons.core.top_level import members

SYSTEM, FIRST = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+1?"}


def of(**body: Any) -> str | None:
    return conversation_of(members(json.dumps(body)))


def test_it_stays_the_same_while_it_grows() -> None:
    more = [{"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+2?"}]
    first = of(model="m", messages=[SYSTEM, FIRST])
    assert first is not None
    assert first == of(model="m", messages=[SYSTEM, FIRST, *more], temperature=1)
    assert first == of(model="m", messages=[SYSTEM, FIRST, *more * 50])
    assert first != of(model="m", messages=[SYSTEM, {"role": "user", "content": "What is 3+3?"}])
    assert first != of(model="m", messages=[{"role": "system", "content": "Be long."}, FIRST])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"input": "one"}, {"input": "two"}),
        ({"input": [FIRST]}, {"input": [SYSTEM]}),
        ({"instructions": "a", "input": "x"}, {"instructions": "b", "input": "x"}),
        ({"system": "a", "messages": [FIRST]}, {"system": "b", "messages": [FIRST]}),
        ({"prompt": "one"}, {"prompt": "two"}),
    ],
    ids=["a text", "a list", "instructions", "Anthropic's system", "a prompt"],
)
def test_what_else_tells_it(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert of(**one) is not None and of(**one) == of(**one, temperature=0) and of(**one) != of(**other)


def test_what_the_caller_says_counts_first() -> None:
    key = of(prompt_cache_key="k", messages=[FIRST])
    assert key == of(prompt_cache_key="k", messages=[SYSTEM, FIRST]) != of(prompt_cache_key="l", messages=[FIRST])
    assert of(previous_response_id="resp_1", input="x") == of(previous_response_id="resp_1", input="y")
    assert of(conversation={"id": "conv_1"}, input="x") == of(conversation="conv_1", input="y")


def test_a_body_that_says_nothing_has_none() -> None:
    assert of(model="m") is None and of() is None


@pytest.mark.parametrize(
    "body",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    ],
)
def test_what_one_upstream_alone_has(body: dict[str, Any]) -> None:
    assert is_stored(members(json.dumps(body)))
    assert not is_stored(members(json.dumps({name: None for name in body} | {"input": "x"})))


def test_the_response_that_a_request_goes_on_from() -> None:
    assert previous_response(members('{"previous_response_id": "resp_1", "input": "x"}')) == "resp_1"
    assert previous_response(members('{"previous_response_id": null, "input": "x"}')) is None


@pytest.mark.parametrize(
    "beginning",
    [
        '{"id": "resp_0123456789abcdef", "object": "response"',
        '{\n  "id":"resp_0123456789abcdef",',
        'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_0123456789abcdef"',
    ],
)
def test_the_id_of_a_response(beginning: str) -> None:
    assert response_id(beginning) == "resp_0123456789abcdef"
    assert response_id('{"id": "chatcmpl-1"}') is None


@given(st.text(max_size=300))
def test_whatever_stands_in_a_body_nothing_is_raised(text: str) -> None:
    for body in ({"messages": [text]}, {"messages": text}, {"prompt_cache_key": text}, {"input": [{"role": text}]}):
        of(**body)


def test_a_list_that_is_none_is_upstream_s_business() -> None:
    assert conversation_of(members('{"messages": [,]}')) is None
