"""relay's own errors: one exception tree, two shapes.

`openai_body` is the shape of https://platform.openai.com/docs/guides/error-codes, for everything under an upstream's
own paths; `envelope` and `balance_envelope` are the shapes of `/chat` and `/pro/balance`, whose callers read `code`
from an HTTP 200. Messages are Chinese, then English, and say the same; they tell callers what callers can do, and name
neither an upstream's address nor a key.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

from addons.core import envelope as shapes


class RelayError(Exception):
    """Something relay refuses or could not do.

    Class attributes: `status` is the HTTP status in OpenAI's shape, `envelope_code` the `code` in the envelope, `type`
    and `code` the fields of OpenAI's error object.
    """

    status: ClassVar[int] = 503
    envelope_code: ClassVar[int] = 503
    type: ClassVar[str] = "relay_error"
    code: str = "relay_error"

    def __init__(
        self,
        zh: str,
        en: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(en)
        self.advice = advice
        """What whoever runs relay can do about it: it goes into the log (flow/advice.py)."""
        self.headers = dict(headers or {})
        """Of the answer that tells it."""
        self.zh = zh
        self.en = en
        self.param = param
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        """Both languages in one line. Whoever quotes others in it takes keys out of the quotation."""
        return f"{self.zh} {self.en}"

    def openai_body(self) -> bytes:
        """The error as OpenAI's clients read it, UTF-8 JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def envelope(self) -> bytes:
        """The error as callers of `/chat` read it."""
        return shapes.dumps(self.envelope_code, self.message, None)

    def balance_envelope(self) -> bytes:
        """The error as callers of `/pro/balance` read it: without `data`, which they test for."""
        return shapes.balance_error(self.envelope_code, self.message)


class BadRequest(RelayError):
    """The request itself is at fault; sending it again unchanged is useless."""

    status = envelope_code = 400
    type = "invalid_request_error"
    code = "bad_request"


class Unauthorized(RelayError):
    """No key, or one that upstream refused."""

    status = envelope_code = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(RelayError):
    """The key is known and may not do this."""

    status = envelope_code = 403
    type = "invalid_request_error"
    code = "forbidden"


class NotFound(RelayError):
    """No such path, or no such model."""

    status = envelope_code = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(RelayError):
    """A path of relay's own, asked with another method. `allow` goes into the Allow header."""

    status = envelope_code = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"不支持 {method[:16]} 方法，请使用 {allow}。", f"Method not allowed: use {allow}.")
        self.allow = allow


class TooSlow(RelayError):
    """A client took too long over its request. `/chat` says 408 where the upstream did so, too: the words differ."""

    status = envelope_code = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Busy(RelayError):
    """Too many messages of one session wait already."""

    status = envelope_code = 409
    code = "session_busy"


class TooLarge(RelayError):
    """A body, or a field of it, is over a limit of relay.yaml."""

    status = envelope_code = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(RelayError):
    """Upstream refuses for now: too fast, or out of quota."""

    status = envelope_code = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BalanceUnknown(RelayError):
    """This upstream tells no balance."""

    status = envelope_code = 501
    code = "balance_not_supported"


class UpstreamFailed(RelayError):
    """Upstream could not be reached, broke off, or answered what nobody can read."""

    status = envelope_code = 502
    type = "upstream_error"
    code = "upstream_failed"


class Unavailable(RelayError):
    """relay itself can't do its work: no settings, no store, a bug."""

    status = envelope_code = 503
    code = "relay_unavailable"


class UpstreamTimeout(RelayError):
    """Upstream was silent for too long. 504 to OpenAI's clients; the envelope says 408, as the original service did."""

    status = 504
    envelope_code = 408
    type = "upstream_error"
    code = "upstream_timeout"


def closing_answer(error: RelayError) -> bytes:
    """A whole HTTP/1 answer in OpenAI's shape, for where there is no flow to answer; the connection ends with it."""
    body = error.openai_body()
    status = HTTPStatus(error.status)
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
