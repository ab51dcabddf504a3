"""What is kept of money once nothing is under way: in Redis, and in the copy of each relay's machine."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from addons.store.ledger import NAME as LEDGER
from addons.store.shared.names import Names
from tests.support.cluster.relays import Relay

_FIELDS = ("request", "at", "day", "key", "name", "upstream", "model", "asked", "path", "reason", "estimated", "amount")
REST = 40.0
"""Seconds in which holds of a relay that is gone are settled, and everything is written."""

Row = dict[str, Any]


@dataclass
class Books:
    """All of it at one moment."""

    rows: list[Row] = field(default_factory=list)
    """Settlements, from the streams in Redis."""
    holds: list[str] = field(default_factory=list)
    accounts: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: dict[str, dict[str, Row]] = field(default_factory=dict)
    """Settlements by request, as each relay's machine has them."""

    def restless(self) -> list[str]:
        """What is not at rest yet."""
        wrong = [f"{len(self.holds)} request(s) are held: {self.holds[:3]}"] if self.holds else []
        for key, account in self.accounts.items():
            if account.get("n") or any(name.startswith("h:") for name in account):
                wrong.append(f"account {key} holds something: {account}")
        ours = {row["request"]: row for row in self.rows}
        for name, copy in self.copies.items():
            if copy != ours:
                lost, more = ours.keys() - copy.keys(), copy.keys() - ours.keys()
                wrong.append(f"the copy of {name} lacks {len(lost)} of {len(ours)} rows, has {len(more)} others")
        return wrong

    def twice(self) -> list[str]:
        """Requests that were settled more than once."""
        counts = Counter(row["request"] for row in self.rows)
        return [f"{request} is settled {count} times" for request, count in counts.items() if count > 1]


def read(redis: Any, names: Names, relays: Sequence[Relay]) -> Books:
    """As it is now."""
    books = Books()
    for where in names.partitions:
        entries: Any = redis.xrange(where.stream)
        for _, fields in entries:
            kind, *row = json.loads(fields[b"row"])
            if kind == "settled":
                books.rows.append(dict(zip(_FIELDS, row, strict=False)))
    tag = f"{{{names.prefix}:".encode()
    for name in redis.scan_iter(match=f"{{{names.prefix}:*", count=1000):
        kind, _, rest = name.removeprefix(tag).partition(b"}:")[2].partition(b":")
        if kind == b"holds":
            books.holds += [request.decode() for request in redis.hkeys(name)]
        elif kind == b"account":
            account = {each.decode(): int(value) for each, value in redis.hgetall(name).items()}
            books.accounts[rest.decode()] = account
    for relay in relays:
        books.copies[relay.name] = _copy(relay.folder / "store" / LEDGER)
    return books


def at_rest(redis: Any, names: Names, relays: Sequence[Relay]) -> tuple[Books, float]:
    """Once nothing is held any more and every copy is written, or too much time has passed; and how long it took.
    `redis` is a client of redis-py."""
    begun = time.monotonic()
    while True:
        books = read(redis, names, relays)
        passed = time.monotonic() - begun
        if not books.restless() or passed > REST:
            return books, passed
        time.sleep(0.2)


def _copy(path: Path) -> dict[str, Row]:
    sql = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
    sql.row_factory = sqlite3.Row
    try:
        found = [dict(row) for row in sql.execute(f"SELECT {', '.join(_FIELDS)} FROM Settlements")]
    finally:
        sql.close()
    return {row["request"]: row for row in found}
