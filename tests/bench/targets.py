"""What is measured: relay, relay without its speed, plain mitmdump, nginx, the peers, and the upstream itself."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from tests.bench import upstream
from tests.bench.load import COMPLETION, Ask, Load, run
from tests.bench.others import Peer
from tests.bench.processes import Child, Failed, started
from tests.support.live import environment, free_port

RELAY, STOCK, PLAIN, NGINX, DIRECT = "relay", "relay, stock engine", "mitmdump", "nginx", "upstream itself"

# Both print their flow lines, to /dev/null, and log warnings only, as ./run.sh has it.
_PLAIN = ["--set", "termlog_verbosity=warn"]
STREAMS = ["-s", str(Path(__file__).with_name("peers") / "mitmdump_streams.py")]
"""The addon that plain mitmdump needs to let streams through."""


_FIRST = 20.0
"""Seconds that a target has for the first of its answers."""


@dataclass
class Target:
    """One of them, running."""

    name: str
    child: Child
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    at_rest: float = 0.0
    """Bytes after its first answer."""
    loaded: float = 0.0
    """The most bytes seen after any load."""

    def load(self, ask: Ask, clients: int, seconds: float) -> Load:
        """Load it, and see what that took."""
        before = self.child.usage()
        load = run(self.port, ask, clients, seconds, self.headers)
        after = self.child.usage()
        self.loaded = max(self.loaded, after.rss)
        return replace(load, cpu=after.cpu - before.cpu)


def nginx() -> str | None:
    """Where nginx is, if it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def fast_upstream(*, streams: bool, rate: float = 20) -> Iterator[Child]:
    """The upstream that everything stands before: nginx for whole answers if there is one, else our own."""
    tool = None if streams else nginx()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder, port = Path(name), free_port()
        command = [sys.executable, "-m", "tests.bench.upstream", "--port", str(port), "--rate", str(rate)]
        if tool:
            (folder / "nginx.conf").write_text(upstream.nginx_static(port, folder))
            command = [tool, "-p", name, "-e", f"{name}/error.log", "-c", f"{name}/nginx.conf"]
        with started("upstream", command, port, folder, environment()) as child:
            yield child


Starter = Callable[[Path, int], contextlib.AbstractContextManager[Target]]
"""By a folder of its own and the upstream's port."""


@contextlib.contextmanager
def relay(
    folder: Path,
    upstream_port: int,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    name: str = RELAY,
    command: str = "start",
    **settings: object,
) -> Iterator[Target]:
    """relay as ./run.sh starts it (`command`), everything switched on but for further `settings` of relay.yaml."""
    port = free_port()
    path = _relay_yaml(folder, port, upstream_port, settings)
    program = [sys.executable, "-P", "-m", "addons.cli", command, *arguments]
    variables = environment(RELAY_CONFIG=str(path), **(environ or {}))
    with started(name, program, port, folder, variables) as child:
        yield Target(name, child, port)


@contextlib.contextmanager
def stock(folder: Path, upstream_port: int) -> Iterator[Target]:
    """The same without the changes to mitmproxy that are for speed alone."""
    with relay(folder, upstream_port, name=STOCK, engine={"fast": False}) as target:
        yield target


def _relay_yaml(folder: Path, port: int, upstream_port: int, settings: Mapping[str, object]) -> Path:
    path = folder / "relay.yaml"
    upstreams = [{"name": "bench", "url": f"http://127.0.0.1:{upstream_port}"}]
    path.write_text(yaml.safe_dump({"listen": {"port": port}, "upstreams": upstreams, **settings}))
    return path


@contextlib.contextmanager
def plain(
    folder: Path,
    upstream_port: int,
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    scheme: str = "http",
) -> Iterator[Target]:
    """mitmdump as it comes, in reverse mode."""
    port = free_port()
    mode = f"reverse:{scheme}://127.0.0.1:{upstream_port}"
    where = ["--mode", mode, "--listen-host", "127.0.0.1", "-p", str(port), "--set", f"confdir={folder}"]
    command = [sys.executable, "-P", _mitmdump(), *where, *_PLAIN, *arguments]
    with started(PLAIN, command, port, folder, environment(**(environ or {}))) as child:
        yield Target(PLAIN, child, port)


@contextlib.contextmanager
def plain_streams(folder: Path, upstream_port: int) -> Iterator[Target]:
    """The same with the one addon that lets streams through."""
    with plain(folder, upstream_port, STREAMS) as target:
        yield target


def _mitmdump() -> str:
    return str(Path(sysconfig.get_path("scripts")) / "mitmdump")


@contextlib.contextmanager
def nginx_proxy(folder: Path, upstream_port: int) -> Iterator[Target]:
    """nginx as a proxy, one process."""
    tool = nginx()
    if tool is None:
        raise Failed("nginx is not installed (apt install nginx-light)")
    port = free_port()
    (folder / "nginx.conf").write_text(upstream.nginx_proxy(port, upstream_port, folder))
    command = [tool, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    with started(NGINX, command, port, folder, environment()) as child:
        yield Target(NGINX, child, port)


def peer(each: Peer, scheme: str = "http", environ: Mapping[str, str] | None = None) -> Starter:
    """One of the peers. `environ` is what its environment has besides."""

    @contextlib.contextmanager
    def start(folder: Path, upstream_port: int) -> Iterator[Target]:
        port, address = free_port(), f"{scheme}://127.0.0.1:{upstream_port}"
        variables = environment(**each.environ(address), **(environ or {}))
        variables.pop("PYTHONPATH", None)
        with started(each.name, each.command(port), port, folder, variables, timeout=120) as child:
            yield Target(each.name, child, port, each.headers(address))

    return start


@contextlib.contextmanager
def running(starters: Mapping[str, Starter], *, streams: bool, missing: dict[str, str]) -> Iterator[list[Target]]:
    """All of them at once before one upstream, which comes first; those that fail are noted in `missing`."""
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(fast_upstream(streams=streams))
        targets = [Target(DIRECT, up, up.port)]
        for name, start in starters.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
            try:
                target = stack.enter_context(start(folder, up.port))
                prove(target)
            except (Failed, subprocess.SubprocessError) as error:
                missing[name] = str(error).strip()
            else:
                targets.append(target)
        yield targets


def prove(target: Target) -> None:
    """Some load must be answered without an error; else figures would say nothing. Raises Failed."""
    end = time.monotonic() + _FIRST
    while True:
        load = target.load(COMPLETION, 1, 1)
        if load.requests and not load.errors:
            break
        if time.monotonic() > end:
            raise Failed(f"answered {load.requests} requests, {load.errors} with errors: {target.child.said()}")
    target.at_rest = target.child.usage().rss
    target.loaded = 0.0
