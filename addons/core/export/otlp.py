"""Spans: one document of OTLP in JSON, as a collector takes it (core/spans.py has the words and the version).

A thread is a trace. Its span bears the hash of the thread, and each call is a child of it, with the attempts below. The
span of a thread that another one has sent is linked to that one's. Ids are made from those of threads and exchanges, so
the same records give the same spans.

`gen_ai.input.messages` holds what is new in a call: what was there before stands in the calls before
(`relay.known` counts it).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from addons.core import spans
from addons.core.export.record import Exported
from addons.core.export.talk import Block, Kind, Turn
from addons.core.export.threads import Call, Thread, threads
from addons.core.generations import counted_of
from addons.core.observed import OPERATIONS, Observed, Outcome, Used, endpoint
from addons.core.rates import NANO
from addons.core.threads.causes import Cause
from addons.core.threads.noted import noted

_LONGEST = 16 << 10
"""Characters of all texts of an attribute together."""


def document(records: Iterable[Exported], version: str) -> dict[str, Any]:
    """What can be posted to `/v1/traces`."""
    found, others = threads(records)
    made: list[dict[str, Any]] = []
    for thread in found:
        if thread.label is not None:
            made.append(_of_thread(thread))
        for call in thread.calls:
            made += _of_call(call)
    for record in others:
        made += spans.spans_of(_observed(record), _ids(record.id), None)
    return spans.export(made, version)


def trace_of(label: str) -> str:
    """The trace of a thread."""
    return _hash(f"thread {label}", 16)


def _hash(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=size).hexdigest()


def _span_of(label: str) -> str:
    return _hash(f"span of thread {label}", 8)


def _ids(name: str) -> Iterator[str]:
    number = 0
    while True:
        yield _hash(f"{number} of exchange {name}", 8)
        number += 1


def _of_thread(thread: Thread) -> dict[str, Any]:
    label, parent = str(thread.label), thread.parent
    total = thread.total
    about = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": label,
        "relay.thread": label,
        "relay.parent": parent,
        "relay.calls": total.calls,
        "relay.cost_nanodollars": int(total.cost * NANO) if not total.unknown else None,
        "relay.cause.tokens": total.lost if not total.lost_unknown else None,
    }
    links = [{"traceId": trace_of(parent), "spanId": _span_of(parent)}] if parent is not None else []
    begun = min(each.record.at for each in thread.calls)
    ended = max(each.record.at + (each.record.duration_ms or 0) / 1000 for each in thread.calls)
    return spans.internal(trace_of(label), _span_of(label), f"thread {label}", (begun, ended), about, links)


def _of_call(call: Call) -> list[dict[str, Any]]:
    record = call.record
    parent = spans.Parent(trace_of(record.thread), _span_of(record.thread), True) if record.thread else None
    made = spans.spans_of(_observed(record, call), _ids(record.id), parent)
    made[0]["attributes"] += spans.attributes(
        {
            "gen_ai.conversation.id": record.thread or record.session,
            "relay.thread": record.thread,
            "relay.parent": record.parent,
            "relay.session": record.session,
            "relay.known": record.known,
            **_cause(record.cause),
        }
    )
    return made


def _cause(cause: Cause | None) -> dict[str, object]:
    if cause is None:
        return {}
    told = noted(cause)
    del told["cost"]
    told["cost_nanodollars"] = None if cause.cost is None else int(cause.cost * NANO)
    return {f"relay.cause.{name}": value for name, value in told.items()}


def _observed(record: Exported, call: Call | None = None) -> Observed:
    path = (record.upstream_path or record.path).partition("?")[0].encode("utf-8", "replace").decode()
    generation = counted_of(record.method, path)
    operation = OPERATIONS[generation] if generation is not None else ""
    seconds = (record.duration_ms or 0.0) / 1000
    outcome, error = _outcome(record, call.answered.error if call is not None else None)
    cost = None if record.cost is None else int(record.cost * NANO)
    asked = 0.0 if record.upstream is not None else None
    return Observed(
        id=record.request_id or record.id,
        ended=record.at + seconds,
        seconds=seconds,
        endpoint=endpoint("pass", path, generation),
        method=record.method,
        path=record.path.partition("?")[0],
        status=record.status,
        outcome=outcome,
        error=error,
        operation=operation,
        upstream=record.upstream or "",
        key=record.key or "",
        used=Used(record.model or "", record.tokens, cost, record.estimated, 1),
        stream=record.response is not None and record.response.stream,
        first_byte=None if record.first_byte_ms is None else record.first_byte_ms / 1000,
        asked=asked,
        upstream_seconds=seconds if record.upstream is not None and record.duration_ms is not None else None,
        attempts=record.attempts,
        asked_times=len(record.attempts) or int(record.upstream is not None),
        content=_content(call) if call is not None else {},
    )


def _outcome(record: Exported, told: str | None) -> tuple[Outcome, str]:
    """What became of it; `told` is the error in an answer, whose status may be 200 all the same."""
    if record.error is not None:
        return Outcome.BROKEN, "broken"
    if record.status is not None and record.status >= 400:
        return Outcome.UPSTREAM_ERROR, f"http_{record.status}"
    if told is not None:
        return Outcome.UPSTREAM_ERROR, "told_in_answer"
    return Outcome.OK, ""


def _content(call: Call) -> dict[str, str]:
    new = call.asked.new if call.asked is not None else ()
    content = {"input": _messages(new), "output": _messages(call.answered.turns, call.answered.finish or "")}
    return {name: text for name, text in content.items() if text}


def _messages(turns: Sequence[Turn], finish: str | None = None) -> str:
    """https://github.com/open-telemetry/semantic-conventions/blob/v1.41.1/docs/gen-ai/gen-ai-input-messages.json and
    gen-ai-output-messages.json, whose messages tell why they end."""
    left = _LONGEST
    told: list[dict[str, object]] = []
    for turn in turns:
        parts = []
        for block in turn.blocks:
            parts.append(_part(block, block.text[:left]))
            left -= min(left, len(block.text))
        ending: dict[str, object] = {} if finish is None else {"finish_reason": finish}
        told.append({"role": turn.role, "parts": parts, **ending})
    return json.dumps(told, ensure_ascii=False) if told else ""


def _part(block: Block, text: str) -> dict[str, object]:
    if block.kind is Kind.CALL:
        return {"type": "tool_call", "id": block.id or None, "name": block.name, "arguments": text}
    if block.kind is Kind.RESULT:
        return {"type": "tool_call_response", "id": block.id or None, "response": text}
    return {"type": "reasoning" if block.kind is Kind.THINKING else "text", "content": text}
