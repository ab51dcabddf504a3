"""A relay with several workers for live tests, and looks at its processes (Linux)."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.live import Live, environment, eventually, free_port, started

# Where Python keeps no byte code, each start of a worker compiles mitmproxy anew, which takes longer than all else.
_BYTE_CODE = tempfile.TemporaryDirectory(prefix="relay-test-", ignore_cleanup_errors=True)

START = [sys.executable, "-m", "addons.cli", "start"]
KEY = "sk-test-workers-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
UP = " workers serve"


def surroundings(path: Path, **more: str) -> dict[str, str]:
    """The environment for a relay under the relay.yaml at `path`."""
    environ = environment(RELAY_CONFIG=str(path), **more)
    if environ.pop("PYTHONDONTWRITEBYTECODE", None):
        environ["PYTHONPYCACHEPREFIX"] = _BYTE_CODE.name
    return environ


def configure(folder: Path, upstream: str, port: int, **settings: Any) -> Path:
    """A relay.yaml, with two workers if nothing else is said."""
    written = {"listen": {"port": port}, "workers": 2, "upstreams": [{"name": "test", "url": upstream}], **settings}
    path = folder / "relay.yaml"
    path.write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    return path


@contextlib.contextmanager
def crew(
    folder: Path, upstream: str, home: Path | None = None, prefix: Sequence[str] = (), **settings: Any
) -> Iterator[Live]:
    """A relay whose workers all serve. `home` is another copy of relay to run; `prefix` goes before its command."""
    port = free_port()
    environ = surroundings(configure(folder, upstream, port, **settings))
    if home is not None:
        environ["PYTHONPATH"] = str(home)
    with started([*prefix, *START], folder, port, environ) as live:
        assert eventually(lambda: UP in live.log, 30), live.log
        yield live


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and not yet heard the end of."""
    listed = subprocess.run(["ps", "-Ao", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(child) for child, parent, state in rows if int(parent) == pid and not state.startswith("Z")]


def workers(live: Live) -> dict[int, int]:
    """The workers' processes by their numbers; while one replaces another, the newer one."""
    found = {}
    for pid in sorted(children(live.process.pid)):
        with contextlib.suppress(OSError, ValueError):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            [number] = re.findall(rb"\0RELAY_WORKER=(\d+)\0", b"\0" + environ)
            found[int(number)] = pid
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def sockets(pid: int) -> int:
    """How many sockets a process has."""
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(each).startswith("socket:")
    return count


@contextlib.contextmanager
def asleep(*pids: int) -> Iterator[None]:
    """Have processes stand still for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
