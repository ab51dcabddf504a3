"""Errors as upstreams really send them: what is meant, and the reason carried along."""

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.upstream_error import MAX_BODY, ErrorKind, find_error, read, read_value


def error(message: str = "", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


MEANT: list[Any] = [
    # Codes before words
    (
        "OpenAI, tokens a minute",
        429,
        error("Rate limit: see your billing", type="tokens", code="rate_limit_exceeded"),
        ErrorKind.RATE,
    ),
    (
        "Azure, a quota page",
        429,
        error("Requests have exceeded the call rate limit. aka.ms/oai/quotaincrease", code="429"),
        ErrorKind.RATE,
    ),
    (
        "Gemini, quota by the minute",
        429,
        error("You exceeded your current quota. Please retry in 36.3s.", code=429, status="RESOURCE_EXHAUSTED"),
        ErrorKind.RATE,
    ),
    ("a load balancer", 429, error("the load balancer has no free worker"), ErrorKind.RATE),
    (
        "DashScope, allocated quota",
        429,
        {"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded"},
        ErrorKind.RATE,
    ),
    ("nothing at all", 429, b"", ErrorKind.RATE),
    ("a page", 429, b"<html><h1>429 Too Many Requests</h1> billing</html>", ErrorKind.RATE),
    ("Cloudflare", 429, b"error code: 1015", ErrorKind.RATE),
    (
        "OpenAI, quota",
        429,
        error("You exceeded your current quota", type="insufficient_quota", code=None),
        ErrorKind.QUOTA,
    ),
    ("Moonshot, quota", 429, error("suspended", type="exceeded_current_quota_error"), ErrorKind.QUOTA),
    ("DashScope, arrears", 400, {"code": "Arrearage", "message": "Access denied"}, ErrorKind.QUOTA),
    ("DeepSeek", 402, error("Insufficient Balance", code="invalid_request_error"), ErrorKind.QUOTA),
    (
        "Anthropic, credit",
        400,
        error("Your credit balance is too low to access the API", type="invalid_request_error"),
        ErrorKind.QUOTA,
    ),
    (
        "new-api, pre-consumption",
        403,
        error("token quota is not enough", code="pre_consume_token_quota_failed"),
        ErrorKind.QUOTA,
    ),
    ("one-api, used up", 401, error("该令牌额度已用尽", type="one_api_error"), ErrorKind.QUOTA),
    ("SiliconFlow", 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, ErrorKind.QUOTA),
    ("Zhipu, arrears", 429, error("您的账户已欠费，请充值后重试。", code="1113"), ErrorKind.QUOTA),
    # Keys and permissions
    ("one-api, token", 401, error("无效的令牌", type="one_api_error"), ErrorKind.KEY),
    (
        "Gemini, key",
        400,
        [error("API key not valid.", code=400, status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])],
        ErrorKind.KEY,
    ),
    ("DashScope, key", 400, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, ErrorKind.KEY),
    ("a wrapped key", 500, error("Incorrect API key provided", code="invalid_api_key"), ErrorKind.KEY),
    (
        "a country",
        403,
        error("Country not supported", code="unsupported_country_region_territory"),
        ErrorKind.FORBIDDEN,
    ),
    ("a page", 403, b"<html>Forbidden</html>", ErrorKind.FORBIDDEN),
    ("GitHub", 403, {"message": "API rate limit exceeded"}, ErrorKind.RATE),
    # Models and addresses
    ("OpenAI, model", 404, error("The model `x` does not exist", code="model_not_found"), ErrorKind.MODEL),
    (
        "OpenAI, project",
        403,
        error("Project `p` does not have access to model `x`", code="model_not_found"),
        ErrorKind.MODEL,
    ),
    ("one-api, channel", 503, error("当前分组 default 下对于模型  无可用渠道", type="one_api_error"), ErrorKind.MODEL),
    ("DeepSeek, model", 400, error("Model Not Exist", code="invalid_request_error"), ErrorKind.MODEL),
    (
        "Mistral, model",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
        ErrorKind.MODEL,
    ),
    ("OpenRouter, model", 400, error("x is not a valid model ID", code=400), ErrorKind.MODEL),
    ("Ollama, model", 404, error('model "x" not found, try pulling it first', type="api_error"), ErrorKind.MODEL),
    (
        "Anthropic, model",
        404,
        {"type": "error", "error": {"type": "not_found_error", "message": "model: x"}},
        ErrorKind.MODEL,
    ),
    (
        "Azure, deployment",
        404,
        error("The API deployment for this resource does not exist", code="DeploymentNotFound"),
        ErrorKind.MODEL,
    ),
    ("Go", 404, b"404 page not found\n", ErrorKind.ADDRESS),
    ("nginx", 404, b"<html><title>404 Not Found</title>", ErrorKind.ADDRESS),
    ("nginx, POST to a file", 405, b"<html>Not Allowed</html>", ErrorKind.ADDRESS),
    ("FastAPI", 404, {"detail": "Not Found"}, ErrorKind.ADDRESS),
    ("Kong", 404, {"message": "no Route matched with those values"}, ErrorKind.ADDRESS),
    (
        "OpenAI, path",
        404,
        error("Invalid URL (POST /v1/models/chat/completions)", type="invalid_request_error"),
        ErrorKind.ADDRESS,
    ),
    ("nginx, http to https", 400, b"<html>The plain HTTP request was sent to HTTPS port</html>", ErrorKind.NEEDS_TLS),
    ("Go, http to https", 400, b"Client sent an HTTP request to an HTTPS server.\n", ErrorKind.NEEDS_TLS),
    ("moved", 301, b"", ErrorKind.REDIRECT),
    ("moved for now", 307, b"<html>", ErrorKind.REDIRECT),
    # Too long
    (
        "TGI",
        422,
        {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500"},
        ErrorKind.TOO_LONG,
    ),
    (
        "SiliconFlow, prompt tokens",
        400,
        {"code": 20015, "message": "length of prompt_tokens (5000) must be less than max_seq_len (4096)."},
        ErrorKind.TOO_LONG,
    ),
    ("LMDeploy", 400, {"message": "The input length 5000 exceeds session_len 4096"}, ErrorKind.TOO_LONG),
    (
        "MLC",
        400,
        {"message": "Request prompt has 5000 tokens in total, larger than the model input length limit 4096."},
        ErrorKind.TOO_LONG,
    ),
    (
        "llama.cpp, batch",
        500,
        error("input is too large to process. increase the physical batch size"),
        ErrorKind.TOO_LONG,
    ),
    ("iFlytek", 200, {"header": {"code": 10907, "message": "token数量超过上限"}}, ErrorKind.TOO_LONG),
    (
        "TensorRT-LLM",
        400,
        {"message": "The sum of prompt length (5000), max_tokens (1000) should not exceed max_seq_len (4096)"},
        ErrorKind.TOO_LONG,
    ),
    ("TabbyAPI", 400, {"detail": "Prompt length 5000 is greater than max_seq_len 4096"}, ErrorKind.TOO_LONG),
    (
        "Tencent",
        200,
        {"Response": {"Error": {"Code": "FailedOperation.ContextLengthExceeded", "Message": "x"}}},
        ErrorKind.TOO_LONG,
    ),
    ("one-api, 繁体", 503, error("當前分組下無可用渠道"), ErrorKind.MODEL),
    (
        "one-api, English",
        503,
        error("There are no channels available for model gpt-5 under the current group default"),
        ErrorKind.MODEL,
    ),
    (
        "OpenAI",
        400,
        error("This model's maximum context length is 10 tokens", code="context_length_exceeded"),
        ErrorKind.TOO_LONG,
    ),
    (
        "llama.cpp",
        400,
        error("request (20 tokens) exceeds the available context size", type="exceed_context_size_error"),
        ErrorKind.TOO_LONG,
    ),
    (
        "llama.cpp, 500",
        500,
        error("Context size has been exceeded.", code=500, type="server_error"),
        ErrorKind.TOO_LONG,
    ),
    (
        "vLLM",
        400,
        {
            "object": "error",
            "message": "The decoder prompt is longer than the maximum model length of 4096",
            "code": 400,
        },
        ErrorKind.TOO_LONG,
    ),
    (
        "SGLang",
        400,
        {"object": "error", "message": "The input (9 tokens) is longer than the model's context length (4 tokens)."},
        ErrorKind.TOO_LONG,
    ),
    (
        "Anthropic",
        400,
        error("prompt is too long: 20 tokens > 10 maximum", type="invalid_request_error"),
        ErrorKind.TOO_LONG,
    ),
    (
        "Anthropic, with its output",
        400,
        error("input length and `max_tokens` exceed context limit: 1 + 2 > 2"),
        ErrorKind.TOO_LONG,
    ),
    (
        "DashScope",
        400,
        error("<400> Range of input length should be [1, 30720]", code="invalid_parameter_error"),
        ErrorKind.TOO_LONG,
    ),
    (
        "Gemini",
        400,
        error("The input token count (9) exceeds the maximum number of tokens allowed (4).", status="INVALID_ARGUMENT"),
        ErrorKind.TOO_LONG,
    ),
    (
        "Mistral",
        400,
        {"message": "Prompt contains 9 tokens, too large for model with 4 maximum context length"},
        ErrorKind.TOO_LONG,
    ),
    (
        "Moonshot",
        400,
        error("Your request exceeded model token limit: 8192", type="invalid_request_error"),
        ErrorKind.TOO_LONG,
    ),
    ("Zhipu", 400, error("Prompt 超长", code="1261"), ErrorKind.TOO_LONG),
    ("Zhipu, in English", 400, error("Prompt exceeds max length", code="1261"), ErrorKind.TOO_LONG),
    ("a maximum length", 400, error("Input length 9000 exceeds the maximum length 8192"), ErrorKind.TOO_LONG),
    ("the model's maximum", 400, error("The prompt exceeds the model's maximum of 4096 tokens"), ErrorKind.TOO_LONG),
    ("a text too long", 400, error("文本过长，请缩短后重试"), ErrorKind.TOO_LONG),
    (
        "a maximum that is allowed",
        400,
        error("Input length 9000 exceeds the maximum allowed length"),
        ErrorKind.TOO_LONG,
    ),
    ("the length of a field", 400, error("string 'user' exceeds max length 64"), ErrorKind.REQUEST),
    ("the length of a name", 400, error("tools[0].function.name exceeds max length 64"), ErrorKind.REQUEST),
    ("a filter", 400, error("系统检测到输入内容过长或敏感"), ErrorKind.REQUEST),
    ("a filter, in English", 400, error("Content filter: the context window of the policy"), ErrorKind.REQUEST),
    ("a limit per minute", 400, error("too many tokens per minute, slow down"), ErrorKind.REQUEST),
    ("a length of the answer", 400, error("max_tokens 9000 exceeds the maximum length of 4096"), ErrorKind.REQUEST),
    ("not modified", 304, b"", ErrorKind.FAILED),
    ("many choices", 300, b"", ErrorKind.FAILED),
    ("a proxy that is none", 305, b"", ErrorKind.FAILED),
    (
        "xAI",
        400,
        {"error": "This model's maximum prompt length is 4 but the request contains 9 tokens."},
        ErrorKind.TOO_LONG,
    ),
    (
        "MiniMax",
        200,
        {"base_resp": {"status_code": 2013, "status_msg": "invalid params, context window exceeds limit"}},
        ErrorKind.TOO_LONG,
    ),
    (
        "TGI",
        422,
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"},
        ErrorKind.TOO_LONG,
    ),
    (
        "LM Studio",
        400,
        {"error": "tokens to keep from the initial prompt is greater than the context length"},
        ErrorKind.TOO_LONG,
    ),
    ("Ollama", 500, {"error": "the input length exceeds the context length"}, ErrorKind.TOO_LONG),
    (
        "OpenRouter, quoting",
        400,
        error("Provider returned error", metadata={"raw": '{"message": "prompt is too long: 9"}'}),
        ErrorKind.TOO_LONG,
    ),
    (
        "Groq",
        413,
        error("Request too large on tokens per minute (TPM)", code="rate_limit_exceeded"),
        ErrorKind.TOO_LARGE,
    ),
    ("nginx, 413", 413, b"<html>Request Entity Too Large</html>", ErrorKind.TOO_LARGE),
    # Time, edges, the rest
    ("nginx, 504", 504, b"<html>", ErrorKind.SLOW),
    ("Cloudflare, 522", 522, b"<html>", ErrorKind.SLOW),
    ("Cloudflare, 524", 524, b"error code: 524", ErrorKind.SLOW),
    ("Cloudflare, 521", 521, b"<html>", ErrorKind.EDGE),
    ("Cloudflare, 526", 526, b"", ErrorKind.EDGE),
    ("Cloudflare, 530", 530, b"error code: 1016", ErrorKind.EDGE),
    (
        "Anthropic, overloaded",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ErrorKind.FAILED,
    ),
    ("nginx, 502", 502, b"<html>502 Bad Gateway</html>", ErrorKind.FAILED),
    ("a parameter", 400, error("temperature is too high"), ErrorKind.REQUEST),
    ("the wrong type", 415, b"", ErrorKind.REQUEST),
    # What only sounds like something else
    ("vLLM, a token's id", 400, error("Invalid token id 50257 in prompt"), ErrorKind.REQUEST),
    ("llama.cpp, tokens", 400, error("Invalid tokens: out of vocabulary"), ErrorKind.REQUEST),
    ("a parser", 400, error("Invalid token '}' at position 17"), ErrorKind.REQUEST),
    ("a third parser", 400, error("invalid token: '}' at position 17"), ErrorKind.REQUEST),
    ("another parser", 400, error("JSON parse error: invalid token: line 1"), ErrorKind.REQUEST),
    ("a bias in Chinese", 400, error("logit_bias 中有无效的令牌ID"), ErrorKind.REQUEST),
    ("a token that is a key", 400, error("Invalid token (request id: 20250101)"), ErrorKind.KEY),
    ("a token and its type", 403, error("Invalid token", type="one_api_error"), ErrorKind.KEY),
    ("new-api, a token's rights", 403, error("该令牌无权访问模型 gpt-4", type="new_api_error"), ErrorKind.MODEL),
    ("new-api, an address", 403, error("该令牌无权从此地址使用", type="new_api_error"), ErrorKind.FORBIDDEN),
    ("a parameter of a model", 400, error("Invalid model parameter: temperature"), ErrorKind.REQUEST),
    ("a model's output", 500, error("invalid model output"), ErrorKind.FAILED),
    ("a wrong model", 400, error("Invalid model: x"), ErrorKind.MODEL),
    ("an unknown model", 400, error("Unknown model x"), ErrorKind.MODEL),
    ("a parameter's name", 400, error("Unknown parameter: 'context_length'"), ErrorKind.REQUEST),
    (
        "FastAPI, the same",
        422,
        {"detail": [{"msg": "Extra inputs are not permitted: context_window"}]},
        ErrorKind.REQUEST,
    ),
    ("an answer's length", 400, error("max_tokens exceeds the maximum number of tokens: 4096"), ErrorKind.REQUEST),
    (
        "an answer's, with the question's",
        400,
        error("max_tokens and prompt: maximum context length"),
        ErrorKind.TOO_LONG,
    ),
    ("a penalty", 200, {"success": False, "message": "频率惩罚参数无效"}, ErrorKind.FAILED),
    ("a frequency", 200, {"success": False, "message": "请求频率超出限制"}, ErrorKind.RATE),
    # A path that is repeated
    ("Kong, a hub", 404, {"message": "no such path: /modelhub/v1/chat/completions"}, ErrorKind.ADDRESS),
    ("a hub's host", 404, error("https://model.example.com/modelhub/v1 not found"), ErrorKind.ADDRESS),
    ("another hub's host", 404, error("model.example.com has no /v1/chat/completions"), ErrorKind.ADDRESS),
    (
        "Spring",
        404,
        {"timestamp": "2025", "status": 404, "error": "Not Found", "path": "/llm model/x", "requestId": "model"},
        ErrorKind.ADDRESS,
    ),
    ("Express", 404, error("Cannot POST /models/v1/chat/completions"), ErrorKind.ADDRESS),
    ("a method and a path", 404, error("Not found (POST:/deployments/model/x)"), ErrorKind.ADDRESS),
    ("a model with a slash", 404, error("model deepseek/v3 not found at /modelhub/v1"), ErrorKind.MODEL),
    ("a model in Chinese", 404, error("模型deepseek/v3不可用"), ErrorKind.MODEL),
    (
        "Gemini, model",
        404,
        error("models/gemini-x is not found for API v1beta", status="NOT_FOUND"),
        ErrorKind.MODEL,
    ),
    # Told inside a 200
    ("a number", 200, error("no", code=401), ErrorKind.KEY),
    ("a text that is one", 200, error("no", code="429"), ErrorKind.RATE),
    ("beside the error", 200, {"error": "no", "status": 403}, ErrorKind.FORBIDDEN),
    ("a plain 200", 200, {"success": False, "message": "the moon"}, ErrorKind.FAILED),
    (
        "DashScope's stream",
        200,
        b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"no"}\n\n',
        ErrorKind.REQUEST,
    ),
]


def body_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("status", "answer", "kind"), [pytest.param(*row[1:], id=f"{row[0]}: {row[1]}") for row in MEANT]
)
def test_an_error_is_understood(status: int, answer: Any, kind: ErrorKind) -> None:
    assert read(status, body_of(answer)).kind is kind


REASONS: list[Any] = [
    ("OpenAI", error("REASON")),
    ("a text", {"error": "REASON"}),
    ("a list", [error("REASON", code=400)]),
    ("detail", {"detail": "REASON"}),
    ("a list of details", {"detail": [{"loc": ["body"], "msg": "REASON"}]}),
    ("flat", {"object": "error", "message": "REASON", "code": 400}),
    ("success", {"success": False, "message": "REASON"}),
    ("msg", {"code": 1210, "msg": "REASON"}),
    ("error_msg", {"error_code": 17, "error_msg": "REASON"}),
    ("error and its description", {"error": "x", "error_description": "REASON"}),
    ("MiniMax", {"base_resp": {"status_code": 1004, "status_msg": "REASON"}}),
    ("Zhipu", {"code": 1210, "msg": "REASON", "data": None}),
    ("data that is empty", {"code": "A0211", "message": "REASON", "data": {}}),
    ("Tencent", {"Response": {"Error": {"Code": "LimitExceeded", "Message": "REASON"}, "RequestId": "x"}}),
    ("Volcengine", {"ResponseMetadata": {"RequestId": "x", "Error": {"CodeN": 1, "Code": "x", "Message": "REASON"}}}),
    ("a list of errors", {"errors": [{"message": "REASON"}], "data": None}),
    ("a list of texts", {"errors": ["REASON"]}),
    ("iFlytek", {"header": {"code": 10013, "message": "REASON", "sid": "x", "status": 2}}),
    ("iFlytek, flat", {"code": 10013, "message": "REASON", "sid": "x"}),
    ("a status that is an object", {"status": {"code": 3, "message": "REASON"}}),
    ("meta", {"meta": {"code": "E1", "msg": "REASON"}, "data": None}),
    ("WeChat", {"errcode": 40001, "errmsg": "REASON"}),
    ("Baidu", {"error_code": 110, "error_msg": "REASON"}),
    ("Java", {"errorCode": "E1", "errorMessage": "REASON"}),
    ("AWS", {"__type": "ValidationException", "Message": "REASON"}),
    ("Apigee", {"fault": {"faultstring": "REASON", "detail": {"errorcode": "x"}}}),
    ("in data", {"code": 1, "data": {"error": {"message": "REASON"}}}),
    ("in data, a text", {"data": {"error": "REASON"}}),
    ("PHP", {"status": False, "message": "REASON", "data": []}),
    ("a word", {"status": "error", "message": "REASON", "data": None}),
    ("a JSON string", "REASON"),
    ("plain text", b"\xef\xbb\xbf REASON \n"),
    ("an event", b'event: error\r\ndata: {"error": {"message": "REASON"}}\r\n\r\n'),
    ("a quotation", error("Provider returned error", metadata={"raw": '{"error": {"message": "REASON"}}'})),
]


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("answer", [pytest.param(value, id=name) for name, value in REASONS])
def test_the_reason_is_found_wherever_it_stands(answer: Any, status: int) -> None:
    assert read(status, body_of(answer)).reason == "REASON"


@pytest.mark.parametrize("answer", [pytest.param(value, id=name) for name, value in REASONS if isinstance(value, dict)])
def test_a_success_that_tells_no_more_is_told_with_its_reason(answer: dict[str, Any]) -> None:
    error = find_error(answer)
    assert error is not None
    assert read_value(200, {"error": dict(error)}).reason == "REASON"


@pytest.mark.parametrize("page", [b"<!doctype html><title>x</title>", b"\x00\x01", b"", b"data: \n\n"])
def test_a_page_has_no_reason(page: bytes) -> None:
    assert read(502, page).reason == ""


@pytest.mark.parametrize(
    "body",
    [
        b'["REASON here"]',
        b'{"errors":"REASON here"}',
        b'{"errors":{"content":["REASON here"]}}',
        b'{"detail":{"error":"REASON here"}}',
        b'{"detail":{"error":{"message":"REASON here"}}}',
        b'{"message":{"detail":"REASON here"}}',
        b'{"data":{"message":"REASON here"}}',
        b'{"reason":"REASON here"}',
        b'{"error":{"description":"REASON here"}}',
        b'{"id":"x","what":[{"happened":"REASON here"}]}',
        b'{"error":"REASON here"}\n{"done":true}\n',
        b"event: error\ndata: REASON here\n\n",
        b"error: REASON here",
        b"id: 5 REASON here",
        b"[ERROR] REASON here",
        b"{REASON here}",
        b'"REASON here"',
    ],
    ids=repr,
)
def test_whatever_holds_the_reason_it_is_found(body: bytes) -> None:
    assert "REASON here" in read(400, body).reason


@pytest.mark.parametrize("body", [b'["REASON"]', b'"REASON"', b"[ERROR] REASON", b"data: REASON\n\n", b'data: {"x":'])
def test_a_success_of_words_is_a_sentence(body: bytes) -> None:
    assert ("REASON" in read(200, body).reason) is (b"REASON" in body)


def test_an_answer_that_lost_its_end_is_no_sentence() -> None:
    assert read(200, b'{"id":"x","choices":[{"message":{"content":"Hi').reason == ""


@pytest.mark.parametrize("name", ["errno", "retcode", "resultCode", "returncode", "status", "code", "error_code"])
@pytest.mark.parametrize("number", [429, "429", 429.0, Decimal("429.0")])
def test_a_status_told_under_any_name_counts(name: str, number: object) -> None:
    found = find_error({name: number, "errmsg": "x"})
    assert found is not None
    error = read_value(200, {"error": dict(found)})
    assert (error.status, error.kind) == (429, ErrorKind.RATE)


def test_a_status_that_nobody_told_is_none() -> None:
    assert read(200, body_of(error("the moon", code=1210))).status is None
    assert read(201, body_of({"success": False, "message": "no", "code": "503"})).status == 503
    assert read(418, b"").status == 418


@pytest.mark.parametrize(
    ("value", "strictly", "loosely"),
    [
        (error("x"), True, True),
        ({"error": None, "choices": [{}]}, False, False),
        ({"object": "error", "message": "x"}, True, True),
        ({"success": False, "message": "x"}, True, True),
        ({"message": "x"}, False, True),
        ({"type": "message_start", "message": {"id": "x"}}, False, False),
        ({"choices": [{"delta": {}}], "code": 400, "message": "x"}, False, False),
        ({"object": "chat.completion", "choices": []}, False, False),
        ([error("x")], True, True),
        ({"code": 1210, "msg": "x", "data": None}, True, True),
        ({"Response": {"Error": {"Code": "x", "Message": "y"}}}, True, True),
        ({"Response": {"Error": None, "Choices": []}}, False, False),
        ({"errors": [{"message": "x"}]}, True, True),
        ({"errors": []}, False, False),
        ({"header": {"code": 10013, "message": "x"}}, True, True),
        ({"header": {"code": 0, "message": "Success"}, "payload": {}}, False, False),
        ({"code": 0, "message": "ok"}, False, False),
        ({"code": 200, "msg": "success", "data": {"x": 1}}, False, False),
        ({"code": "success", "message": "done", "data": None}, False, False),
        ({"code": "00000", "message": "ok"}, False, False),
        ({"code": 20000, "message": "OK", "status": True, "data": {}}, False, False),
        ({"code": "", "message": "", "status_code": 200, "output": {"text": "x"}}, False, False),
        ({"code": 0, "message": "Success", "choices": [], "usage": {"total_tokens": 1}}, False, False),
        ({"base_resp": {"status_code": 0, "status_msg": "success"}}, False, False),
        ({"error": {"code": 0, "message": "ok"}, "choices": [{}]}, False, False),
        ({"error": {"code": 0, "message": "bad"}}, True, True),
        ({"code": 7, "message": "x", "choices": [{"message": {}}]}, False, False),
        ({"id": "x", "choices": [], "usage": {"total_tokens": 1}}, False, False),
        ("x", False, True),
        (["x"], False, True),
        (" ", False, False),
        (1, False, False),
        ({"error": 429}, True, True),
        ({"error": "429"}, True, True),
        ({"status": 429}, True, True),
        ({"code": "401"}, True, True),
        ({"code": 429.0, "errmsg": "x"}, True, True),
        ({"errno": 429, "errmsg": "x"}, True, True),
        ({"status": 429, "choices": [{}]}, False, False),
        ({"code": 401, "data": {"x": 1}}, False, False),
    ],
    ids=repr,
)
def test_an_error_in_a_success_is_told_from_an_answer(value: Any, strictly: bool, loosely: bool) -> None:
    assert (find_error(value, strict=True) is not None) is strictly
    assert (find_error(value) is not None) is loosely


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "code",
                    "type",
                    "status",
                    "detail",
                    "base_resp",
                    "details",
                    "metadata",
                    "raw",
                    "errors",
                    "data",
                    "header",
                    "Response",
                    "Error",
                    "Code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(100, 599), anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_any_answer_is_some_error(status: int, answer: bytes) -> None:
    found = read(status, answer)
    assert found.kind in ErrorKind
    assert "\n" not in found.reason


@given(anything, st.booleans())
def test_any_value_is_an_error_or_none(value: object, strict: bool) -> None:
    assert isinstance(find_error(value, strict=strict), dict | None)


@pytest.mark.parametrize(
    "piece", [b"[", b"[],", b'{"error":', b"data: {}\n\n", b"\n", b" ", b"a", b"\\", b'"'], ids=repr
)
def test_a_long_body_takes_no_longer_than_its_beginning(piece: bytes) -> None:
    body = piece * (MAX_BODY * 16 // len(piece))
    began = time.process_time()
    for _ in range(10):
        read(400, body)
    assert time.process_time() - began < 3
