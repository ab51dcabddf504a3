"""What of an answer a caller must not see: relay's own key, that upstream refuses it, models that are not the caller's.

What can be hidden on its way is (`masking`); other answers are read before they are passed on (`replacing`).
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from mitmproxy import http

from addons import errors
from addons.core import bounded_json
from addons.core.key_mask import KeyMask, without_key
from addons.core.relay_keys import RelayKey
from addons.core.slices import Sliced
from addons.core.usage_chunk import UsageChunk, may_be_usage
from addons.exchange import REAL_KEY, Exchange
from addons.flow.answers import add_common_headers, error_response
from addons.flow.decoding import TooLong, Undecodable, decoding
from addons.flow.turns import in_turns
from addons.flow.upstream_errors import own_key_refused
from addons.meter.under_way import CALLER

logger = logging.getLogger(__name__)

HELD_ANSWER = 8 << 20
"""Bytes of an answer that is read before it is passed on."""
MODELS = "/v1/models"
_JUDGED_AT_ONCE = 10
type Edit = Callable[[bytes], bytes]
"""As `Listener.edit`."""


def replacing(flow: http.HTTPFlow, exchange: Exchange) -> str | None:
    """Why an answer is read before it is passed on, as `REPLACING` says it; None where it passes as it comes."""
    key, response = CALLER.of(exchange), flow.response
    if response is None or key is None:
        return None
    if response.status_code == 401 or (exchange.attempts is not None and exchange.attempts.key_refused):
        return "key"
    chosen = bool(key.models) or key.budget is not None
    listed = exchange.path.rstrip("/") == MODELS and flow.request.method == "GET"
    if listed and chosen and 200 <= response.status_code < 300:
        return "models"
    if response.status_code >= 400 and not _is_identity(response):
        return "refusal"
    return None


def hide_in_head(response: http.Response, real: bytes | None) -> None:
    """Take relay's own key out of the head of an answer."""
    if not real:
        return
    if real in response.data.reason:
        response.data.reason = without_key(response.data.reason, real)
    fields, low = response.headers.fields, real.lower()
    if real in b"\n".join([value for _, value in fields]) or any(
        [low in name.lower() for name, _ in fields if len(name) >= len(low)]
    ):
        hidden = [(_without_key_in_name(name, low), without_key(value, real)) for name, value in fields]
        response.headers.fields = tuple(hidden)


def _without_key_in_name(name: bytes, low: bytes) -> bytes:
    """In whatever case it stands: HTTP/2 has no other names than in lower case."""
    return without_key(name.lower(), low) if low in name.lower() else name


def unkeyed(text: str, real: bytes | None) -> str:
    """What upstream has told, as the ledger keeps it: its reports are shown to the caller, too."""
    return without_key(text, real.decode("utf-8", "surrogateescape")) if real else text


def unkeyed_values(told: Mapping[str, str], real: bytes | None) -> Mapping[str, str]:
    """The same for values."""
    return {name: unkeyed(text, real) for name, text in told.items()} if real else told


async def _decoded(response: http.Response) -> bytes:
    """Raises TooLong, Undecodable."""
    encoding = response.headers.get("content-encoding", "")
    return await in_turns(decoding(response.raw_content or b"", encoding, HELD_ANSWER))


async def _hide_in_body(response: http.Response, real: bytes) -> bool:
    """Whether a body could be read: where the key stands in it, it goes on without, and decoded."""
    try:
        body = await _decoded(response)
    except (TooLong, Undecodable):
        return False
    shown = without_key(body, real)
    if shown != body:
        response.headers.pop("content-encoding", None)
        response.content = shown
    return True


def masking(exchange: Exchange) -> Edit | None:
    """What hides relay's own key in an answer as it comes; None where none went up. In one that is compressed it finds
    nothing, but many an encoding that is told is none (`utf-8`, `identity, identity`)."""
    real = REAL_KEY.of(exchange)
    return KeyMask(real).feed if real else None


def masking_without_usage(exchange: Exchange) -> Edit:
    """The same for a stream whose client did not ask for its usage: it gets none."""
    mask, usage = KeyMask(REAL_KEY.of(exchange) or b""), UsageChunk()

    key = mask.key or b"\0"  # which no event holds
    idle = True

    def edit(chunk: bytes) -> bytes:
        nonlocal idle
        # Nearly all chunks are whole events, and no key ends in a line break: what stands here is asked of each.
        if idle and chunk.endswith(b"\n\n") and key not in chunk and not may_be_usage(chunk):
            return chunk
        passed = mask.feed(chunk)
        shown = usage.feed(passed) if passed else b""
        if not chunk:
            shown += usage.feed(b"")
        idle = mask.idle and usage.idle
        return shown

    return edit


def _is_identity(response: http.Response) -> bool:
    return response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity")


def is_plain_stream(response: http.Response) -> bool:
    """Whether an answer is an event stream that can be read as it comes."""
    kind = response.headers.get("content-type", "").lower()  # some upstreams call it text/plain, or nothing
    return _is_identity(response) and not kind.startswith("application/json") and response.status_code < 300


async def replace_answer(
    flow: http.HTTPFlow, exchange: Exchange, why: str, may_use: Callable[[RelayKey, str], bool]
) -> None:
    """Put what its caller may see in the place of an answer that was read. `may_use` judges a model."""
    response = flow.response
    if response is None:
        return
    if why == "refusal":
        if await _hide_in_body(response, REAL_KEY.of(exchange) or b""):
            return
        error: errors.RelayError = errors.UpstreamFailed(
            f"上游返回了 HTTP {response.status_code}，内容无法读取。",
            f"The upstream answered HTTP {response.status_code}; what it says can't be read.",
        )
    elif why == "models":
        if (filtered := await _models(exchange, response, may_use)) is not None:
            response.headers.pop("content-encoding", None)
            response.content = filtered
            return
        error = errors.UpstreamFailed("无法读取上游的模型列表。", "The upstream's list of models can't be read.")
    else:
        logger.error(f"upstream {exchange.upstream.name} refuses relay's own key (HTTP {response.status_code})")
        error = own_key_refused()
        error.headers["x-should-retry"] = "false"
    flow.response = error_response(exchange.kind, error)
    add_common_headers(flow.response, exchange)


def _names_of(model: str, models: Mapping[str, str]) -> Iterator[str]:
    """What callers may call a model of upstream's: by its own name, unless that leads to another one, and by those that
    lead to it."""
    if models.get(model, model) == model:
        yield model
    yield from (name for name, sent in models.items() if sent == model != name)


async def _models(
    exchange: Exchange, response: http.Response, may_use: Callable[[RelayKey, str], bool]
) -> bytes | None:
    """The list with what the key may use; None where it can't be read."""
    key = CALLER.of(exchange)
    try:
        listed = await in_turns(bounded_json.loading((await _decoded(response)).decode("utf-8")))
    except (TooLong, Undecodable, ValueError):
        return None
    if key is None or not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
        return None
    models = exchange.upstream.models
    allowed = await in_turns(_chosen(listed["data"], models, lambda model: may_use(key, model)))
    told = json.dumps({**listed, "data": allowed}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return without_key(told, REAL_KEY.of(exchange) or b"")


def _chosen(
    listed: Sequence[object], models: Mapping[str, str], may_use: Callable[[str], bool]
) -> Sliced[list[object]]:
    """Those of a list, by the names that callers may use, in slices: to find the price of one takes 0.3 ms."""
    found: list[object] = []
    for number, each in enumerate(listed):
        if number % _JUDGED_AT_ONCE == _JUDGED_AT_ONCE - 1:
            yield
        if isinstance(each, dict):
            found += [{**each, "id": name} for name in _names_of(str(each.get("id")), models) if may_use(name)]
    return found
