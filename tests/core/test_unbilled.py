"""What refusals say, and for how long they are honoured."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.unbilled import MOST, Refusal, Scope, may_refuse, refusal, seconds_aside, waiting

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def told(status: int, headers: Mapping[str, str] = {}, **error: str) -> Refusal | None:
    return refusal(status, headers, json.dumps({"error": error}).encode(), NOW)


CASES = {
    "a key that is refused": (401, {}, {"code": "invalid_api_key"}, ("key refused", Scope.KEY, None)),
    "a 401 that says nothing": (401, {}, {}, ("key refused", Scope.KEY, None)),
    "a 401 over the caller's organisation": (401, {}, {"code": "mismatched_organization"}, None),
    "a 401 over what a restricted key may do": (
        401,
        {},
        {"message": "You have insufficient permissions for this operation. Missing scopes: api.responses.write."},
        ("key refused", Scope.MODEL, None),
    ),
    "a 403 over the key": (403, {}, {"code": "api_key_disabled"}, ("key refused", Scope.KEY, None)),
    "a 403 over the project": (403, {}, {"code": "project_archived"}, ("key refused", Scope.KEY, None)),
    "a 403 over the country": (403, {}, {"code": "unsupported_country_region_territory"}, None),
    "a 403 over anything else": (403, {}, {"code": "content_policy"}, None),
    "a 403 that says nothing": (403, {}, {}, None),
    "too fast": (429, {}, {"code": "rate_limit_exceeded"}, ("rate limited", Scope.MODEL, None)),
    "too fast, for 7 s": (429, {"retry-after": "7"}, {}, ("rate limited", Scope.MODEL, 7)),
    "out of money": (429, {}, {"code": "insufficient_quota"}, ("out of quota", Scope.KEY, 300)),
    "out of money for long": (
        429,
        {"retry-after": "500"},
        {"code": "insufficient_quota"},
        ("out of quota", Scope.KEY, 500),
    ),
    "out of money, as DeepSeek says it": (
        402,
        {},
        {"message": "Insufficient Balance"},
        ("out of quota", Scope.KEY, 300),
    ),
    "overloaded, for 3 s": (503, {"retry-after": "3"}, {}, ("overloaded", Scope.UPSTREAM, 3)),
    "down": (503, {}, {}, None),
    "overloaded, as Anthropic says it": (529, {}, {}, ("overloaded", Scope.UPSTREAM, None)),
    "an error": (500, {}, {"code": "server_error"}, None),
    "an answer": (200, {"retry-after": "3"}, {}, None),
}


@pytest.mark.parametrize(("status", "headers", "error", "expected"), CASES.values(), ids=CASES)
def test_what_is_refused(
    status: int,
    headers: Mapping[str, str],
    error: Mapping[str, str],
    expected: tuple[str, Scope, float | None] | None,
) -> None:
    found = told(status, headers, **error)
    assert (found and (found.reason, found.scope, found.told)) == expected


WAITS: dict[str, tuple[dict[str, str], float | None]] = {
    "nothing": ({}, None),
    "seconds": ({"retry-after": "20"}, 20),
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "the longest wins": ({"retry-after": "2", "retry-after-ms": "5000"}, 5),
    "a date": ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30),
    "a date that is over": ({"retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0),
    "a date that is none": ({"retry-after": "Thu, 41 Jan 2026 00:00:30 GMT"}, None),
    "nonsense": ({"retry-after": "soon"}, None),
    "below zero": ({"retry-after": "-5"}, None),
    "never more than 10 minutes": ({"retry-after": "86400"}, MOST),
    "requests that are used up": (
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s", "retry-after": "1"},
        90,
    ),
    "requests that are left": ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "6m0s"}, None),
    "tokens in milliseconds": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
    "Anthropic's": (
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:12Z"},
        12,
    ),
    "a moment in milliseconds, as OpenRouter has it": ({"x-ratelimit-reset": "1767225645000"}, 45),
    "a moment in seconds": ({"x-ratelimit-reset": "1767225605"}, 5),
}


@pytest.mark.parametrize(("headers", "expected"), WAITS.values(), ids=WAITS)
def test_how_long_is_asked_for(headers: Mapping[str, str], expected: float | None) -> None:
    found = waiting(headers, NOW)
    assert found == (None if expected is None else pytest.approx(expected))


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens"]), st.text()
    ),
    st.binary(max_size=200),
)
def test_whatever_an_upstream_says_it_is_bounded(status: int, headers: dict[str, str], body: bytes) -> None:
    found = refusal(status, headers, body, NOW)
    assert found is None or (may_refuse(status, headers) and (found.told is None or 0 <= found.told <= MOST))


def test_a_refusal_that_says_nothing_counts_for_longer_each_time() -> None:
    limited, refused = Refusal("rate limited", Scope.MODEL), Refusal("key refused", Scope.KEY)
    assert [seconds_aside(limited, strikes) for strikes in (0, 1, 2, 5, 6, 100)] == [1, 2, 4, 32, 60, 60]
    assert [seconds_aside(refused, strikes) for strikes in (0, 1, 6, 10, 100)] == [1, 2, 64, 600, 600]
    told = [Refusal("rate limited", Scope.MODEL, seconds) for seconds in (0, 7, 10_000)]
    assert [seconds_aside(each, 9) for each in told] == [0, 7, MOST]
