"""The ledger's file: its tables, what one of its rows may hold, and how old rows become sums of days."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from addons.core.metered import Metered

logger = logging.getLogger(__name__)

type Pricer = Callable[[Metered, str, str, Mapping[str, str], float], int | None]
"""Nano-dollars of usage, at an upstream, of a model, as served, at a time."""

FINISHED, LEFT, BROKE, REFUSED = "finished", "client left", "upstream broke", "refused"
ENDED, GAVE_UP, KILLED = "relay ended", "relay gave up", "relay killed"
"""How a request can end."""
FAILURES = (BROKE, REFUSED)

LONGEST_TEXT = 200
"""Characters that are kept of a model's name, of a path and the like: callers may have written anything."""
_MOST_AMOUNT = 10**15
"""A million dollars: nothing costs that, and the sum of nine thousand such rows is still a number for SQLite."""
_AT_ONCE = 500
"""Rows that are folded in one transaction: a few milliseconds, for which holds have to wait."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS Holds (
    request TEXT PRIMARY KEY, at REAL NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
    upstream TEXT NOT NULL, model TEXT NOT NULL, path TEXT NOT NULL, amount INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS Settlements (
    request TEXT PRIMARY KEY, at REAL NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, name TEXT,
    upstream TEXT NOT NULL, model TEXT NOT NULL, asked TEXT NOT NULL, path TEXT NOT NULL, reason TEXT NOT NULL,
    estimated INTEGER NOT NULL, amount INTEGER, usage TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS Settlements_sums ON Settlements (key, day, amount);
CREATE TABLE IF NOT EXISTS Days (
    day TEXT NOT NULL, key TEXT NOT NULL, name TEXT, upstream TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, failures INTEGER NOT NULL, estimated INTEGER NOT NULL, unpriced INTEGER NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL, cached INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (day, key, upstream, model)
) WITHOUT ROWID;
"""
OF_A_ROW = (
    *(sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
    *(OverflowError, TypeError, ValueError),
)
"""What is raised for a row that can't be written, wherever to."""
UNRECKONED = -1
"""In place of the amount of a hold: its key has no budget, so nobody has asked what the request may cost."""
HOLD = f"INSERT INTO Holds VALUES ({', '.join('?' * 9)})"
SETTLEMENT = f"INSERT OR IGNORE INTO Settlements VALUES ({', '.join('?' * 13)})"
RELEASE = "DELETE FROM Holds WHERE request = ?"
"""The end of a request that is counted under another id."""
_ADD = """
ON CONFLICT (day, key, upstream, model) DO UPDATE SET requests = requests + excluded.requests,
    failures = failures + excluded.failures, estimated = estimated + excluded.estimated,
    unpriced = unpriced + excluded.unpriced, input = input + excluded.input, output = output + excluded.output,
    cached = cached + excluded.cached, amount = amount + excluded.amount
"""
STRANGERS = f"INSERT INTO Days VALUES (?, '', NULL, ?, '', ?, ?, 0, 0, 0, 0, 0, 0) {_ADD}"
"""Requests, and how many of them failed, of which nothing has come, with keys of which nothing ever has."""
_UNSETTLED = """
SELECT request, at, day, key, name, upstream, model, path, amount FROM Holds h
WHERE NOT EXISTS (SELECT 1 FROM Settlements s WHERE s.request = h.request)
"""
# In halves: the sum of all could be too large for SQLite.
_SPENT = """
SELECT key, day, sum(amount >> 32), sum(amount & 4294967295) FROM (
    SELECT key, day, amount FROM Settlements WHERE amount > 0 UNION ALL
    SELECT key, day, amount FROM Days WHERE amount > 0 AND name IS NOT NULL
) GROUP BY key, day ORDER BY day
"""
_OLD = "SELECT request, at, upstream, model, asked, amount, usage FROM Settlements WHERE key = ? AND day < ? LIMIT ?"
_FOLD = f"""
INSERT INTO Days
SELECT day, key, max(name), upstream, model, count(*), sum(reason IN ('{BROKE}', '{REFUSED}')), sum(estimated),
    sum(amount IS NULL), sum(coalesce(json_extract(usage, '$.input'), 0)),
    sum(coalesce(json_extract(usage, '$.output'), 0)), sum(coalesce(json_extract(usage, '$.cached'), 0)),
    coalesce(sum(amount), 0)
FROM Settlements WHERE request IN (SELECT value FROM json_each(?)) GROUP BY day, key, upstream, model
{_ADD}
"""


def open_file(path: Path) -> sqlite3.Connection:
    """Open it, for this process to write to, in whichever thread. Raises sqlite3.Error."""
    sql = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    sql.execute("PRAGMA journal_mode=wal")
    sql.execute("PRAGMA synchronous=normal")
    sql.executescript(_SCHEMA)
    return sql


@contextlib.contextmanager
def transaction(sql: sqlite3.Connection) -> Iterator[None]:
    """All of what is done inside, or nothing."""
    sql.execute("BEGIN IMMEDIATE")
    try:
        yield
        sql.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            sql.execute("ROLLBACK")
        raise


def text_of(text: str) -> str:
    """A text that may stand in a row: not too long, and without what can't be written as UTF-8 (half of a pair of
    surrogates from JSON, a byte of a path)."""
    text = text[:LONGEST_TEXT]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def amount_of(amount: int) -> int:
    """Nano-dollars that may stand in a row."""
    return max(-_MOST_AMOUNT, min(amount, _MOST_AMOUNT))


def insert(sql: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, many with one statement: SQLite lets go of the interpreter with each, and has to get it back.

    Raises sqlite3.Error.
    """
    begin, values = statement.rsplit(" VALUES ", 1)
    at = 0
    for size in _TOGETHER:
        while len(rows) - at >= size:
            said = f"{begin} VALUES {', '.join([values] * size)}"
            sql.execute(said, [value for row in rows[at : at + size] for value in row])
            at += size


_TOGETHER = (32, 8, 4, 2, 1)
"""Rows of one statement. Few sizes, since each is one more statement to be compiled, and kept."""


def settle_killed(sql: sqlite3.Connection) -> int:
    """Settle what was under way when a relay was killed, at its hold; how many there were. What a request of a key
    without a budget has cost stays unknown. Raises sqlite3.Error."""
    with transaction(sql):
        left = sql.execute(_UNSETTLED).fetchall()
        for request, at, day, key, name, upstream, model, path, amount in left:
            cost = None if amount == UNRECKONED else amount
            row = (request, at, day, key, name, upstream, model, "{}", path, KILLED, 1, cost, None)
            sql.execute(SETTLEMENT, row)
    return len(left)


def spent(sql: sqlite3.Connection) -> Iterator[tuple[str, str, int]]:
    """What keys of relay's have spent: key, day and nano-dollars. Raises sqlite3.Error."""
    for key, day, high, low in sql.execute(_SPENT):
        yield key, day, (high << 32) + low


def folding(sql: sqlite3.Connection, until: str, price: Pricer | None) -> Iterator[None]:
    """Price what lies before the day `until`, as far as that was left open, and make sums of it; a few rows from one
    yield to the next. What can't be folded stays as it is. Raises sqlite3.Error."""
    failed: dict[str, int] = {}
    for (key,) in sql.execute("SELECT DISTINCT key FROM Settlements WHERE day < ?", (until,)).fetchall():
        while rows := sql.execute(_OLD, (key, until, _AT_ONCE)).fetchall():
            try:
                _fold(sql, rows, price)
            except (OverflowError, ValueError, sqlite3.Error) as error:
                said = f"{type(error).__name__}: {error}"
                failed[said] = failed.get(said, 0) + 1
                break
            yield
    for said, count in failed.items():
        logger.warning(f"old rows of {count} key(s) stay in the ledger as they are ({said})")


def _fold(sql: sqlite3.Connection, rows: Sequence[Sequence[str | None]], price: Pricer | None) -> None:
    with transaction(sql):
        for request, at, upstream, model, asked, amount, usage in rows:
            if price is not None and amount is None and usage is not None:
                said = json.loads(asked or "{}")
                found = price(Metered.of(json.loads(usage)), upstream or "", model or "", said, float(at or 0))
                value = None if found is None else amount_of(found)
                sql.execute("UPDATE Settlements SET amount = ? WHERE request = ?", (value, request))
        requests = json.dumps([request for request, *_ in rows])
        sql.execute(_FOLD, (requests,))
        for table in ("Settlements", "Holds"):
            sql.execute(f"DELETE FROM {table} WHERE request IN (SELECT value FROM json_each(?))", (requests,))
