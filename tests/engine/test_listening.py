"""Sockets that listen already, in the place of mitmproxy's own."""

import asyncio
import errno
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

from addons import addresses
from addons.engine.corrections import listening
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
    assert asyncio.run(queue()) == min(addresses.BACKLOG, limit)


# Without descriptors


def test_a_server_that_was_there_before_is_taken_over() -> None:
    async def serve() -> None:
        manager = Proxyserver()
        with taddons.context(manager):
            instance: Any = mode_servers.ServerInstance.make("reverse:http://relay.invalid@127.0.0.1:0", manager)
            await instance.start()
            address = instance.listen_addrs
            master = SimpleNamespace(addons={"proxyserver": SimpleNamespace(servers=[instance])})
            for _ in range(2):
                await listening.take_over(master)
                assert instance.listen_addrs == address
                reader, writer = await asyncio.open_connection(*address[0][:2])
                writer.close()
                del reader
            await instance.stop()
            with pytest.raises(OSError):
                await asyncio.open_connection(*address[0][:2])

    restore(mode_servers.AsyncioServerInstance, "listen")
    asyncio.run(serve())


def test_being_out_of_descriptors_is_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    passed_on: list[dict[str, Any]] = []
    handler = listening.OneLine(lambda _loop, context: passed_on.append(context))
    times = iter([0.0, 0.0, 0.3, 0.9, 1.0, 1.0, 1.5])
    loop: Any = SimpleNamespace(time=lambda: next(times))
    for code in (errno.EMFILE, errno.ENFILE, errno.EMFILE, errno.ENOBUFS, errno.EMFILE):
        handler(loop, {"message": "socket.accept() out of system resource", "exception": OSError(code, "x")})
    assert len(caplog.records) == 2
    assert "no file descriptor left" in caplog.records[0].message
    assert not passed_on
    others: list[dict[str, Any]] = [
        {"message": "?"},
        {"exception": ValueError()},
        {"exception": OSError(errno.EPIPE, "x")},
    ]
    for other in others:
        handler(loop, other)
    assert passed_on == others
    assert len(caplog.records) == 2


def test_taking_over_twice_does_not_stack_handlers() -> None:
    async def twice() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(before := lambda _loop, _context: None)
        master = SimpleNamespace(addons={})
        for _ in range(2):
            await listening.take_over(master)
            handler: Any = loop.get_exception_handler()
            assert handler.before is before

    asyncio.run(twice())
