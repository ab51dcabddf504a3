"""One exchange in one line, for the flow list."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

from addons.core.reading.page import one_line, seconds, without_surrogates

FAILED = ":warning:"
"""mitmproxy's mark of a flow that failed. Other marks are set by people."""

_LONGEST = 160
_LONGEST_WAY = 90
_USUAL = ("first_turn", "new_turn")
"""Reasons that need no word."""
_UNCERTAIN = (502, 504)


def summary(
    *,
    model: str | None = None,
    who: str | None = None,
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
    """`gpt-4o-mini · 12→48 tok · $0.0003 · first byte 0.31 s · 2.4 s`: what is known, in this order; None is not known.

    `who` is the name of a relay key. `session` and `thread` are short hashes, of which a session says more. `cost` is
    in dollars, a ~ before it means an estimate. What has come of it stands last: `status` is shown from 400 on, or with
    an `error`: the error's code; `reason` says why relay refused, or what broke. `way` is what it met upstream
    (`way_of`), `attempts` how often that was asked, shown where it is more than once. `cause` is as `relay.cause` has
    it, shown where it is more than a turn.

    >>> summary(model="gpt-3.5-turbo", session="4f1c2a9e", tokens_in=12, tokens_out=48, cached=8)
    'gpt-3.5-turbo · session 4f1c2a9e · 12 (8 cached)→48 tok'
    >>> summary(status=429, error="insufficient_quota", reason="The key is out of quota.")
    '429 insufficient_quota: The key is out of quota.'
    """
    parts = [one_line(model, 60) if model else "", one_line(who, 40) if who else ""]
    parts.append(f"session {one_line(session, 20)}" if session else f"#{one_line(thread, 20)}" if thread else "")
    parts.append(_tokens(tokens_in, tokens_out, cached))
    if cost is not None:
        parts.append(_dollars(cost))
    if first_byte_ms is not None:
        parts.append(f"first byte {seconds(first_byte_ms)}")
    if duration_ms is not None:
        parts.append(seconds(duration_ms))
    parts.append(_failed(status, error, reason))
    parts.append(one_line(way, _LONGEST_WAY) if way else "")
    if attempts > 1:
        parts.append(f"{attempts} attempts")
    parts.append(_why(cause) if cause is not None else "")
    return without_surrogates(one_line(" · ".join(part for part in parts if part), _LONGEST))


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
    """`prefix changed at tools[2].name: 12,288 tok lost`, which the cache had held and did not serve."""
    reason, tokens = str(cause.get("reason")), cause.get("tokens")
    if reason in _USUAL and not tokens:
        return ""
    where = f" at {one_line(str(cause['path']), 40)}" if reason == "prefix_changed" and cause.get("path") else ""
    lost = f": {tokens:,} tok lost" if isinstance(tokens, int) and tokens else ""
    return f"{reason.replace('_', ' ')}{where}{lost}"


def _failed(status: int | None, error: str | None, reason: str | None) -> str:
    if not error and not reason and (status is None or status < 400):
        return ""
    what = " ".join(one_line(str(part), 60) for part in (status, error) if part)
    why = one_line(reason, 100) if reason else ""
    return ": ".join(part for part in (what, why) if part)


def _dollars(cost: str) -> str:
    """`$0.00011`: rounded to cents, and below a dime to the first two digits that say something."""
    about = "~" if cost.startswith("~") else ""
    amount = Decimal(cost.removeprefix("~"))
    places = 2 if amount >= Decimal("0.1") or not amount else 1 - amount.adjusted()
    text = f"{amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}"
    return f"{about}${text.rstrip('0') if places > 2 else text}"


def _tokens(tokens_in: int | None, tokens_out: int | None, cached: int | None) -> str:
    if tokens_in is None and tokens_out is None:
        return ""
    saved = f" ({cached:,} cached)" if cached else ""
    said = "?" if tokens_in is None else f"{tokens_in:,}"
    return f"{said}{saved} tok" if tokens_out is None else f"{said}{saved}→{tokens_out:,} tok"
