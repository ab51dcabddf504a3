"""What an upstream's refusal or failure means, in relay's words.

A refusal is for callers who read an envelope: what upstream itself says is carried along, shortened, with keys taken
out. What callers can do is said to them, what takes a change of relay's settings to its log.
"""

from collections.abc import Callable

from addons import errors
from addons.core.failures import Failure
from addons.core.secrets import masked, scrub
from addons.core.upstream_error import ErrorKind, UpstreamError

SHOWN = 300
"""Code points of what an upstream says."""
_SHOWN_OF_REPLAYS = 2000
NOT_RECORDED = "not_recorded"
"""The code of a replaying upstream's refusal (addons/replay/server.py): what it says is carried along at length."""


def refusal(error: UpstreamError, *, key: str, model: str | None = None) -> errors.RelayError:
    """relay's error for one of an upstream's.

    `key` is the caller's, taken out of what upstream says, whatever it looks like. `model` is what was asked for.
    """
    if error.code == NOT_RECORDED:
        quote = quoted(error.reason, key, _SHOWN_OF_REPLAYS)
        return errors.NotFound(
            "录制文件中没有匹配的请求。", f"This request was not recorded.{quote}", code=NOT_RECORDED
        )
    return _REFUSALS[error.kind](error, quoted(error.reason, key, SHOWN), model)


def quoted(reason: str, key: str, most: int) -> str:
    """What upstream says, to stand behind relay's own words. Keys go first: a cut one would not be found."""
    said = scrub(reason.replace(key, masked(key)))[:most] if key else scrub(reason)[:most]
    return f"（上游 upstream：{said}）" if said else ""


def _key(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.Unauthorized("apiKey 无效或已被拒绝，请检查 apiKey。", f"The key was refused: check apiKey.{quote}")


def own_key_refused() -> errors.RelayError:
    """For callers with a key that relay has handed out: the one that upstream refuses is not theirs."""
    return errors.UpstreamFailed(
        "上游拒绝了此中转服务自己的密钥，请联系服务管理员。",
        "The upstream refuses this relay's own key: tell whoever runs it.",
        code="upstream_key_refused",
    )


def _quota(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.RateLimited(
        "额度已用完，请充值或更换 apiKey。",
        f"The key is out of quota: top it up or use another one.{quote}",
        code="insufficient_quota",
    )


def _rate(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.RateLimited("请求过于频繁，请稍后再试。", f"Rate limited: slow down and try again.{quote}")


def _forbidden(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.Forbidden("上游不允许此操作。", f"The upstream does not allow this.{quote}")


def _model(_error: UpstreamError, quote: str, model: str | None) -> errors.RelayError:
    name_zh, name_en = (f" {model}", f" {model}") if model is not None else ("", " of this name")
    return errors.NotFound(
        f"上游没有模型{name_zh}：请换用其他模型，或联系服务管理员。",
        f"The upstream has no model{name_en}: take another one, or ask whoever runs this relay.{quote}",
        code="model_not_found",
        advice="callers ask for a model that it does not have: see chat.model, upstreams[].model and .models",
    )


def _address(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.UpstreamFailed(
        f"上游没有这个地址{_http_zh(error)}，请联系服务管理员。",
        f"The upstream has nothing at this address{_http_en(error)}: ask whoever runs this relay.{quote}",
        code="wrong_address",
        advice="it has nothing at this address: check upstreams[].url",
    )


def _redirect(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.UpstreamFailed(
        f"上游返回了重定向{_http_zh(error)}，relay 不会跟随，请联系服务管理员。",
        f"The upstream redirects elsewhere{_http_en(error)}, and redirects are not followed: "
        f"ask whoever runs this relay.{quote}",
        code="redirected",
        advice="it redirects elsewhere, and redirects are not followed: change upstreams[].url to the new address",
    )


def _needs_tls(_error: UpstreamError, _quote: str, _model: str | None) -> errors.RelayError:
    return failure_error(Failure.NEEDS_TLS)


def _too_long(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.BadRequest(
        "内容超出模型的上下文长度：请缩短 content，或用 reset 重新开始对话。",
        f"This is longer than the model's context: shorten content, or start the session anew with reset.{quote}",
        code="context_length_exceeded",
    )


def _too_large(_error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.TooLarge(
        "上游认为请求过大，请缩短内容。", f"The upstream finds the request too large: shorten it.{quote}"
    )


def _slow(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.UpstreamTimeout(
        f"上游响应超时{_http_zh(error)}，请稍后再试。",
        f"The upstream took too long to answer{_http_en(error)}; try again later.{quote}",
    )


def _request(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.BadRequest(
        "上游拒绝了请求，请检查请求内容。",
        f"The upstream refused the request: check what was sent.{quote}",
        code=error.code if error.code.isascii() and error.code.isidentifier() else None,
    )


def _edge(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.UpstreamFailed(
        f"上游前面的 CDN 无法访问上游{_http_zh(error)}，请稍后再试。",
        f"The proxy before the upstream can't reach it{_http_en(error)}; try again later.{quote}",
    )


def _failed(error: UpstreamError, quote: str, _model: str | None) -> errors.RelayError:
    return errors.UpstreamFailed(
        f"上游出错{_http_zh(error)}，请稍后再试。", f"The upstream failed{_http_en(error)}; try again later.{quote}"
    )


def _http_zh(error: UpstreamError) -> str:
    """The status, where somebody told one."""
    return f"（HTTP {error.status}）" if error.status is not None else ""


def _http_en(error: UpstreamError) -> str:
    return f" (HTTP {error.status})" if error.status is not None else ""


_REFUSALS: dict[ErrorKind, Callable[[UpstreamError, str, str | None], errors.RelayError]] = {
    ErrorKind.KEY: _key,
    ErrorKind.QUOTA: _quota,
    ErrorKind.RATE: _rate,
    ErrorKind.FORBIDDEN: _forbidden,
    ErrorKind.MODEL: _model,
    ErrorKind.ADDRESS: _address,
    ErrorKind.REDIRECT: _redirect,
    ErrorKind.NEEDS_TLS: _needs_tls,
    ErrorKind.TOO_LONG: _too_long,
    ErrorKind.TOO_LARGE: _too_large,
    ErrorKind.SLOW: _slow,
    ErrorKind.REQUEST: _request,
    ErrorKind.EDGE: _edge,
    ErrorKind.FAILED: _failed,
}


_WORDS: dict[Failure, tuple[type[errors.RelayError], str, str]] = {
    Failure.CLIENT_FAULT: (
        errors.BadRequest,
        "请求格式有误，已拒绝：请检查请求头（Content-Length、Transfer-Encoding、Host）。",
        "The request is malformed and was refused: check its headers (Content-Length, Transfer-Encoding, Host).",
    ),
    Failure.CONNECT_TIMEOUT: (
        errors.UpstreamTimeout,
        "连接上游超时，请稍后再试；如持续出现，请联系服务管理员。",
        "Connecting to the upstream timed out; try again later. If that goes on, ask whoever runs this relay.",
    ),
    Failure.ANSWER_TIMEOUT: (
        errors.UpstreamTimeout,
        "上游响应超时，请稍后再试。",
        "The upstream took too long to answer; try again later.",
    ),
    Failure.NAME: (
        errors.UpstreamFailed,
        "无法解析上游的域名，请联系服务管理员。",
        "The upstream's name does not resolve: ask whoever runs this relay.",
    ),
    Failure.REFUSED: (
        errors.UpstreamFailed,
        "上游拒绝连接，请稍后再试；如持续出现，请联系服务管理员。",
        "The upstream refuses connections; try again later. If that goes on, ask whoever runs this relay.",
    ),
    Failure.UNREACHABLE: (
        errors.UpstreamFailed,
        "无法到达上游，请联系服务管理员。",
        "There is no route to the upstream: ask whoever runs this relay.",
    ),
    Failure.EXHAUSTED: (
        errors.Unavailable,
        "中转服务器的文件描述符已用完，请稍后再试。",
        "This relay has no file descriptor left; try again later.",
    ),
    Failure.TLS: (
        errors.UpstreamFailed,
        "与上游的 TLS 握手失败（证书不受信任，或网络被干扰），请联系服务管理员。",
        "TLS with the upstream failed (its certificate is not trusted, or something on the way interferes): ask "
        "whoever runs this relay.",
    ),
    Failure.NOT_TLS: (
        errors.UpstreamFailed,
        "上游的端口不支持 TLS，请联系服务管理员。",
        "The upstream's port does not speak TLS: ask whoever runs this relay.",
    ),
    Failure.NEEDS_TLS: (
        errors.UpstreamFailed,
        "上游的端口需要 TLS，请联系服务管理员。",
        "The upstream's port wants TLS: ask whoever runs this relay.",
    ),
    Failure.PROXY: (
        errors.UpstreamFailed,
        "出口代理拒绝了连接，请联系服务管理员。",
        "The proxy on the way out refused: ask whoever runs this relay.",
    ),
    Failure.BROKEN: (
        errors.UpstreamFailed,
        "上游中断了连接，请重试。",
        "The upstream closed the connection before it had answered; try again.",
    ),
    Failure.KEPT: (
        errors.UpstreamFailed,
        "经出口代理保持的连接已被关闭，无法确定请求是否已到达上游，因此没有重发：请重试。",
        "A connection that was kept through the proxy on the way out had been closed. Whether the upstream has had "
        "this request can't be told, so it was not sent again; try again.",
    ),
    Failure.CUT: (
        errors.UpstreamFailed,
        "上游响应不完整，请重试。",
        "The upstream's answer broke off; try again.",
    ),
    Failure.UNREADABLE: (
        errors.UpstreamFailed,
        "已连接到上游，但无法读取其响应：不是有效的 HTTP。",
        "The upstream was reached, but its answer could not be read: it is not valid HTTP.",
    ),
}
_ADVICE: dict[Failure, str] = {
    Failure.CONNECT_TIMEOUT: "connecting to it timed out: check the network, or set upstreams[].proxy",
    Failure.NAME: "its name does not resolve: check DNS and upstreams[].url",
    Failure.REFUSED: "it refuses connections: check upstreams[].url",
    Failure.UNREACHABLE: "there is no route to it: check the network, or set upstreams[].proxy",
    Failure.TLS: "TLS with it failed: its certificate is not trusted, or something on the way interferes. See "
    "upstreams[].ca",
    Failure.NOT_TLS: "its port does not speak TLS: make upstreams[].url begin with http://, or correct its port",
    Failure.NEEDS_TLS: "its port wants TLS: make upstreams[].url begin with https://, or correct its port",
    Failure.PROXY: "the proxy on the way out refused: check upstreams[].proxy",
}
"""For the log: what whoever runs relay can do."""
_OTHER = (errors.UpstreamFailed, "上游请求失败，请稍后再试。", "The upstream failed; try again later.")


def failure_error(failure: Failure) -> errors.RelayError:
    """relay's error for a failure of mitmproxy's."""
    kind, zh, en = _WORDS.get(failure, _OTHER)
    return kind(zh, en, advice=_ADVICE.get(failure, ""))
