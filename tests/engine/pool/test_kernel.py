"""What the kernel tells of a connection to an upstream."""

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from addons.engine.pool.kernel import KernelView
from tests.support.live import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")


class Lent:
    """A socket as asyncio lends it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.getsockopt = sock.getsockopt


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as here:
        there, _ = listener.accept()
        with there:
            yield here, there


def test_what_is_read_is_acknowledged(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    view = KernelView(Lent(here))
    before = view.acknowledged()
    assert before is not None
    here.sendall(b"x" * 1000)
    there.recv(2000)
    there.sendall(b"y")
    assert eventually(lambda: view.acknowledged() == before + 1000)
    view.close()
    here.close()
    assert view.acknowledged() == before + 1000, "it is remembered"


def test_what_a_closed_connection_is_sent_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    view = KernelView(Lent(here))
    before = view.acknowledged()
    there.close()
    assert eventually(view.is_over)
    here.sendall(b"x" * 1000)
    time.sleep(0.05)
    assert view.acknowledged() == before


def test_whether_its_end_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    view = KernelView(Lent(here))
    here.setblocking(False)
    assert not view.is_over()
    there.sendall(b"a byte of somebody's answer")
    assert not view.is_over()
    here.recv(100)
    there.shutdown(socket.SHUT_WR)
    assert eventually(view.is_over)
    view.close()
    assert not view.is_over()
