import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons import errors

TREE: list[tuple[type[errors.RelayError], int, int]] = [
    (errors.RelayError, 503, 503),
    (errors.BadRequest, 400, 400),
    (errors.Unauthorized, 401, 401),
    (errors.Forbidden, 403, 403),
    (errors.NotFound, 404, 404),
    (errors.TooSlow, 408, 408),
    (errors.Busy, 409, 409),
    (errors.TooLarge, 413, 413),
    (errors.RateLimited, 429, 429),
    (errors.BalanceUnknown, 501, 501),
    (errors.UpstreamFailed, 502, 502),
    (errors.Unavailable, 503, 503),
    (errors.UpstreamTimeout, 504, 408),
]
anything = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(("kind", "status", "code"), TREE, ids=lambda value: getattr(value, "__name__", value))
def test_each_error_has_its_status_and_its_code(kind: type[errors.RelayError], status: int, code: int) -> None:
    error = kind("中文。", "English.")
    assert error.status == status
    assert json.loads(error.envelope()) == {"code": code, "message": "中文。 English.", "data": None}
    assert json.loads(error.balance_envelope()) == {"code": code, "message": "中文。 English."}
    assert json.loads(error.openai_body()) == {
        "error": {"message": "中文。 English.", "type": error.type, "param": None, "code": error.code}
    }


def test_every_error_of_the_tree_is_tried_here() -> None:
    def below(kind: type[errors.RelayError]) -> set[type[errors.RelayError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    relays = {kind for kind in below(errors.RelayError) if kind.__module__ == "addons.errors"}
    assert relays == {kind for kind, _, _ in TREE} | {errors.MethodNotAllowed}


def test_the_fields_of_openai_s_shape_keep_their_order() -> None:
    body = errors.NotFound("没有。", "None.", code="model_not_found", param="model").openai_body()
    assert body == (
        '{"error": {"message": "没有。 None.", "type": "invalid_request_error", "param": "model", '
        '"code": "model_not_found"}}'.encode()
    )
    assert errors.NotFound("", "").code == "not_found"  # a code of one error is not that of its class


def test_a_wrong_method_tells_the_right_one() -> None:
    error = errors.MethodNotAllowed("BREW" * 100, "GET")
    assert (error.status, error.allow) == (405, "GET")
    assert "GET" in error.zh and "GET" in error.en
    assert len(error.message) < 100


@given(anything, anything)
def test_any_text_makes_json_on_one_line(zh: str, en: str) -> None:
    error = errors.BadRequest(zh, en)
    for body in (error.openai_body(), error.envelope(), error.balance_envelope()):
        assert b"\n" not in body and b"\r" not in body
        assert isinstance(json.loads(body.decode("utf-8")), dict)
