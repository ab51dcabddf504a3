"""What an upstream's refusal or failure means, in relay's words.

A refusal is for callers who read an envelope: what upstream itself says is carried along, shortened, with keys taken
out.
"""

import json

from addons import errors
from addons.core.completion import Completion
from addons.core.failures import Failure
from addons.core.secrets import masked, scrub

_SHOWN = 300
NOT_RECORDED = "not_recorded"
"""The code of a replaying upstream's refusal (addons/replaying.py): what it says is carried along at length."""
_KEY_REFUSED = ("api_key", "api key", "apikey", "invalid token", "unauthorized", "authentication", "令牌", "密钥")
_TOO_FAST = ("rate limit", "rate_limit", "too many requests", "频繁")
_QUOTA = ("quota", "billing", "balance", "credit", "余额", "额度", "欠费")


def refusal(status: int, body: bytes, *, key: str, model: str | None = None) -> errors.RelayError:
    """The error for an upstream's answer that is no success.

    `status` is the HTTP status; 200 stands for an error told in a 200. `key` is the caller's, taken out of what
    upstream says, whatever it looks like. `model` is what was asked for.
    """
    code, kind, said = _read(body, key)
    words = f"{code} {kind} {said}".lower()
    told = f" (上游 upstream: {said})" if said else ""
    if status == 200:
        status = _status_in_words(words)
    if code == NOT_RECORDED:
        return errors.NotFound("没有录到这个请求。", f"This request was not recorded.{told}", code=NOT_RECORDED)
    if status == 401:
        return errors.Unauthorized("apiKey 无效或已被拒绝。", f"The key was refused: check apiKey.{told}")
    if status == 404 and model is not None:
        return errors.NotFound(
            f"上游没有模型 {model}:请在 relay.yaml 的 chat.model 或 upstreams[].model 中更换。",
            f"The upstream has no model {model}: change chat.model or upstreams[].model in relay.yaml.{told}",
            code="model_not_found",
        )
    if status == 402 or (status in (403, 429) and any(sign in words for sign in _QUOTA)):
        return errors.RateLimited(
            "额度已用完,请充值或更换 apiKey。",
            f"The key is out of quota: top it up or use another one.{told}",
            code="insufficient_quota",
        )
    if status == 429:
        return errors.RateLimited("请求过于频繁,请稍后再试。", f"Rate limited: slow down and try again.{told}")
    if status == 403:
        return errors.Forbidden("上游不允许此操作。", f"The upstream does not allow this.{told}")
    if status == 413:
        return errors.TooLarge("上游认为请求过大。", f"The upstream finds the request too large.{told}")
    if status in (408, 504):
        return errors.UpstreamTimeout("上游响应超时。", f"The upstream timed out; try again later.{told}")
    if status in (400, 422):
        return errors.BadRequest("上游拒绝了请求。", f"The upstream refused the request.{told}", code=code or None)
    return errors.UpstreamFailed(
        f"上游出错(HTTP {status}),请稍后再试。",
        f"The upstream failed (HTTP {status}); try again later.{told}",
    )


def _status_in_words(words: str) -> int:
    if any(sign in words for sign in _KEY_REFUSED):
        return 401
    if any(sign in words for sign in (*_QUOTA, *_TOO_FAST)):
        return 429
    return 502


def _read(body: bytes, key: str) -> tuple[str, str, str]:
    """Code, type and message of OpenAI's error object; empty where the body is something else, such as a page."""
    try:
        error = Completion.from_json(json.loads(body)).error or {}
    except (ValueError, RecursionError):
        return "", "", ""
    code, kind, said = (error.get(name) for name in ("code", "type", "message"))
    shown = 2000 if code == NOT_RECORDED else _SHOWN
    message = scrub(" ".join(said.replace(key, masked(key)).split()))[:shown] if isinstance(said, str) else ""
    code = code.replace(key, masked(key)) if isinstance(code, str) else ""
    return code, kind if isinstance(kind, str) else "", message


_WORDS: dict[Failure, tuple[type[errors.RelayError], str, str]] = {
    Failure.CLIENT_FAULT: (
        errors.BadRequest,
        "请求格式有误,已拒绝。",
        "The request is malformed and was refused: check its headers (Content-Length, Transfer-Encoding, Host).",
    ),
    Failure.CONNECT_TIMEOUT: (
        errors.UpstreamTimeout,
        "连接上游超时:请检查中转服务器的网络,或在 relay.yaml 中设置 upstreams[].proxy。",
        "Connecting to the upstream timed out: check the relay's network, or set upstreams[].proxy in relay.yaml.",
    ),
    Failure.ANSWER_TIMEOUT: (
        errors.UpstreamTimeout,
        "上游响应超时,请稍后再试。",
        "The upstream took too long to answer; try again later.",
    ),
    Failure.NAME: (
        errors.UpstreamFailed,
        "无法解析上游的域名:请检查中转服务器的 DNS 设置。",
        "The upstream's name does not resolve: check the relay's DNS and upstreams[].url in relay.yaml.",
    ),
    Failure.REFUSED: (
        errors.UpstreamFailed,
        "上游拒绝连接,请稍后再试。",
        "The upstream refuses connections; try again later, or check upstreams[].url in relay.yaml.",
    ),
    Failure.UNREACHABLE: (
        errors.UpstreamFailed,
        "无法到达上游:请检查中转服务器的网络。",
        "There is no route to the upstream: check the relay's network.",
    ),
    Failure.EXHAUSTED: (
        errors.Unavailable,
        "中转服务器的文件描述符已用完，请稍后再试。",
        "This relay has no file descriptor left to reach the upstream with; try again later (its log says more).",
    ),
    Failure.TLS: (
        errors.UpstreamFailed,
        "与上游的 TLS 握手失败(证书无效或网络被干扰)。",
        "TLS with the upstream failed: its certificate is not trusted, or something on the way interferes.",
    ),
    Failure.PROXY: (
        errors.UpstreamFailed,
        "出口代理拒绝了连接:请检查 relay.yaml 中的 upstreams[].proxy。",
        "The HTTP proxy on the way out refused: check upstreams[].proxy in relay.yaml.",
    ),
    Failure.BROKEN: (
        errors.UpstreamFailed,
        "上游中断了连接,请重试。",
        "The upstream closed the connection before it had answered; try again.",
    ),
    Failure.UNREADABLE: (
        errors.UpstreamFailed,
        "上游的回答不是有效的 HTTP。",
        "The upstream's answer is not valid HTTP.",
    ),
}
_OTHER = (errors.UpstreamFailed, "上游连接失败,请稍后再试。", "The upstream failed; try again later.")


def failure_error(failure: Failure) -> errors.RelayError:
    """relay's error for a failure of mitmproxy's."""
    kind, zh, en = _WORDS.get(failure, _OTHER)
    return kind(zh, en)
