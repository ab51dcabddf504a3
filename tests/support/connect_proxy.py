"""A small HTTP proxy for tests: CONNECT only, as Clash and its likes listen on 127.0.0.1:7890."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A running proxy and what it was asked."""

    port: int
    refuse: bool = False
    """Answer CONNECT with 403."""
    mute: bool = False
    """Accept, and never answer."""
    asked: list[bytes] = field(default_factory=list)
    """The heads of CONNECT requests."""

    @property
    def url(self) -> str:
        """As relay.yaml wants it."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running() -> Iterator[Proxy]:
    """A proxy on a free port."""
    with listening() as listener:
        proxy = Proxy(listener.getsockname()[1])
        serve(listener, lambda client: _tunnel(client, proxy))
        yield proxy


def listening() -> socket.socket:
    """A socket on a free port."""
    return socket.create_server(("127.0.0.1", 0), backlog=200)


def serve(listener: socket.socket, talk: Callable[[socket.socket], None]) -> None:
    """Have a thread of its own talk to each client, until the listener is closed."""

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def join(client: socket.socket, upstream: socket.socket) -> None:
    """Pass on what each says to the other, to the end of both."""
    back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
    back.start()
    _copy(client, upstream)
    back.join(5)


def _tunnel(client: socket.socket, proxy: Proxy) -> None:
    with client, contextlib.suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            if not (chunk := client.recv(4096)):
                return
            head += chunk
        proxy.asked.append(head)
        if proxy.mute:
            client.recv(1)
            return
        if proxy.refuse:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as upstream:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            join(client, upstream)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """All of one side to the other, and its end."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
