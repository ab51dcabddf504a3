"""Keys that were handed out, in Redis: a text as in keys.json, and a version that rises with each change.

Every relay has them at hand, looks once a second whether there is a new version, and at once where one is published.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from addons.core.redis_address import RedisAddress
from addons.store import StoreError
from addons.store.keys_file import StoredKey, parsed, written
from addons.store.shared.functions import library
from addons.store.shared.kept import Kept
from addons.store.shared.link import Link, said, waiting_client_of
from addons.store.shared.names import Names
from addons.store.shared.takeover import copy_to, give

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

_LOOK = 1.0


class SharedKeys:
    """A KeySource."""

    def __init__(self, link: Link, names: Names, kept: Kept, folder: Path) -> None:
        self._folder = folder
        self._link = link
        self._names = names
        self._kept = kept
        self._version = 0
        self._keys: list[StoredKey] = []
        if kept.keys is not None:
            self._take(*kept.keys)
        self._differs = False
        """Redis has another secret than this process."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def state(self) -> object:
        """As `KeySource.state`."""
        return self._version or None

    def read(self) -> list[StoredKey]:
        """As `KeySource.read`."""
        return self._keys

    async def look(self) -> None:
        """Ask Redis. Raises StoreError; then what was known stays in force."""
        secret = await self._link.command("GET", self._names.secret)
        version, text = await self._link.command("HMGET", self._names.keys, "version", "text")
        older = self._kept.keys is not None and int(version or 0) < self._version
        if self._kept.secret is not None and (secret is None or older):
            await self._give_again(self._kept.secret)
        self._compare(secret)
        if version is None or int(version) <= self._version:
            return
        try:
            self._take(int(version), text)
        except ValueError:
            raise StoreError(f"{self._names.keys} in Redis is damaged: restore it, or delete it") from None
        self._kept.keys = int(version), text
        await self.copy()

    def _compare(self, secret: bytes | None) -> None:
        """Say once that somebody else has begun anew."""
        differs = self._kept.secret is not None and secret is not None and secret != self._kept.secret
        if differs and not self._differs:
            logger.error(
                f"{self._names.secret} in Redis is not the secret that this relay goes by: its sessions and keys are "
                "others than those of relays that have started since; restart it, or restore that secret"
            )
        self._differs = differs

    async def _give_again(self, secret: bytes) -> None:
        """Redis was emptied."""
        version, text = self._kept.keys if self._kept.keys is not None else (1, b"")
        if await give(self._link, self._names, secret, text, version):
            logger.warning("Redis was emptied: it is given secret and keys again; sessions are lost")

    async def copy(self) -> None:
        """Keep a copy on this machine; where that can't be, one line says so."""
        if self._kept.secret is None:
            return
        text = self._kept.keys[1] if self._kept.keys is not None else None
        try:
            await asyncio.to_thread(copy_to, self._folder, self._kept.secret, text)
        except (OSError, StoreError) as error:
            logger.warning(f"this machine has no copy of the keys that were handed out: {error}")

    def _take(self, version: int, text: bytes) -> None:
        self._keys = parsed(text)
        self._version = version

    def changed(self) -> None:
        """Look as soon as possible."""
        self._changed.set()

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.look()
            except StoreError as error:
                if self._link.away_since is None:
                    logger.error(f"{error}; the keys known so far stay in force")

    def finish(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()


def read_once(address: RedisAddress, names: Names) -> list[StoredKey]:
    """The keys, for a command. Raises StoreError."""
    with _asking(address) as client:
        return _keys_of(client, names)[1]


@contextlib.contextmanager
def changing(address: RedisAddress, names: Names) -> Iterator[list[StoredKey]]:
    """The keys, to be changed in place: kept at the end, and published. Raises StoreError, and changes nothing where
    somebody else has changed them meanwhile."""
    with _asking(address) as client:
        version, keys = _keys_of(client, names)
        yield keys
        name, source = library()
        client.function_load(source, replace=True)
        if not client.fcall(f"{name}_write_keys", 1, names.keys, version, written(keys)):
            raise StoreError("somebody else has changed the keys meanwhile: nothing was changed, so run it again")
        client.publish(names.keys, "changed")


@contextlib.contextmanager
def _asking(address: RedisAddress) -> Iterator["Redis"]:
    client = waiting_client_of(address)
    from redis.exceptions import RedisError

    try:
        yield client
    except RedisError as error:
        raise StoreError(f"Redis ({address.shown}) can't be reached: {said(error)}") from None
    finally:
        client.close()


def _keys_of(client: "Redis", names: Names) -> tuple[str, list[StoredKey]]:
    found: Any = client.hmget(names.keys, "version", "text")
    version, text = found
    if version is None:
        return "0", []
    try:
        return version.decode(), parsed(text)
    except ValueError:
        raise StoreError(f"{names.keys} in Redis is damaged: restore it, or delete it and hand out new keys") from None
