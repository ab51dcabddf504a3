"""The answers of /chat and /pro/balance, as text: UTF-8, unescaped, on one line, fields in a fixed order.

The order and the numbers' two decimals are promises to callers that print the raw answer, so both are built here and
nowhere else.
"""

import json
from collections.abc import Mapping, Sequence

from addons.core import money

SUCCESS = "执行成功"
"""The message of every answer with code 200."""


def dumps(code: int, message: str, data: str | None) -> bytes:
    """The envelope of /chat: `{"code": 200, "message": "执行成功", "data": "..."}`; `data` is null in errors."""
    return _object({"code": str(code), "message": _text(message), "data": _text(data)})


def history(messages: Sequence[Mapping[str, str]], message: str = SUCCESS) -> bytes:
    """The answer of GET /chat/{sessionId}: `data` is a list of messages, oldest first."""
    return _object({"code": "200", "message": _text(message), "data": _text([dict(one) for one in messages])})


def balance_ok(balance: money.Balance, detail: Mapping[str, object] | None = None, message: str = SUCCESS) -> bytes:
    """The answer of /pro/balance. `data` holds exactly total, balance and used; `detail` stands beside it."""
    fields = {"code": "200", "message": _text(message), "data": money.to_json(balance)}
    return _object(fields | _detail(detail))


def balance_error(code: int, message: str, detail: Mapping[str, object] | None = None) -> bytes:
    """An error of /pro/balance. There is no `data` at all: callers test `'data' in answer`."""
    return _object({"code": str(code), "message": _text(message)} | _detail(detail))


def _detail(detail: Mapping[str, object] | None) -> dict[str, str]:
    return {} if detail is None else {"detail": _text(dict(detail))}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _object(fields: Mapping[str, str]) -> bytes:
    """An object of fields that are JSON text already. UTF-8 has no lone surrogates; they can only stand inside strings,
    where what `backslashreplace` writes, `\\ud800`, is their JSON escape."""
    text = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    return f"{{{text}}}".encode("utf-8", "backslashreplace")
