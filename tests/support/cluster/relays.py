"""Relays that share a Redis, each on what would be a machine of its own: its address, its relay.yaml, its folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.haproxy import HAProxy
from tests.support.crew import surroundings
from tests.support.live import free_port

_START = 40.0
_END = 20.0


class Relay:
    """One of them."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.port = free_port()
        self.folder = folder
        folder.mkdir()
        self.config = folder / "relay.yaml"
        listen = {"host": "127.0.0.1", "port": self.port}
        self.config.write_text(yaml.safe_dump({"listen": listen, **settings}, allow_unicode=True), encoding="utf-8")
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """The environment for it and for its commands."""
        return surroundings(self.config)

    @property
    def log(self) -> str:
        """All it has printed, whichever process it was."""
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("relay-*.log")))

    def start(self) -> None:
        """Start it. It listens a little later."""
        assert self.process is None
        self.starts += 1
        with (self.folder / f"relay-{self.starts:03}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "addons.cli", "start"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> int:
        """End it as an orchestrator does, and wait until what was under way is over; the exit code."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        code = self.process.wait(_END)
        self.process = None
        return code

    def cpu(self) -> float:
        """Seconds of CPU that it has used (Linux)."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def usage(self) -> Any:
        """What `./run.sh usage --json` says on its machine."""
        command = [sys.executable, "-P", "-m", "addons.cli", "usage", "--by", "key", "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["rows"]


def await_start(relay: Relay, seen: HAProxy, since: float) -> float:
    """Wait until `seen` (HAProxy) has found it up; when that was."""
    up = seen.change(relay.name, True, since, _START)
    assert up is not None, f"{relay.name} did not start within {time.monotonic() - since:.0f} s:\n{relay.log[-2000:]}"
    return up
