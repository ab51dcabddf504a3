"""Sockets that listen already, in the place of mitmproxy's own."""

import asyncio
import socket
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import mode_servers
from mitmproxy.test import taddons

from addons import ports
from addons.engine import listening
from addons.engine.wrapping import restore


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_reverse_mode_serves_at_sockets_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(self: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def ask(sock: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        try:
            return await reader.read()
        finally:
            writer.close()

    async def serve(sockets: list[socket.socket]) -> None:
        manager = Proxyserver()
        with taddons.context(manager):
            instance: mode_servers.ServerInstance = mode_servers.ServerInstance.make(
                "reverse:http://relay.invalid", manager
            )
            for _ in range(2):
                await instance.start()
                assert [each[:2] for each in instance.listen_addrs] == [each.getsockname() for each in sockets]
                assert [await ask(each) for each in sockets] == [b"hello", b"hello"]
                await instance.stop()
                assert all(map(listens, sockets)), "they are only borrowed"

    monkeypatch.setattr(mode_servers.AsyncioServerInstance, "handle_stream", answer)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    listening.install(sockets)
    try:
        asyncio.run(serve(sockets))
    finally:
        listening.install(())
        for each in sockets:
            each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the length of the queue is told by Linux")
@pytest.mark.parametrize("late", [False, True], ids=["installed before it listens", "and after"])
def test_its_own_sockets_have_a_long_queue(late: bool) -> None:
    async def queue() -> int:
        manager = Proxyserver()
        with taddons.context(manager):
            instance: Any = mode_servers.ServerInstance.make("reverse:http://relay.invalid@127.0.0.1:0", manager)
            await instance.start()
            if late:
                addons = {"proxyserver": SimpleNamespace(servers=[instance])}
                await listening.take_over(SimpleNamespace(addons=addons))
            (sock,) = instance._servers[0].sockets
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            await instance.stop()
        return int(struct.unpack_from("=I", told, 28)[0])  # tcpi_sacked, which is this of a socket that listens

    if late:
        restore(mode_servers.AsyncioServerInstance, "listen")
    else:
        listening.install(())
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert asyncio.run(queue()) == min(ports.BACKLOG, limit)
