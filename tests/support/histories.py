"""Random histories of money: parallel requests, streams that break, clients that leave, keys that are revoked, and
relay killed in the midst of it, against an upstream that keeps the invoice.

Each history has a key with a budget of its own. At its end nothing is held, spent is not over the budget, every request
that was admitted is settled once, and the ledger agrees with the invoice. A refusal was right: its hold did not fit.
"""

import asyncio
import json
import random
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from addons.core.rates import nano
from addons.store.keys_file import StoredKey, changing, hash_of
from addons.store.ledger import NAME as LEDGER
from addons.store.ledger_file import FINISHED, KILLED, LEFT
from tests.support import live
from tests.support.asking import Heard, ask
from tests.support.invoice import Invoice

_REQUESTS = (3, 12)
_KEPT_KEYS = 20
_WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", "json", {}),
    ("/v1/chat/completions", "silent", {}),
    ("/v1/chat/completions", "last", {"stream": True}),
    ("/v1/chat/completions", "last", {"stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", "middle", {"stream": True}),
    ("/v1/chat/completions", "none", {"stream": True}),
    ("/v1/chat/completions", "break", {"stream": True}),
    ("/v1/chat/completions", "error", {"stream": True}),
    ("/v1/chat/completions", "refuse", {}),
    ("/v1/chat/completions", "overloaded", {}),
    ("/v1/chat/completions", "hang up", {}),
    ("/v1/responses", "completed", {"stream": True}),
    ("/v1/responses", "incomplete", {"stream": True}),
    ("/v1/responses", "completed", {}),
)
_ESTIMATED = ("silent", "none")
"""How upstream answers without any usage: relay can only estimate."""


@dataclass
class Sent:
    """One request of a history."""

    tag: str
    how: str
    heard: Heard


@dataclass
class History:
    """One key's life."""

    number: int
    key: str
    id: str
    budget: int
    sent: list[Sent] = field(default_factory=list)
    killed: bool = False
    """relay was, while it went on."""


@dataclass
class Driver:
    """Plays histories against one relay."""

    folder: Path
    invoice: Invoice
    random: random.Random
    workers: int = 1
    kills: int = 0
    requests: int = 0
    refusals: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _live: live.Live | None = None

    def start(self) -> live.Live:
        """Start relay, or start it again."""
        upstream = [{"name": "test", "url": self.invoice.url, "keys": ["sk-real-0123456789abcdef"]}]
        self._live = self._stack.enter_context(
            live.relay(self.folder, upstream, store={"path": "store"}, workers=self.workers, keys={"open": False})
        )
        return self._live

    def stop(self) -> None:
        """End it."""
        self._stack.close()

    def kill(self) -> None:
        """As the system does: no word of farewell."""
        assert self._live is not None
        self._live.process.send_signal(signal.SIGKILL)
        self._live.process.wait()
        self.kills += 1
        self._stack.close()
        self._stack = ExitStack()

    def play(self, number: int, *, kill: bool) -> History:
        """One history, and what has to hold at its end."""
        budget = self.random.choice([0, 1_000, 200_000, 1_000_000, 5_000_000])
        history = self._hand_out(number, budget)
        if self._live is None:
            self.start()
        asyncio.run(self._requests(history, kill))
        if kill:
            self.kill()
            history.killed = True
            self.start()
        self._check(history)
        self.requests += len(history.sent)
        return history

    def _hand_out(self, number: int, budget: int) -> History:
        key = f"rk-history-{number:06d}-{self.random.randrange(10**12):012d}"
        history = History(number, key, f"h{number}", budget)
        (self.folder / "store").mkdir(mode=0o700, exist_ok=True)
        with changing(self.folder / "store") as (secret, kept):
            amount = f"{budget / 10**9:.9f}"
            kept.append(StoredKey(history.id, f"history-{number}", hash_of(secret, key), "now", amount=amount))
            assert kept[-1].key().budget == budget == nano(Decimal(amount))
            del kept[:-_KEPT_KEYS]
        return history

    def _revoke(self, history: History) -> None:
        with changing(self.folder / "store") as (_, kept):
            for position, each in enumerate(kept):
                if each.id == history.id:
                    kept[position] = StoredKey(**{**each.__dict__, "revoked": "now"})

    async def _requests(self, history: History, kill: bool) -> None:
        port = self._port
        count = self.random.randint(*_REQUESTS)
        asking = [asyncio.create_task(self._one(history, f"{history.number}-{n}", port)) for n in range(count)]
        if self.random.random() < 0.15:
            await asyncio.sleep(self.random.random() * 0.05)
            self._revoke(history)
        if kill:
            await asyncio.sleep(self.random.random() * 0.15)
            assert self._live is not None
            self._live.process.send_signal(signal.SIGKILL)
        history.sent = list(await asyncio.gather(*asking))

    @property
    def _port(self) -> int:
        assert self._live is not None
        return self._live.port

    async def _one(self, history: History, tag: str, port: int) -> Sent:
        path, how, more = self.random.choice(_WAYS)
        given, said = self.random.randint(1, 60), self.random.randint(1, 40)
        plan: dict[str, Any] = {"tag": tag, "how": how, "in": given, "out": said}
        plan |= {"cached": self.random.randint(0, given), "pace": self.random.choice([0, 0, 0.003])}
        body: dict[str, Any] = {"model": self.random.choice(["gpt-4o", "gpt-4o-mini", "gpt-4.1"]), **more}
        bound = said + self.random.choice([0, 5, 100])
        if "responses" in path:
            body |= {"input": json.dumps(plan), "max_output_tokens": bound}
        else:
            body |= {"messages": [{"role": "user", "content": json.dumps(plan)}], "max_tokens": bound}
        leave = self.random.choice([None, None, None, None, 0, self.random.randint(1, 4000)])
        await asyncio.sleep(self.random.random() * 0.03)
        heard = await ask(port, path, history.key, body, leave_after=leave)
        return Sent(tag, how, heard)

    # What has to hold

    def _check(self, history: History) -> None:
        holds, settled = self._at_rest(history)
        where = f"history {history.number} of {self.folder}"
        assert set(holds) <= set(settled), f"{where}: something is held at rest"
        spent = sum(row["amount"] for row in settled.values())
        assert spent <= history.budget, f"{where}: {spent} of {history.budget} spent"
        for request, row in settled.items():
            assert row["amount"] is not None and row["amount"] <= holds.get(request, 0), f"{where}: over its hold"
        for sent in history.sent:
            self._check_one(sent, holds, settled, where, history)
        self._check_sum(history, settled, where)

    def _check_one(
        self, sent: Sent, holds: Mapping[str, int], settled: Mapping[str, Any], where: str, history: History
    ) -> None:
        heard = sent.heard
        if heard.status == 429:
            self.refusals += 1
            error = heard.json()["error"]
            assert error["code"] == "insufficient_quota", error
            found = re.search(r"may cost \$([\d.]+), and \$([\d.]+) is left", error["message"])
            assert found is not None and float(found[1]) > float(found[2]), f"{where}: {error}"
            assert heard.request not in holds and sent.tag not in self.invoice.billed
        elif heard.status in (401, 403):
            assert heard.request not in holds and sent.tag not in self.invoice.billed
        elif heard.request:
            assert heard.request in settled, f"{where}: {sent} is not settled"
            self._check_amount(sent, settled[heard.request], holds[heard.request], where, history)

    def _check_amount(self, sent: Sent, row: Mapping[str, Any], hold: int, where: str, history: History) -> None:
        billed = sum(each.nano for each in self.invoice.billed.get(sent.tag, []))
        if row["reason"] == KILLED:
            assert history.killed and row["amount"] == hold
        elif row["reason"] == LEFT:
            assert sent.heard.left or history.killed, f"{where}: {sent}"
            assert row["amount"] >= billed, f"{where}: {sent.how} settled at {row['amount']}, billed {billed}"
        elif sent.how in _ESTIMATED and row["reason"] == FINISHED:
            assert row["estimated"]
        else:
            assert row["amount"] == billed, f"{where}: {sent.how} settled at {row['amount']}, billed {billed}"

    def _check_sum(self, history: History, settled: Mapping[str, Any], where: str) -> None:
        """The ledger has every nano-dollar that was billed and told, whoever heard of it."""
        told = [sent for sent in history.sent if sent.how not in _ESTIMATED]
        exact = sum(row["amount"] for row in settled.values() if row["reason"] == FINISHED and not row["estimated"])
        billed = sum(each.nano for sent in told for each in self.invoice.billed.get(sent.tag, []))
        open_ends = sum(row["reason"] in (KILLED, LEFT) for row in settled.values())
        if not open_ends:
            assert exact == billed, f"{where}: {exact} in the ledger, {billed} on the invoice"

    def _at_rest(self, history: History) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
        """Holds and settlements of a key, once nothing of it is under way."""
        end = time.monotonic() + 20
        while True:
            sql = sqlite3.connect(f"{(self.folder / 'store' / LEDGER).as_uri()}?mode=ro", uri=True, timeout=5)
            sql.row_factory = sqlite3.Row
            try:
                holds = {
                    row["request"]: row["amount"]
                    for row in sql.execute("SELECT * FROM Holds WHERE key = ?", (history.id,))
                }
                rows = [dict(row) for row in sql.execute("SELECT * FROM Settlements WHERE key = ?", (history.id,))]
            finally:
                sql.close()
            if {row["request"] for row in rows} >= set(holds) or time.monotonic() > end:
                return holds, {row["request"]: row for row in rows}
            time.sleep(0.02)


def play(folder: Path, count: int, seed: int, kill_every: int, workers: int = 1) -> Driver:
    """Play so many histories; raises AssertionError with the seed where one does not hold."""
    with Invoice.running() as invoice:
        driver = Driver(folder, invoice, random.Random(seed), workers)
        try:
            driver.start()
            for number in range(count):
                driver.play(number, kill=kill_every > 0 and number % kill_every == kill_every - 1)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            driver.stop()
    return driver


def main(count: int, seed: int) -> int:
    """The command: prints what was played."""
    import tempfile

    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        driver = play(Path(folder), count, seed, 25)
    seconds = time.monotonic() - begun
    print(
        f"{count} histories of seed {seed}: {driver.requests} requests, {driver.refusals} refused, relay killed "
        f"{driver.kills} times; all of them hold ({seconds:.0f} s)",
        file=sys.stderr,
    )
    return 0
