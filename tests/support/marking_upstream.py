"""An upstream that answers as it is told to, byte for byte, and marks what it says with the path that was asked."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.support.connect_proxy import listening, serve

type Step = bytes | float
"""What is said, or seconds of a pause."""
type Shape = Callable[[bytes], Sequence[Step]]
"""What is said to a request, by its mark. A final None closes."""


@dataclass
class MarkingUpstream:
    """What it says, and what it has seen."""

    port: int
    scheme: str = "http"
    shapes: dict[bytes, Shape] = field(default_factory=dict)
    """By the first part of a path, as in `/v1/{shape}/{mark}`."""
    asked: list[bytes] = field(default_factory=list)
    """The marks, in the order they came."""
    connections: int = 0
    open: int = 0
    resumed: int = 0
    """Connections whose TLS session was resumed."""
    clients: list[socket.socket] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """As relay.yaml wants it."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Begin to count anew."""
        self.asked.clear()
        self.connections = self.resumed = 0

    def close_all(self) -> None:
        """Close each connection there is."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self.clients.clear()


def plain(mark: bytes) -> Sequence[Step]:
    """An answer like any other."""
    return (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(mark), mark),)


@contextlib.contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[MarkingUpstream]:
    """One on a free port."""
    with listening() as listener:
        upstream = MarkingUpstream(listener.getsockname()[1], "http" if tls is None else "https")
        serve(listener, lambda client: _accept(client, upstream, tls))
        yield upstream


def _accept(client: socket.socket, upstream: MarkingUpstream, tls: ssl.SSLContext | None) -> None:
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            with tls.wrap_socket(client, server_side=True) as secured:
                upstream.resumed += bool(secured.session_reused)
                _serve(secured, upstream)
        else:
            _serve(client, upstream)


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def _serve(client: socket.socket, upstream: MarkingUpstream) -> None:
    with upstream.lock:
        upstream.connections += 1
        upstream.open += 1
        upstream.clients.append(client)
    try:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                if not (more := client.recv(65536)):
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            shape, mark = head.split(b" ", 2)[1].split(b"/")[-2:]
            length = _length(head)
            upstream.asked.append(mark)
            early = shape.startswith(b"early")
            while not early and len(data) < length:
                if not (more := client.recv(65536)):
                    return
                data += more
            data = data[length:]
            for step in upstream.shapes.get(shape, plain)(mark):
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    client.sendall(step)
            if shape.endswith(b"close"):
                return
    finally:
        with upstream.lock:
            upstream.open -= 1
