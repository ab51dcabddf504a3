"""A real redis-server on a free port, for tests of what relays share. Debian's package redis-server has it."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from addons.config.settings import Settings, StoreSettings
from addons.store.shared.opened import Shared

PROGRAM = shutil.which("redis-server")
NEEDED = pytest.mark.skipif(PROGRAM is None, reason="there is no redis-server: apt install redis-server")
_START = 10.0


class RedisServer:
    """One, with its data in `folder`. What it has said it keeps is on the disk: appendfsync is always."""

    def __init__(self, folder: Path, *more: str) -> None:
        assert PROGRAM is not None
        self.folder = folder
        self._place = socket.socket()
        """Keeps the port while nothing listens there: other tests look for free ones meanwhile."""
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        kept = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        command = [str(PROGRAM), "--port", str(self.port), "--dir", str(self.folder), *kept, *self._more]
        self._place.close()
        with open(self.folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + _START
        while not self.answers():
            assert time.monotonic() < end and self._process.poll() is None, (self.folder / "redis.log").read_text()
            time.sleep(0.02)
        assert self._process.poll() is None, (self.folder / "redis.log").read_text()
        return self

    def answers(self) -> bool:
        """Whether it is up and has its data."""
        return self.answers_at(self.port)

    @staticmethod
    def answers_at(port: int) -> bool:
        """Whether a Redis answers at a port of this machine."""
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as sock:
                sock.settimeout(1)
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._place = socket.socket()
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                self._place.bind(("127.0.0.1", self.port))

    def close(self) -> None:
        """End it, for good."""
        self.kill()
        self._place.close()


@contextlib.contextmanager
def redis_server(folder: Path, *more: str) -> Iterator[RedisServer]:
    """One for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder, *more).start()
    try:
        yield server
    finally:
        server.close()


def opened_shared(server: RedisServer, folder: Path, prefix: str = "relay", **store: object) -> Shared:
    """The store of a relay in this Redis, not reached yet."""
    kept = StoreSettings.model_validate(
        {"kind": "redis", "url": server.url, "path": folder, "prefix": prefix} | store, context={"folder": folder}
    )
    return Shared(Settings(store=kept), time.time)
