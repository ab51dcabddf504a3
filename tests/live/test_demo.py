"""`./run.sh demo` ends whole: its port, its folder and its processes are gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from addons import addresses
from addons.config import mitmproxy_options
from addons.config.settings import load_settings
from addons.store import certificate
from tests.support.live import ROOT, free_port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_whole(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(f"listen: {{port: {free_port()}}}\n")
    environ = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "RELAY_CONFIG": str(file)}
    command = [sys.executable, "-P", "-m", "addons.cli", "demo"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as demo:
        assert demo.stdout is not None
        lines = [demo.stdout.readline() for _ in range(3)]
        assert "relay listens at" in lines[0] and "curl" in lines[2], lines
        [folder] = tmp_path.glob("relay-demo-*")
        demo.send_signal(number)
        assert demo.wait(20) == 0
    assert not folder.exists()
    with pytest.raises(OSError):
        socket.create_connection(addresses.listening(_options(file)), timeout=1)
    assert not _processes_naming(str(folder))


def _options(file: Path) -> dict[str, object]:
    settings = load_settings(file, {})
    return mitmproxy_options.options_for(settings, certificate.certificate_of(settings))


def _processes_naming(text: str) -> list[str]:
    end = time.monotonic() + 2
    while found := [
        line
        for line in subprocess.run(["ps", "-Ao", "args"], capture_output=True, text=True).stdout.splitlines()
        if text in line
    ]:
        if time.monotonic() > end:
            return found
    return []
