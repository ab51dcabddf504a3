"""From a folder to Redis: what a relay had by itself is taken over by a Redis that nobody has used yet.

Its secret, the keys that were handed out, and what they have spent. Not its sessions, which last for half an hour.
"""

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

from addons.core.relay_keys import day_of
from addons.store import StoreError, keys_file
from addons.store.folder import SECRET
from addons.store.ledger import NAME
from addons.store.ledger_file import spent
from addons.store.shared.link import Link
from addons.store.shared.names import Names

logger = logging.getLogger(__name__)

_MARK_MS = 7 * 86_400_000


async def take_over(link: Link, names: Names, folder: Path, fresh: bytes) -> bytes:
    """The secret of all relays on a Redis. Where there is none yet, that of `folder` becomes it, with its keys and what
    they have spent; else `fresh` does. Raises StoreError."""
    known = await link.command("GET", names.secret)
    if known is None:
        await _begin(link, names, folder, fresh)
        known = await link.command("GET", names.secret)
    if known is None or len(known) != len(fresh):
        raise StoreError(f"{names.secret} in Redis is damaged: restore it, or delete all that begins with the prefix")
    secret: bytes = known
    return secret


async def _begin(link: Link, names: Names, folder: Path, fresh: bytes) -> None:
    """The secret comes last: where this breaks off it is done again, and nothing is counted twice."""
    secret = _secret_in(folder)
    keys = keys_file.read(folder) if secret is not None else []
    known = {each.id for each in keys}
    for key, day, amount in _spent_in(folder) if secret is not None else []:
        where = names.partition(key)
        request = f"taken over {folder} {key} {day}"
        touched = (where.account(key), where.rate(key), where.holds(""), where.done(request), where.stream)
        await link.function("settle", touched, (request, amount, "", day, "", _MARK_MS, 0))
    text = keys_file.written(keys) if keys else ""
    if await link.function("begin", (names.secret, names.keys), (secret or fresh, text)) and known:
        logger.warning(f"Redis has taken over {len(known)} key(s) of {folder}, and what was spent there")


def _secret_in(folder: Path) -> bytes | None:
    try:
        return (folder / SECRET).read_bytes()
    except OSError:
        return None


def _spent_in(folder: Path) -> list[tuple[str, str, int]]:
    """Key, day and nano-dollars."""
    path = folder / NAME
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as sql:
            return [(key, day, amount) for key, day, amount in spent(sql) if amount and day <= day_of(time.time())]
    except sqlite3.Error as error:
        raise StoreError(f"what was spent until now can't be read from {path}: {error}") from None
