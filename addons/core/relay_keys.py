"""Keys that relay hands out: what one may do, and for which span of time its budget holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

PREFIX = "rk-"
LEAST = 20
"""Characters of a key that a person has chosen."""

Per = Literal["day", "month", "total"]
PERIODS: tuple[Per, ...] = ("day", "month", "total")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a key may be called so: it stands in reports and in commands."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class RelayKey:
    """A key and what it may do. Money in nano-dollars; None is without a limit, an empty list all there are."""

    id: str
    """What its use is counted under. It stays when the key itself is replaced."""
    name: str
    upstream: str | None = None
    models: Sequence[str] = ()
    """Names, or patterns with `*` and `?`."""
    paths: Sequence[str] = ()
    budget: int | None = None
    per: Per = "total"
    requests: int | None = None
    """In any minute."""
    tokens: int | None = None
    """In any minute."""
    parallel: int | None = None
    expires: date | None = None
    """The last day on which it works, UTC."""
    revoked: bool = False

    def expired(self, now: float) -> bool:
        """Whether its last day is over. `now` is seconds since the epoch."""
        return self.expires is not None and day_of(now) > self.expires.isoformat()

    def allows_model(self, model: str) -> bool:
        """Whether it may use a model."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    def allows_path(self, path: str) -> bool:
        """Whether it may use a path, without its query: one that is listed, or one below it."""
        return not self.paths or self.names_path(path)

    def names_path(self, path: str) -> bool:
        """Whether a path is listed, or lies below one that is."""
        return any(fnmatchcase(path, each) or path.startswith(f"{each.rstrip('/')}/") for each in self.paths)


def owner_of(key: RelayKey | None, text: str) -> str:
    """Whose sessions a key's are. Those of a relay key stay when it is replaced; no key has a blank in it."""
    return text if key is None else f"relay key {key.id}"


def day_of(now: float) -> str:
    """The day in UTC, `2026-11-30`. `now` is seconds since the epoch."""
    return _day(int(now // 86400))


@lru_cache(64)
def _day(number: int) -> str:
    """Of the days since the epoch."""
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def begins(per: Per, now: float) -> str:
    """The first day of the span that a budget holds for; "" for all days."""
    if per == "total":
        return ""
    today = day_of(now)
    return today if per == "day" else f"{today[:7]}-01"


def renews(per: Per, now: float) -> str | None:
    """The day on which a budget begins anew, None for one that never does."""
    today = datetime.fromtimestamp(now, UTC).date()
    if per == "day":
        return (today + timedelta(days=1)).isoformat()
    if per == "month":
        return (today.replace(day=28) + timedelta(days=4)).replace(day=1).isoformat()
    return None
