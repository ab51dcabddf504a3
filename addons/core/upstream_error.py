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
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from addons.core import bounded_json
from addons.core.sse import Parser

MAX_BODY = 64 << 10
"""Bytes of a body that are worth reading for an error."""

_MARKS = 10_000  # values of an error's JSON; real ones have some twenty
_LONGEST_REASON = 4096  # code points; what is shown is far less, but keys in it have to be found whole
_LONGEST_CODE = 64


class ErrorKind(enum.Enum):
    """What an upstream means by an error."""

    KEY = "the key is refused"
    QUOTA = "out of quota"
    RATE = "too fast"
    FORBIDDEN = "not allowed"
    MODEL = "no such model"
    ADDRESS = "nothing at this address"
    REDIRECT = "the address has moved"
    NEEDS_TLS = "a TLS port was asked in plain HTTP"
    TOO_LONG = "longer than the model's context"
    TOO_LARGE = "the request is too large"
    SLOW = "too slow"
    REQUEST = "the request is at fault"
    EDGE = "a proxy before the upstream can't reach it"
    FAILED = "the upstream failed"


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error as it was read. Texts are as upstream wrote them: keys are still in them."""

    kind: ErrorKind
    status: int | None = None
    """HTTP's status, or the one told inside a 2xx; None where nobody told one."""
    code: str = ""
    type: str = ""
    reason: str = ""
    """What upstream says in words, in one line; empty where it says nothing that is for people, such as a page."""

    @property
    def shorter_may_pass(self) -> bool:
        """Whether the same request with fewer earlier messages may be taken."""
        return self.kind in (ErrorKind.TOO_LONG, ErrorKind.TOO_LARGE)


def read(status: int, body: bytes) -> UpstreamError:
    """The error in an answer. `body` is decoded; `MAX_BODY` bytes of it are read. Never raises.

    In a 2xx, whatever the body says is taken for an error: `find_error` says whether it is one.
    """
    text = body[:MAX_BODY].decode("utf-8", "replace").removeprefix("\ufeff").strip()
    value = _json_of(text)
    if value is not None:
        return read_value(status, value)
    given = None if 200 <= status < 300 else status
    text = _words_of_stream(text) if _EVENTS.match(text) else text
    reason = "" if _is_markup(text) or (given is None and _BROKEN_JSON.match(text)) else _line(text)
    return _judge(given, (), "", "", reason, text[:_LONGEST_REASON].lower(), structured=False)


def read_value(status: int, value: object) -> UpstreamError:
    """The error in an answer whose JSON is parsed already."""
    found = tuple(_objects(value))
    codes = [text for each in found for name in (*_CODE_FIELDS, "status") if (text := _word(each.get(name)))]
    types = [text for each in found for name in ("type", "status", "reason") if (text := _word(each.get(name)))]
    code = next((text for text in codes if not _is_number(text) and text not in _FAILED), codes[0] if codes else "")
    kind = next((text for text in types if text not in _FAILED), "")
    reason = next((text for each in found if (text := _reason(each))), "") or _sentence(value)
    words = "\n".join((*(_all_words(each) for each in found), reason)).lower()
    given = _told_status(found) if 200 <= status < 300 else status
    return _judge(given, (*codes, *types), code, kind, reason, words, structured=bool(found))


_EVENTS = re.compile(r"(?:data|event):")
_BROKEN_JSON = re.compile(r"[\[{]\s{0,64}[\[{\"}\]0-9-]")
"""How JSON begins: in a success that is no sentence, but an answer that has lost its end."""


def find_error(value: object, *, strict: bool = False) -> Mapping[str, object] | None:
    """The error that the JSON of a 2xx tells in place of an answer, as an object; None where it tells none.

    `strict` is for the events of a stream, where much has a `message` and is no error.
    """
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, str) and value.strip() and not strict:
        return {"message": value}
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    answered = isinstance(choices, list) and bool(choices)
    error = value.get("error")
    if error and not (answered and isinstance(error, dict) and _succeeds(_fields(error))):
        beside = {name: value[name] for name in _BESIDE if isinstance(value.get(name), str | int)}
        if isinstance(error, dict):
            return beside | error
        if _is_number(_word(error)):
            return {"code": error, **beside, "message": _reason({**_fields(value), "error": None})}
        return beside | {"message": _reason(_fields(value)) or _sentence(error)}
    if answered or _TELLING.isdisjoint(map(_plain, itertools.islice(value, _MOST_FIELDS))):
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


def _words_of_stream(text: str) -> str:
    """The data of the first event that has some."""
    events = Parser(MAX_BODY).feed(text.encode("utf-8", "replace") + b"\n\n")
    return next((event.data.strip() for event in events if event.data.strip()), "")


def is_event_stream(text: str) -> bool:
    """Whether a body's beginning is that of Server-Sent Events."""
    return _STREAM.match(text) is not None


_STREAM = re.compile(r"\ufeff?[ \r\n]{0,64}(?:data|event|id|retry|error)?:")


def _parsed(text: str) -> object:
    try:
        return bounded_json.loads(text, marks=_MARKS)
    except ValueError:
        return None


type _Fields = Mapping[str, object]
"""An object's fields by their plain names: `Message`, `errMsg` and `err_msg` are as good as `message` and `errmsg`."""

_MOST_FIELDS = 64


def _fields(value: Mapping[str, object]) -> _Fields:
    plain: dict[str, object] = {}
    for name in itertools.islice(value, _MOST_FIELDS):
        plain.setdefault(_plain(name), value[name])
    return plain


def _plain(name: str) -> str:
    """`invalid_api_key`, `InvalidApiKey` and `invalid-api-key` are one."""
    return name if name.isascii() and name.isalpha() and name.islower() else _without_marks(name)


def _without_marks(name: str) -> str:
    return "".join(filter(str.isalnum, name[:_LONGEST_CODE])).lower()


def _objects(value: object) -> Iterator[_Fields]:
    """The objects that tell of the error, the innermost first: `error`, what is quoted in it, what is around it."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return
    around = _fields(value)
    error = value.get("error")
    fields = _fields(error) if isinstance(error, dict) else {}
    if fields:
        metadata = fields.get("metadata")  # OpenRouter quotes its provider there
        quoted = _parsed(metadata["raw"]) if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str) else 0
        if isinstance(quoted, dict):
            inner = quoted.get("error")
            yield _fields(inner if isinstance(inner, dict) else quoted)
        yield from (each for each in _listed(fields.get("details")) if "reason" in each)  # Gemini
    for each in (fields, around):
        yield from _inside(each)
        yield from _states(each)
        if each:
            yield each
        yield from _listed(each.get("errors"))


_WRAPPERS = ("response", "responsemetadata", "data", "result", "output")
"""Where an error may stand one level deeper. Tencent: `Response.Error`. Volcengine: `ResponseMetadata.Error`."""
_STATES = ("baseresp", "header", "head", "meta", "status", "state", "fault", "err")
"""Objects that tell how it went. MiniMax: `base_resp`. iFlytek: `header`. Apigee: `fault`."""


def _inside(fields: _Fields) -> Iterator[_Fields]:
    """The errors in what is wrapped around an answer."""
    for name in _WRAPPERS:
        inner = fields.get(name)
        error = _fields(inner).get("error") if isinstance(inner, dict) else None
        if isinstance(error, dict) and error:
            yield _fields(error)
        elif isinstance(error, str) and error:
            yield {"message": error}


def _states(fields: _Fields) -> Iterator[_Fields]:
    """What tells of failure beside the answer that there would be."""
    for name in _STATES:
        inner = fields.get(name)
        if isinstance(inner, dict) and (_fails(state := _fields(inner)) or (name == "fault" and _reason(state))):
            yield state


def _listed(value: object) -> list[_Fields]:
    """The objects of a list of errors; texts are taken for their messages."""
    listed = value[:8] if isinstance(value, list) else []
    return [
        _fields(each) if isinstance(each, dict) else {"message": each}
        for each in listed
        if isinstance(each, dict) or (isinstance(each, str) and each)
    ]


_REASONS = (
    *("message", "msg", "errormsg", "errmsg", "errormessage", "errordescription", "errordesc", "statusmsg"),
    *("statusmessage", "retmsg", "returnmsg", "resultmsg", "faultstring", "detail", "title", "error", "err"),
)


def _reason(found: _Fields) -> str:
    for name in _REASONS:
        value = found.get(name)
        if isinstance(value, list):  # FastAPI's list of what does not fit
            value = "; ".join(
                str(each.get("msg") or each.get("message") or "")[:_LONGEST_REASON] if isinstance(each, dict) else each
                for each in value[:8]
                if isinstance(each, dict | str)
            )
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg") or _sentence(value)
        if isinstance(value, str) and value.strip():
            return _line(value)
    return ""


_NAMES_OF_REASONS = (*_REASONS, "reason", "description", "info", "errors", "content", "text")
_MOST_LOOKED_AT = 200


def _sentence(value: object) -> str:
    """The words in JSON of a shape that nobody knows: those under a name for reasons, else the first with a blank."""
    named, others, waiting = "", "", [("", value)]
    for _ in range(_MOST_LOOKED_AT):
        if not waiting or named:
            break
        name, each = waiting.pop(0)
        if isinstance(each, dict):
            waiting += [(_plain(key), inner) for key, inner in itertools.islice(each.items(), _MOST_FIELDS)]
        elif isinstance(each, list):
            waiting += [(name, inner) for inner in each[:8]]
        elif isinstance(each, str) and (line := _line(each)) and name not in _ECHOES:
            named = line if name in _NAMES_OF_REASONS or not name else ""
            others = others or (line if " " in line else "")
    return named or others


def _line(value: object) -> str:
    return " ".join(value[:_LONGEST_REASON].split()) if isinstance(value, str) else ""


def _word(value: object) -> str:
    """A code or type as text."""
    if isinstance(value, Decimal):  # a fraction of an answer that is about money
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return value[:_LONGEST_CODE].strip() if isinstance(value, str) else str(value) if abs(value) < 10**12 else ""


_ECHOES = frozenset(["path", "url", "uri", "instance", "requesturl", "requesturi", "requestpath", "requestid"])
"""What repeats the request and says nothing of the error."""


def _all_words(found: _Fields) -> str:
    return "\n".join(
        value[:_LONGEST_REASON] for name, value in found.items() if isinstance(value, str) and name not in _ECHOES
    )


def _is_markup(text: str) -> bool:
    return text[:1] == "<" or "\0" in text


def _told_status(found: Iterable[_Fields]) -> int | None:
    """The HTTP status that an object tells, as a number or as text that is one."""
    for each in found:
        for name in ("status", "httpstatus", "httpcode", *_CODE_FIELDS):
            text = _word(each.get(name))
            if _is_number(text) and len(text) == 3 and 400 <= int(text) < 600:
                return int(text)
    return None


_CODE_FIELDS = ("code", "errorcode", "errcode", "errno", "statuscode", "retcode", "resultcode", "returncode")
_FAILED = ("error", "fail", "failed", "failure")
_SUCCEEDED = frozenset(
    ["ok", "success", "succeed", "succeeded", "successful", "normal", "none", "null", "true", "noerror"]
)


def _outcomes(found: _Fields) -> list[bool]:
    """Of each code that an object tells, whether it is one of success."""
    return [_is_success(text) for name in _CODE_FIELDS if (text := _word(found.get(name)))]


def _is_success(code: str) -> bool:
    """0, 00000, 200, 20000 (SiliconFlow), `success` and the like."""
    if _is_number(code):
        return not code.strip("0") or (code[0] == "2" and len(code) == 3) or (code[:3] == "200" and len(code) == 5)
    return _plain(code) in _SUCCEEDED


def _succeeds(found: _Fields) -> bool:
    outcomes = _outcomes(found)
    return bool(outcomes) and all(outcomes)


def _fails(found: _Fields) -> bool:
    """Whether an object has a code that is none of success, and says why."""
    return not all(_outcomes(found)) and bool(_reason(found))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


_TELLING = frozenset(
    [
        *_REASONS,
        *_CODE_FIELDS,
        *_WRAPPERS,
        *_STATES,
        "errors",
        "object",
        "type",
        "success",
        "ok",
        "httpstatus",
        "httpcode",
    ]
)
"""Plain names of all that tells of an error. What has none of these tells of none: most events of most streams."""


def _marked(value: Mapping[str, object]) -> bool:
    """Whether an object says of itself that it is an error."""
    found = _fields(value)
    if found.get("object") == "error" or found.get("type") == "error" or _is_false(found.get("success")):
        return True
    if _told_status((found,)) is not None and not any(found.get(name) for name in _ANSWERS):
        return True
    if any(_inside(found)) or any(_states(found)) or any(_reason(each) for each in _listed(found.get("errors"))):
        return True
    return bool(_reason(found)) and (
        _fails(found)
        or _told_status((found,)) is not None
        or any(_is_false(found.get(name)) for name in ("ok", "status"))
        or _word(found.get("status")).lower() in _FAILED
    )


_ANSWERS = ("choices", "output", "data", "object", "usage")
"""What an object has that may be an answer."""


def _is_false(value: object) -> bool:
    return value is False or (isinstance(value, str) and value.lower() == "false")


def _says_only_words(value: Mapping[str, object]) -> bool:
    """Whether there is a message, and nothing that could be an answer, nor a word of success."""
    found = _fields(value)
    answers = any(found.get(name) for name in _ANSWERS)
    return bool(_reason(found)) and not answers and not _succeeds(found)


# What it means


def _judge(
    status: int | None, codes: Iterable[str], code: str, kind: str, reason: str, words: str, *, structured: bool
) -> UpstreamError:
    codes = tuple(codes)
    plain = [_plain(each) for text in codes for each in (text, text.rpartition(".")[2])]  # `FailedOperation.Arrearage`
    words = words.replace("`", "")
    meant = next((_CODES[each] for each in plain if each in _CODES), None)
    if meant is None:
        meant = _by_status(status, words, structured=structured)
        if status is None and meant is ErrorKind.FAILED and any(each in _OF_REQUESTS for each in plain):
            meant = ErrorKind.REQUEST
    elif meant is ErrorKind.RATE and status == 413:
        meant = ErrorKind.TOO_LARGE  # more than a minute may have: waiting alone helps nobody
    return UpstreamError(meant, status, code[:_LONGEST_CODE], kind[:_LONGEST_CODE], reason)


def _by_status(status: int | None, words: str, *, structured: bool) -> ErrorKind:
    if status in _REDIRECTS:
        return ErrorKind.REDIRECT
    match status:
        case 401:
            return ErrorKind.QUOTA if _any(_NO_MONEY, words) else ErrorKind.KEY
        case 402:
            return ErrorKind.QUOTA
        case 404 | 405 | 410:
            names_model = structured and not _any(_NO_ROUTE, words) and _names_model(words)
            return ErrorKind.MODEL if names_model else ErrorKind.ADDRESS
        case 408 | 504 | 522 | 524:
            return ErrorKind.SLOW
        case 413:
            return ErrorKind.TOO_LONG if _any(_LONG, words) else ErrorKind.TOO_LARGE
        case 429:
            return ErrorKind.QUOTA if _any(_NO_MONEY, words) and not _any(_FAST, words) else ErrorKind.RATE
        case 520 | 521 | 523 | 525 | 526 | 527 | 530:
            return ErrorKind.EDGE
    meant = _by_words(words)
    if status is not None and status >= 500:
        return meant if meant in (ErrorKind.MODEL, ErrorKind.TOO_LONG, ErrorKind.QUOTA) else ErrorKind.FAILED
    if status is None:
        return meant or (
            ErrorKind.KEY if "unauthorized" in words else ErrorKind.RATE if _any(_FAST, words) else ErrorKind.FAILED
        )
    if meant is not None:
        return meant
    if status == 403:
        return ErrorKind.RATE if _any(_TOO_MANY, words) else ErrorKind.FORBIDDEN
    return ErrorKind.REQUEST if 400 <= status < 500 else ErrorKind.FAILED


_REDIRECTS = (301, 302, 303, 307, 308)


def _by_words(words: str) -> ErrorKind | None:
    """What whole phrases say; None where they say nothing."""
    if _any(_WRONG_PORT, words):
        return ErrorKind.NEEDS_TLS
    if _any(_NO_MODEL, words) or _WRONG_MODEL.search(words):
        return ErrorKind.MODEL
    if _any(_NO_MONEY, words):
        return ErrorKind.QUOTA
    if _is_too_long(words):
        return ErrorKind.TOO_LONG
    if _any(_NO_KEY, words):
        return ErrorKind.KEY
    if (_any(_NO_TOKEN, words) or _WRONG_TOKEN.search(words)) and not _any(_OF_TEXT_TOKENS, words):
        return ErrorKind.KEY
    return None


def _is_too_long(words: str) -> bool:
    """Whether a shorter conversation may pass. A limit per minute and a filter of contents speak of lengths, too."""
    if _any(_UNKNOWN_PARAMETER, words) or _any(_FAST, words) or _any(_FILTER, words) or _is_of_output(words):
        return False
    return _any(_LONG, words) or (_any(_OVER, words) and _any(_INPUT, words))


def _names_model(words: str) -> bool:
    """Whether a 404 speaks of a model. The path that it may repeat does not: `/modelhub/v1`, `/v1/models`."""
    said = " ".join(word.partition("/")[0] for word in words.split())
    return _any(_NO_MODEL, words) or _A_MODEL.search(said) is not None


def _is_of_output(words: str) -> bool:
    """Whether a length is that of the answer, as it was asked for: a shorter conversation would change nothing."""
    return _any(_OUTPUT, words) and not _any(_INPUT, words)


def _any(phrases: Iterable[str], words: str) -> bool:
    return any(phrase in words for phrase in phrases)


_CODES: dict[str, ErrorKind] = {
    name: kind
    for kind, names in {
        ErrorKind.KEY: (
            "invalidapikey invalidapikeyerror incorrectapikey incorrectapikeyerror apikeyinvalid invalidauthentication "
            "invalidauthenticationerror authenticationerror unauthorized unauthenticated invalidtoken tokenexpired "
            "accessdeniedinvalidkey accountdeactivated invalidissuer missingapikey"
        ),
        ErrorKind.QUOTA: (
            "insufficientquota insufficientuserquota insufficientquotaerror preconsumetokenquotafailed "
            "billinghardlimitreached billingnotactive billingerror exceededcurrentquotaerror arrearage "
            "insufficientbalance insufficientcredits accountoverdueerror paymentrequired paymentrequirederror "
            "quotaexhausted creditsexhausted"
        ),
        ErrorKind.RATE: (
            "ratelimitexceeded ratelimiterror ratelimitreachederror ratelimited ratelimit toomanyrequests "
            "throttling throttlingratequota throttlingallocationquota throttlingburstrate throttlingexception "
            "limitrequests limitburstrate engineoverloadederror requestlimitexceeded"
        ),
        ErrorKind.MODEL: (
            "modelnotfound modelnotfounderror modelnotexist modelnotsupported modelnotavailable invalidmodel "
            "modeldoesnotexist deploymentnotfound invalidendpointormodelnotfound modelpricenotconfigured"
        ),
        ErrorKind.TOO_LONG: (
            "contextlengthexceeded exceedcontextsizeerror contextwindowexceeded modelcontextwindowexceeded "
            "contextlengthexceedederror stringabovemaxlength 1261"  # Zhipu's
        ),
        ErrorKind.SLOW: "timeout requesttimeout gatewaytimeout deadlineexceeded timeouterror",
        ErrorKind.FORBIDDEN: "permissiondenied permissionerror permissiondeniederror unsupportedcountryregionterritory",
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
    "inputs tokens",
    "length of prompt_tokens",
    "prompt length",
    "max_seq_len",
    "max_sequence_length",
    "maximum sequence length",
    "session_len",
    "model input length limit",
    "input is too large to process",
    "inputs must have less than",
    "prompt token count of",
    "上下文长度",
    "上下文窗口",
    "上下文过长",
    "输入过长",
    "文本过长",
    "超过模型最大",
    "超出模型最大",
    "输入长度",
    "最大长度",
    "超长",
    "长度超限",
    "长度超过",
    "tokens超过",
    "token数量超过",
    "token 数量超过",
    "token数超",
    "token 超出",
)
_OVER = (
    *("exceeds max length", "exceed max length", "exceeds maximum", "exceeds the maximum", "exceed the maximum"),
    *("exceeds the model's maximum", "longer than the maximum", "maximum allowed length", "exceeds the limit of"),
    "内容过长",
)
"""Of a conversation only where they speak of one: fields have lengths, too."""
_FILTER = ("content filter", "content_filter", "content management policy", "sensitive", "敏感", "违规", "不合规")
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
    "频率限制",
    "频率过",
    "频率超",
    "请求频率",
    "调用频率",
    "访问频率",
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
    "invalid access token",
    "invalid x-api-key",
    "invalid authentication",
    "authentication fail",
    "authentication error",
    "authentication_error",
    "无效的密钥",
    "密钥无效",
    "密钥错误",
    "身份验证失败",
    "鉴权失败",
)
_NO_TOKEN = ("无效的令牌", "令牌无效", "该令牌已", "该令牌状态", "未提供令牌", "令牌已过期", "令牌验证失败")
_NO_MODEL = (
    "model_not_found",
    "model not found",
    "model does not exist",
    "model not exist",
    "model doesn't exist",
    "model is not found",
    "no such model",
    "is not a valid model",
    "not supported model",
    "no available channel",
    "does not have access to model",
    "no endpoints found for",
    "无可用渠道",
    "無可用渠道",
    "no channels available for model",
    "no available channels",
    "模型不存在",
    "不支持该模型",
    "不支持的模型",
    "未找到模型",
    "无权访问模型",
    "无权使用模型",
)
_WRONG_PORT = ("plain http request was sent to https port", "http request to an https server")
_NO_ROUTE = (
    "invalid url",
    "request url",
    "no route",
    "route not found",
    "cannot post",
    "page not found",
    "path not found",
    "unknown path",
    "endpoint not found",
    "unknown endpoint",
    "no static resource",
    "no handler",
)
_A_MODEL = re.compile(
    r"(?<![a-z0-9_.-])(?:models?|deployments?|model[_ ]?(?:name|id))(?![a-z0-9_-]|\.[a-z0-9])|模型|部署"
)
"""A word of its own, and no host's name."""
_WRONG_MODEL = re.compile(
    r"(?:invalid|unknown|unsupported) model"
    r"(?!s?[ _]?(?:output|response|param|config|input|state|setting|option|argument|field|feature|capabilit))"
)
_WRONG_TOKEN = re.compile(r"invalid token(?![a-z0-9_]| [^\n(])")
"""Where nothing follows, a key is meant; an `invalid token id`, or one `at position 7`, is one of a text."""
_OF_TEXT_TOKENS = (
    *("token id", "token_id", "token index", "logit_bias", "vocab", "json", "at position", "at line"),
    *("令牌id", "令牌 id", "词表"),
)
_UNKNOWN_PARAMETER = (
    "unknown parameter",
    "unsupported parameter",
    "unrecognized request argument",
    "unexpected keyword",
    "extra inputs are not permitted",
    "extra fields not permitted",
    "unknown field",
    "未知参数",
    "不支持的参数",
    "不支持参数",
)
_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "maxoutputtokens")
_INPUT = ("context", "prompt", "input", "message", "上下文", "输入", "超长")
