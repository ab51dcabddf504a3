"""The app of ten lines in docs/fixtures.md is recorded, then tested by the test beside it, as a reader would do it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support.live import ROOT, environment, eventually, free_port, started

README = (ROOT / "docs" / "fixtures.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The block of code that begins with its file's name."""
    match = re.search(rf"```python\n(# {re.escape(name)}\n.*?)```", README, re.DOTALL)
    assert match, name
    return match[1]


def shown(command: str) -> str:
    """What the page shows below a command."""
    match = re.search(rf"```console\n\$ {re.escape(command)}\n(.*?)```", README, re.DOTALL)
    assert match, command
    return match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reader's folder: the app, its test and a recording of the app, made as the page says."""
    port = free_port()
    for name in ("app.py", "test_app.py"):
        text = example(name).replace("../relay/run.sh", str(ROOT / "run.sh")).replace("8089", str(port))
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def even(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1", text)
    return re.sub(r" +\d+ +\d+ +\d\.\d\d s$", " bytes chunks time", text, flags=re.MULTILINE)


def test_the_example_works_as_shown(folder: Path) -> None:
    port, config = free_port(), folder / "relay.yaml"
    command = [sys.executable, "-m", "addons.cli", "record", "hello.flow"]
    with Upstream.running(delay=0.02) as upstream:
        listen = {"port": port}
        config.write_text(json.dumps({"listen": listen, "upstreams": [{"name": "demo", "url": upstream.url}]}))
        with started(command, folder, port, environment(RELAY_CONFIG=str(config))) as relay:
            assert eventually(lambda: "\ntry " in relay.log)
            assert even(relay.log.partition("\n127")[0]).strip() == even(shown("./run.sh record hello.flow")).strip()
            environ = environment(OPENAI_BASE_URL=f"{relay.url}/v1", OPENAI_API_KEY="sk-demo")
            said = run([sys.executable, "app.py", "Ada"], folder, environ)
            assert said == shown("OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-demo python app.py Ada")
    environ = environment(RELAY_VENV=sys.prefix)
    listed = run([str(ROOT / "run.sh"), "replay", "hello.flow", "--list"], folder, environ)
    assert even(listed) == even(shown("./run.sh replay hello.flow --list"))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    assert "1 passed" in run(tests, folder, {**environ, "PYTHONPATH": str(folder)})


def run(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    """What a command prints; it must not fail."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environ, capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
