"""Names of upstreams and proxies, looked up by threads of relay's own.

Each name has a thread while it is looked up, once at a time, and what is found is kept for 30 s: a resolver that hangs
over one name delays no other upstream, and not the end of relay.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

_KEPT = 30.0
_MOST_AT_ONCE = 64
"""Look-ups that are under way; names come from relay.yaml, and nobody has so many."""

_MOST_KEPT = 256

type Address = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` tells it."""
type _Place = tuple[str, int]
type Find = Callable[..., Sequence[Any]]


class Names:
    """Addresses of names. `find` is called as `socket.getaddrinfo`, in a thread; `clock` tells seconds."""

    def __init__(self, find: Find | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._kept: dict[_Place, tuple[float, Sequence[Address]]] = {}
        self._asked: dict[_Place, asyncio.Future[Sequence[Address]]] = {}

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        """Its addresses, in the resolver's order. Raises OSError."""
        place, loop = (host, port), asyncio.get_running_loop()
        until, found = self._kept.get(place, (0.0, ()))
        if found and self._clock() < until:
            return found
        asked = self._asked.get(place)
        if asked is None or asked.get_loop() is not loop:
            if len(self._asked) >= _MOST_AT_ONCE:
                raise OSError("too many names are being looked up")
            asked = loop.create_future()
            asked.add_done_callback(lambda future: future.cancelled() or future.exception())  # somebody has heard it
            try:
                threading.Thread(target=self._ask, args=(place, asked), name=f"relay-name {host}", daemon=True).start()
            except RuntimeError as error:
                raise OSError(f"no thread to look up a name: {error}") from None
            self._asked[place] = asked
        return await asyncio.shield(asked)

    def forget(self, host: str, port: int) -> None:
        """Look it up anew the next time: what it led to can't be reached."""
        self._kept.pop((host, port), None)

    def _ask(self, place: _Place, asked: asyncio.Future[Sequence[Address]]) -> None:
        """In a thread."""
        find = self._find or socket.getaddrinfo
        told: Sequence[Address] | Exception
        try:
            told = [*find(*place, type=socket.SOCK_STREAM)]
        except Exception as error:
            told = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            asked.get_loop().call_soon_threadsafe(partial(self._take, place, asked, told))

    def _take(
        self, place: _Place, asked: asyncio.Future[Sequence[Address]], told: Sequence[Address] | Exception
    ) -> None:
        if self._asked.get(place) is asked:
            del self._asked[place]
        if asked.done():
            return
        if isinstance(told, Exception):
            asked.set_exception(told)
        elif not told:
            asked.set_exception(OSError("No address associated with hostname"))
        else:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[place] = (self._clock() + _KEPT, told)
            asked.set_result(told)


names = Names()
