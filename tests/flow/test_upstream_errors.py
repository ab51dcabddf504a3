import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons import errors
from addons.core.failures import Failure
from addons.core.upstream_error import read
from addons.flow.upstream_errors import failure_error
from addons.flow.upstream_errors import refusal as refusal_of

KEY = "sk-test-0123456789"


def refusal(status: int, answer: bytes, *, key: str, model: str | None = None) -> errors.RelayError:
    return refusal_of(read(status, answer), key=key, model=model)


def body(message: str = "", code: object = None, kind: object = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        pytest.param(401, body("Incorrect API key"), errors.Unauthorized, id="401"),
        pytest.param(403, body("Country not supported"), errors.Forbidden, id="403"),
        pytest.param(404, body("no such model"), errors.NotFound, id="404"),
        pytest.param(413, b"", errors.TooLarge, id="413"),
        pytest.param(429, body("slow down", "rate_limit_exceeded"), errors.RateLimited, id="429 too fast"),
        pytest.param(429, body("You exceeded your current quota"), errors.RateLimited, id="429 out of quota"),
        pytest.param(402, b"Payment Required", errors.RateLimited, id="402"),
        pytest.param(400, body("bad temperature"), errors.BadRequest, id="400"),
        pytest.param(422, b"", errors.BadRequest, id="422"),
        pytest.param(408, b"", errors.UpstreamTimeout, id="408"),
        pytest.param(504, b"<html>", errors.UpstreamTimeout, id="504"),
        pytest.param(500, b"<html>", errors.UpstreamFailed, id="500"),
        pytest.param(503, b"", errors.UpstreamFailed, id="503"),
        pytest.param(301, b"", errors.UpstreamFailed, id="a redirect"),
        pytest.param(200, body("invalid API key"), errors.Unauthorized, id="a refused key in a 200"),
        pytest.param(200, body("", "insufficient_quota"), errors.RateLimited, id="no quota in a 200"),
        pytest.param(200, body("", "rate_limit_exceeded"), errors.RateLimited, id="too fast in a 200"),
        pytest.param(200, body("the moon"), errors.UpstreamFailed, id="something else in a 200"),
    ],
)
def test_a_refusal_is_understood(status: int, answer: bytes, kind: type[errors.RelayError]) -> None:
    error = refusal(status, answer, model="gpt-x", key=KEY)
    assert type(error) is kind
    assert error.zh and error.en


@pytest.mark.parametrize(
    ("answer", "out"),
    [
        pytest.param(body("You exceeded your current quota, please check your plan."), True, id="OpenAI's words"),
        pytest.param(body("", "insufficient_quota"), True, id="OpenAI's code"),
        pytest.param(body("用户余额不足"), True, id="Chinese words"),
        pytest.param(body("Rate limit reached for gpt-4o", "rate_limit_exceeded", "requests"), False, id="too fast"),
        pytest.param(b"<html>Too Many Requests</html>", False, id="a page"),
    ],
)
def test_too_fast_and_out_of_quota_are_told_apart(answer: bytes, out: bool) -> None:
    error = refusal(429, answer, key=KEY)
    assert (error.code == "insufficient_quota") is out
    assert ("额度已用完" in error.zh) is out
    assert error.envelope_code == 429


def test_a_missing_model_says_which_and_whom_to_ask() -> None:
    error = refusal(404, body("The model does not exist"), model="gpt-99", key=KEY)
    assert error.code == "model_not_found"
    for text in (error.zh, error.en):
        assert "gpt-99" in text and "chat.model" not in text
    assert "联系服务管理员" in error.zh and "ask whoever runs this relay" in error.en
    assert "chat.model" in error.advice and "gpt-99" not in error.advice


def test_what_upstream_says_is_carried_along_in_one_line_and_shortened() -> None:
    message = refusal(400, body("first\n\tsecond " + "x" * 1000 + "END"), key=KEY).message
    assert "first second xxx" in message
    assert "END" not in message
    assert len(message) < 800


@pytest.mark.parametrize("before", [0, 150, 290, 296], ids=lambda before: f"{before} characters before it")
def test_a_key_that_upstream_quotes_is_taken_out(before: int) -> None:
    error = refusal(401, body(f"{'x ' * (before // 2)}sk-0123456789abcdefghij."), key=KEY)
    for shape in (error.openai_body(), error.envelope(), error.balance_envelope()):
        assert b"0123456789" not in shape
        assert b"sk-***" in shape or before > 290


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.integers(100, 599), anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_answer_makes_an_error(status: int, answer: bytes) -> None:
    error = refusal(status, answer, model="m", key=KEY)
    assert isinstance(error, errors.RelayError)
    assert json.loads(error.envelope())["code"] == error.envelope_code != 200


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Failure.CLIENT_FAULT, 400, 400),
        (Failure.CONNECT_TIMEOUT, 504, 408),
        (Failure.ANSWER_TIMEOUT, 504, 408),
        (Failure.NAME, 502, 502),
        (Failure.REFUSED, 502, 502),
        (Failure.UNREACHABLE, 502, 502),
        (Failure.TLS, 502, 502),
        (Failure.PROXY, 502, 502),
        (Failure.BROKEN, 502, 502),
        (Failure.UNREADABLE, 502, 502),
        (Failure.OTHER, 502, 502),
        (Failure.CLIENT_LEFT, 502, 502),
    ],
    ids=lambda value: value.value if isinstance(value, Failure) else value,
)
def test_a_failure_has_its_status(failure: Failure, status: int, code: int) -> None:
    error = failure_error(failure)
    assert (error.status, error.envelope_code) == (status, code)


def test_each_failure_has_words_of_its_own() -> None:
    told = set(Failure) - {Failure.CLIENT_LEFT, Failure.OTHER}
    assert len({failure_error(failure).en for failure in told}) == len(told)
    assert len({failure_error(failure).zh for failure in told}) == len(told)
