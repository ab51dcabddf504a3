"""A real relay for live tests: mitmdump in a process of its own, started as `./run.sh` starts it."""

import contextlib
import http.client
import io
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT = 30.0


@dataclass
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Live:
    """A running relay."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    ends_by: signal.Signals = signal.SIGINT

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All it has printed."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20,
    ) -> Answer:
        """One request on a connection of its own; a mapping goes as JSON."""
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def chat(self, content: str, *, key: str = "sk-test-0123456789", session: str = "s", **more: Any) -> dict[str, Any]:
        """One message to /chat, its envelope."""
        answer = self.ask("POST", "/chat", {"apiKey": key, "sessionId": session, "content": content, **more})
        assert answer.status == 200
        envelope: dict[str, Any] = answer.json()
        return envelope

    def connect(self, timeout: float = 20) -> socket.socket:
        """A raw connection, for what no HTTP library sends."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 20) -> bytes:
        """Send bytes, and everything that comes until relay closes."""
        with self.connect(timeout) as connection:
            connection.sendall(data)
            return read_all(connection)

    def memory(self) -> int:
        """Resident memory in bytes (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    def stop(self) -> int:
        """End it as Ctrl-C does, or as it is otherwise ended; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(self.ends_by)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"relay did not end:\n{self.log[-3000:]}") from None


def read_all(connection: socket.socket) -> bytes:
    """What comes until the peer closes or resets."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """The next answer on a raw connection, which stays open. Raises http.client.HTTPException where it breaks off."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def answer_in(raw: bytes, method: str = "GET") -> Answer:
    """The first answer in what came over a connection."""
    return read_answer(cast(socket.socket, _Replay(raw)), method)


class _Replay:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.raw)


class LogWatch:
    """What a relay prints while a test runs."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.begin = len(live.log)

    @property
    def new(self) -> str:
        """What it has printed since."""
        return self.live.log[self.begin :]

    def check(self) -> None:
        """No traceback and no key may be among it."""
        new = self.new
        assert "Traceback" not in new, new
        assert "sk-test" not in new, new


_FIRST_PORT, _PORTS = 10_000, 2_750
"""Below those that systems give to connections, each worker of a run has so many ports of its own: what begins to
listen a moment later must not find somebody else there."""
_WORKERS = 8
_next_port = itertools.count(random.randrange(_PORTS))


def free_port() -> int:
    """A port that was free a moment ago, and that nobody else takes by chance."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    for _ in range(_PORTS):
        port = _FIRST_PORT + worker * _PORTS + next(_next_port) % _PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def environment(**more: str) -> dict[str, str]:
    """The environment for a relay of a test: no proxies, no settings of the user's."""
    keep = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("RELAY_")}
    return {**keep, "PYTHONPATH": str(ROOT), **more}


@contextlib.contextmanager
def relay(
    folder: Path, upstream: str | Sequence[Mapping[str, Any]], arguments: Sequence[str] = (), **settings: Any
) -> Iterator[Live]:
    """A relay before `upstream` (an address, or a list as in relay.yaml), with further settings by section.

    It lives in `folder`: relay.yaml, its store, its log.
    """
    upstreams = [{"name": "test", "url": upstream}] if isinstance(upstream, str) else list(upstream)
    port = free_port()
    listen = {"port": port, **settings.pop("listen", {})}
    written = {"listen": listen, "upstreams": upstreams, **settings}
    config = folder / "relay.yaml"
    config.write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "addons.cli", "start", *arguments]
    with started(command, folder, port, environment(RELAY_CONFIG=str(config))) as live:
        live.settings = written
        yield live


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path, port: int, environ: Mapping[str, str]) -> Iterator[Live]:
    """Run `command` until something listens at `port`; ended as Ctrl-C does."""
    log = folder / "relay.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    live = Live(process, port, log, folder)
    try:
        _await_port(live)
        yield live
    finally:
        live.stop()


def _await_port(live: Live) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if live.process.poll() is not None:
            raise AssertionError(f"relay ended at its start:\n{live.log}")
        with contextlib.suppress(OSError):
            live.connect(1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"relay did not start:\n{live.log}")


def eventually(condition: Any, timeout: float = 5.0) -> bool:
    """Whether `condition()` comes true in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
