"""Official SDKs of other languages and other times: installed once, then driven by a script in a process of its own.

They are kept beside the environment that runs the tests, by the hash of their lock. Where they cannot be had the tests
are skipped, except in continuous integration (CI=true).
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.certificates import self_signed

FOLDER = Path(__file__).resolve().parent.parent / "sdk"
INSTALL_TIMEOUT = 300
"""Seconds; tests that may have to install need `pytest.mark.timeout(TIMEOUT)`."""
TIMEOUT = INSTALL_TIMEOUT + 100


def installed(name: str, locks: Sequence[Path], command: Sequence[str]) -> Path:
    """The folder in which `command` has installed what `locks` name; it runs beside copies of them, if at all."""
    digest = hashlib.sha256(b"\0".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f"{name}-{digest}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            for lock in locks:
                shutil.copy(lock, made)
            _install(name, command, made)
            with contextlib.suppress(OSError):  # another run of the tests was quicker
                made.rename(folder)
    return folder


def _home() -> Path:
    prefix = Path(sys.prefix)
    if sys.prefix != sys.base_prefix and os.access(prefix, os.W_OK):
        return prefix / "sdk"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay-tests"


def _install(name: str, command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_TIMEOUT
        )
        problem = done.stderr.decode(errors="replace").strip()[-2000:] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        done, problem = None, str(error)
    if done is None or done.returncode:
        message = f"{name} cannot be installed (no network?): {problem}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(message)
        pytest.skip(message)


@dataclass(frozen=True)
class Edge:
    """A relay with TLS beside plain HTTP, bodies of 1 MB at most, and a route /down to an upstream that is down."""

    running: live.Live
    cert: Path

    @property
    def url(self) -> str:
        """Plain."""
        return self.running.url

    @property
    def https(self) -> str:
        """With TLS; `cert` is the authority."""
        return f"https://localhost:{self.running.port}"


@contextlib.contextmanager
def edge(folder: Path, upstream: Upstream) -> Iterator[Edge]:
    """Such a relay, which lives in `folder`."""
    pair = self_signed(folder)
    upstreams = [
        {"name": "test", "url": upstream.url},
        {"name": "down", "url": f"http://127.0.0.1:{live.free_port()}"},
    ]
    with live.relay(
        folder,
        upstreams,
        listen={"tls": {"cert": str(pair.cert), "key": str(pair.key)}},
        routes=[{"path": "/down", "upstream": "down"}],
        limits={"body": "1m"},
    ) as running:
        yield Edge(running, pair.cert)


def drive(command: Sequence[str], folder: Path, **environ: str) -> dict[str, Any]:
    """Run a script in `folder`; what it printed as JSON: by case, {"value": ...} or {"error": ...}."""
    done = subprocess.run(
        command, cwd=folder, env=live.environment(**environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=90
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    results: dict[str, Any] = json.loads(done.stdout)
    return results
