"""One exchange with a model as it passed, and what is found of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from addons.core.metered import Metered
from addons.core.threads.causes import Cause


class Outcome(StrEnum):
    """How a call has ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """Before any work was done on it."""
    UNHEARD = "unheard"
    """Nothing was heard in time, or the connection broke: it may have been worked on."""
    LEFT = "left"
    """Its client went away."""


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with a model, as it passed."""

    id: str
    at: float
    """When its request came, in seconds."""
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    """Decoded, as the answer."""
    answer: bytes
    stream: bool
    outcome: Outcome
    upstream: str
    key: str
    """Whatever tells keys apart."""
    sessions: frozenset[str] = frozenset()
    """Names of its session that relay knows by itself."""
    owner: str = ""
    """Whose relay key it came with; of others it shares no thread."""
    usage: Metered | None = None
    """As the answer was metered; None: as it tells by itself."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What is known of a call."""

    thread: str
    model: str
    parent: str | None
    """The thread that sent it, of a subagent or a side call."""
    cause: Cause
    """Without its cost, which is whoever knows prices to tell."""
    lost: Metered | None
    """How the tokens of the cause were billed."""
    usage: Metered | None
    """What the answer used; None where that is not known."""
    known: int
    """Leading messages or items of the body that the call before, or its answer, had."""
