"""What is kept between requests: sessions, and who may write to one.

This file is the interface. embedded.py keeps sessions in a folder (shelf.py on the disk, folder.py and forgotten.py
beside it), and a worker has the same of its parent (addons/workers/remote_store.py). leases.py lets one message of a
session in after the other, queueing.py says to clients why they can't come in, expiry.py sweeps out what is over its
time. certificate.py joins key and chain for mitmproxy, in the same folder.

ledger.py keeps what every request has cost and what is held, in ledger_file.py's tables; ledger_reader.py reads it for
reports, and counts.py tells `/metrics` how much there is. settlements.py is how requests end, and what every ledger can
do. keys_file.py keeps the hashes of keys that were handed out.

shared/ has all of this in a Redis that several relays share, and absent.py stands in for it until it is reached.
"""

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from addons.core.sessions import Session


class StoreError(Exception):
    """The store can't be opened, read or written; the text says why and names no key and no content."""


class StoreInUse(StoreError):
    """Another relay has this store."""


class LeaseLost(StoreError):
    """The lease has expired, and somebody else may have the session by now: nothing was written."""


class TooManyWaiting(Exception):
    """As many wait for this session as may."""


class WaiterLeft(Exception):
    """The client that waited is gone."""


@dataclass
class Lease:
    """The right to write to one session, for one holder at a time.

    Given back by `release`, and by its expiry where the holder's process dies or is stopped.
    """

    key: str
    fence: int
    """Rises with each lease: what a holder writes that has slept past its own is refused by it."""
    _free: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def release(self) -> None:
        """Let the next one in. A second call does nothing."""
        free, self._free = self._free, None
        if free is not None:
            free()


class LeaseRequest:
    """`await` it for a lease to release oneself, or enter it with `async with`."""

    def __init__(self, acquire: Callable[[], Coroutine[Any, Any, Lease]]) -> None:
        self._acquire = acquire
        self._lease: Lease | None = None

    def __await__(self) -> Generator[Any, Any, Lease]:
        return self._acquire().__await__()

    async def __aenter__(self) -> Lease:
        self._lease = await self._acquire()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lease.release()


class Store(Protocol):
    """Where sessions live, as whoever needs them sees it: here, or in another process.

    Everything raises StoreError where the store fails. tests/store/test_contract.py holds what all stores promise.
    """

    @property
    def secret(self) -> bytes:
        """32 random bytes that key hashes."""

    def key(self, api_key: str, session_id: str) -> tuple[str, str]:
        """The name of a session, and its owner's: keyed hashes, in hexadecimal."""

    def lease(self, key: str, max_waiting: int, waiter: str = "") -> LeaseRequest:
        """Wait, in order of arrival, until nobody else holds the session; `waiter` is a client, to be given up by.

        Raises TooManyWaiting where `max_waiting` wait already, and WaiterLeft.
        """

    def waiter_left(self, waiter: str) -> None:
        """Give up every place of a client that waits."""

    async def load(self, key: str, ttl: float) -> Session:
        """A session, empty if it was unused for `ttl` seconds."""

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        """Keep a session; it is on the disk when this returns. Raises LeaseLost."""

    async def delete(self, lease: Lease) -> bool:
        """Forget a session; False if there was none. Raises LeaseLost."""

    async def sweep(self, ttl: float) -> None:
        """Forget what was unused for `ttl` seconds."""

    def close(self) -> None:
        """Let go; what is under way is finished."""
