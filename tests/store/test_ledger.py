"""The ledger on the disk: every request is settled once, and nothing is forgotten by an end, however it comes."""

import asyncio
import importlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from copy import replace
from pathlib import Path
from typing import Any

import pytest

from addons.core.accounts import Claim, Terms
from addons.core.metered import Metered
from addons.core.relay_keys import day_of
from addons.store import StoreError
from addons.store.ledger import NAME, Book, LocalLedger
from addons.store.ledger_file import BROKE, FINISHED, KILLED, LEFT, REFUSED
from addons.store.ledger_reader import Used, unknown, used
from addons.store.settlements import OverLimit, Settlement
from tests.support.live import ROOT, eventually

NOON = 1_764_504_000.0
DAY = 86_400.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> Iterator[Book]:
    opened = Book(tmp_path, clock, 90)
    yield opened
    opened.close()


def claim(request: str, amount: int = 10, budget: int | None = 100) -> Claim:
    return Claim(request, "k1", amount, 5, Terms(budget), "alice", "openai", "gpt-4o", "/v1/chat/completions")


def settlement(request: str, amount: int | None = 4, **more: Any) -> Settlement:
    whole = Settlement(
        request, NOON, "k1", "alice", "openai", "gpt-4o", {}, "/v1/chat/completions", FINISHED, Metered(9, 4), amount
    )
    return replace(whole, held=True, **more)


def entries(path: Path) -> list[Used]:
    return sorted(used(path / NAME, ""), key=lambda entry: (entry.day, entry.at or 0))


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    sql = sqlite3.connect(path / NAME)
    try:
        return sql.execute(f"SELECT * FROM {table}").fetchall()
    finally:
        sql.close()


def test_a_request_is_held_and_settled(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        await ledger.reserve(claim("a", 60))
        assert [(row[0], row[-1]) for row in rows(tmp_path, "Holds")] == [("a", 60)], "it is written before it goes up"
        assert await ledger.balance("k1", "total") == (0, 60)
        with pytest.raises(OverLimit) as caught:
            await ledger.reserve(claim("b", 50))
        assert caught.value.refused.left == 40
        ledger.settle(settlement("a", 25, asked={"service_tier": "flex"}))
        assert await ledger.balance("k1", "total") == (25, 0)
        await ledger.reserve(claim("b", 50))

    asyncio.run(life())
    book.close()
    [entry] = entries(tmp_path)
    assert (entry.amount, entry.usage, entry.asked) == (25, Metered(9, 4), {"service_tier": "flex"})
    assert (entry.name, entry.upstream, entry.model, entry.day) == ("alice", "openai", "gpt-4o", day_of(NOON))


def test_nothing_is_settled_twice(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        await ledger.reserve(claim("a"))
        for amount in (4, 9, None):
            ledger.settle(settlement("a", amount))
        own = replace(settlement("own", None), held=False, key="hash", name=None)
        ledger.settle(own)
        ledger.settle(replace(own, amount=7))
        assert await ledger.balance("k1", "total") == (4, 0)

    asyncio.run(life())
    book.close()
    assert [(row[0], row[11]) for row in rows(tmp_path, "Settlements")] == [("a", 4), ("own", None)]


def test_what_is_read_again_and_again_is_spent_once(book: Book, tmp_path: Path) -> None:
    """A batch is fetched as often as its client likes, and no hold says that it is settled."""

    async def life() -> None:
        ledger = LocalLedger(book)
        batch = replace(settlement("batch", 7), held=False)
        for _ in range(5):
            ledger.settle(batch)
        await asyncio.sleep(0.1)
        ledger.settle(batch)
        await asyncio.sleep(0.1)
        assert await ledger.balance("k1", "total") == (7, 0)

    asyncio.run(life())
    book.close()
    assert [(row[0], row[11]) for row in rows(tmp_path, "Settlements")] == [("batch", 7)]


def test_old_rows_are_priced_at_the_start(tmp_path: Path, clock: Clock) -> None:
    first = Book(tmp_path, clock, 90)

    async def life() -> None:
        LocalLedger(first).settle(replace(settlement("own", None), held=False, key="hash", name=None))

    asyncio.run(life())
    first.close()
    clock.now += 98 * DAY
    Book(tmp_path, clock, 90, lambda *_: 99).close()
    assert [(entry.amount, entry.unpriced) for entry in entries(tmp_path)] == [(99, 0)]


def test_what_is_not_counted_gives_back_its_hold_and_leaves_no_row(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        await ledger.reserve(claim("models", 0, None))
        ledger.settle(settlement("models", 0, kept=False))
        assert not book.accounts.holds

    asyncio.run(life())
    book.close()
    assert rows(tmp_path, "Holds") == rows(tmp_path, "Settlements") == []


def test_all_is_there_at_the_next_start(tmp_path: Path, clock: Clock) -> None:
    async def life(book: Book) -> tuple[int, int]:
        ledger = LocalLedger(book)
        for n in range(5):
            await ledger.reserve(claim(f"{n}", 10, 1000))
            ledger.settle(settlement(f"{n}", 7))
        return await ledger.balance("k1", "month")

    first = Book(tmp_path, clock, 90)
    assert asyncio.run(life(first)) == (35, 0)
    first.close()
    again = Book(tmp_path, clock, 90)
    assert again.accounts.balance("k1", "month", NOON) == (35, 0)
    again.close()


def test_who_was_killed_is_settled_at_its_hold_and_marked(tmp_path: Path, clock: Clock) -> None:
    """A real process, ended by kill -9 with two requests under way."""
    code = """
        import asyncio, os, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from tests.store.test_ledger import NOON, Book, LocalLedger, claim, settlement
        async def life():
            ledger = LocalLedger(Book(Path(sys.argv[1]), lambda: NOON, 90))
            for n in range(4):
                await ledger.reserve(claim(f"{n}", 20))
            ledger.settle(settlement("0", 3)); ledger.settle(settlement("1", 4))
            await ledger.reserve(claim("last", 1))
            await asyncio.sleep(0.1)
            print("ready", flush=True)
            time.sleep(60)
        asyncio.run(life())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(ROOT)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    book = Book(tmp_path, clock, 90)
    assert book.accounts.balance("k1", "total", NOON) == (3 + 4 + 20 + 20 + 1, 0)
    book.close()
    found = {row[0]: (row[9], row[10], row[11], row[4]) for row in rows(tmp_path, "Settlements")}
    assert found["0"] == (FINISHED, 0, 3, "alice")
    assert found["2"] == found["3"] == (KILLED, 1, 20, "alice")
    assert len(found) == 5


def test_a_worker_that_is_gone_is_settled_at_its_holds(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        written: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        assert book.reserve(claim("a", 30), "worker 1", written.set_result) is None
        assert await written is None
        assert book.reserve(claim("free", 0, None), "worker 1", lambda _: None) is None
        assert book.reserve(claim("other", 5), "worker 2", lambda _: None) is None
        book.abandon("worker 1")
        assert book.accounts.balance("k1", "total", NOON) == (30, 5)
        book.settle(settlement("a", 1), "worker 1")
        await asyncio.sleep(0.05)

    asyncio.run(life())
    book.close()
    settled = [(row[0], row[9], row[11]) for row in rows(tmp_path, "Settlements")]
    assert settled == [("a", KILLED, 30), ("free", KILLED, None)]  # which has no budget: what it cost is not known


def test_many_are_written_together(book: Book) -> None:
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    book._sql.set_trace_callback(count)

    async def life() -> None:
        ledger = LocalLedger(book)
        await asyncio.gather(*(ledger.reserve(claim(f"{n}", 1, 10_000)) for n in range(300)))

    asyncio.run(life())
    assert 1 <= commits < 30


def test_old_rows_become_sums_of_days(tmp_path: Path, clock: Clock) -> None:
    async def life(book: Book) -> None:
        ledger = LocalLedger(book)
        for n, reason in enumerate([FINISHED, FINISHED, BROKE]):
            await ledger.reserve(claim(f"{n}", 10, 1000))
            ledger.settle(settlement(f"{n}", 7 if reason == FINISHED else 0, reason=reason))
        ledger.settle(replace(settlement("own", None), held=False, key="hash", name=None))
        ledger.settle(replace(settlement("unknown", None), held=False, key="hash", name=None, usage=None))

    book = Book(tmp_path, clock, 90)
    asyncio.run(life(book))
    book.close()
    before = entries(tmp_path)
    clock.now += 98 * DAY
    book = Book(tmp_path, clock, 90, lambda usage, *_: 99 if usage == Metered(9, 4) else None)
    assert book.accounts.balance("k1", "total", clock.now) == (14, 0)
    assert eventually(lambda: not rows(tmp_path, "Settlements") and not rows(tmp_path, "Holds"))
    book.close()
    book = Book(tmp_path, clock, 90)
    assert book.accounts.balance("k1", "total", clock.now) == (14, 0), "the sums are read, too"
    assert "hash" not in book.accounts._accounts, "callers' own keys have no budget"
    book.close()
    assert rows(tmp_path, "Settlements") == rows(tmp_path, "Holds") == []
    after = entries(tmp_path)
    assert sum(entry.requests for entry in after) == sum(entry.requests for entry in before) == 5
    mine = next(entry for entry in after if entry.key == "k1")
    assert (mine.requests, mine.failures, mine.amount, mine.unpriced, mine.name) == (3, 1, 14, 0, "alice")
    assert mine.usage is not None and mine.usage.input == 27


def test_what_was_left_unpriced_is_priced_before_it_is_summed_up(tmp_path: Path, clock: Clock) -> None:
    async def life(book: Book) -> None:
        own = replace(settlement("own", None), held=False, key="hash", name=None)
        LocalLedger(book).settle(own)
        LocalLedger(book).settle(replace(own, request="dear", model="nobody-knows"))
        for _ in range(100):
            await asyncio.sleep(0.02)
            if len(rows(tmp_path, "Settlements")) == 2:
                return

    book = Book(tmp_path, clock, 90)
    asyncio.run(life(book))
    book.price = lambda usage, upstream, model, asked, at: 99 if model == "gpt-4o" and at == NOON else None
    clock.now += 98 * DAY
    assert len(rows(tmp_path, "Settlements")) == 2
    assert list(book._folding()) == [None]
    book.close()
    found = {entry.model: (entry.amount, entry.unpriced) for entry in entries(tmp_path)}
    assert found == {"gpt-4o": (99, 0), "nobody-knows": (0, 1)}


def test_a_disk_that_refuses_lets_nothing_up_and_loses_no_settlement(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = importlib.import_module("addons.store.ledger")

    full = True
    stock = module.transaction

    def transaction(sql: sqlite3.Connection) -> Any:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return stock(sql)

    async def life() -> None:
        nonlocal full
        ledger = LocalLedger(book)
        full = False
        await ledger.reserve(claim("a", 60))
        full = True
        monkeypatch.setattr(module, "transaction", transaction)
        monkeypatch.setattr(module, "_RETRY", 0.05)
        with pytest.raises(StoreError, match="disk is full"):
            await ledger.reserve(claim("b", 10))
        assert await ledger.balance("k1", "total") == (0, 60), "what was not written holds nothing"
        ledger.settle(settlement("a", 33))
        await asyncio.sleep(0.2)
        assert rows(tmp_path, "Settlements") == []
        full = False
        for _ in range(100):
            await asyncio.sleep(0.02)
            if rows(tmp_path, "Settlements"):
                break

    asyncio.run(life())
    assert [(row[0], row[11]) for row in rows(tmp_path, "Settlements")] == [("a", 33)]


def test_one_row_that_is_wrong_costs_no_other(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        await ledger.reserve(claim("a", 10))
        ledger.settle(settlement("a", 10))
        again = asyncio.create_task(ledger.reserve(claim("a", 10)))  # the same id: its row is there already
        other = asyncio.create_task(ledger.reserve(claim("b", 10)))
        with pytest.raises(StoreError, match="UNIQUE"):
            await again
        await other

    asyncio.run(life())
    assert sorted(row[0] for row in rows(tmp_path, "Holds")) == ["a", "b"]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"model": "x\ud800"}, id="half of a pair of surrogates"),
        pytest.param({"path": "/v1/\udcff/chat/completions"}, id="a byte of a path"),
        pytest.param({"path": "/v1/" + "x" * 100_000, "model": "y" * 100_000}, id="long texts"),
        pytest.param({"amount": 1 << 80}, id="more than SQLite can count"),
    ],
)
def test_what_a_stranger_may_write_ends_in_a_row(book: Book, tmp_path: Path, more: dict[str, Any]) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        texts = {name: value for name, value in more.items() if name != "amount"}
        await ledger.reserve(replace(claim("a", 10, 1000), **texts))
        ledger.settle(settlement("a", **more))
        own = replace(settlement("own\ud800", None), held=False, key="hash", name=None)
        ledger.settle(replace(own, **texts))
        await ledger.reserve(claim("b", 10, 1 << 90))

    asyncio.run(life())
    book.close()
    found = rows(tmp_path, "Settlements")
    assert sorted(row[0] for row in found) == ["a", "own?"]
    assert all(len(str(value)) <= 200 for row in found for value in row)
    Book(tmp_path, lambda: NOON, 90).close()


def test_a_row_that_can_t_be_written_costs_no_other_and_not_the_thread(
    book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        await ledger.reserve(claim("a"))
        wrong: Any = settlement("a", upstream=object())
        ledger.settle(wrong)
        with pytest.raises(StoreError, match="ledger can't be written"):
            await ledger.reserve(replace(claim("b"), upstream="\ud800"))
        await ledger.reserve(claim("c"))
        ledger.settle(settlement("c"))

    asyncio.run(life())
    book.close()
    assert [row[0] for row in rows(tmp_path, "Settlements")] == ["c"]
    assert "a settlement can't be written, and is lost" in caplog.text
    assert ("b" in book.accounts.holds) is False


def test_very_large_amounts_are_summed_up(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    book = Book(tmp_path, clock, 90)

    async def life() -> None:
        for n in range(3):
            await LocalLedger(book).reserve(claim(f"{n}", 10, 1 << 70))
            LocalLedger(book).settle(settlement(f"{n}", 10**15))

    asyncio.run(life())
    book.close()
    sql = sqlite3.connect(tmp_path / NAME)
    sql.execute("UPDATE Settlements SET amount = ?", ((1 << 63) - 1,))  # as a relay before this one may have written
    sql.commit()
    sql.close()
    book = Book(tmp_path, clock, 90)
    assert book.accounts.balance("k1", "total", clock.now) == (3 * ((1 << 63) - 1), 0)
    book.close()
    clock.now += 98 * DAY
    book = Book(tmp_path, clock, 90)
    assert eventually(lambda: "old rows of 1 key(s) stay in the ledger" in caplog.text)
    assert book._thread.is_alive()
    book.close()
    assert len(rows(tmp_path, "Settlements")) == 3


def test_strangers_leave_one_row_a_day(book: Book, tmp_path: Path) -> None:
    def own(request: str, key: str, **more: Any) -> Settlement:
        return replace(settlement(request, None), held=False, key=key, name=None, **more)

    async def life() -> None:
        ledger = LocalLedger(book)
        for n in range(500):
            ledger.settle(own(f"r{n}", f"stranger{n}", reason=REFUSED if n % 2 else LEFT, usage=None))
        ledger.settle(own("known", "customer"))
        ledger.settle(own("refused", "customer", reason=REFUSED, usage=None))

    asyncio.run(life())
    book.close()
    assert sorted(row[0] for row in rows(tmp_path, "Settlements")) == ["known", "refused"]
    [sums] = rows(tmp_path, "Days")
    assert sums[1] == "" and sums[5:7] == (500, 250)
    assert sum(entry.failures for entry in entries(tmp_path)) == 251


def test_folding_lets_holds_through(tmp_path: Path, clock: Clock) -> None:
    book = Book(tmp_path, clock, 90)

    async def fill() -> None:
        for n in range(3000):
            LocalLedger(book).settle(replace(settlement(f"{n}", None), held=False, key=f"hash{n % 3}", name=None))

    asyncio.run(fill())
    book.close()
    clock.now += 98 * DAY
    priced = 0

    def price(*_: object) -> int:
        nonlocal priced
        priced += 1
        time.sleep(0.001)
        return 1

    book = Book(tmp_path, clock, 90, price)

    async def hold() -> int:
        await LocalLedger(book).reserve(claim("a"))
        return priced

    assert asyncio.run(hold()) < 3000, "it waits for a few rows at most"
    assert eventually(lambda: not rows(tmp_path, "Settlements"), 20)
    assert priced == 3000
    book.close()


def test_a_closed_ledger_says_so(book: Book) -> None:
    book.close()
    book.close()
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(LocalLedger(book).reserve(claim("a")))


def test_a_damaged_ledger_stops_the_start(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / NAME).write_bytes(b"this is no database at all, whoever wrote it" * 100)
    with pytest.raises(StoreError, match=r"ledger .* is damaged, so nobody knows what was spent"):
        Book(tmp_path, clock, 90)


def test_reports_read_what_there_is(tmp_path: Path, book: Book) -> None:
    assert list(used(tmp_path / "nowhere" / NAME, "")) == []
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / NAME).write_bytes(b"x" * 5000)
    with pytest.raises(StoreError):
        list(used(tmp_path / "broken" / NAME, ""))


def test_keys_are_not_in_the_file(book: Book, tmp_path: Path) -> None:
    async def life() -> None:
        await LocalLedger(book).reserve(claim("a"))

    asyncio.run(life())
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_a_settlement_travels_between_processes() -> None:
    whole = settlement("a", 5, asked={"service_tier": "flex"}, estimated=True, tokens=3, at_hold=True)
    assert Settlement.from_json(whole.to_json()) == whole
    assert Settlement.from_json(replace(whole, usage=None).to_json()).usage is None


def test_while_the_disk_takes_nothing_no_more_than_so_much_waits(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module: Any = importlib.import_module("addons.store.ledger")
    monkeypatch.setattr(module, "_MOST_WAITING", 50)
    book = Book(tmp_path, clock, 90)
    locked = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")

    async def life() -> None:
        ledger = LocalLedger(book)
        for n in range(500):
            ledger.settle(replace(settlement(f"{n}", None), held=False, key="hash", name=None))
            if n % 25 == 24:
                await asyncio.sleep(0.11)  # they go to the thread
        with pytest.raises(StoreError, match="too many rows wait"):
            await ledger.reserve(claim("a"))
        assert not book.accounts.holds, "what was not written holds nothing"
        assert book._handed - book._taken <= 100

    asyncio.run(life())
    locked.execute("ROLLBACK")
    locked.close()
    book.close()
    assert len(rows(tmp_path, "Settlements")) >= 50
    assert "are lost" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 7, 31, 33, 77])
def test_rows_that_come_together_are_all_written(book: Book, tmp_path: Path, count: int) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        names = [f"r{number}" for number in range(count)]
        await asyncio.gather(*(ledger.reserve(claim(name, 1, 10**6)) for name in names))
        for number, name in enumerate(names):
            ledger.settle(settlement(name, number))
            ledger.settle(replace(settlement(f"batch {name}", 7), held=False))
        await asyncio.sleep(0.3)
        assert await ledger.balance("k1", "total") == (sum(range(count)) + 7 * count, 0)

    asyncio.run(life())
    book.close()
    assert len(rows(tmp_path, "Holds")) == count
    amounts = {row[0]: row[11] for row in rows(tmp_path, "Settlements")}
    assert [amounts[f"r{number}"] for number in range(count)] == list(range(count))
    assert len(amounts) == 2 * count


def test_a_key_without_a_budget_is_held_for_as_well(tmp_path: Path, clock: Clock) -> None:
    first = Book(tmp_path, clock, 90)

    async def life() -> None:
        ledger = LocalLedger(first)
        await ledger.reserve(claim("free", 0, None))
        await ledger.reserve(replace(claim("limited", 0, None), kept=False))
        await ledger.reserve(claim("later", 0, None))
        assert [row[0] for row in rows(tmp_path, "Holds")] == ["free", "later"], "what is only limited is not written"
        # It is counted under another id, so nothing of it stays.
        ledger.settle(replace(settlement("later", 0), kept=False))
        ledger.settle(replace(settlement("limited", 0), kept=False))
        await asyncio.sleep(0.3)
        assert [row[0] for row in rows(tmp_path, "Holds")] == ["free"]
        assert first.accounts.holds.keys() == {"free"}

    asyncio.run(life())
    first.accounts.holds.clear()  # as if it were killed
    first.close()
    second = Book(tmp_path, clock, 90)
    second.close()
    [row] = rows(tmp_path, "Settlements")
    assert (row[0], row[9], row[10], row[11]) == ("free", KILLED, 1, None)
    assert unknown(tmp_path / NAME, "k1", "") == 1
    assert unknown(tmp_path / NAME, "k1", day_of(NOON + DAY)) == unknown(tmp_path / NAME, "k2", "") == 0


def test_a_disk_that_refuses_stops_only_what_a_budget_stands_on(book: Book) -> None:
    async def life() -> None:
        ledger = LocalLedger(book)
        book._sql.execute("DROP TABLE Holds")
        await ledger.reserve(claim("free", 0, None))
        with pytest.raises(StoreError):
            await ledger.reserve(claim("dear", 1))
        assert book.accounts.holds.keys() == {"free"}

    asyncio.run(life())


def test_what_nobody_knows_is_counted_after_it_is_folded(tmp_path: Path, clock: Clock) -> None:
    book = Book(tmp_path, clock, 90)

    async def life() -> None:
        ledger = LocalLedger(book)
        for name, amount in (("known", 5), ("unknown", None)):
            await ledger.reserve(claim(name, 0, None))
            ledger.settle(settlement(name, amount))
        await asyncio.sleep(0.3)

    asyncio.run(life())
    book.close()
    assert unknown(tmp_path / NAME, "k1", "") == 1
    clock.now += 200 * DAY
    later = Book(tmp_path, clock, 90)
    assert eventually(lambda: not rows(tmp_path, "Settlements"))
    later.close()
    assert unknown(tmp_path / NAME, "k1", "") == 1
    assert unknown(tmp_path / NAME, "k1", day_of(clock.now)) == 0
    assert unknown(tmp_path / "nothing.db", "k1", "") == 0
