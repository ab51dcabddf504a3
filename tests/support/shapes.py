"""The shapes of relay's own errors on the wire: what every one of them must be, whatever went wrong."""

from typing import Any

from tests.support.live import Answer

JSON = "application/json; charset=utf-8"


def openai_error(answer: Answer, *statuses: int) -> dict[str, Any]:
    """The error object of an error in OpenAI's shape."""
    assert answer.status in statuses, answer
    _is_json(answer)
    body = answer.json()
    assert list(body) == ["error"], answer
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"], answer
    assert isinstance(error["message"], str) and len(error["message"]) > 10, answer
    assert isinstance(error["type"], str) and error["type"], answer
    return error


def chat_error(answer: Answer, code: int, status: int = 200) -> str:
    """The message of an error of /chat."""
    assert answer.status == status, answer
    _is_json(answer)
    body = answer.json()
    assert list(body) == ["code", "message", "data"], answer
    assert body["code"] == code, body
    assert body["data"] is None
    return _bilingual(body["message"])


def balance_error(answer: Answer, code: int, status: int = 200) -> str:
    """The message of an error of /pro/balance: no `data`, whose absence callers test for."""
    assert answer.status == status, answer
    _is_json(answer)
    body = answer.json()
    assert set(body) - {"detail"} == {"code", "message"}, answer
    assert body["code"] == code, body
    return _bilingual(body["message"])


def names_none_of(answer: Answer, *secrets: str) -> None:
    """Neither body nor headers give these away."""
    told = answer.body.decode("utf-8", "replace") + repr(answer.headers)
    for secret in secrets:
        assert secret not in told, (secret, told)


def _is_json(answer: Answer) -> None:
    assert answer.headers["content-type"] == JSON, answer
    assert b"<html" not in answer.body.lower()
    assert b"\n" not in answer.body and b"\\u" not in answer.body, answer


def _bilingual(message: str) -> str:
    assert any("\u4e00" <= letter <= "\u9fff" for letter in message), message
    assert any(letter.isascii() and letter.isalpha() for letter in message), message
    return message
