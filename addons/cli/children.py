"""The demo's family: a small upstream, a relay before it and a folder for both, all gone when the demo ends.

The two run in sessions of their own, so Ctrl-C reaches the parent alone, which then ends them in order. Signals only
leave a note for the waiting loops to find, so none can get between a start and its registration.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from addons.addresses import Refusal

# Seconds: until the two listen, and for each to end when told to.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
_TICK = 0.05
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(Exception):
    """A signal asked the demo to end."""


class Family:
    """The demo's processes, in the order of their start. `name` is what messages call the whole."""

    def __init__(self, root: Path, folder: Path, name: str = "demo") -> None:
        self.root = root
        self.name = name
        self.folder = folder
        self.ended = False
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def upstream(self, host: str, port: int, arguments: Sequence[str] = ()) -> Path:
        """Start the upstream; the relay.yaml for a relay before it that listens at host and port."""
        log = self.folder / "upstream.log"
        command = [sys.executable, "-u", "-m", "addons.cli.fake_openai.server", "--port", "0", *arguments]
        with log.open("wb") as file:
            self._start("upstream", command, file)
        self._until(lambda: b"\n" in log.read_bytes(), "upstream")
        said = log.read_text(encoding="utf-8")
        address = re.search(r"https?://\S+", said)
        if address is None:
            raise Refusal(f"the demo's upstream named no address: {said.strip()}")
        settings = {
            "listen": {"host": host, "port": port},
            "upstreams": [{"name": "demo", "url": address[0]}],
            "store": {"path": "sessions"},
        }
        path = self.folder / "relay.yaml"
        path.write_text(json.dumps(settings), encoding="utf-8")
        return path

    def relay(self, command: Sequence[str], address: tuple[str, int], name: str = "relay") -> None:
        """Start mitmproxy and return when it accepts connections at the address."""

        def accepts() -> bool:
            with suppress(OSError), socket.create_connection(address, timeout=1):
                return True
            return False

        self._start(name, command, None)
        self._until(accepts, name)

    def wait(self) -> None:
        """Until a signal comes or one of the two ends by itself, which is a Refusal."""
        self._until(lambda: False, *self.children, timeout=float("inf"))

    def stop(self) -> None:
        """End them all, the last started first; those that don't listen are killed."""
        for child in reversed(self.children.values()):
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.ended = True

    def _start(self, name: str, command: Sequence[str], stdout: object) -> None:
        environ = os.environ | {"PYTHONPATH": str(self.root)}
        self.children[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            env=environ,
            start_new_session=True,  # type: ignore[call-overload]
        )

    def _until(self, done: Callable[[], bool], *names: str, timeout: float = START_TIMEOUT) -> None:
        end = time.monotonic() + timeout
        while not done():
            if self.ended:
                raise Ended
            for name in names:
                if (code := self.children[name].poll()) is not None:
                    raise Refusal(
                        f"the {self.name}'s {name} has ended by itself (exit code {code}); "
                        "its words are above, if it left any"
                    )
            if time.monotonic() > end:
                raise Refusal(
                    f"the {self.name}'s {' and '.join(names)} did not start within {timeout:.0f} seconds; try again"
                )
            time.sleep(_TICK)


@contextmanager
def family(root: Path, name: str = "demo") -> Iterator[Family]:
    """A family without members yet; at the end all of them are ended and their folder is gone. Ended stays in here."""
    with tempfile.TemporaryDirectory(prefix=f"relay-{name}-", ignore_cleanup_errors=True) as folder:
        members = Family(root, Path(folder), name)
        before = {number: signal.signal(number, members.note) for number in _SIGNALS}
        try:
            with suppress(Ended):
                yield members
        finally:
            members.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


def commands(origin: str) -> list[str]:
    """What to try, each line fit to be pasted into a shell."""
    curl = "curl -N --noproxy '*'"
    question = '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
    message = '{"apiKey":"sk-demo","sessionId":"1","content":"你是谁？"}'
    headers = "-H 'Authorization: Bearer sk-demo' -H 'Content-Type: application/json'"
    return [
        f"{curl} {origin}/v1/chat/completions {headers} -d '{question}'",
        f"{curl} {origin}/chat -d '{message}'",
        f"{curl} '{origin}/pro/balance?apiKey=sk-demo'",
    ]
