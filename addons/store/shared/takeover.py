"""From a folder to Redis, and back: the secret and the keys that were handed out.

What a relay had in a folder of its own is taken over by a Redis that has none of it, with what was spent (epochs.py);
not its sessions, which last for half an hour. And each machine has a copy in that folder: a Redis that is emptied is
given it again, and a relay may go back to its folder.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from addons.store import StoreError, keys_file
from addons.store.folder import SECRET, make_folder
from addons.store.keys_file import put
from addons.store.shared.link import Link
from addons.store.shared.names import Names

logger = logging.getLogger(__name__)


OTHERS = 2.5
"""Seconds in which a relay that has been running gives an emptied Redis its secret again."""


async def take_over(
    link: Link, names: Names, folder: Path, fresh: bytes, *, others: Callable[[], bool] = lambda: False
) -> bytes:
    """The secret of all relays on a Redis. Where there is none yet, that of `folder` becomes it, with its keys; else
    `fresh` does, after those of `others` that may be running had time to give theirs. Raises StoreError."""
    known = await link.command("GET", names.secret)
    mine = _secret_in(folder)
    if known is None and mine is None and others():
        await asyncio.sleep(OTHERS)
        known = await link.command("GET", names.secret)
    if known is None:
        keys = keys_file.read(folder) if mine is not None else []
        if await give(link, names, mine or fresh, keys_file.written(keys) if keys else "") and keys:
            logger.warning(f"Redis has taken over {len(keys)} key(s) of {folder}")
        known = await link.command("GET", names.secret)
    if known is None or len(known) != len(fresh):
        raise StoreError(f"{names.secret} in Redis is damaged: restore it, or delete all that begins with the prefix")
    secret: bytes = known
    return secret


async def give(link: Link, names: Names, secret: bytes, keys: str | bytes, version: int = 1) -> bool:
    """Give Redis a secret and keys, as far as it has none, or older ones; whether it had. Raises StoreError."""
    return bool(await link.function("begin", (names.secret, names.keys), (secret, keys, version)))


def copy_to(folder: Path, secret: bytes, keys: bytes | None) -> None:
    """Keep them in a folder, unless it has a secret of another store. Raises StoreError and OSError."""
    make_folder(folder)
    mine = _secret_in(folder)
    if mine is None:
        descriptor = os.open(folder / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secret)
    elif mine != secret:
        return
    if keys is not None:
        put(folder, keys.decode())


def _secret_in(folder: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (folder / SECRET).read_bytes()
    return None
