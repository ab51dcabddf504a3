"""What calls have come to."""

from dataclasses import dataclass
from decimal import Decimal

from addons.core.threads.causes import Cause


@dataclass(slots=True)
class Sum:
    """What some calls have come to; those of which something is not known are counted beside it."""

    calls: int = 0
    lost: int = 0
    """Tokens that the cache had held and did not serve."""
    lost_unknown: int = 0
    """Calls of which that is not known: no part of `lost`."""
    lost_cost: Decimal = Decimal(0)
    lost_cost_unknown: int = 0
    cost: Decimal = Decimal(0)
    unknown: int = 0
    """Calls whose cost is not known: no part of `cost`."""
    estimated: int = 0

    def add(self, cause: Cause | None, cost: Decimal | None, *, estimated: bool) -> None:
        """One more call."""
        self.calls += 1
        tokens, lost = (cause.tokens, cause.cost) if cause is not None else (None, None)
        if tokens == 0:
            lost = Decimal(0)
        self.lost += tokens or 0
        self.lost_unknown += tokens is None
        self.lost_cost += lost or 0
        self.lost_cost_unknown += lost is None
        if cost is None:
            self.unknown += 1
        else:
            self.cost += cost
            self.estimated += estimated
