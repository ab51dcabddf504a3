"""What metadata of a record notes of a cause and of costs. A file of records may come from anybody."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from addons.core.threads.causes import Cause, Reason

_TEXTS = ("part", "path", "before", "after", "previous")


def noted(cause: Cause) -> dict[str, object]:
    """A cause as it is noted, in `relay.cause`."""
    return {
        "reason": str(cause.reason),
        "part": cause.part,
        "path": cause.path,
        "before": cause.before,
        "after": cause.after,
        "tokens": cause.tokens,
        "cost": None if cause.cost is None else f"{cause.cost:f}",
        "previous": cause.previous,
    }


def cause_of(told: object) -> Cause | None:
    """The reverse; None where that is something else."""
    if not isinstance(told, Mapping) or told.get("reason") not in list(Reason):
        return None
    texts = {name: value for name in _TEXTS if isinstance(value := told.get(name), str)}
    tokens = told.get("tokens")
    whole = tokens if type(tokens) is int and tokens >= 0 else None
    return Cause(Reason(told["reason"]), tokens=whole, cost=amount(told.get("cost")), **texts)


def amount(text: object) -> Decimal | None:
    """Dollars as metadata tells them, a ~ before an estimate or none; None for what is no amount."""
    if not isinstance(text, str) or len(text) > 60:
        return None
    try:
        found = Decimal(text.strip().removeprefix("~"))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found >= 0 and found.adjusted() < 20 else None
