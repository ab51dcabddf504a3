"""The endpoints of the look-alike upstream: a `Call` in, an `Answer` out, nothing read and nothing written.

Keys decide what is refused and what is left: `sk-bad...` 401, `sk-quota...` and `sk-rate...` 429, `sk-403...` 403,
`sk-html...` 502 with a page, `sk-200err...` an error under status 200 when asked for the balance, `sk-unlimited...` a
limit of 100000000. A key that contains `-total12.5` has that many dollars granted, one with `-used34.5` that many
cents used; otherwise 18 dollars and 8 cents.
"""

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from datetime import date
from urllib.parse import unquote

from addons.cli.fake_openai import chat as talk
from addons.cli.fake_openai.answer import Answer
from addons.cli.fake_openai.call import ApiError, Call, File, as_json, binary, streamed
from addons.cli.fake_openai.chat import Json
from addons.cli.fake_openai.form import HELD

MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "dall-e-3", "tts-1", "whisper-1")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A picture of one pixel."""
FILES = 64
"""How many uploaded files are known at a time."""
_BLOCK = bytes(range(256)) * 256
_METHODS = "GET, POST, DELETE, HEAD, OPTIONS"


def answer(call: Call) -> Answer:
    """What the look-alike says to this call, errors included."""
    try:
        return _answer(call)
    except ApiError as error:
        return error.answer
    except Exception as error:  # whatever a test sends, it gets an answer, and this one fails the test clearly
        return ApiError(500, f"The look-alike upstream stumbled: {error!r}", kind="server_error").answer


def _answer(call: Call) -> Answer:
    method = "GET" if call.head.method == "HEAD" else call.head.method
    if not call.path.startswith(("/v1/", "/dashboard/billing/")):
        raise ApiError(404, f"Invalid URL ({call.head.method} {call.path})")
    if method == "OPTIONS" or re.match("/v1/echo(/|$)", call.path):
        return _echo(call)
    refuse(call.key)
    if call.path == "/v1/realtime":
        raise ApiError(426, "Open /v1/realtime as a websocket.", headers=[("upgrade", "websocket")])
    known = False
    for verb, pattern, endpoint in ROUTES:
        if found := re.fullmatch(pattern, call.path):
            if verb == method:
                return endpoint(call, *(unquote(group) for group in found.groups()))
            known = True
    if known:
        raise ApiError(405, f"Not allowed to {call.head.method} on {call.path}.", headers=[("allow", _METHODS)])
    return _echo(call)


def refuse(key: str) -> None:
    """Raises ApiError where this key may not come in."""
    if not key:
        raise ApiError(401, "You didn't provide an API key. Send it as: Authorization: Bearer YOUR_KEY.")
    if key.startswith("sk-bad"):
        raise ApiError(401, "Incorrect API key provided: sk-bad***. Check it and try again.", "invalid_api_key")
    if key.startswith("sk-403"):
        raise ApiError(403, "Country, region, or territory not supported", "unsupported_country_region_territory")
    if key.startswith("sk-quota"):
        message = "You exceeded your current quota, please check your plan and billing details."
        raise ApiError(429, message, "insufficient_quota", kind="insufficient_quota")
    if key.startswith("sk-rate"):
        message = "Rate limit reached for requests. Please try again in 1s."
        raise ApiError(429, message, "rate_limit_exceeded", kind="requests", headers=[("retry-after", "1")])


def _echo(call: Call) -> Answer:
    arrived = {
        "method": call.head.method,
        "target": call.head.target,
        "headers": call.head.headers,
        "length": call.length,
        "sha256": call.sha256,
    }
    return as_json({"object": "echo", **arrived}, headers=[("allow", _METHODS)])


def _model(given: Json) -> str:
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter")
    if model == "no-such-model":
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiError(404, message, "model_not_found")
    return model


def _fitting(model: str, messages: list[Json]) -> list[Json]:
    limit, count = talk.CONTEXT.get(model, 128_000), talk.prompt_tokens(messages)
    if count > limit:
        message = f"This model's maximum context length is {limit} tokens. However, your messages resulted in {count}."
        raise ApiError(400, message, "context_length_exceeded", "messages")
    return messages


def _chat(call: Call) -> Answer:
    given = call.json()
    model, messages = _model(given), given.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ApiError(400, "'messages' must be a list of at least one message.", param="messages")
    _fitting(model, messages)
    if not given.get("stream"):
        return as_json(talk.completion(model, messages))
    options = given.get("stream_options")
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    return streamed(talk.completion_events(model, messages, include_usage), call.paced(given))


def _responses(call: Call) -> Answer:
    given = call.json()
    model, messages = _model(given), talk.messages_of(given.get("input"), given.get("instructions"))
    _fitting(model, messages)
    if given.get("stream"):
        return streamed(talk.response_events(model, messages), call.paced(given))
    return as_json(talk.response(model, messages))


def _about(model: str) -> Json:
    return {"id": model, "object": "model", "created": 1677610602, "owned_by": "openai"}


def _models(call: Call) -> Answer:
    return as_json({"object": "list", "data": [_about(model) for model in MODELS]})


def _one_model(call: Call, model: str) -> Answer:
    return as_json(_about(_model({"model": model})))


def _embeddings(call: Call) -> Answer:
    given = call.json()
    model, texts = _model(given), given.get("input")
    texts = texts if isinstance(texts, list) else [str(texts)]
    floats = given.get("encoding_format") != "base64"
    vectors = [_vector(str(one), floats) for one in texts]
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    count = sum(talk.tokens(str(one)) for one in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return as_json({"object": "list", "data": data, "model": model, "usage": usage})


def _vector(text: str, floats: bool) -> list[float] | str:
    numbers = [byte / 256 for byte in hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]]
    return numbers if floats else base64.b64encode(struct.pack("<8f", *numbers)).decode()


def _images(call: Call) -> Answer:
    given = call.json()
    as_b64 = given.get("response_format") == "b64_json"
    one = {"b64_json": base64.b64encode(PNG).decode()} if as_b64 else {"url": "https://images.invalid/demo.png"}
    return as_json({"created": 1700000000, "data": [one | {"revised_prompt": str(given.get("prompt"))}]})


def _speech(call: Call) -> Answer:
    given = call.json()
    sound = hashlib.sha256(str(given.get("input")).encode("utf-8", "replace")).digest() * 32
    delay = call.paced(given)
    return binary("audio/mpeg", [(b"ID3\x04" + sound[:508], delay), (sound, delay), (sound, 0)])


def _transcription(call: Call) -> Answer:
    part = call.part("file")
    return as_json({"text": f"{part.size} bytes of sound named {part.filename}.", "sha256": part.hash.hexdigest()})


def _upload(call: Call) -> Answer:
    part = call.part("file")
    purpose = bytes(call.part("purpose").content).decode("utf-8", "replace")
    file = File(talk.new_id("file-"), part.filename or "", purpose, part)
    call.files[file.id] = file
    while len(call.files) > FILES:
        call.files.popitem(last=False)
    return as_json(file.shape)


def _files(call: Call) -> Answer:
    return as_json({"object": "list", "data": [file.shape for file in call.files.values()], "has_more": False})


def _file(call: Call, name: str) -> File:
    if name not in call.files:
        raise ApiError(404, f"No such File object: {name}", param="id")
    return call.files[name]


def _one_file(call: Call, name: str) -> Answer:
    return as_json(_file(call, name).shape)


def _content(call: Call, name: str) -> Answer:
    if made := re.fullmatch(r"file-made-(\d{1,12})", name):
        return binary("application/octet-stream", [(b"", 0)] if made[1] == "0" else _made(int(made[1])))
    part = _file(call, name).part
    if part.size > len(part.content):
        raise ApiError(400, f"Only files of up to {HELD} bytes can be read back.", param="id")
    return binary("application/octet-stream", bytes(part.content))


def _made(size: int) -> Iterator[tuple[bytes, float]]:
    while size > 0:
        yield _BLOCK[:size], 0
        size -= len(_BLOCK)


def _delete(call: Call, name: str) -> Answer:
    del call.files[_file(call, name).id]
    return as_json({"id": name, "object": "file", "deleted": True})


def _moderations(call: Call) -> Answer:
    bad = "violence" in str(call.json().get("input"))
    names = ("harassment", "hate", "self-harm", "sexual", "violence")
    result = {
        "flagged": bad,
        "categories": {name: bad and name == "violence" for name in names},
        "category_scores": {name: 0.9 if bad and name == "violence" else 0.01 for name in names},
    }
    return as_json({"id": talk.new_id("modr-"), "model": "omni-moderation-latest", "results": [result]})


def _strange_balance(key: str) -> Answer | None:
    if key.startswith("sk-html"):
        page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
        return Answer(502, [("content-type", "text/html")], page)
    if key.startswith("sk-200err"):
        return as_json(ApiError(200, "无效的令牌 (invalid token)", kind="one_api_error").shape)
    return None


def _number(key: str, word: str, usual: float) -> float:
    found = re.search(rf"-{word}(\d+(?:\.\d+)?)", key)
    return float(found[1]) if found else usual


def _subscription(call: Call) -> Answer:
    total = 100_000_000.0 if call.key.startswith("sk-unlimited") else _number(call.key, "total", 18.0)
    limits = {"soft_limit_usd": total, "hard_limit_usd": total, "system_hard_limit_usd": total}
    subscription = {"object": "billing_subscription", "has_payment_method": True, **limits, "access_until": 0}
    return _strange_balance(call.key) or as_json(subscription)


def _usage(call: Call) -> Answer:
    try:
        first, last = (date.fromisoformat(call.query.get(name, "2024-01-01")) for name in ("start_date", "end_date"))
    except ValueError:
        raise ApiError(400, "start_date and end_date must be dates: YYYY-MM-DD.") from None
    if (last - first).days > 100:
        raise ApiError(400, "The date range may be at most 100 days.", param="end_date")
    used = {"object": "list", "daily_costs": [], "total_usage": _number(call.key, "used", 8.0)}
    return _strange_balance(call.key) or as_json(used)


type Endpoint = Callable[..., Answer]

ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", _chat),
    ("POST", "/v1/responses", _responses),
    ("GET", "/v1/models", _models),
    ("GET", "/v1/models/(.+)", _one_model),
    ("POST", "/v1/embeddings", _embeddings),
    ("POST", "/v1/images/generations", _images),
    ("POST", "/v1/audio/speech", _speech),
    ("POST", "/v1/audio/transcriptions", _transcription),
    ("POST", "/v1/files", _upload),
    ("GET", "/v1/files", _files),
    ("GET", "/v1/files/([^/]+)", _one_file),
    ("GET", "/v1/files/([^/]+)/content", _content),
    ("DELETE", "/v1/files/([^/]+)", _delete),
    ("POST", "/v1/moderations", _moderations),
    ("GET", "(?:/v1)?/dashboard/billing/subscription", _subscription),
    ("GET", "(?:/v1)?/dashboard/billing/usage", _usage),
)
