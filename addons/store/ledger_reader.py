"""What stands in the ledger, as reports read it: from the file, while a relay may be writing to it."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from addons.core.metered import Metered
from addons.store import StoreError
from addons.store.ledger_file import FAILURES


@dataclass(frozen=True, slots=True)
class Used:
    """Settlements that belong together, or the sum of a day that was folded, as reports read them."""

    day: str
    at: float | None
    """When the first one began, where they have still to be priced: all of them have the same rates. Else None."""
    key: str
    """Where callers are not kept apart, that of one of them."""
    name: str | None
    upstream: str
    model: str
    asked: Mapping[str, str]
    estimated: int
    """How many of `requests` are estimates."""
    unpriced: int
    """How many have no `amount`, or none yet."""
    failures: int
    amount: int | None
    usage: Metered | None
    """Of all of them."""
    requests: int = 1
    above: int = 0
    """The step of the rates that the input of each has passed."""
    rows: int = 1
    """Settlements that were read for it."""


class Grain(Protocol):
    """What may be summed up before it is priced."""

    @property
    def steps(self) -> Sequence[int]:
        """Tokens of input from which on a rate may be another one."""

    @property
    def span(self) -> float:
        """Seconds for which an hourly price is the same."""

    def hourly(self, upstream: str, model: str) -> bool:
        """Whether its price changes with the hour; others change with the day."""


def used(
    path: Path,
    since: str,
    key: str | None = None,
    grain: Grain | None = None,
    *,
    by_key: bool = True,
    most: int = -1,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Used]:
    """What was used from a day on, by everybody or by one key: read from the file while a relay may be writing to it.

    SQLite sums up what has the same rates: row by row that would be ten times the work, and all of it in Python.
    Without a `grain` what has still to be priced is summed up by day. At most `most` settlements are read, of one key
    the newest ones.

    Raises StoreError, Stopped once `stop` says so, and yields nothing where there is no ledger yet.
    """
    if not path.exists():
        return
    try:
        sql = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        try:
            sql.set_progress_handler(stop, _STEPS_BETWEEN)
            sql.execute(f"PRAGMA cache_size=-{_CACHE}")
            sql.execute("BEGIN")  # a row is seen once, and not in two states
            yield from _settled(sql, since, key, grain, by_key, most)
            yield from _folded(sql, since, key)
        finally:
            sql.close()
    except sqlite3.Error as error:
        if stop():
            raise Stopped from None
        raise StoreError(f"the ledger {path} can't be read: {error}") from error


def unknown(path: Path, key: str, since: str, stop: Callable[[], bool] = lambda: False) -> int:
    """How many requests of a relay key have cost what nobody knows, from a day on.

    Raises StoreError, and Stopped once `stop` says so.
    """
    if not path.exists():
        return 0
    try:
        sql = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        try:
            sql.set_progress_handler(stop, _STEPS_BETWEEN)
            (found,) = sql.execute(_UNKNOWN, (key, since, key, since)).fetchone()
            return int(found)
        finally:
            sql.close()
    except sqlite3.Error as error:
        if stop():
            raise Stopped from None
        raise StoreError(f"the ledger {path} can't be read: {error}") from error


class Stopped(Exception):
    """Nobody waits for what is read any more."""


_STEPS_BETWEEN = 50_000
"""Of SQLite's machine, between two looks at `stop`: some thousand rows."""
_CACHE = 16384
"""KiB that sorting takes before it goes to a file."""
_EVEN = ("input", "output", "cached", "cache_write", "cache_write_1h", "reasoning")
"""Counts whose cost is a rate times their sum. Rows with others are priced one by one."""
_ODD = ("_audio", "_image", '"searches', '"milliseconds', '"characters', '"pictures')
"""What their names have in them that others have not."""
_LARGE = 10**12
"""Counts and nano-dollars of which a million may not fit into SQLite's 64 bits: they are not summed up there."""
_COUNTS = ", ".join(f"coalesce(json_extract(usage, '$.{name}'), 0) AS {name}" for name in _EVEN)
_PARTS = " + ".join(f"({name} > 0) * {1 << place}" for place, name in enumerate(_EVEN))
"""A count without a known rate is unpriced, and doesn't make those unpriced that have none of it."""
_TOO_LARGE = " OR ".join(f"{name} > {_LARGE}" for name in ("input", "output", "amount"))
_UNEVEN = " OR ".join(
    [
        *(f"instr(usage, '{name}')" for name in _ODD),
        "cached + cache_write + cache_write_1h > input",
        "reasoning > output",
    ]
)
_ROWS = f"""
SELECT day, min(at), max(key), max(name), upstream, model, asked, priced, min({{above}}), sum(estimated),
    sum(amount IS NULL AND (usage IS NOT NULL OR NOT failed)), sum(failed), sum(amount), max(usage),
    CASE WHEN {_TOO_LARGE} OR NOT priced AND ({_UNEVEN}) THEN request END AS alone, count(*),
    {", ".join(f"sum({name})" for name in _EVEN)}
FROM (
    SELECT request, at, day, key, name, upstream, model, asked, reason IN ({", ".join("?" * len(FAILURES))}) AS failed,
        estimated, amount, amount IS NOT NULL OR usage IS NULL AS priced, usage, {_COUNTS}
    FROM Settlements WHERE day >= ?{{where}} LIMIT ?
)
GROUP BY {{key}}day, model, upstream, asked, CASE WHEN NOT priced THEN {_PARTS} + {1 << len(_EVEN)} * ({{above}}) END,
    CASE WHEN NOT priced THEN {{span}} END, alone
"""
# By the index alone; a relay key's failures have cost 0.
_UNKNOWN = """
SELECT (SELECT count(*) FROM Settlements WHERE key = ? AND day >= ? AND amount IS NULL)
    + (SELECT coalesce(sum(unpriced), 0) FROM Days WHERE key = ? AND day >= ?)
"""
_SUMS = """
SELECT day, key, name, upstream, model, requests, failures, estimated, unpriced, input, output, cached, amount FROM Days
WHERE day >= ?
"""


def _settled(
    sql: sqlite3.Connection, since: str, key: str | None, grain: Grain | None, by_key: bool, most: int
) -> Iterator[Used]:
    where, values = (" AND key = ? ORDER BY day DESC", (since, key)) if key is not None else ("", (since,))
    steps = sorted(grain.steps if grain is not None else (), reverse=True)
    said = {"key": "key, " if by_key and key is None else "", "where": where, "above": _above(steps)}
    hourly: set[tuple[str, str]] = set()
    for row in sql.execute(_ROWS.format(**said, span="NULL"), (*FAILURES, *values, most)):
        upstream, model, priced = row[4], row[5], row[7]
        if not priced and grain is not None and ((upstream, model) in hourly or grain.hourly(upstream, model)):
            hourly.add((upstream, model))
        else:
            yield _used(row)
    if grain is None or not hourly:
        return
    # Once more, in smaller pieces: seldom is anything of it hourly.
    for row in sql.execute(_ROWS.format(**said, span=f"CAST(at / {grain.span} AS INT)"), (*FAILURES, *values, most)):
        if not row[7] and (row[4], row[5]) in hourly:
            yield _used(row)


def _above(steps: Sequence[int]) -> str:
    return f"CASE {' '.join(f'WHEN input > {step} THEN {step}' for step in steps)} ELSE 0 END" if steps else "0"


def _used(row: Sequence[Any]) -> Used:
    day, at, key, name, upstream, model, asked, priced, above, *counts = row
    estimated, unpriced, failures, amount, usage, alone, requests, *sums = counts
    if usage is None:
        told = None
    elif alone is not None:
        told = Metered.of(json.loads(usage))
    else:
        given, said, cached, written, hour_long, reasoned = sums
        told = Metered(given, said, cached, written, hour_long, reasoning=reasoned)
    return Used(
        day,
        None if priced else at,
        key,
        name,
        upstream,
        model,
        json.loads(asked) if asked != "{}" else {},
        estimated,
        unpriced,
        failures,
        (amount or 0) if priced else None,
        told,
        requests,
        above,
        requests,
    )


def _folded(sql: sqlite3.Connection, since: str, key: str | None) -> Iterator[Used]:
    whose, values = (" AND key = ?", (since, key)) if key is not None else ("", (since,))
    for row in sql.execute(f"{_SUMS}{whose}", values):
        *about, requests, failures, estimated, unpriced, given, said, cached, amount = row
        day, owner, name, upstream, model = about
        usage = Metered(input=given, output=said, cached=cached)
        yield Used(
            day, None, owner, name, upstream, model, {}, estimated, unpriced, failures, amount, usage, requests, 0, 0
        )
