"""What an upstream's error says: status and body in, what kind of refusal it is and the reason given out.

Upstreams agree on neither shape nor words. What decides, in this order:

1. Structured codes and types (`insufficient_quota`, `RESOURCE_EXHAUSTED`, `InvalidApiKey`), wherever they stand.
2. The status: HTTP's own, or the one that is told inside a 200.
3. Whole phrases. "Rate limit" and "try again in" come before any phrase about money: a rate limit's advice names quota
   pages and billing. In doubt a 429 is a rate limit.

Shapes and phrases are those that OpenAI, Azure, Anthropic, Gemini, Mistral, DeepSeek, DashScope (Qwen), Moonshot,
Zhipu, MiniMax, OpenRouter, llama.cpp, vLLM, SGLang, TGI, LM Studio, Ollama, one-api, new-api, FastAPI, Kong, nginx and
Cloudflare send, as their documentation and public bug reports show them.
"""

import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from addons.core import bounded_json
from addons.core.sse import Parser

MAX_BODY = 64 << 10
"""Bytes of a body that are worth reading for an error."""

_MARKS = 10_000  # values of an error's JSON; real ones have some twenty
_LONGEST_REASON = 4096  # code points; what is shown is far less, but keys in it have to be found whole
_LONGEST_CODE = 64


class Kind(enum.Enum):
    """What an upstream means by an error."""

    KEY = "the key is refused"
    QUOTA = "out of quota"
    RATE = "too fast"
    FORBIDDEN = "not allowed"
    MODEL = "no such model"
    ADDRESS = "nothing at this address"
    REDIRECT = "the address has moved"
    TOO_LONG = "longer than the model's context"
    TOO_LARGE = "the request is too large"
    SLOW = "too slow"
    REQUEST = "the request is at fault"
    EDGE = "a proxy before the upstream can't reach it"
    FAILED = "the upstream failed"


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error as it was read. Texts are as upstream wrote them: keys are still in them."""

    kind: Kind
    status: int | None = None
    """HTTP's status, or the one told inside a 2xx; None where nobody told one."""
    code: str = ""
    type: str = ""
    reason: str = ""
    """What upstream says in words, in one line; empty where it says nothing that is for people, such as a page."""

    @property
    def shorter_may_pass(self) -> bool:
        """Whether the same request with fewer earlier messages may be taken."""
        return self.kind in (Kind.TOO_LONG, Kind.TOO_LARGE)


def read(status: int, body: bytes) -> UpstreamError:
    """The error in an answer. `body` is decoded; `MAX_BODY` bytes of it are read. Never raises.

    In a 2xx, whatever the body says is taken for an error: `told` says whether it is one.
    """
    text = body[:MAX_BODY].decode("utf-8", "replace").removeprefix("\ufeff").strip()
    value = _json_of(text)
    if value is not None:
        return read_value(status, value)
    reason = "" if _is_markup(text) else _line(text)
    given = None if 200 <= status < 300 else status
    return _judge(given, (), "", "", reason, text[:_LONGEST_REASON].lower(), structured=False)


def read_value(status: int, value: object) -> UpstreamError:
    """The error in an answer whose JSON is parsed already."""
    found = tuple(_objects(value))
    codes = [text for each in found for name in ("code", "status") if (text := _word(each.get(name)))]
    types = [text for each in found for name in ("type", "status", "reason") if (text := _word(each.get(name)))]
    code = next((text for text in codes if not text.isdigit()), codes[0] if codes else "")
    kind = next((text for text in types if text != "error"), "")
    reason = next((text for each in found if (text := _reason(each))), "") or (_line(value) if value else "")
    words = " ".join((*(_all_words(each) for each in found), reason)).lower()
    given = _told_status(found) if 200 <= status < 300 else status
    return _judge(given, (*codes, *types), code, kind, reason, words, structured=bool(found))


def told(value: object, *, strict: bool = False) -> Mapping[str, object] | None:
    """The error that the JSON of a 2xx tells in place of an answer, as an object; None where it tells none.

    `strict` is for the events of a stream, where much has a `message` and is no error.
    """
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if error:
        beside = {name: value[name] for name in _BESIDE if isinstance(value.get(name), str | int)}
        if not isinstance(error, dict):
            return beside | {"message": error if isinstance(error, str) else "unreadable error"}
        return beside | error
    if isinstance(value.get("choices"), list) and value["choices"]:
        return None
    if _marked(value) or (not strict and _says_only_words(value)):
        return value
    return None


_BESIDE = ("code", "status", "status_code", "statusCode")
"""What tells more of an error though it stands beside it."""


# Shapes


def _json_of(text: str) -> object:
    """The JSON in a body, also where it stands in an event stream. None: there is none."""
    if text[:1] in ("{", "[", '"'):
        return _parsed(text)
    if is_event_stream(text):
        for event in Parser(MAX_BODY).feed(text.encode("utf-8", "replace") + b"\n\n"):
            if event.data[:1] in ("{", "["):
                return _parsed(event.data)
    return None


def is_event_stream(text: str) -> bool:
    """Whether a body's beginning is that of Server-Sent Events."""
    return _STREAM.match(text) is not None


_STREAM = re.compile(r"\ufeff?[ \r\n]{0,64}(?:data|event|id|retry)?:")


def _parsed(text: str) -> object:
    try:
        return bounded_json.loads(text, json.loads, marks=_MARKS)
    except ValueError:
        return None


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    """The objects that tell of the error, the innermost first: `error`, what is quoted in it, what is around it."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return
    error = value.get("error")
    if isinstance(error, dict):
        metadata = error.get("metadata")  # OpenRouter quotes its provider there
        quoted = _parsed(metadata["raw"]) if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str) else 0
        if isinstance(quoted, dict):
            inner = quoted.get("error")
            yield inner if isinstance(inner, dict) else quoted
        yield from (each for each in _listed(error.get("details")) if "reason" in each)  # Gemini
        yield error
    for each in (error, value):
        base = each.get("base_resp") if isinstance(each, dict) else None  # MiniMax
        if isinstance(base, dict):
            yield {"code": base.get("status_code"), "message": base.get("status_msg")}
    yield value
    errors = value.get("errors")
    yield from _listed(errors)
    for name in ("data", "result", "Response"):
        inner = value.get(name)
        if isinstance(inner, dict) and ("error" in inner or "Error" in inner):
            yield from _objects({"error": inner.get("error") or inner.get("Error")})


def _listed(value: object) -> list[Mapping[str, object]]:
    return [each for each in value[:8] if isinstance(each, dict)] if isinstance(value, list) else []


_REASONS = ("message", "msg", "error_msg", "errmsg", "error_message", "error_description", "detail", "title", "error")


def _reason(found: Mapping[str, object]) -> str:
    for name in _REASONS:
        value = found.get(name)
        if isinstance(value, list):  # FastAPI's list of what does not fit
            value = "; ".join(
                str(each.get("msg") or each.get("message") or "")[:_LONGEST_REASON] if isinstance(each, dict) else each
                for each in value[:8]
                if isinstance(each, dict | str)
            )
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg")
        if isinstance(value, str) and value.strip():
            return _line(value)
    return ""


def _line(value: object) -> str:
    return " ".join(value[:_LONGEST_REASON].split()) if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A code or type as text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return value[:_LONGEST_CODE].strip() if isinstance(value, str) else str(value) if abs(value) < 10**12 else ""


def _all_words(found: Mapping[str, object]) -> str:
    return " ".join(value[:_LONGEST_REASON] for value in found.values() if isinstance(value, str))


def _is_markup(text: str) -> bool:
    return text[:1] in ("<", "{", "[") or is_event_stream(text) or "\0" in text


def _told_status(found: Iterable[Mapping[str, object]]) -> int | None:
    """The HTTP status that an object tells, as a number or as text that is one."""
    for each in found:
        for name in ("status", "status_code", "statusCode", "http_status", "code"):
            text = _word(each.get(name))
            if text.isascii() and text.isdigit() and len(text) == 3 and 400 <= int(text) < 600:
                return int(text)
    return None


def _marked(value: Mapping[str, object]) -> bool:
    """Whether an object says of itself that it is an error."""
    base = value.get("base_resp")
    return (
        value.get("success") is False
        or value.get("object") == "error"
        or value.get("type") == "error"
        or (isinstance(base, dict) and base.get("status_code") not in (0, None, "0"))
        or (_told_status((value,)) is not None and bool(_reason(value)))
    )


def _says_only_words(value: Mapping[str, object]) -> bool:
    """Whether there is a message, and nothing that could be an answer."""
    return bool(_reason(value)) and not value.keys() & {"choices", "output", "data", "object", "usage"}


# What it means


def _judge(
    status: int | None, codes: Iterable[str], code: str, kind: str, reason: str, words: str, *, structured: bool
) -> UpstreamError:
    plain = [_plain(text) for text in codes]
    meant = next((_CODES[each] for each in plain if each in _CODES), None)
    if meant is None:
        meant = _by_status(status, words, structured=structured)
        if status is None and meant is Kind.FAILED and any(each in _OF_REQUESTS for each in plain):
            meant = Kind.REQUEST
    elif meant is Kind.RATE and status == 413:
        meant = Kind.TOO_LARGE  # more than a minute may have: waiting alone helps nobody
    return UpstreamError(meant, status, code[:_LONGEST_CODE], kind[:_LONGEST_CODE], reason)


def _by_status(status: int | None, words: str, *, structured: bool) -> Kind:
    if status is not None and 300 <= status < 400:
        return Kind.REDIRECT
    match status:
        case 401:
            return Kind.QUOTA if _any(_NO_MONEY, words) else Kind.KEY
        case 402:
            return Kind.QUOTA
        case 404 | 405 | 410:
            names_model = structured and _any(_NAMES_MODEL, words) and not _any(_NO_ROUTE, words)
            return Kind.MODEL if names_model else Kind.ADDRESS
        case 408 | 504 | 522 | 524:
            return Kind.SLOW
        case 413:
            return Kind.TOO_LONG if _any(_LONG, words) else Kind.TOO_LARGE
        case 429:
            return Kind.QUOTA if _any(_NO_MONEY, words) and not _any(_FAST, words) else Kind.RATE
        case 520 | 521 | 523 | 525 | 526 | 527 | 530:
            return Kind.EDGE
    meant = _by_words(words)
    if status is not None and status >= 500:
        return meant if meant in (Kind.MODEL, Kind.TOO_LONG, Kind.QUOTA) else Kind.FAILED
    if status is None:
        return meant or (Kind.KEY if "unauthorized" in words else Kind.RATE if _any(_FAST, words) else Kind.FAILED)
    if meant is not None:
        return meant
    if status == 403:
        return Kind.RATE if _any(_TOO_MANY, words) else Kind.FORBIDDEN
    return Kind.REQUEST if 400 <= status < 500 else Kind.FAILED


def _by_words(words: str) -> Kind | None:
    """What whole phrases say; None where they say nothing."""
    for kind, phrases in _PHRASES:
        if _any(phrases, words):
            return kind
    return None


def _any(phrases: Iterable[str], words: str) -> bool:
    return any(phrase in words for phrase in phrases)


def _plain(code: str) -> str:
    """`invalid_api_key`, `InvalidApiKey` and `invalid-api-key` are one."""
    return "".join(filter(str.isalnum, code)).lower()


_CODES: dict[str, Kind] = {
    name: kind
    for kind, names in {
        Kind.KEY: (
            "invalidapikey invalidapikeyerror incorrectapikey incorrectapikeyerror apikeyinvalid invalidauthentication "
            "invalidauthenticationerror authenticationerror unauthorized unauthenticated invalidtoken tokenexpired "
            "accessdeniedinvalidkey accountdeactivated invalidissuer missingapikey"
        ),
        Kind.QUOTA: (
            "insufficientquota insufficientuserquota insufficientquotaerror preconsumetokenquotafailed "
            "billinghardlimitreached billingnotactive billingerror exceededcurrentquotaerror arrearage "
            "insufficientbalance insufficientcredits accountoverdueerror paymentrequired paymentrequirederror "
            "quotaexhausted creditsexhausted"
        ),
        Kind.RATE: (
            "ratelimitexceeded ratelimiterror ratelimitreachederror ratelimited ratelimit toomanyrequests "
            "throttling throttlingratequota throttlingallocationquota throttlingburstrate throttlingexception "
            "limitrequests limitburstrate engineoverloadederror requestlimitexceeded"
        ),
        Kind.MODEL: (
            "modelnotfound modelnotfounderror modelnotexist modelnotsupported modelnotavailable invalidmodel "
            "modeldoesnotexist deploymentnotfound invalidendpointormodelnotfound modelpricenotconfigured"
        ),
        Kind.TOO_LONG: (
            "contextlengthexceeded exceedcontextsizeerror contextwindowexceeded modelcontextwindowexceeded "
            "contextlengthexceedederror stringabovemaxlength"
        ),
        Kind.SLOW: "timeout requesttimeout gatewaytimeout deadlineexceeded timeouterror",
        Kind.FORBIDDEN: "permissiondenied permissionerror permissiondeniederror unsupportedcountryregionterritory",
    }.items()
    for name in names.split()
}
"""Structured codes and types, with nothing but their letters and digits."""

_OF_REQUESTS = frozenset(
    ["invalidargument", "invalidparameter", "invalidparametererror", "badrequesterror", "invalidrequesterror"]
)
"""Codes that say no more than a status of 400, where there is none."""

_LONG = (
    "context_length_exceeded",
    "context length",
    "context_length",
    "context limit",
    "context size",
    "context window",
    "maximum context",
    "maximum model length",
    "maximum prompt length",
    "model max length",
    "model token limit",
    "maximum number of tokens",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input too long",
    "inputs too long",
    "tokens too long",
    "too many tokens",
    "too many input tokens",
    "token limit exceeded",
    "exceeds token limit",
    "max message tokens",
    "range of input length",
    "max input characters",
    "reduce the length of the",
    "reduce your prompt",
    "reduce your message size",
    "`inputs` tokens",
    "inputs must have less than",
    "prompt token count of",
    "上下文长度",
    "上下文窗口",
    "上下文过长",
    "输入过长",
    "输入长度",
    "最大长度",
    "超长",
    "长度超限",
    "长度超过",
    "tokens超过",
    "token 超出",
)
_NO_MONEY = (
    "insufficient_quota",
    "insufficient quota",
    "insufficient balance",
    "insufficient account balance",
    "insufficient credit",
    "insufficient funds",
    "balance is insufficient",
    "balance is not enough",
    "balance not enough",
    "not enough balance",
    "not enough credit",
    "credit balance is too low",
    "out of credits",
    "out of quota",
    "run out of credit",
    "exceeded your current quota",
    "exceeded the current quota",
    "quota is not enough",
    "quota exhausted",
    "quota has been exhausted",
    "billing hard limit",
    "billing limit",
    "payment required",
    "account is in good standing",
    "account has been deactivated due to an outstanding",
    "余额不足",
    "额度不足",
    "额度已用",
    "额度用尽",
    "额度已耗尽",
    "额度失败",
    "欠费",
    "余额为",
    "无可用资源包",
    "请充值",
)
_TOO_MANY = ("rate limit", "rate_limit", "ratelimit", "rate-limit", "too many requests", "throttl", "请求过多", "频繁")
_FAST = (
    *_TOO_MANY,
    "retry after",
    "retry in ",
    "try again in ",
    "per minute",
    "per min ",
    "per second",
    "per day",
    "(tpm)",
    "(rpm)",
    "concurren",
    "slow down",
    "限流",
    "限速",
    "速率",
    "并发",
    "频率",
)
_NO_KEY = (
    "invalid api key",
    "invalid api-key",
    "invalid_api_key",
    "invalid apikey",
    "incorrect api key",
    "api key not valid",
    "api key not found",
    "api key is invalid",
    "api key expired",
    "api key is not valid",
    "apikey is invalid",
    "wrong api key",
    "no api key",
    "invalid token",
    "invalid access token",
    "invalid x-api-key",
    "invalid authentication",
    "authentication fail",
    "authentication error",
    "authentication_error",
    "无效的令牌",
    "令牌无效",
    "该令牌",
    "未提供令牌",
    "令牌已过期",
    "令牌验证失败",
    "无效的密钥",
    "密钥无效",
    "密钥错误",
    "身份验证失败",
    "鉴权失败",
)
_NO_MODEL = (
    "model_not_found",
    "model not found",
    "model does not exist",
    "model not exist",
    "model doesn't exist",
    "model is not found",
    "no such model",
    "unknown model",
    "unsupported model",
    "invalid model",
    "is not a valid model",
    "not supported model",
    "no available channel",
    "does not have access to model",
    "no endpoints found for",
    "无可用渠道",
    "模型不存在",
    "不支持该模型",
    "不支持的模型",
    "未找到模型",
)
_WRONG_PORT = ("plain http request was sent to https port", "http request to an https server")
_NO_ROUTE = ("invalid url", "request url", "no route", "route not found", "cannot post", "page not found", "no handler")
_NAMES_MODEL = (*_NO_MODEL, "model", "deployment", "模型")

_PHRASES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.ADDRESS, _WRONG_PORT),
    (Kind.MODEL, _NO_MODEL),
    (Kind.QUOTA, _NO_MONEY),
    (Kind.TOO_LONG, _LONG),
    (Kind.KEY, _NO_KEY),
)
