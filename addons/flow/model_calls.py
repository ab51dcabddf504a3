"""A record as a call of a model, for whoever finds its thread; and what was found, in the record's metadata:

relay.thread  the thread's short hash
relay.parent  that of the thread which has sent this one, of a subagent or a side call
relay.cause   {reason, part, path, before, after, tokens, cost, previous}: why the call cost what it did, against the
              flow `previous` of its thread (core/threads/causes.py); `cost` in dollars, None where it is not known
relay.known   leading messages of the request that the call before, or its answer, had
"""

import re
from dataclasses import replace
from decimal import Decimal

from mitmproxy import flow, http

from addons.core.metered import NAMES, Metered
from addons.core.threads.call import Call, Outcome, Placed
from addons.core.threads.noted import noted
from addons.core.threads.prompt import dialect_of
from addons.flow.decoding import content_of
from addons.flow.display_path import upstream_path

THREAD, PARENT, CAUSE, KNOWN = "relay.thread", "relay.parent", "relay.cause", "relay.known"
TOKENS = "relay.tokens"
"""What the answer used, by kind (core/metered.py), as the meter has read it; without what is 0."""
UPSTREAM = "relay.upstream"

_LABEL = re.compile(r"[0-9a-f]{8}")
_MOST_ASKED, _MOST_SAID = 8 << 20, 4 << 20
"""Bytes of a request and of an answer, decoded: no model takes or says more."""
_KEYS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_HEARD_NOTHING = (408, 504)
_LEFT = "Client disconnected."
_SUCCESS = b'{"code": 200, '


def is_call(record: http.HTTPFlow) -> bool:
    """Whether a record may tell of a call of a model that talks."""
    path = upstream_path(record) or record.request.path
    return record.request.method == "POST" and dialect_of(path) is not None


def call_of(record: http.HTTPFlow) -> Call | None:
    """The call that a record tells of; None where it asked no model that talks, or is not all there."""
    request, known = record.request, record.metadata
    if not is_call(record) or "relay.upload_bytes" in known:
        return None
    upstream, key = _asked(record)
    response = record.response
    session = known.get("relay.session")
    answer = content_of(response, _MOST_SAID) if response is not None else b""
    return Call(
        record.id,
        request.timestamp_start,
        upstream_path(record) or request.path,
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.fields],
        content_of(request, _MOST_ASKED),
        answer,
        response is not None and response.headers.get("content-type", "").startswith("text/event-stream"),
        _outcome(record, answer),
        upstream,
        key,
        frozenset((f"relay {session}",)) if isinstance(session, str) else frozenset(),
        owner if isinstance(owner := known.get("relay.key"), str) else "",
        tokens_of(record),
    )


def note(record: http.HTTPFlow, placed: Placed, cost: Decimal | None) -> None:
    """Leave in a record what was found. `cost` is that of the tokens that were lost, in dollars."""
    record.metadata[THREAD] = placed.thread
    if placed.usage is not None:  # what nobody has metered, since it came without a key
        record.metadata.setdefault(TOKENS, placed.usage.parts())
    record.metadata[KNOWN] = placed.known
    if placed.parent is not None:
        record.metadata[PARENT] = placed.parent
    record.metadata[CAUSE] = noted(replace(placed.cause, cost=cost))


def label_of(record: flow.Flow) -> str | None:
    """The thread that a record belongs to; None where its metadata tells no short hash."""
    label = record.metadata.get(THREAD)
    return label if isinstance(label, str) and _LABEL.fullmatch(label) else None


def tokens_of(record: http.HTTPFlow) -> Metered | None:
    """What its answer used, as it was noted; None where that is not so, or not all of it is understood."""
    told = record.metadata.get(TOKENS)
    return Metered.of(told) if isinstance(told, dict) and told and all(name in NAMES for name in told) else None


def _asked(record: http.HTTPFlow) -> tuple[str, str]:
    """The upstream and the key that were asked last."""
    attempts = record.metadata.get("relay.attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    if isinstance(last, dict) and "key" in last:
        return str(last.get("upstream")), str(last["key"])
    upstream = record.metadata.get(UPSTREAM)
    return upstream if isinstance(upstream, str) else record.request.pretty_host, shown_key(record)


def shown_key(record: http.HTTPFlow) -> str:
    """The key of a request, as the record shows it."""
    headers = record.request.headers
    shown = next((value for name in _KEYS if (value := headers.get(name))), "")
    return shown or (record.request.query.get("key", "") if "?" in record.request.path else "")


def _outcome(record: http.HTTPFlow, answer: bytes) -> Outcome:
    if record.error is not None:
        return Outcome.LEFT if record.error.msg == _LEFT else Outcome.UNHEARD
    response = record.response
    if response is None or response.status_code in _HEARD_NOTHING:
        return Outcome.UNHEARD
    if response.status_code >= 400:
        return Outcome.REFUSED
    failed = "relay.chat" in record.metadata and _SUCCESS not in answer
    return Outcome.REFUSED if failed else Outcome.ANSWERED
