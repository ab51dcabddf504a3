"""`./run.sh demo` ends whole: its port, its folder and its processes are gone."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from addons import addresses
from addons.cli import __main__ as cli
from addons.config import mitmproxy_options
from addons.config.settings import load_settings
from addons.core.faults import Faults
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


def test_what_goes_wrong_on_purpose(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "relay.yaml"
    file.write_text(f"listen: {{port: {port}}}\n")
    environ = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "RELAY_CONFIG": str(file)}
    command = [sys.executable, "-P", "-m", "addons.cli", "demo", "--faults", "429=0.5", "--seed", "3"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as demo:
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if "Ctrl-C" in line:
                    break
                if line.startswith("goes wrong"):
                    assert "429=0.5" in line
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-demo", max_retries=0, timeout=2)

            def ask(fault: str = "", stream: bool = False) -> str:
                headers = {"x-relay-fault": fault} if fault else {}
                messages: Any = [{"role": "user", "content": "Hello"}]
                try:
                    said = client.chat.completions.create(
                        model="gpt-4o-mini", messages=messages, stream=stream, extra_headers=headers
                    )
                    return "".join(str(each) for each in said) and "answered"
                except Exception as error:  # its HTTP library raises its own for a stream that breaks
                    return type(error).__name__

            expected = Faults({"429": 0.5}, random.Random(3).random)
            for _ in range(10):
                assert ask() == ("RateLimitError" if expected.next() else "answered")
            assert ask("none") == "answered"
            assert ask("500") == "InternalServerError"
            assert ask("silence") == "APITimeoutError"
            assert ask("slow") == "APITimeoutError"
            assert ask("break", stream=True) in ("APIConnectionError", "RemoteProtocolError")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(20)


@pytest.mark.parametrize(("faults", "said"), [("2", "expected a share"), ("429=0.9,500=0.9", "at most 1")])
def test_faults_that_are_none_are_refused(
    faults: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(ROOT / "relay.yaml"))
    assert cli.main(["demo", "--faults", faults]) != 0
    assert said in capsys.readouterr().err
