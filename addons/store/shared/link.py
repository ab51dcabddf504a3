"""Link: this process's way to Redis.

1. One connection takes all calls in their order: what has gathered goes in one write, so a thousand requests don't take
   a thousand connections.
2. Whatever is lost with the connection is sent again on the next one, in the same order, as long as somebody waits for
   it. All calls are such that a second one changes nothing (functions.lua), so nobody has to know whether the first one
   was heard.
3. Where Redis stays away, calls fail, soon ones at first and quick ones later, and each of them tries anew. Nothing is
   switched off: when it is back, it is used.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from addons.core.redis_address import RedisAddress
from addons.store import StoreError
from addons.store.shared.functions import library

if TYPE_CHECKING:
    import redis
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 256
_MOST_WAITING = 20_000
"""Calls that wait; of more, none is taken."""
_CONNECT = 1.0
"""Seconds until there is a connection, or it has failed."""
_REPLY = 2.0
"""Seconds until all of what was sent at once is answered, or the connection is given up."""
_PATIENCE = 3.0
"""Seconds that a call may wait in all: a restart of Redis takes less, and costs nobody an error then."""
_IMPATIENCE = 0.3
"""The same once Redis has been away for longer than that."""
_PAUSE = 0.1
"""Seconds between two attempts to reach it."""

NOT_INSTALLED = (
    "store.kind is redis, and the package redis is not installed: ./run.sh installs it by itself; elsewhere, pip "
    "install -r requirements/redis.txt"
)


class _Call:
    __slots__ = ("command", "reply", "until")

    def __init__(self, command: Sequence[Any], until: float) -> None:
        self.command = command
        self.until = until
        self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Link:
    """Calls to one Redis. It belongs to the loop that first calls."""

    def __init__(self, address: RedisAddress) -> None:
        """Raises StoreError where redis-py is missing."""
        self.address = address
        self.away_since: float | None = None
        """Monotonic seconds since when Redis can't be reached; None while it can."""
        self.was_away = False
        """It could not be reached at some time."""
        self.on_return: list[Callable[[float], None]] = []
        """Called each time Redis is there again, with the seconds that it was away."""
        self._client = client_of(address)
        self._library, self._source = library()
        self._calls: deque[_Call] = deque()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def function(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Call one of functions.lua. Raises StoreError."""
        return await self.command("FCALL", f"{self._library}_{name}", len(keys), *keys, *arguments)

    async def function_at_once(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """The same, not to be repeated: what is right now may be wrong when Redis was away meanwhile."""
        command = ("FCALL", f"{self._library}_{name}", len(keys), *keys, *arguments)
        return await self._call(command, 0.0)

    async def command_at_once(self, *command: Any) -> Any:
        """The same for a command."""
        return await self._call(command, 0.0)

    async def command(self, *command: Any) -> Any:
        """Send a command that may be sent twice, and wait for its reply. Raises StoreError."""
        return await self._call(command, self._patience())

    async def _call(self, command: Sequence[Any], patience: float) -> Any:
        if self._closed:
            raise StoreError("the store is closed")
        if len(self._calls) >= _MOST_WAITING:
            raise StoreError("too many calls wait for Redis")
        call = _Call(command, time.monotonic() + patience)
        self._calls.append(call)
        self._some.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await call.reply

    def _patience(self) -> float:
        away = self.away_since
        return _IMPATIENCE if away is not None and time.monotonic() - away > _PATIENCE else _PATIENCE

    async def _run(self) -> None:
        while True:
            if not self._calls:
                self._some.clear()
                await self._some.wait()
                await asyncio.sleep(0)  # whatever else comes in this turn of the loop goes along
            batch = self._next()
            if not batch:
                continue
            try:
                replies = await self._send([call.command for call in batch])
            except StoreError as error:
                self._failed(batch, error)
                await asyncio.sleep(_PAUSE)
                continue
            self._back()
            for call, reply in zip(batch, replies, strict=True):
                if not call.reply.done():
                    _answer(call, reply)

    def _next(self) -> list[_Call]:
        """What goes next: those that somebody still waits for."""
        batch = list[_Call]()
        while self._calls and len(batch) < _MOST_AT_ONCE:
            call = self._calls.popleft()
            if not call.reply.done():
                batch.append(call)
        return batch

    async def _send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies, which may be errors. Raises StoreError where there are none."""
        from redis.exceptions import RedisError, ResponseError

        try:
            replies = await self._execute(commands)
            missing = [at for at, reply in enumerate(replies) if _is_missing(reply)]
            if missing:
                (loaded,) = await self._execute([("FUNCTION", "LOAD", "REPLACE", self._source)])
                if isinstance(loaded, RedisError):
                    raise StoreError(
                        f"Redis does not take relay's functions, which need Redis 7 or newer: {said(loaded)}"
                    )
                for at, reply in zip(missing, await self._execute([commands[at] for at in missing]), strict=True):
                    replies[at] = reply
        except (RedisError, OSError, TimeoutError) as error:
            await self._drop()
            raise StoreError(said(error)) from None
        except StoreError:
            raise
        except Exception as error:  # over a reply that nobody has thought of: else everybody would wait for ever
            logger.exception("the client of Redis has failed")
            await self._drop()
            raise StoreError(said(error)) from None
        refused = next((each for each in replies if isinstance(each, ResponseError) and _is_elsewhere(each)), None)
        if refused is not None:  # it was a master, or is not up yet
            await self._drop()
            raise StoreError(said(refused))
        return replies

    async def _execute(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _drop(self) -> None:
        with contextlib.suppress(Exception):
            await self._client.connection_pool.disconnect()

    def _failed(self, batch: Sequence[_Call], error: StoreError) -> None:
        """Try again whatever has time left."""
        now = time.monotonic()
        self.was_away = True
        if self.away_since is None:
            self.away_since = now
            logger.warning(f"Redis ({self.address.shown}) can't be reached: {error}")
        again = list[_Call]()
        for call in batch:
            if now < call.until:
                again.append(call)
            elif not call.reply.done():
                call.reply.set_exception(self._away(error))
        self._calls.extendleft(reversed(again))
        for call in list(self._calls):  # those behind them wait no longer than they would
            if now >= call.until and not call.reply.done():
                call.reply.set_exception(self._away(error))

    def _away(self, error: StoreError) -> StoreError:
        return StoreError(f"Redis ({self.address.shown}) can't be reached: {error}")

    def _back(self) -> None:
        if self.away_since is not None:
            seconds = time.monotonic() - self.away_since
            logger.warning(f"Redis ({self.address.shown}) is there again, after {seconds:.1f} s")
            self.away_since = None
            for call in self.on_return:
                call(seconds)

    async def listen(
        self, channels: Sequence[str], heard: Callable[[str, str], None], again: Callable[[], None]
    ) -> None:
        """Hear what is published on channels, for ever: `heard` gets channel and text, and `again` is called where
        something may have been missed."""
        from redis.exceptions import RedisError

        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self._client.pubsub(ignore_subscribe_messages=False) as listening:
                    await listening.subscribe(*channels)
                    async for message in listening.listen():
                        if message["type"] == "subscribe":
                            again()
                        elif message["type"] == "message":
                            heard(_text(message["channel"]), _text(message["data"]))
            await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        """Let go. What waits fails."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        for call in self._calls:
            if not call.reply.done():
                call.reply.set_exception(StoreError("the store is closed"))
        self._calls.clear()
        with contextlib.suppress(Exception):
            await self._client.aclose()


def client_of(address: RedisAddress) -> "Redis":
    """A client of redis-py that repeats nothing by itself. Raises StoreError where that is not installed."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff
    except ImportError:
        raise StoreError(NOT_INSTALLED) from None
    return _client(address, Redis, Sentinel, retry=Retry(NoBackoff(), 0))


def waiting_client_of(address: RedisAddress) -> "redis.Redis":
    """The same for a command, which has no loop. Raises StoreError."""
    try:
        from redis import Redis
        from redis.sentinel import Sentinel
    except ImportError:
        raise StoreError(NOT_INSTALLED) from None
    return _client(address, Redis, Sentinel)


def _client[T](address: RedisAddress, kind: Callable[..., T], sentinel: Any, **more: Any) -> T:
    options = _options(address) | more
    if address.master is not None:
        found: T = sentinel(list(address.hosts), sentinel_kwargs=_ASKING, **options).master_for(address.master)
        return found
    host, port = address.hosts[0]
    return kind(host=host, port=port, **options)


_ASKING = {"socket_timeout": _CONNECT, "socket_connect_timeout": _CONNECT, "protocol": 2}
"""How sentinels are asked."""


def _options(address: RedisAddress) -> dict[str, Any]:
    options: dict[str, Any] = {
        **{"db": address.database, "username": address.user, "password": address.password, "protocol": 2},
        **{"socket_timeout": _REPLY, "socket_connect_timeout": _CONNECT},
    }
    if address.tls:
        options |= {"ssl": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
    return options


def _answer(call: _Call, reply: Any) -> None:
    from redis.exceptions import RedisError

    if isinstance(reply, RedisError):
        call.reply.set_exception(StoreError(f"Redis refuses: {said(reply)}"))
    else:
        call.reply.set_result(reply)


def _is_missing(reply: object) -> bool:
    return isinstance(reply, Exception) and "Function not found" in str(reply)


def _is_elsewhere(reply: Exception) -> bool:
    return str(reply).startswith(("READONLY", "LOADING", "MASTERDOWN", "You can't write against")) or (
        type(reply).__name__ in ("ReadOnlyError", "BusyLoadingError", "MasterDownError", "ClusterDownError")
    )


def is_of_function(error: StoreError) -> bool:
    """Whether one of functions.lua has failed at its arguments or at what it found, as it would again; otherwise Redis
    has not begun it."""
    return "user_function" in str(error)


def said(error: BaseException) -> str:
    """An error in a few words. redis-py's never have a password in them."""
    return f"{type(error).__name__}: {error}"[:200]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
