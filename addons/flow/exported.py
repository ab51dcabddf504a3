"""A flow as an export tells of it (core/export/): what its record and relay's notes on it say.

Each note in `flow.metadata` may be missing, and a file may come from others: what has another type is passed over.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mitmproxy import flow, http

from addons.config.mitmproxy_options import MODE
from addons.config.settings import Upstream
from addons.core.export.record import Exported, Message, SocketMessage
from addons.core.metered import Metered, metered
from addons.core.slices import at_once
from addons.core.threads.noted import amount, cause_of
from addons.core.threads.said import hearing
from addons.exchange import aimed_at
from addons.flow.decoding import content_of
from addons.flow.display_path import upstream_path
from addons.flow.model_calls import label_of, tokens_of

MOST_BODY = 64 << 20
"""Bytes of one body, once decoded."""
_LEAST, _GROWTH = 1 << 20, 16
"""Of a compressed one at least, and times its size: what grows more is an attack."""
_NOWHERE = MODE.rpartition("/")[2]


def exported(each: flow.Flow, upstreams: Sequence[Upstream]) -> Exported | None:
    """What is told of a flow; None for what is no HTTP, or has no answer as yet. `upstreams`: those of relay.yaml."""
    if not isinstance(each, http.HTTPFlow) or (each.response is None and each.error is None):
        return None
    known = each.metadata
    request = _message(each.request, known.get("relay.upload_bytes"))
    response = _message(each.response, known.get("relay.answer_bytes")) if each.response is not None else None
    at = each.request.timestamp_start or each.timestamp_created
    cost = known.get("relay.cost")
    return Exported(
        id=each.id,
        at=at if math.isfinite(at) and 0 <= at < 1 << 36 else 0.0,
        method=each.request.method,
        path=each.request.path,
        request=request,
        response=response,
        status=each.response.status_code if each.response is not None else None,
        request_id=_text(known.get("relay.request_id")),
        first_byte_ms=_number(known.get("relay.first_byte_ms")) or _since(at, each, begins=True),
        duration_ms=_number(known.get("relay.duration_ms")) or _since(at, each, begins=False),
        upstream=_upstream(each, upstreams),
        upstream_path=upstream_path(each),
        model=_text(known.get("relay.model")) or _model(request),
        key=_text(known.get("relay.key")),
        session=_session(known),
        thread=label_of(each),
        parent=_text(known.get("relay.parent")),
        cause=cause_of(known.get("relay.cause")),
        known=_whole(known.get("relay.known")),
        tokens=_tokens(each, response),
        cost=amount(cost),
        estimated=isinstance(cost, str) and cost.startswith("~"),
        attempts=_attempts(known.get("relay.attempts")),
        error=each.error.msg if each.error is not None else None,
        socket=_socket(each),
    )


def _message(message: http.Message, size: object) -> Message:
    headers = tuple((str(name), str(value)) for name, value in message.headers.items(multi=True))
    raw = message.raw_content
    body = content_of(message, min(MOST_BODY, max(_LEAST, _GROWTH * len(raw)))) if raw is not None else None
    return Message(headers, body, _whole(size))


def _since(at: float, each: http.HTTPFlow, *, begins: bool) -> float | None:
    """Milliseconds until the answer began or ended, as mitmproxy has seen it."""
    if each.response is None or each.metadata.get("relay.own"):
        return None
    until = each.response.timestamp_start if begins else each.response.timestamp_end
    return _number(round((until - at) * 1000, 1)) if until else None


def _upstream(each: http.HTTPFlow, upstreams: Sequence[Upstream]) -> str | None:
    """The name of the upstream that was asked, or its host where relay.yaml has no name for it."""
    if (noted := _text(each.metadata.get("relay.upstream"))) is not None:
        return noted
    if (aimed := aimed_at(each)) is not None:
        return aimed.name
    host, port = each.request.host, each.request.port
    if host == _NOWHERE:
        return None
    return next((known.name for known in upstreams if (known.host, known.port) == (host, port)), host)


def _model(request: Message) -> str | None:
    body = request.json() if "json" in request.content_type or not request.content_type else None
    return _text(body.get("model")) if isinstance(body, Mapping) else None


def _session(known: Mapping[str, Any]) -> str | None:
    session = _text(known.get("relay.session"))
    chat = known.get("relay.chat")
    return session or (_text(chat.get("session")) if isinstance(chat, Mapping) else None)


def _tokens(record: http.HTTPFlow, response: Message | None) -> Metered | None:
    """As relay has metered them; else as the answer tells them."""
    if (told := tokens_of(record)) is not None:
        return told
    if isinstance(usage := record.metadata.get("relay.usage"), Mapping):
        return metered(usage)
    if response is None or not response.body:
        return None
    return at_once(hearing(response.body, stream=response.stream)).usage


def _attempts(told: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(told, list):
        return ()
    plain = (str, int, float, bool, type(None))
    return tuple(
        {str(name): value for name, value in each.items() if isinstance(value, plain)}
        for each in told
        if isinstance(each, Mapping)
    )


def _socket(each: http.HTTPFlow) -> tuple[SocketMessage, ...] | None:
    if each.websocket is None:
        return None
    return tuple(
        SocketMessage(
            message.timestamp,
            message.from_client,
            message.content.decode("utf-8", "replace") if message.is_text else None,
            len(message.content),
        )
        for message in each.websocket.messages
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return value


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 53 else None
