"""Flows of made-up agent runs (tests/support/agent_runs), as relay leaves them in a file or in mitmweb's list: with
what is true of them in their metadata, or without any note."""

from collections.abc import Iterable
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from mitmproxy import flow, http
from mitmproxy.test import tflow, tutils

from tests.support.agent_runs import Call

EPOCH = 1_767_225_600.0
"""2026-01-01, UTC."""


def flows(calls: Iterable[Call], *, noted: bool = True) -> list[http.HTTPFlow]:
    """A flow for each call; with `noted` relay has left its notes on it. Keys are in it as they were sent."""
    known: dict[str, int] = {}
    return [_flow(call, known, noted=noted) for call in calls]


def hash_of(thread: str) -> str:
    """The hash of a thread."""
    return blake2b(thread.encode(), digest_size=4).hexdigest()


def id_of(index: int) -> str:
    """The id of a call's flow."""
    return f"00000000-0000-4000-8000-{index:012d}"


def _flow(call: Call, known: dict[str, int], *, noted: bool) -> http.HTTPFlow:
    at = EPOCH + call.at
    request = tutils.treq(
        method=call.method.encode(),
        scheme=b"https",
        host=f"{call.upstream}.test",
        port=443,
        authority=b"",
        path=call.path.encode(),
        headers=http.Headers([(name.encode(), value.encode()) for name, value in call.headers]),
        content=call.body,
        timestamp_start=at,
        timestamp_end=at,
    )
    response = tutils.tresp(
        status_code=call.status,
        headers=http.Headers([(b"content-type", call.answer_type.encode())]),
        content=call.answer,
        timestamp_start=at + call.took / 2,
        timestamp_end=at + call.took,
    )
    made = tflow.tflow(req=request, resp=response)
    made.id, made.live = id_of(call.index), False
    made.timestamp_created = at
    made.comment = call.scenario
    if call.outcome == "left":
        made.error = flow.Error("Client disconnected.", at + call.took)
    if noted:
        made.metadata.update(_notes(call, known))
        known[call.truth.thread] = len(_listed(call))
    return made


def _listed(call: Call) -> list[Any]:
    listed = call.request.get("messages", call.request.get("input"))
    return listed if isinstance(listed, list) else []


def _known(call: Call, before: int) -> int:
    """Messages that stood in the request before, as many as that had, and the answer behind them."""
    if call.truth.reason in ("first_turn", "compaction") or call.request.get("previous_response_id"):
        return 0
    listed = _listed(call)
    while 0 < before < len(listed) and _is_spoken(listed[before]):
        before += 1
    return before


def _is_spoken(item: dict[str, Any]) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("reasoning", "function_call")


def _notes(call: Call, known: dict[str, int]) -> dict[str, Any]:
    truth = call.truth
    notes: dict[str, Any] = {
        "relay.thread": hash_of(truth.thread),
        "relay.model": call.model,
        "relay.duration_ms": round(call.took * 1000, 1),
        "relay.known": _known(call, known.get(truth.thread, 0)),
        "relay.cause": {
            "reason": truth.reason,
            "part": truth.part,
            "path": truth.path,
            "before": truth.before,
            "after": truth.after,
            "tokens": truth.tokens,
            "cost": None if truth.cost is None else f"{Decimal(truth.cost) / 10**9:f}",
            "previous": None if truth.previous is None else id_of(truth.previous),
        },
    }
    if truth.parent is not None:
        notes["relay.parent"] = hash_of(truth.parent)
    if call.usage is not None:
        used = call.usage
        counts = {
            "input": used.input,
            "output": used.output,
            "cached": used.cached,
            "cache_write": used.written_5m,
            "cache_write_1h": used.written_1h,
        }
        notes["relay.tokens"] = {name: count for name, count in counts.items() if count}
        notes["relay.cost"] = "0.0123"
    return notes
