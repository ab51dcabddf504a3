"""Settlements: how requests end, and the ledger that admits and settles them, as whoever needs it sees it."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from addons.core.accounts import Claim, Refused
from addons.core.metered import Metered
from addons.core.relay_keys import Per
from addons.store.ledger_file import FINISHED, amount_of, text_of

_MOST_CALLERS = 10_000


class Settlement(NamedTuple):
    """The end of a request."""

    request: str
    at: float
    """Seconds since the epoch, when it began: the prices of that time hold."""
    key: str
    name: str | None
    """Of a relay key."""
    upstream: str
    model: str
    asked: Mapping[str, str]
    """What the price depends on besides the model."""
    path: str
    reason: str
    usage: Metered | None
    """None where that is not known."""
    amount: int | None
    """Nano-dollars; None for a caller's own key, which is priced when somebody asks, and where no price is known."""
    estimated: bool = False
    tokens: int | None = None
    """For the limit of tokens a minute."""
    held: bool = False
    """It was admitted by `reserve`."""
    at_hold: bool = False
    """What it has cost is not known: all that is held for it is spent."""
    kept: bool = True
    """False for a request that is not counted: it only gives back what it has held."""

    def to_json(self) -> list[object]:
        """As a worker sends it."""
        values: list[object] = list(self)
        values[_AT["usage"]] = None if self.usage is None else self.usage.parts()
        values[_AT["asked"]] = dict(self.asked)
        return values

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> "Settlement":
        """The reverse."""
        read = list(values)
        usage = read[_AT["usage"]]
        read[_AT["usage"]] = None if usage is None else Metered.of(usage)
        return cls(*read)


_AT = {name: position for position, name in enumerate(Settlement._fields)}


class OverLimit(Exception):
    """A request was not admitted."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.why)
        self.refused = refused


class Ledger(Protocol):
    """The ledger, here or in another process. What is awaited raises StoreError where it fails."""

    path: Path
    """Its file, which anybody may read meanwhile."""

    @property
    def passes(self) -> bool:
        """Whether a request of a key without a budget goes up where it can't be written down."""

    async def reserve(self, claim: Claim) -> None:
        """Admit a request: its hold is written when this returns. Raises OverLimit.

        Whoever is cancelled meanwhile has to settle it, too.
        """

    def settle(self, settlement: Settlement) -> None:
        """Note how a request has ended. It is written soon; a second settlement of one request is passed over."""

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """What was spent and what is held, in nano-dollars, in the span that a budget holds for now."""


class Strangers:
    """Tells requests of which nothing came, with a key of which nothing ever did: anybody can send keys that are none,
    and a row for each would let the ledger grow."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, None] = OrderedDict()
        """Callers whose own keys upstream has served, those seen last behind."""

    def has(self, settlement: Settlement) -> bool:
        """Whether a request was one of them."""
        if settlement.name is not None:
            return False
        if settlement.reason == FINISHED or settlement.usage is not None:
            self._callers[settlement.key] = None
            self._callers.move_to_end(settlement.key)
            if len(self._callers) > _MOST_CALLERS:
                self._callers.popitem(last=False)
            return False
        return settlement.key not in self._callers


_encode = json.JSONEncoder(separators=(",", ":")).encode


def row_of(settlement: Settlement, day: str, amount: int | None) -> Sequence[object]:
    """What is written of it, for the day for which it counts: ledger_file.SETTLEMENT."""
    usage = None if settlement.usage is None else _encode(settlement.usage.parts())
    return (
        text_of(settlement.request),
        settlement.at,
        day,
        settlement.key,
        settlement.name,
        settlement.upstream,
        text_of(settlement.model),
        _encode(dict(settlement.asked)) if settlement.asked else "{}",
        text_of(settlement.path),
        settlement.reason,
        int(settlement.estimated),
        None if amount is None else amount_of(amount),
        usage,
    )
