"""Listening: where clients come from.

A queue of a hundred is what asyncio gives a listening socket: of two hundred streams that begin at once, the kernel
turns many away, and they come again a second later. Here it is as long as the system allows.

A worker takes the sockets that its parent listens on, in place of binding some of its own.

The queue of connections that nobody has accepted yet belongs to the kernel and not to a worker, so none of them is lost
where a worker ends. Whoever has time takes the next one: a busy worker takes one a turn of its loop, and comes round
seldom.

One a turn it is everywhere, for another reason: where no file descriptor is left, asyncio (as of 3.13.0) tries a
hundred times in a turn, and begins again a second later for each of them. Of one try a turn it says so once, waits a
second, and goes on when clients have left; and that is put into one line a second, whatever else fails for it.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from mitmproxy.proxy import mode_specs
from mitmproxy.proxy.mode_servers import AsyncioServerInstance

from addons.addresses import BACKLOG
from addons.engine.wrapping import wrap

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_ONE_A_TURN = 1
_BETWEEN_LINES = 1.0  # seconds
_EXHAUSTED = {
    errno.EMFILE: "this process has no file descriptor left",
    errno.ENFILE: "the system has no file descriptor left",
    errno.ENOBUFS: "the system has no memory left for sockets",
    errno.ENOMEM: "the system has no memory left",
}

logger = logging.getLogger(__name__)

Handler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]
"""What a loop calls for errors that nobody waits for."""


class _Listening(socket.socket):
    """A socket that listens already, with a queue that is not asyncio's to resize."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nothing: it has been done."""


def install(listeners: Sequence[socket.socket]) -> None:
    """Have reverse mode listen on `listeners`; with none of them it binds addresses of its own. They stay open."""

    async def listen(stock: Any, instance: Any, host: str, port: int) -> Any:
        """mitmproxy 12.2.3 binds sockets of its own, with asyncio's queue of a hundred; so a second process can't have
        the same address, and of two hundred clients at once the kernel turns many away. Remove when a mode can be given
        a socket that listens, and its backlog is an option.
        """
        if not isinstance(instance.mode, mode_specs.ReverseMode) or instance.mode.transport_protocol != "tcp":
            return await stock(instance, host, port)
        if not listeners:
            return await _taken_over(instance, await stock(instance, host, port))
        # Copies: a server closes its sockets when it stops, and may be started again.
        return [await _serve(instance, os.dup(each.fileno())) for each in listeners]

    wrap(AsyncioServerInstance, "listen", listen)


async def take_over(master: Any) -> None:
    """Serve so at the sockets there are, and count failures of accepting them.

    mitmproxy 12.2.3 listens before it loads its scripts, so these sockets have not come by `install`. Remove when
    scripts are loaded before proxyserver listens.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(OneLine(getattr(before, "before", before)))
    proxyserver = master.addons.get("proxyserver")
    for instance in list(proxyserver.servers) if proxyserver is not None else ():
        if not isinstance(instance, AsyncioServerInstance) or not isinstance(instance.mode, mode_specs.ReverseMode):
            continue
        found = instance._servers
        taken = await _taken_over(instance, found)
        if instance._servers is found:
            instance._servers = taken
        else:  # it was stopped meanwhile
            for server in taken:
                server.close()


async def _taken_over(instance: Any, servers: Any) -> list[Any]:
    taken: list[Any] = []
    for server in servers:
        if not isinstance(server, asyncio.Server) or getattr(server, "_backlog", 0) == _ONE_A_TURN:
            taken.append(server)
            continue
        # Copies: what waits in their queues stays there when the first ones are closed.
        copies = [os.dup(sock.fileno()) for sock in server.sockets]
        server.close()
        taken += [await _serve(instance, copy) for copy in copies]
    return taken


async def _serve(instance: Any, descriptor: int) -> asyncio.Server:
    sock = _Listening(fileno=descriptor)
    socket.socket.listen(sock, BACKLOG)
    return await asyncio.start_server(instance.handle_stream, sock=sock, backlog=_ONE_A_TURN)


class OneLine:
    """A loop's handler that says once a second, in one line, that descriptors are used up; all else is for `before`.

    mitmproxy 12.2.3 logs what asyncio reports, which is a traceback for each of a hundred tries in a turn; so the log
    fills the disk. Remove when asyncio tries once and mitmproxy says so in a line.
    """

    def __init__(self, before: Handler | None) -> None:
        self.before = before
        self._silent_until = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an error that nobody waits for."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            if loop.time() >= self._silent_until:
                self._silent_until = loop.time() + _BETWEEN_LINES
                logger.error(_exhausted(error.errno))
        elif self.before is not None:
            self.before(loop, context)
        else:
            loop.default_exception_handler(context)


def _exhausted(code: int) -> str:
    said = f"{_EXHAUSTED[code]}: new clients wait until others have left"
    if code != errno.EMFILE or resource is None:
        return said
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most_said = "" if most in (allowed, resource.RLIM_INFINITY) else f", {most} at most"
    return f"{said}; {allowed} are allowed: raise that where relay is started (ulimit -n{most_said})"
