"""What commands read and change of a store, wherever that is: keys that were handed out, and the ledger."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from addons.config.settings import Settings
from addons.store import StoreError, keys_file
from addons.store.keys_file import StoredKey
from addons.store.ledger import NAME as LEDGER
from addons.store.shared import keys as shared_keys
from addons.store.shared.names import Names
from addons.store.shared.opened import address_of, catch_up, secret_of


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """That Redis is away is what a command says itself."""
    logger = logging.getLogger("addons.store.shared.link")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def keys_of(settings: Settings) -> list[StoredKey]:
    """The keys. Raises StoreError."""
    kept = settings.store
    if kept.kind == "redis":
        return shared_keys.read_once(address_of(settings), Names(kept.prefix))
    return keys_file.read(kept.path)


@contextlib.contextmanager
def changing_keys(settings: Settings) -> Iterator[tuple[bytes, list[StoredKey]]]:
    """The store's secret and its keys, to be changed in place: kept at the end. Raises StoreError."""
    kept = settings.store
    if kept.kind == "redis":
        with _said_once():
            secret = asyncio.run(secret_of(settings))
        with shared_keys.changing(address_of(settings), Names(kept.prefix)) as keys:
            yield secret, keys
    else:
        with keys_file.changing(kept.path) as found:
            yield found


def ledger_of(settings: Settings) -> Path:
    """The ledger's file, up to date. Raises StoreError."""
    if settings.store.kind == "redis":
        try:
            with _said_once():
                asyncio.run(catch_up(settings))
        except OSError as error:
            raise StoreError(f"the copy of the ledger can't be written: {error.strerror}") from None
    return settings.store.path / LEDGER
