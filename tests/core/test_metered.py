"""Usage objects of many upstreams, counted in one way."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.metered import Metered, metered

USAGES: dict[str, tuple[Any, Metered | None]] = {
    "a chat completion": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5},
        },
        Metered(input=100, output=50, cached=40, input_audio=10, output_audio=5, reasoning=20),
    ),
    "a response": (
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 64},
            "output_tokens": 30,
            "output_tokens_details": {"reasoning_tokens": 8},
        },
        Metered(input=100, output=30, cached=64, reasoning=8),
    ),
    "Anthropic's, which counts the cache beside the input": (
        {
            "input_tokens": 10,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 1000,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 7,
            "server_tool_use": {"web_search_requests": 2},
        },
        Metered(input=1310, output=7, cached=1000, cache_write=200, cache_write_1h=100, searches=2),
    ),
    "DeepSeek's": (
        {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
        Metered(input=9, output=1, cached=4),
    ),
    "Moonshot's": ({"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 3}, Metered(9, 1, 3)),
    "cache writes of OpenAI": (
        {"input_tokens": 50, "output_tokens": 1, "input_tokens_details": {"cache_write_tokens": 30}},
        Metered(input=50, output=1, cache_write=30),
    ),
    "realtime": (
        {
            "input_tokens": 120,
            "output_tokens": 60,
            "input_token_details": {
                "text_tokens": 20,
                "audio_tokens": 100,
                "cached_tokens": 30,
                "cached_tokens_details": {"text_tokens": 10, "audio_tokens": 20},
            },
            "output_token_details": {"text_tokens": 10, "audio_tokens": 50},
        },
        Metered(input=120, output=60, cached=30, input_audio=100, cached_audio=20, output_audio=50),
    ),
    "reasoning beside what was completed, xAI's": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 20_041,
            "completion_tokens_details": {"reasoning_tokens": 20_000},
        },
        Metered(input=32, output=20_009, reasoning=20_000),
    ),
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Metered(input=8)),
    "a total alone": ({"total_tokens": 8}, Metered(input=8)),
    "audio by its length": ({"type": "duration", "seconds": 3.2}, Metered(milliseconds=3200)),
    "audio by tokens": (
        {"type": "tokens", "input_tokens": 14, "output_tokens": 4, "input_token_details": {"audio_tokens": 14}},
        Metered(input=14, output=4, input_audio=14),
    ),
    "floats that are whole": ({"prompt_tokens": 12.0, "completion_tokens": 3.0}, Metered(12, 3)),
    "more cached than there was": (
        {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
        Metered(5, 1, 5),
    ),
    "nothing": ({}, None),
    "negative": ({"prompt_tokens": -1}, None),
    "booleans": ({"prompt_tokens": True, "completion_tokens": False}, None),
    "text": ("12 tokens", None),
    "numbers that nobody counts": ({"prompt_tokens": 10**30}, None),
    "a number as text": ({"prompt_tokens": "12", "completion_tokens": 5}, None),
    "a fraction": ({"prompt_tokens": 12.5, "completion_tokens": 5}, None),
    "less than nothing": ({"prompt_tokens": 5, "completion_tokens": -5}, None),
    "output that can't be read": ({"input_tokens": 5, "output_tokens": "5"}, None),
    "a float that nobody counts": ({"prompt_tokens": 1e30, "completion_tokens": 5}, None),
    "4 billion tokens": ({"prompt_tokens": 5, "completion_tokens": 1 << 40}, None),
    "4 billion tokens together": ({"input_tokens": 1 << 32, "output_tokens": 1, "cache_read_input_tokens": 5}, None),
    "a total that can't be read": ({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": "many"}, None),
    "details that can't be read": ({"prompt_tokens": 5, "prompt_tokens_details": {"audio_tokens": "5"}}, None),
    "a cache that can't be read": ({"input_tokens": 5, "cache_read_input_tokens": -1}, None),
    "searches that can't be read": ({"input_tokens": 5, "server_tool_use": {"web_search_requests": "2"}}, None),
    "one of two names that can be read": ({"prompt_tokens": "x", "input_tokens": 5}, Metered(5)),
    "searches without a cache": (
        {"input_tokens": 5, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}},
        Metered(5, 1, searches=2),
    ),
    "nulls": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 1,
            "total_tokens": None,
            "prompt_tokens_details": {"audio_tokens": None},
        },
        Metered(5, 1),
    ),
    "an answer without a question": ({"completion_tokens": 5}, None),
    "an answer and a total": ({"completion_tokens": 5, "total_tokens": 12}, Metered(7, 5)),
    "a length that is none": ({"type": "duration", "seconds": "NaN"}, None),
}


@pytest.mark.parametrize(("usage", "counts"), USAGES.values(), ids=USAGES)
def test_usage_is_counted_by_how_it_is_billed(usage: Any, counts: Metered | None) -> None:
    assert metered(usage) == counts


def test_an_answer_of_images_has_output_of_images() -> None:
    usage = {"input_tokens": 50, "output_tokens": 272, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
    assert metered(usage, images=True) == Metered(input=50, output=272, input_image=40, output_image=272)
    told = {**usage, "output_tokens_details": {"image_tokens": 200, "text_tokens": 72}}
    assert metered(told, images=True) == Metered(input=50, output=272, input_image=40, output_image=200)


def test_counts_survive_being_kept() -> None:
    counts = Metered(input=5, output=2, cached=1, searches=3)
    assert counts.parts() == {"input": 5, "output": 2, "cached": 1, "searches": 3}
    assert Metered.of({**counts.parts(), "unknown": 4, "input_audio": "x"}) == counts


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({
        "usage", "prompt_tokens", "input_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens",
        "cache_creation", "cache_read_input_tokens", "seconds", "type",
    })), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(_JSON)
def test_nothing_raises_and_parts_never_exceed_the_whole(usage: object) -> None:
    counts = metered(usage)
    if counts is not None:
        assert min(counts.parts().values(), default=0) >= 0
        assert max(counts.cached, counts.cache_write, counts.cache_write_1h) <= counts.input
        assert counts.output_audio <= counts.output
