"""Why a call cost what it did, against the call of its thread before it.

Reasons, the first that holds. Whoever pays wants to know what to change; among causes that coincide, the one comes
first that would have cost as much alone, since curing a narrower one would save nothing.

1. `first_turn`: its thread had no call before.
2. `retry`: it asks what an earlier call of its thread has asked.
3. `other_upstream`: the call before went to another upstream, or with another key, and so to another cache.
4. `settings_changed`: another model; caches are per model.
5. `cache_expired`: more time has passed than the cache lives, and it did not serve what it had held.
6. `compaction`: the history was replaced by a summary, or its old end cut off.
7. `prefix_changed`: tools, the system prompt or a message is another one; `part` tells which. `settings_changed` where
   the first difference is in what Anthropic's cache of messages depends on.
8. `settings_changed`: another setting differs, which costs no cached token.
9. `new_turn`: there is more behind the last message, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from addons.core.threads.difference import Difference, Place, shown


class Reason(StrEnum):
    """Of a call's cost."""

    FIRST_TURN = "first_turn"
    NEW_TURN = "new_turn"
    CACHE_EXPIRED = "cache_expired"
    PREFIX_CHANGED = "prefix_changed"
    COMPACTION = "compaction"
    SETTINGS_CHANGED = "settings_changed"
    OTHER_UPSTREAM = "other_upstream"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Cause:
    """Of one call."""

    reason: Reason
    part: str | None = None
    """`system`, `tools` or `message` of a prefix that has changed."""
    path: str | None = None
    before: str | None = None
    after: str | None = None
    """The first difference: where it is, what was there, what is there now; as short texts."""
    tokens: int | None = None
    """That the upstream's cache had held and did not serve; None where no usage was told."""
    cost: Decimal | None = None
    """What these cost, in dollars; None where that is not known."""
    previous: str | None = None
    """The id of the call that it is compared with."""


_IN_PREFIX = (Place.TOOLS, Place.SYSTEM, Place.CACHED_SETTING, Place.MESSAGE, Place.CUT)


def reason_of(
    found: Sequence[Difference], *, elsewhere: bool, expired: bool, compacted: bool
) -> tuple[Reason, str | None]:
    """The reason and the part, of a call that has one before it and repeats none."""
    places = [each.place for each in found]
    prefix = next((each for each in places if each in _IN_PREFIX), None)
    if elsewhere:
        return Reason.OTHER_UPSTREAM, None
    if Place.MODEL in places:
        return Reason.SETTINGS_CHANGED, None
    if expired:
        return Reason.CACHE_EXPIRED, None
    if compacted:
        return Reason.COMPACTION, None
    if prefix is Place.CACHED_SETTING:
        return Reason.SETTINGS_CHANGED, None
    if prefix is not None:
        return Reason.PREFIX_CHANGED, "message" if prefix is Place.CUT else prefix.value
    return (Reason.SETTINGS_CHANGED if Place.SETTING in places else Reason.NEW_TURN), None


def told(found: Sequence[Difference]) -> tuple[str | None, str | None, str | None]:
    """Path and both values of the first difference."""
    if not found:
        return None, None, None
    return found[0].path, *shown(found[0].before, found[0].after)
