"""FlowSummary: what the flow list says of an exchange in one line, and what a filter can find it by.

    ~comment 4f1c2a9e               one conversation, by the short hash in its comments
    ~meta "relay.session: 4f1c"     the same, in what -w has saved, too
    ~meta "relay.model: gpt-4o$"    what named this model
    ~meta relay.reused              what went up by a connection that others had had before: how many
    ~meta relay.passed_over         what went elsewhere, since an upstream was left alone
    ~meta "relay.request_id: req_1" the exchange that an answer's x-relay-request-id names
    ~marker warning                 what failed

Only where somebody looks: mitmweb, mitmproxy, or a file that flows are saved to.
"""

import json
import re
import time
from typing import Any

from mitmproxy import ctx, http

from addons.core import glance
from addons.core.summary import FAILED, summary, way_of
from addons.engine.transports import reused
from addons.exchange import Exchange, Kind, of
from addons.flow.answers import REFUSAL
from addons.flow.capture import ANSWER
from addons.flow.decoding import content_of
from addons.flow.model_calls import CAUSE, THREAD
from addons.upstreams.failover import PASSED_OVER

_EDGE = 8192
_SHORT = 8
_ERROR = re.compile(rb'"code"\s*:\s*"([^"\\]{1,60})"')
_ENVELOPE = re.compile(rb'\{"code": (\d{3}), "message": ("(?:[^"\\]|\\.)*")')
_ENGLISH = re.compile(r"(?<=[。）)] )[A-Z].*", re.DOTALL)


class FlowSummary:
    """Writes comment and metadata of finished flows."""

    optional = True

    def response(self, flow: http.HTTPFlow) -> None:
        """The exchange is over."""
        exchange = of(flow)
        if exchange is not None:
            exchange.record.late = self._note
        self._note(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """It broke off."""
        self._note(flow)

    def renew(self, flow: http.HTTPFlow) -> None:
        """Something more is known of a finished flow."""
        self._note(flow)
        if (view := ctx.master.addons.get("view")) is not None:
            view.update([flow])

    def _note(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        if exchange is None or not exchange.record.watched or exchange.record.later:
            return
        for note in exchange.record.notes:
            note()
        exchange.record.notes.clear()
        ended = exchange.record.ended_at or time.monotonic()
        flow.metadata["relay.duration_ms"] = round((ended - exchange.started) * 1000, 1)
        copy = ANSWER.of(exchange)
        # What relay has held until it was whole begins with its end.
        first = ended if copy is None else copy.first_at
        if flow.response is not None and first is not None:
            flow.metadata["relay.first_byte_ms"] = round((first - exchange.started) * 1000, 1)
        if uses := reused(flow.server_conn):
            flow.metadata["relay.reused"] = uses
        found = _found(flow, exchange)
        flow.comment = summary(**found)
        if not flow.marked and (found.get("status", 0) >= 400 or flow.error is not None):
            flow.marked = FAILED


def _found(flow: http.HTTPFlow, exchange: Exchange) -> dict[str, Any]:
    """The arguments of `summary`."""
    found: dict[str, Any] = {
        "duration_ms": flow.metadata["relay.duration_ms"],
        "first_byte_ms": flow.metadata.get("relay.first_byte_ms"),
    }
    if isinstance(session := flow.metadata.get("relay.session"), str):
        found["session"] = session[:_SHORT]
    if isinstance(who := flow.metadata.get("relay.key"), str):
        found["who"] = who
    if isinstance(thread := flow.metadata.get(THREAD), str):
        found["thread"] = thread
    if isinstance(cause := flow.metadata.get(CAUSE), dict):
        found["cause"] = cause
    model = glance.model_of(flow.request.path, _edges(flow.request))
    if model is not None:
        found["model"] = flow.metadata["relay.model"] = model
    if isinstance(cost := flow.metadata.get("relay.cost"), str):
        found["cost"] = cost
    if isinstance(attempts := flow.metadata.get("relay.attempts"), list):
        found["attempts"] = len(attempts)
    passed_over = flow.metadata.get(PASSED_OVER)
    found["way"] = way_of(
        attempts if isinstance(attempts, list) else (), passed_over if isinstance(passed_over, list) else ()
    )
    usage = flow.metadata.get("relay.usage")
    found |= glance.tokens_of(repr(usage).replace("'", '"').encode() if usage else _edges(flow.response))
    answer = exchange.failure.substitute if flow.error is not None else flow.response
    if answer is not None:
        found |= _failure(answer, exchange)
    if flow.error is not None:
        fault = exchange.failure.fault
        found["reason"] = fault.en if fault is not None else flow.error.msg
    return found


def _failure(answer: http.Response, exchange: Exchange) -> dict[str, object]:
    """What an answer says went wrong, and why where relay knows."""
    text = _edges(answer)
    found: dict[str, object] = {}
    if answer.status_code >= 400:
        code = _ERROR.search(text)
        found = {"status": answer.status_code, "error": code[1].decode("utf-8", "replace") if code else None}
    elif exchange.kind in (Kind.CHAT, Kind.BALANCE) and (failure := _envelope_failure(text)) is not None:
        found = {"status": failure[0], "reason": failure[1]}
    refusal = REFUSAL.of(exchange)
    if found and refusal is not None:
        found |= {"error": refusal.code, "reason": refusal.en}
    return found


def _envelope_failure(text: bytes) -> tuple[int, str] | None:
    """Code and English words of an envelope that tells of a failure; it may end a stream."""
    envelope = _ENVELOPE.search(text)
    if envelope is None or envelope[1] == b"200":
        return None
    message = str(json.loads(envelope[2]))
    english = _ENGLISH.search(message)
    return int(envelope[1]), english[0] if english else message


def _edges(message: http.Message | None) -> bytes:
    """The first and the last bytes of a body, decoded: what is searched stands there."""
    if message is None or not message.raw_content:
        return b""
    body = message.raw_content
    if "content-encoding" in message.headers:
        body = content_of(message, 1 << 20)
    return body if len(body) <= 2 * _EDGE else body[:_EDGE] + body[-_EDGE:]
