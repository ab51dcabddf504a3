"""One exchange in one line, for the flow list."""

from collections.abc import Mapping, Sequence

from addons.core.reading.page import one_line, seconds

FAILED = ":warning:"
"""mitmproxy's mark of a flow that failed. Other marks are set by people."""

_LONGEST = 200
_LONGEST_WAY = 90
_USUAL = ("first_turn", "new_turn")
"""Reasons that need no word."""
_UNCERTAIN = (502, 504)


def summary(
    *,
    model: str | None = None,
    session: str | None = None,
    thread: str | None = None,
    cause: Mapping[str, object] | None = None,
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    cached: int | None = None,
    cost: str | None = None,
    attempts: int = 1,
    way: str | None = None,
    first_byte_ms: float | None = None,
    duration_ms: float | None = None,
    status: int | None = None,
    error: str | None = None,
    reason: str | None = None,
) -> str:
    """`gpt-4o-mini · 12→48 tok · 0.31 s to first byte · 2.4 s`: what is known, in this order; None is not known.

    `session` and `thread` are short hashes; `cause` is as `relay.cause` has it, shown where it is more than a turn.
    `attempts` is how often upstream was asked, shown where that is more than once; `way` is what it met there
    (`way_of`). `cost` is in dollars, a ~ before it means an estimate. `status` is shown from 400 on, or with an
    `error`: the error's code.
    `reason` says why relay refused, or what broke.

    >>> summary(model="gpt-3.5-turbo", session="4f1c2a9e", tokens_in=12, tokens_out=48, cached=8)
    'gpt-3.5-turbo · session 4f1c2a9e · 12 (8 cached)→48 tok'
    >>> summary(status=429, error="insufficient_quota", reason="The key is out of quota.")
    '429 insufficient_quota: The key is out of quota.'
    """
    parts = [one_line(model, 60) if model else "", f"session {one_line(session, 20)}" if session else ""]
    parts.append(f"#{one_line(thread, 20)}" if thread else "")
    parts.append(_failed(status, error, reason))
    parts.append(one_line(way, _LONGEST_WAY) if way else "")
    parts.append(_why(cause) if cause is not None else "")
    parts.append(_tokens(tokens_in, tokens_out, cached))
    if attempts > 1:
        parts.append(f"{attempts} attempts")
    if cost is not None:
        parts.append(_dollars(cost))
    if first_byte_ms is not None:
        parts.append(f"{seconds(first_byte_ms)} to first byte")
    if duration_ms is not None:
        parts.append(seconds(duration_ms))
    return one_line(" · ".join(part for part in parts if part), _LONGEST)


def way_of(attempts: Sequence[object], passed_over: Sequence[object] = ()) -> str | None:
    """What a request met on its way to an answer: who was left alone, who failed, who has answered; None where nothing
    did. `attempts` is as `relay.attempts` has them, `passed_over` names upstreams that were not asked, with why.

    >>> way_of([{"upstream": "openai", "reason": "rate limited"}, {"upstream": "azure", "status": 200}])
    'openai rate limited → azure'
    """
    steps = [str(each) for each in passed_over]
    answered = ""
    for attempt in attempts:
        if isinstance(attempt, Mapping):
            upstream, status = str(attempt.get("upstream", "")), attempt.get("status")
            failed = attempt.get("reason") or ("broke" if status is None else status if status in _UNCERTAIN else "")
            answered = "" if failed else upstream
            if failed:
                steps.append(f"{upstream} {failed}")
    if not steps:
        return None
    told = [f"{step} ×{steps.count(step)}" if steps.count(step) > 1 else step for step in dict.fromkeys(steps)]
    return " → ".join([*told, *([answered] if answered else [])])


def _why(cause: Mapping[str, object]) -> str:
    """`prefix changed at tools[2].name: 12,288 tok not cached`"""
    reason, tokens = str(cause.get("reason")), cause.get("tokens")
    if reason in _USUAL and not tokens:
        return ""
    where = f" at {one_line(str(cause['path']), 40)}" if reason == "prefix_changed" and cause.get("path") else ""
    lost = f": {tokens:,} tok not cached" if isinstance(tokens, int) and tokens else ""
    return f"{reason.replace('_', ' ')}{where}{lost}"


def _failed(status: int | None, error: str | None, reason: str | None) -> str:
    if not error and not reason and (status is None or status < 400):
        return ""
    what = " ".join(one_line(str(part), 60) for part in (status, error) if part)
    why = one_line(reason, 100) if reason else ""
    return ": ".join(part for part in (what, why) if part)


def _dollars(cost: str) -> str:
    """`$0.000105`: digits down to the first ones that say something."""
    about = "~" if cost.startswith("~") else ""
    whole, _, rest = cost.removeprefix("~").partition(".")
    return f"{about}${whole}.{rest.rstrip('0').ljust(2, '0')}"


def _tokens(tokens_in: int | None, tokens_out: int | None, cached: int | None) -> str:
    if tokens_in is None and tokens_out is None:
        return ""
    saved = f" ({cached:,} cached)" if cached else ""
    said = "?" if tokens_in is None else f"{tokens_in:,}"
    return f"{said}{saved} tok" if tokens_out is None else f"{said}{saved}→{tokens_out:,} tok"
