"""Programs under measurement: started, watched through /proc, and always ended."""

import contextlib
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_FILES = 65_536
"""Open files that are enough for anything here."""


class Failed(Exception):
    """A program did not start; the text says which, and the last it said."""


@dataclass(frozen=True)
class Usage:
    """What a process and its children have taken so far; not a number where there is no /proc."""

    cpu: float
    """Seconds of CPU, user and system."""
    rss: float
    """Bytes in memory now."""


def usage(pid: int) -> Usage:
    """What process `pid` and all below it use."""
    if not (_PROC / "self" / "stat").exists():
        return Usage(math.nan, math.nan)
    stats = {int(path.name): fields for path in _PROC.glob("[0-9]*") if (fields := _stat(path)) is not None}
    family = {pid}
    grown = True
    while grown:
        more = {each for each, fields in stats.items() if int(fields[1]) in family} - family
        family |= more
        grown = bool(more)
    mine = [stats[each] for each in family if each in stats]
    cpu = sum(int(fields[11]) + int(fields[12]) for fields in mine) / _TICK
    return Usage(cpu, sum(int(fields[21]) for fields in mine) * _PAGE)


def _stat(path: Path) -> list[str] | None:
    """The fields of /proc/PID/stat after the program's name, which may hold anything."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def descriptors(pid: int) -> int:
    """Open files and sockets of one process."""
    return len(list((_PROC / str(pid) / "fd").iterdir()))


def files(pid: int) -> int:
    """How many files process `pid` may open (Linux)."""
    soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)  # type: ignore[attr-defined, unused-ignore]
    return sys.maxsize if soft == resource.RLIM_INFINITY else int(soft)


def more_files() -> None:
    """Let this process, and what it starts from now on, open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def threads(pid: int) -> int:
    """Threads of one process."""
    return len(list((_PROC / str(pid) / "task").iterdir()))


class Child:
    """A program of ours that listens at `port`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name, self.process, self.port, self.log = name, process, port, log

    @property
    def pid(self) -> int:
        """Its process id; those it starts are below it."""
        return self.process.pid

    def usage(self) -> Usage:
        """What it takes, with all below it."""
        return usage(self.pid)

    def said(self) -> str:
        """The last of what it printed as errors."""
        said = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        lines = said.splitlines()
        errors = [line.strip() for line in lines if "Error" in line or "refused" in line]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def await_port(self, timeout: float) -> None:
        """Wait until it listens. Raises Failed."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended at its start with code {self.process.returncode}: {self.said()}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise Failed(f"{self.name} did not listen within {timeout:.0f} s: {self.said()}")

    def stop(self) -> None:
        """End it and everything it started."""
        # As Ctrl-C: over SIGTERM relay waits for what is under way.
        for number, patience in ((signal.SIGINT, 8.0), (signal.SIGKILL, 8.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)  # it leads a session of its own, so this reaches nobody else
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], port: int, folder: Path, environ: Mapping[str, str], timeout: float = 30
) -> Iterator[Child]:
    """`command` until the block ends, its output thrown away, its errors kept in a file. Raises Failed."""
    log = folder / f"{name.replace(' ', '-')}.log"
    try:
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                cwd=folder,
                # A line of mitmdump's would take four system calls where this is set, which few people have.
                env={name: value for name, value in environ.items() if name != "PYTHONUNBUFFERED"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
    except OSError as error:
        raise Failed(f"{name} cannot be started: {error}") from None
    child = Child(name, process, port, log)
    try:
        child.await_port(timeout)
        yield child
    finally:
        child.stop()
