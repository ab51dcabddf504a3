"""A real relay in mitmweb for tests, and what its page asks it."""

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.live import Live, environment, eventually, free_port, started

PASSWORD = "a password of the tests"


@dataclass
class Web:
    """A running mitmweb with relay in it."""

    live: Live
    port: int

    @property
    def url(self) -> str:
        """Where a browser opens it."""
        return f"http://127.0.0.1:{self.port}/?token={PASSWORD.replace(' ', '%20')}"

    def get(self, path: str) -> bytes:
        """What its API answers."""
        return self._ask("GET", path, None)

    def command(self, name: str, *arguments: str) -> Any:
        """Run a command; what it returns. Raises RuntimeError with the words of one that fails."""
        said = json.loads(self._ask("POST", f"/commands/{name}", {"arguments": list(arguments)}))
        if "error" in said:
            raise RuntimeError(said["error"])
        return said.get("value")

    def post(self, path: str) -> bytes:
        """Press a button."""
        return self._ask("POST", path, {})

    def flows(self) -> list[dict[str, Any]]:
        """The flows in the list, oldest first."""
        found: list[dict[str, Any]] = json.loads(self.get("/flows"))
        return found

    def wait(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many flows are there and have ended, and all that are over."""

        def are_there() -> bool:
            flows = self.flows()
            return sum(map(ended, flows)) >= count and all(ended(each) for each in flows if answered(each))

        assert eventually(are_there), self.flows()
        return self.flows()

    def events(self) -> list[str]:
        """The event log."""
        return [entry["message"] for entry in json.loads(self.get("/events"))]

    def _ask(self, method: str, path: str, body: Any) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {PASSWORD}", "Content-Type": "application/json"}
            if method != "GET":
                headers |= {"Cookie": "_mitmproxy_xsrf=relay", "X-XSRFToken": "relay"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            read = response.read()
            assert response.status == 200, (path, response.status, read)
            return read
        finally:
            connection.close()


def answered(flow: dict[str, Any]) -> bool:
    """Whether its answer is whole; a websocket's goes on."""
    response = flow.get("response") or {}
    return bool(response.get("timestamp_end")) and response["status_code"] != 101


def ended(flow: dict[str, Any]) -> bool:
    """Whether an exchange is over: relay writes the comment then."""
    return bool(flow["comment"]) or flow["is_replay"] == "request"


@contextlib.contextmanager
def mitmweb(folder: Path, upstream: str, arguments: Sequence[str] = (), **settings: Any) -> Iterator[Web]:
    """relay before `upstream` in mitmweb, with further settings by section."""
    port, web_port = free_port(), free_port()
    written = {"listen": {"port": port}, "upstreams": [{"name": "test", "url": upstream}], **settings}
    config = folder / "relay.yaml"
    config.write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "addons.cli", "web", "--web-port", str(web_port), *arguments]
    command += ["--set", f"web_password={PASSWORD}", "--set", f"confdir={folder}"]
    with started(command, folder, port, environment(RELAY_CONFIG=str(config))) as live:
        web = Web(live, web_port)
        assert eventually(lambda: _answers(web), 20), live.log
        yield web


def _answers(web: Web) -> bool:
    try:
        web.get("/flows")
    except OSError:
        return False
    return True
