"""A real HAProxy before some relays, and what it says of each request and each check."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.live import free_port

PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
TAG = "x-tag"
"""The header that names a request in its log."""
NOBODY = "<NOSRV>"

# `retries` and `redispatch` are for connections that were not made: nothing of a request was sent then. A request is
# never sent twice. What watches /readyz sees a relay that is gone within a second, one that is stopped within three.
_CONFIG = """
global
    maxconn 4000
    log 127.0.0.1:{log} format raw local0
defaults
    mode http
    log global
    timeout connect 1s
    timeout client 2m
    timeout server 2m
    timeout check 1s
    option http-server-close
    retries 3
    retry-on conn-failure
    option redispatch 1
    log-format "asked %[capture.req.hdr(0)] %s %ST %ts"
frontend front
    bind 127.0.0.1:{port}
    capture request header {tag} len 40
    http-after-response set-header x-server %s
    default_backend relays
backend relays
    balance roundrobin
    option httpchk GET /readyz
    default-server inter 500ms fall 2 rise 1
{servers}
"""


class HAProxy:
    """One, which listens at `port`."""

    def __init__(self, folder: Path, servers: Mapping[str, int], *, measured: bool = False) -> None:
        """One that is `measured` keeps its connections to the servers, and says nothing of each request."""
        self._measured = measured
        self.port = free_port()
        self._folder = folder
        self._servers = servers
        self.served_by: dict[str, tuple[str, str]] = {}
        """Requests by their tags: the server, and how that ended in HAProxy's letters."""
        self.changes: list[tuple[float, str, bool]] = []
        """What its checks have found: monotonic seconds, server, whether it is up."""
        self.said: list[tuple[float, str]] = []
        """The same in its own words."""
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._heard.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Self:
        """Start it."""
        assert PROGRAM is not None
        rows = "\n".join(f"    server {name} 127.0.0.1:{port} check" for name, port in self._servers.items())
        path, log = self._folder / "haproxy.cfg", self._heard.getsockname()[1]
        text = _CONFIG.format(port=self.port, log=log, tag=TAG, servers=rows)
        if self._measured:
            text = text.replace("option http-server-close", "option dontlog-normal")
        path.write_text(text)
        self._thread.start()
        with (self._folder / "haproxy.log").open("wb") as said:
            self._process = subprocess.Popen([PROGRAM, "-db", "-f", str(path)], stdout=said, stderr=said)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < end, (self._folder / "haproxy.log").read_text()
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._heard.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def change(self, server: str, up: bool, since: float, timeout: float = 10.0) -> float | None:
        """When it saw, after `since`, that a server was up or down; None where it did not in time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for when, name, is_up in list(self.changes):
                if (name, is_up) == (server, up) and when >= since:
                    return when
            time.sleep(0.01)
        return None

    def _hear(self) -> None:
        while True:
            try:
                line = self._heard.recv(2048).decode("utf-8", "replace").strip()
            except OSError:
                return
            words = line.split()
            if line.startswith("asked ") and len(words) == 5:
                self.served_by[words[1]] = (words[2], words[4])
            elif line.startswith("Server relays/"):
                self.said.append((time.monotonic(), line.removeprefix("Server relays/").partition(". ")[0]))
                self.changes.append((time.monotonic(), words[1].partition("/")[2], words[3].startswith("UP")))
