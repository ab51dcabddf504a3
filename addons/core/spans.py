"""Spans for OpenTelemetry: an exchange as OTLP has it in JSON (protobuf's JSON mapping).

One span for the exchange, relay's own as a server, and a child for each attempt at an upstream. Where the request says
in `traceparent` to which trace it belongs, the span goes there. What stands in them is in OpenTelemetry's words where
these have one (`metrics.SEMANTIC_CONVENTIONS`), else under `relay.`.

https://github.com/open-telemetry/opentelemetry-proto/blob/v1.8.0/opentelemetry/proto/trace/v1/trace.proto
https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from addons.core.metrics import SEMANTIC_CONVENTIONS
from addons.core.observed import Observed, Outcome

_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_OK, _ERROR = 0, 2
_NANO = 1_000_000_000
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 0x01


class Parent(NamedTuple):
    """Where a request says that it belongs."""

    trace: str
    span: str
    sampled: bool


def parent_of(header: str) -> Parent | None:
    """What `traceparent` says; None where it says nothing that can be used.

    >>> parent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").trace
    '0af7651916cd43dd8448eb211c80319c'
    """
    found = _PARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace, span, flags = found.groups()
    if version == "ff" or not int(trace, 16) or not int(span, 16) or (version == "00" and len(header.strip()) != 55):
        return None
    return Parent(trace, span, bool(int(flags, 16) & _SAMPLED))


def spans_of(seen: Observed, ids: Iterator[str], parent: Parent | None) -> list[dict[str, Any]]:
    """The spans of an exchange. `ids` gives as many hexadecimal digits as are wanted: first 32 of a trace, where there
    is no parent, then 16 for each span."""
    trace = parent.trace if parent is not None else next(ids) + next(ids)
    own = next(ids)
    begun = seen.ended - seen.seconds
    span = {
        "traceId": trace,
        "spanId": own,
        **({"parentSpanId": parent.span} if parent is not None else {}),
        "name": " ".join(part for part in (seen.operation or seen.endpoint, seen.used.model) if part),
        "kind": _SERVER,
        "startTimeUnixNano": _nano(begun),
        "endTimeUnixNano": _nano(seen.ended),
        "attributes": attributes(_about(seen)),
        "status": _status(seen.outcome is not Outcome.OK, seen.error),
    }
    return [span, *(_attempt(each, seen, trace, own, next(ids)) for each in _attempts(seen, begun))]


def internal(
    trace: str,
    own: str,
    name: str,
    times: tuple[float, float],
    about: Mapping[str, object],
    links: Sequence[Mapping[str, object]] = (),
) -> dict[str, Any]:
    """A span that is no exchange, but holds some together, from one time to the other."""
    return {
        "traceId": trace,
        "spanId": own,
        "name": name,
        "kind": _INTERNAL,
        "startTimeUnixNano": _nano(times[0]),
        "endTimeUnixNano": _nano(times[1]),
        "attributes": attributes(about),
        "links": list(links),
        "status": _status(False, ""),
    }


def _about(seen: Observed) -> dict[str, object]:
    used, usage = seen.used, seen.used.usage
    about: dict[str, object] = {
        "http.request.method": seen.method,
        "http.response.status_code": seen.status,
        "url.path": seen.path,
        "error.type": seen.error or None,
        "relay.request_id": seen.id,
        "relay.key": seen.key or None,
        "relay.endpoint": seen.endpoint,
        "relay.outcome": str(seen.outcome),
        "relay.envelope_code": seen.code,
        "relay.upstream": seen.upstream or None,
        "relay.attempts": seen.asked_times,
        "relay.overhead": seen.overhead,
    }
    if not seen.operation:
        return about
    about |= {
        "gen_ai.operation.name": seen.operation,
        "gen_ai.provider.name": seen.upstream or None,
        "gen_ai.request.model": used.model or None,
        "gen_ai.request.stream": seen.stream,
        "gen_ai.response.time_to_first_chunk": _first_chunk(seen),
        "relay.cost_nanodollars": used.cost,
        "relay.estimated": used.estimated,
        "gen_ai.input.messages": seen.content.get("input"),
        "gen_ai.output.messages": seen.content.get("output"),
    }
    if usage is not None:
        about |= {
            "gen_ai.usage.input_tokens": usage.input,
            "gen_ai.usage.output_tokens": usage.output,
            "gen_ai.usage.cache_read.input_tokens": usage.cached or None,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write + usage.cache_write_1h or None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning or None,
        }
    return about


def _first_chunk(seen: Observed) -> float | None:
    """Seconds from asking upstream to the first byte of a stream."""
    if not seen.stream or seen.first_byte is None or seen.asked is None:
        return None
    return max(0.0, seen.first_byte - seen.asked)


def _attempts(seen: Observed, begun: float) -> Sequence[Mapping[str, Any]]:
    """The attempts that were noted; of an exchange that went well nothing is noted, and there was one."""
    if seen.attempts:
        return seen.attempts
    if seen.asked is None or seen.upstream_seconds is None:
        return ()
    attempt: dict[str, Any] = {
        "upstream": seen.upstream,
        "start": begun + seen.asked,
        "ms": seen.upstream_seconds * 1000,
    }
    if seen.outcome is Outcome.BROKEN or seen.status is None:
        return (attempt | {"error": "broken"},)
    return (attempt | {"status": seen.code if seen.code is not None else seen.status},)


def _attempt(told: Mapping[str, Any], seen: Observed, trace: str, parent: str, own: str) -> dict[str, Any]:
    start, status, reason = float(told.get("start", 0.0)), told.get("status"), str(told.get("reason", ""))
    failed = bool(reason) or not isinstance(status, int) or status >= 400
    error = (reason.replace(" ", "_") or (f"http_{status}" if isinstance(status, int) else "broken")) if failed else ""
    about = {
        "gen_ai.operation.name": seen.operation or None,
        "gen_ai.provider.name": str(told.get("upstream", "")),
        "gen_ai.request.model": (seen.used.model or None) if seen.operation else None,
        "http.response.status_code": status if isinstance(status, int) else None,
        "error.type": error or None,
    }
    return {
        "traceId": trace,
        "spanId": own,
        "parentSpanId": parent,
        "name": " ".join(part for part in (seen.operation or seen.endpoint, str(told.get("upstream", ""))) if part),
        "kind": _CLIENT,
        "startTimeUnixNano": _nano(start),
        "endTimeUnixNano": _nano(start + float(told.get("ms", 0.0)) / 1000),
        "attributes": attributes(about),
        "status": _status(failed, error),
    }


def export(spans: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """What is posted to a collector."""
    resource = {"service.name": "relay", "service.version": version}
    url = f"https://opentelemetry.io/schemas/{SEMANTIC_CONVENTIONS}"
    scope = {"scope": {"name": "relay", "version": version}, "spans": list(spans), "schemaUrl": url}
    return {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": [scope]}]}


def _status(failed: bool, message: str) -> dict[str, object]:
    return {"code": _ERROR, "message": message} if failed else {"code": _OK}


def _nano(seconds: float) -> str:
    """A time: 64 bits are text in protobuf's JSON."""
    return str(round(seconds * _NANO))


def attributes(values: Mapping[str, object]) -> list[dict[str, object]]:
    """Attributes as OTLP has them, without those that are None."""
    return [{"key": name, "value": _value(value)} for name, value in values.items() if value is not None]


def _value(value: object) -> dict[str, object]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value).encode("utf-8", "replace").decode()}
