"""A real browser for tests: headless Chromium, driven by chromedriver over the WebDriver protocol
(https://www.w3.org/TR/webdriver2/), which is JSON over HTTP.

It has a profile of its own that is thrown away, and asks for nothing by itself. Names that end in `.test` lead to this
machine: there a page is not in a secure context, as it is at 127.0.0.1. Debian and Ubuntu have both programs:
`apt install chromium chromium-driver`.
"""

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import environment, free_port

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference to an element
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)
ENTER, SHIFT, TAB, RIGHT = "\ue007", "\ue008", "\ue004", "\ue014"


class BrowserError(Exception):
    """What WebDriver complains of: its kind and its message."""


class Browser:
    """One window. What is not found at once is waited for."""

    def __init__(self, port: int, session: str) -> None:
        self._port = port
        self._session = session

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._ask("POST", "url", {"url": url})

    def open_afresh(self, url: str) -> None:
        """The same as in a new tab, which remembers nothing of this one."""
        self.open(url)
        self.run("sessionStorage.clear()")
        self.open(url)

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of a function in the page; what it returns."""
        return self._ask("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def text(self, css: str) -> str:
        """What can be read in the first such element."""
        return str(self._ask("GET", f"element/{self._find(css)}/text"))

    def click(self, css: str) -> None:
        """Click an element, as a mouse would."""
        self._ask("POST", f"element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Put the focus on an element and type."""
        self._ask("POST", f"element/{self._find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def until(self, condition: Callable[[], Any], timeout: float = 10.0) -> Any:
        """What `condition` returns once that is true. Raises AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BrowserError):
                if held := condition():
                    return held
            assert time.monotonic() < end, f"it did not come; the page reads:\n{self.text('body')}"
            time.sleep(0.02)

    def until_text(self, css: str, text: str) -> None:
        """Wait until an element holds this text."""
        self.until(lambda: text in self.text(css))

    def window(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """The size of the page in CSS pixels, its colours, and whether it is touched or clicked."""
        measures = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", **measures)
        self.devtools("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def languages(self, accept: str) -> None:
        """The languages that pages opened from now on see, as in Accept-Language."""
        agent = self.run("return navigator.userAgent")
        self.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=accept)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def console(self) -> list[str]:
        """Warnings and errors that the page, or the browser about it, has logged since the last call."""
        entries = self._ask("POST", "se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def devtools(self, command: str, **parameters: object) -> Any:
        """A command of Chromium's DevTools protocol: https://chromedevtools.github.io/devtools-protocol/"""
        return self._ask("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})

    def _find(self, css: str, timeout: float = 5.0) -> str:
        end = time.monotonic() + timeout
        while True:
            try:
                found = self._ask("POST", "element", {"using": "css selector", "value": css})
                return str(found[_ELEMENT])
            except BrowserError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def _ask(self, method: str, command: str, body: Mapping[str, object] | None = None) -> Any:
        return _ask(self._port, method, f"/session/{self._session}/{command}", body)


def _ask(port: int, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
    finally:
        connection.close()
    if isinstance(value, dict) and "error" in value:
        raise BrowserError(f"{value['error']}: {value['message']}")
    return value


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A browser for as long as the block lasts. Skips the test where there is none."""
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("there is no chromedriver or no chromium: apt install chromium chromium-driver")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        command = [driver, f"--port={port}", "--log-level=SEVERE"]
        with Path(folder, "driver.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment(HOME=folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _await(port, process)
            session = _ask(port, "POST", "/session", {"capabilities": {"alwaysMatch": _wanted(chromium, folder)}})
            browser = Browser(port, session["sessionId"])
            try:
                yield browser
            finally:
                _ask(port, "DELETE", f"/session/{session['sessionId']}")
        finally:
            process.terminate()
            process.wait(10)


def _wanted(chromium: str, folder: str) -> dict[str, object]:
    options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={folder}/profile"]}
    return {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, "chromedriver ended at its start"
        with contextlib.suppress(OSError):
            if _ask(port, "GET", "/status")["ready"]:
                return
        time.sleep(0.05)
    raise AssertionError("chromedriver did not start")
