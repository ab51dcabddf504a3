"""A meter without a ledger on the disk, for addons that are tested by themselves."""

from pathlib import Path

from addons.config.settings import Settings
from addons.core.accounts import Accounts, Claim
from addons.core.relay_keys import Per
from addons.meter.gate import Gate
from addons.meter.keyring import Keyring
from addons.meter.metering import Meter
from addons.meter.prices import PriceList, Prices
from addons.store.keys_file import KeysFile
from addons.store.settlements import OverLimit, Settlement

SECRET = b"s" * 32


class MemoryLedger:
    """A ledger that forgets everything at its end."""

    passes = True

    def __init__(self) -> None:
        self.path = Path("/nonexistent/ledger.db")
        self.accounts = Accounts()
        self.settled: list[Settlement] = []
        self.now = 1_796_040_000.0  # 2026-11-30 12:00 UTC

    async def reserve(self, claim: Claim) -> None:
        """As `Ledger.reserve`."""
        refused = self.accounts.reserve(claim, self.now)
        if refused is not None:
            raise OverLimit(refused)

    def settle(self, settlement: Settlement) -> None:
        """As `Ledger.settle`."""
        if settlement.held:
            cost = None if settlement.at_hold else settlement.amount or 0
            if self.accounts.settle(settlement.request, cost, settlement.tokens, self.now) is None:
                return
        if settlement.kept:
            self.settled.append(settlement)

    async def balance(self, key: str, per: Per) -> tuple[int, int]:
        """As `Ledger.balance`."""
        return self.accounts.balance(key, per, self.now)


def a_gate(settings: Settings | None = None, ledger: MemoryLedger | None = None, folder: Path | None = None) -> Gate:
    """A gate under these settings; by default nobody has a relay key."""
    settings = settings if settings is not None else Settings()
    ledger = ledger if ledger is not None else MemoryLedger()
    keyring = Keyring(settings, SECRET, KeysFile(folder or Path("/nonexistent")))
    return Gate(settings, keyring, ledger, Prices(settings, PRICES), lambda: ledger.now)


PRICES = PriceList()
"""One for all tests of a process: it takes a second to load."""


def a_meter(settings: Settings | None = None) -> Meter:
    """A meter under these settings."""
    return Meter(a_gate(settings))
