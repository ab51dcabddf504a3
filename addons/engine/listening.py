"""Listening: where clients come from.

A queue of a hundred is what asyncio gives a listening socket: of two hundred streams that begin at once, the kernel
turns many away, and they come again a second later. Here it is as long as the system allows.

A worker takes the sockets that its parent listens on, in place of binding some of its own.

The queue of connections that nobody has accepted yet belongs to the kernel and not to a worker, so none of them is lost
where a worker ends. Whoever has time takes the next one: a busy worker takes one a turn of its loop, and comes round
seldom.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from mitmproxy.proxy import mode_specs
from mitmproxy.proxy.mode_servers import AsyncioServerInstance

from addons.engine.wrapping import wrap
from addons.ports import BACKLOG

_ONE_A_TURN = 1


class _Listening(socket.socket):
    """A socket that listens already, with a queue that is not asyncio's to resize."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nothing: the parent has done it."""


def install(listeners: Sequence[socket.socket]) -> None:
    """Have reverse mode listen on `listeners`; with none of them it binds as it stands. They stay open."""

    async def listen(stock: Any, instance: Any, host: str, port: int) -> Any:
        if not isinstance(instance.mode, mode_specs.ReverseMode) or instance.mode.transport_protocol != "tcp":
            return await stock(instance, host, port)
        if not listeners:
            return _lengthened(await stock(instance, host, port))
        # Copies: a server closes its sockets when it stops, and may be started again.
        return [await _serve(instance, _Listening(fileno=os.dup(each.fileno()))) for each in listeners]

    wrap(AsyncioServerInstance, "listen", listen)


def lengthen_queues(master: Any) -> None:
    """Do so for the servers there are: mitmproxy listens before it loads its scripts."""
    proxyserver = master.addons.get("proxyserver")
    for instance in proxyserver.servers if proxyserver is not None else ():
        if isinstance(instance, AsyncioServerInstance):
            _lengthened(instance._servers)


def _lengthened(servers: Any) -> Any:
    for sock in [sock for server in servers if isinstance(server, asyncio.Server) for sock in server.sockets]:
        with socket.socket(fileno=os.dup(sock.fileno())) as listener:
            listener.listen(BACKLOG)
    return servers


async def _serve(instance: Any, sock: socket.socket) -> asyncio.Server:
    return await asyncio.start_server(instance.handle_stream, sock=sock, backlog=_ONE_A_TURN)
