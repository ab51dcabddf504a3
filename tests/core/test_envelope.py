import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import envelope
from addons.core.money import Balance

anything = st.text(st.characters(exclude_categories=()))  # with lone surrogates


def test_a_chat_answer_reads_as_documented() -> None:
    text = '{"code": 200, "message": "执行成功", "data": "我是一名人工智能助手..."}'
    assert envelope.dumps(200, envelope.SUCCESS, "我是一名人工智能助手...") == text.encode()


def test_a_chat_error_has_null_data() -> None:
    assert (
        envelope.dumps(409, "会话忙 Session busy", None)
        == '{"code": 409, "message": "会话忙 Session busy", "data": null}'.encode()
    )


def test_a_balance_reads_as_documented() -> None:
    balance = Balance(Decimal(18), Decimal("0.08"))
    text = '{"code": 200, "message": "执行成功", "data": {"total": 18.00, "balance": 17.92, "used": 0.08}}'
    assert envelope.balance_ok(balance) == text.encode()
    with_detail = text[:-1] + ', "detail": {"unlimited": true}}'
    assert envelope.balance_ok(balance, {"unlimited": True}) == with_detail.encode()


def test_a_balance_error_has_no_data() -> None:
    assert (
        envelope.balance_error(401, "密钥被拒 Key refused")
        == '{"code": 401, "message": "密钥被拒 Key refused"}'.encode()
    )
    assert json.loads(envelope.balance_error(502, "x", {"a": 1})) == {"code": 502, "message": "x", "detail": {"a": 1}}


@given(st.integers(100, 599), anything, st.none() | anything)
def test_any_text_survives_on_one_line(code: int, message: str, data: str | None) -> None:
    body = envelope.dumps(code, message, data)
    assert b"\n" not in body
    assert b"\r" not in body
    answer = json.loads(body)
    assert list(answer) == ["code", "message", "data"]
    # A high and a low surrogate side by side are one character once they went through JSON.
    assert answer == {"code": code, "message": joined(message), "data": None if data is None else joined(data)}


@given(anything)
def test_error_texts_survive_too(message: str) -> None:
    answer = json.loads(envelope.balance_error(502, message, {message: [message]}))
    assert answer == {"code": 502, "message": joined(message), "detail": {joined(message): [joined(message)]}}


def joined(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@pytest.mark.parametrize("text", ["\ud800", "\\\udc00", "\\\\\ud800\\"], ids=ascii)
def test_lone_surrogates_are_escaped(text: str) -> None:
    body = envelope.dumps(200, "", text)
    assert rb"\ud800" in body or rb"\udc00" in body
    assert json.loads(body)["data"] == text
