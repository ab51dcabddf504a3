"""The files of deploy/, as their own tools judge them; and the image, as far as its Dockerfile tells."""

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import front
from tests.support.front import DEPLOY
from tests.support.live import ROOT, free_port


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    program = front.found(str(command[0])) or str(command[0])
    return subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, timeout=60, check=False)


@front.needs("haproxy")
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    plain = run("haproxy", "-c", "-f", DEPLOY / "haproxy.cfg")
    assert plain.returncode == 0, plain.stderr
    said = [line for line in plain.stderr.splitlines() if "WARNING" in line]
    assert all("could not resolve address" in line or "no log address" in line for line in said), said
    config = tmp_path / "haproxy.cfg"
    text = front.haproxy_config([free_port(), free_port(), free_port()], free_port(), free_port(), free_port())
    config.write_text(text, encoding="utf-8")
    assert run("haproxy", "-c", "-f", config).returncode == 0
    config.write_text(text.replace("balance leastconn", "balance leastcon"), encoding="utf-8")
    assert run("haproxy", "-c", "-f", config).returncode != 0, "it looks"


@front.needs("nginx")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    text = front.nginx_config(tmp_path, [free_port(), free_port(), free_port()], free_port())
    config.write_text(text, encoding="utf-8")
    said = run("nginx", "-t", "-p", tmp_path, "-c", config)
    assert said.returncode == 0, said.stderr
    config.write_text(text.replace("proxy_buffering off", "proxy_buffering maybe"), encoding="utf-8")
    assert run("nginx", "-t", "-p", tmp_path, "-c", config).returncode != 0, "it looks"


@front.needs("systemd-analyze")
def test_systemd_takes_its_unit(tmp_path: Path) -> None:
    unit = tmp_path / "relay@.service"
    text = (DEPLOY / "relay@.service").read_text(encoding="utf-8")
    unit.write_text(front.replaced(text, [("/opt/relay/.venv/bin/python", sys.executable)]), encoding="utf-8")
    said = run("systemd-analyze", "verify", unit)
    assert said.returncode == 0 and "relay@" not in said.stderr, said.stderr
    judged = run("systemd-analyze", "security", "--offline=yes", unit)
    if found := re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout):
        assert float(found[1]) < 2.5
    unit.write_text(text, encoding="utf-8")
    assert "not executable" in run("systemd-analyze", "verify", unit).stderr, "it looks"


@front.needs("promtool")
@pytest.mark.parametrize(
    ("command", "file"), [(("check", "config"), "prometheus.yml"), (("check", "rules"), "alerts.yml")]
)
def test_prometheus_takes_its_files(command: tuple[str, ...], file: str) -> None:
    said = run("promtool", *command, DEPLOY / file)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_takes_the_manifests() -> None:
    said = run("kubectl", "kustomize", DEPLOY / "kubernetes")
    assert said.returncode == 0, said.stderr


# The image


def instructions() -> list[tuple[str, str]]:
    """Words and arguments of the Dockerfile, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def test_the_image_is_pinned_small_and_nobody_s() -> None:
    found = instructions()
    words = [word for word, _ in found]
    [base] = [rest for word, rest in found if word == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.1[3-9]\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base), "a tag that does not move"
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]
    last = found[len(words) - words[::-1].index("FROM") :]
    assert not any(word == "RUN" and "pip" in rest for word, rest in last), "what builds stays behind"
    [user] = [rest for word, rest in last if word == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user), "a number, so that Kubernetes can see it is not root"
    order = [word for word, _ in last]
    assert order.index("USER") > order.index("RUN") and "ADD" not in words
    assert dict(last)["STOPSIGNAL"] == "SIGTERM"
    assert "/opt/relay/probe.py" in dict(last)["HEALTHCHECK"] and "/healthz" in dict(last)["HEALTHCHECK"]
    for word in ("ENTRYPOINT", "HEALTHCHECK"):
        listed = dict(last)[word].partition("[")
        assert json.loads(f"[{listed[2]}"), "without a shell, so that signals reach relay"
    assert not any("KEY" in rest or "TOKEN" in rest for word, rest in found if word in ("ARG", "ENV"))


def test_what_the_image_installs_is_locked_with_hashes() -> None:
    [install] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert "--require-hashes" in install and "-r /build/redis.txt" in install
    lock = (ROOT / "requirements" / "redis.txt").read_text(encoding="utf-8")
    pinned = [line for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert pinned and all("==" in line and line.endswith("\\") for line in pinned)


def test_what_the_image_copies_is_there_and_not_kept_out() -> None:
    copied = [
        rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from=build")
    ]
    sources = [source for sources in copied for source in sources]
    assert sources and all((ROOT / source).exists() for source in sources)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*" and {f"!{source}" for source in sources} == {each for each in ignored if each[0] == "!"}


def _docker_works() -> bool:
    if (docker := shutil.which("docker")) is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def test_the_image_is_built() -> None:
    if not _docker_works():
        pytest.skip("there is no Docker daemon here")
    said = run("docker", "build", "--check", "-f", DEPLOY / "Dockerfile", ROOT)
    assert said.returncode == 0, said.stderr


# Its probe


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


def probe(*arguments: str) -> int:
    return run(sys.executable, "-I", DEPLOY / "probe.py", *arguments).returncode


def test_the_probe_tells_200_from_all_else(server: int) -> None:
    assert probe("/healthz", "--port", str(server)) == 0
    assert probe("/readyz", "--port", str(server)) == 1
    assert probe("/healthz", "--port", str(free_port())) == 1
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert probe("--port", str(mute.getsockname()[1]), "--timeout", "0.2") == 1
