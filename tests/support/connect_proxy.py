"""A small HTTP proxy for tests: CONNECT only, as Clash and its likes listen on 127.0.0.1:7890."""

import contextlib
import socket
import threading
from collections.abc import Iterator
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1])
        threading.Thread(target=_serve, args=(listener, proxy), daemon=True).start()
        yield proxy


def _serve(listener: socket.socket, proxy: Proxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_tunnel, args=(client, proxy), daemon=True).start()


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
            back = threading.Thread(target=copy, args=(upstream, client), daemon=True)
            back.start()
            copy(client, upstream)
            back.join(5)


def copy(source: socket.socket, target: socket.socket) -> None:
    """All of one side to the other, and its end."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
