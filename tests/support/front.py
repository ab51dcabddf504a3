"""HAProxy and nginx before relays, with the configurations of deploy/: what a test changes are addresses alone.

Both get to hear of other clients than this machine: HAProxy at a second port, where it takes a preamble of its own;
nginx by a header of the tests'.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.live import ROOT, Live, free_port, started

DEPLOY = ROOT / "deploy"
CLIENT = "X-Test-Client"
"""The header by which nginx is told another client's address."""


def needs(program: str) -> pytest.MarkDecorator:
    """Skips where a program is not installed. Debian's lie in /usr/sbin, which is not on everybody's path."""
    return pytest.mark.skipif(found(program) is None, reason=f"Debian's {program} is not installed")


def found(program: str) -> str | None:
    """Where it is."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def replaced(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """Each of these in the place of another. Fails where one is not there: the file has changed, and so must we."""
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


def haproxy_config(ports: Sequence[int], port: int, announced: int, metrics: int) -> str:
    """deploy/haproxy.cfg for relays on this machine. At the port `announced` it takes preambles."""
    servers = [(f"relay{at}:8080", f"127.0.0.1:{each}") for at, each in enumerate(ports, 1)]
    unused = [(f"    server relay{at} relay{at}:8080\n", "") for at in range(len(ports) + 1, 4)]
    return replaced(
        (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8"),
        [
            ("    bind :8080\n", f"    bind 127.0.0.1:{port}\n    bind 127.0.0.1:{announced} accept-proxy\n"),
            ("    bind :8404\n", f"    bind 127.0.0.1:{metrics}\n"),
            ("maxconn 50000", "maxconn 1000"),
            ("maxconn 5000 ", "maxconn 500 "),
            *unused,
            *servers,
        ],
    )


@contextlib.contextmanager
def haproxy(folder: Path, ports: Sequence[int], changes: Sequence[tuple[str, str]] = ()) -> Iterator[tuple[Live, int]]:
    """HAProxy before relays, and its port for preambles. `changes` are made to its configuration."""
    port, announced = free_port(), free_port()
    folder = folder / "haproxy"
    folder.mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(replaced(haproxy_config(ports, port, announced, free_port()), changes), encoding="utf-8")
    with started([str(found("haproxy")), "-db", "-f", str(config)], folder, port, os.environ) as live:
        live.ends_by = signal.SIGTERM  # SIGINT it may have been told to ignore, by whoever has started all of this
        yield live, announced


def nginx_config(folder: Path, ports: Sequence[int], port: int) -> str:
    """deploy/nginx.conf for relays on this machine."""
    folders = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listen = f"listen 127.0.0.1:{port};\n        set_real_ip_from 127.0.0.0/8;\n        real_ip_header {CLIENT};"
    servers = [(f"server relay{at}:8080", f"server 127.0.0.1:{each}") for at, each in enumerate(ports, 1)]
    unused = [(f"        server relay{at}:8080 max_fails=1 fail_timeout=2s;\n", "") for at in range(len(ports) + 1, 4)]
    return replaced(
        (DEPLOY / "nginx.conf").read_text(encoding="utf-8"),
        [
            ("worker_processes auto;\nworker_rlimit_nofile 65536;\n", "worker_processes 1;\n"),
            ("worker_connections 16384", "worker_connections 500"),
            ("pid /run/nginx.pid;", f"pid {folder}/nginx.pid;"),
            ("access_log /dev/stdout relay;\n", f"access_log {folder}/access.log relay;\n{folders}"),
            ("listen 8080;", listen),
            *unused,
            *servers,
        ],
    )


@contextlib.contextmanager
def nginx(folder: Path, ports: Sequence[int], changes: Sequence[tuple[str, str]] = ()) -> Iterator[Live]:
    """nginx before relays. `changes` are made to its configuration."""
    port = free_port()
    folder = folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(replaced(nginx_config(folder, ports, port), changes), encoding="utf-8")
    command = [str(found("nginx")), "-g", "daemon off;", "-p", str(folder), "-c", str(config)]
    with started(command, folder, port, os.environ) as live:
        live.ends_by = signal.SIGTERM
        yield live
