"""The peers: installed into a folder for caches, started as their documentation says, one worker each.

Versions and configuration are in tests/bench/peers/. Which of them cannot be had is told with the reason.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.load import KEY

_FILES = Path(__file__).resolve().parent / "peers"
_PATIENCE = 600.0
"""Seconds that one installation may take."""


class Unavailable(Exception):
    """This peer cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """How to start one: everything is worked out when it is installed."""

    name: str
    command: Callable[[int], Sequence[str]]
    """By the port it is to listen at."""
    environ: Callable[[str], Mapping[str, str]]
    """By the upstream's address, without /v1."""
    headers: Callable[[str], Mapping[str, str]] = field(default=lambda _: {})
    """What clients must send besides, by the upstream's address."""


def cache() -> Path:
    """Where peers are installed if nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay-bench"


def litellm(folder: Path) -> Peer:
    """LiteLLM's proxy in an environment of its own."""
    python = _environment(folder / "litellm", [sys.executable])
    config = str(_FILES / "litellm.yaml")
    program = str(python.parent / "litellm")
    return Peer(
        f"LiteLLM {_version(python, 'litellm')}",
        lambda port: [program, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        lambda upstream: {
            "BENCH_UPSTREAM": f"{upstream}/v1",
            "BENCH_KEY": KEY,
            "LITELLM_MASTER_KEY": KEY,  # it does not start without one
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it looks for prices on the network
            "LITELLM_LOG": "ERROR",
        },
    )


def openai_forward(folder: Path) -> Peer:
    """openai-forward; some of what it stands on has no builds for the newest Pythons."""
    older = [found for minor in (13, 12, 11, 10) if (found := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    older += [str(path) for minor in (12, 11, 10) for path in sorted(pyenv.glob(f"3.{minor}.*/bin/python3"))]
    python = _environment(folder / "openai-forward", [sys.executable, *older])
    # As `aifd run` does it, which has no option for the address.
    serve = [str(python), "-m", "uvicorn", "openai_forward.app:app", "--host", "127.0.0.1", "--workers", "1"]
    return Peer(
        f"openai-forward {_version(python, 'openai-forward')}",
        lambda port: [*serve, "--port", str(port)],
        lambda upstream: _env_file(_FILES / "openai-forward.env", BENCH_UPSTREAM=upstream),
    )


def portkey(folder: Path) -> Peer:
    """Portkey's gateway."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable("node and npm are not installed")
    home = folder / "portkey"
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    stamp, wanted = home / ".relay-bench", (_FILES / "package.json").read_text()
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(_FILES / "package.json", home)
        _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"], home)
        stamp.write_text(wanted)
    version = json.loads((package / "package.json").read_text())["version"]
    serve = [node, "-r", str(_FILES / "loopback.cjs"), str(package / "build" / "start-server.js"), "--headless"]
    return Peer(
        f"Portkey {version}",
        lambda port: [*serve, f"--port={port}"],
        lambda upstream: {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        lambda upstream: {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream}/v1"},
    )


ALL: dict[str, Callable[[Path], Peer]] = {
    "LiteLLM": litellm,
    "Portkey": portkey,
    "openai-forward": openai_forward,
}


def _environment(folder: Path, pythons: Sequence[str]) -> Path:
    """The Python of an environment as peers/NAME.txt says, made with the first Python that can have it."""
    python, stamp, wanted = folder / "bin" / "python", folder / ".relay-bench", _FILES / f"{folder.name}.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text() and python.exists():
        return python
    why = Unavailable(f"no Python for {folder.name}")
    for base in pythons:
        try:
            _run([base, "-m", "venv", "--clear", str(folder)], folder.parent)
            # Only what is built already: a compiler and libraries of others are not asked for.
            _run([str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r", str(wanted)], folder)
        except Unavailable as error:
            why = error
        else:
            stamp.write_text(wanted.read_text())
            return python
    raise why


def _version(python: Path, package: str) -> str:
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    return _run([str(python), "-c", ask], python.parent).strip()


def _env_file(path: Path, **names: str) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    settings = {}
    for line in lines:
        name, _, value = line.partition("=")
        for each, text in names.items():
            value = value.replace(f"${{{each}}}", text)
        settings[name] = value
    return settings


def _run(command: Sequence[str], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {error}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"`{' '.join(Path(part).name for part in command[:4])} ...` failed: {' '.join(last)[:300]}")
    return done.stdout
