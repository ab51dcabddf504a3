import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.glance import model_of, tokens_of
from tests.support import dialects


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"usage": {"prompt_tokens": 12, "completion_tokens": 48}}, {"tokens_in": 12, "tokens_out": 48}),
        (
            {"usage": {"prompt_tokens": 12, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}},
            {"tokens_in": 12, "tokens_out": 4, "cached": 8},
        ),
        ({"usage": {"prompt_tokens": 5, "total_tokens": 5}}, {"tokens_in": 5}),
        (dialects.messages_answer(), {"tokens_in": 18259, "tokens_out": 87, "cached": 18000}),
        (dialects.responses_events()[-1], {"tokens_in": 12000, "tokens_out": 90, "cached": 11000}),
        (dialects.gemini_pieces()[-1], {"tokens_in": 12000, "tokens_out": 100, "cached": 9000}),
        ({"input_tokens": 2095}, {"tokens_in": 2095}),
        ({"totalTokens": 31, "promptTokensDetails": []}, {"tokens_in": 31}),
        ({"text": '"input_tokens": 5'}, {}),
        ({"usage": {"output_tokens": 7}}, {"tokens_out": 7}),
        ({}, {}),
    ],
)
def test_tokens(said: object, tokens: dict[str, int]) -> None:
    assert tokens_of(json.dumps(said).encode()) == tokens
    assert tokens_of(json.dumps(said, separators=(",", ":")).encode()) == tokens


def test_of_a_stream_the_last_count_of_each_name_holds() -> None:
    data = dialects.sse(dialects.messages_events(), named=True)
    assert tokens_of(data) == {"tokens_in": 18259, "tokens_out": 87, "cached": 18000}
    assert tokens_of(dialects.sse(dialects.gemini_pieces())) == {"tokens_in": 12000, "tokens_out": 100, "cached": 9000}


def test_models() -> None:
    assert model_of("/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", b"{}") == "gemini-2.5-pro"
    assert model_of("/v1/messages", b'{"model" : "claude-sonnet-4-5"}') == "claude-sonnet-4-5"
    assert model_of("/v1/realtime?x=1&model=gpt-realtime", b"") == "gpt-realtime"
    assert model_of("/v1/realtime?call_id=1", b"") is None
    assert model_of("/v1/models", b"") is None
    assert model_of("/v1/models/gpt-4o", b"") is None


@given(st.text(), st.binary())
def test_nothing_makes_it_raise(path: str, data: bytes) -> None:
    model_of(path, data)
    tokens_of(data)
