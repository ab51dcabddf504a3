"""Load on one target: by wrk where it is installed, else by our own generator; both from another process."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.live import ROOT, environment

KEY = "sk-bench-0123456789abcdef0123456789abcdef"
_BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello, who are you?"}]})


@dataclass(frozen=True)
class Ask:
    """A kind of request; several of a kind are sent in turn."""

    method: str
    path: str
    bodies: tuple[str, ...] = ("",)
    close: bool = False
    """A connection for each request."""


COMPLETION = Ask("POST", "/v1/chat/completions", (_BODY,))
CONNECTION = replace(COMPLETION, close=True)
BALANCE = Ask("GET", f"/pro/balance?apiKey={KEY}")


def chat(name: str) -> Ask:
    """Messages to a thousand sessions that nobody has used before."""
    said = [{"apiKey": KEY, "sessionId": f"{name}-{number}", "content": "你是谁?"} for number in range(1000)]
    return Ask("POST", "/chat", tuple(json.dumps(each) for each in said))


def stream(**more: object) -> Ask:
    """A completion that comes as a stream; `more` are fields of the request."""
    said = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hello, who are you?"}]}
    return Ask("POST", "/v1/chat/completions", (json.dumps(said | more),))


def told(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that every request has, and `headers`."""
    return {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}


@dataclass(frozen=True)
class Load:
    """What came of it. Times in seconds."""

    requests: int
    seconds: float
    errors: int
    p50: float
    p99: float
    cpu: float = 0.0
    """CPU the target took for all of it."""
    generator: float = 0.0
    """CPU the generator took."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpu_each(self) -> float:
        """CPU of the target for one request."""
        return self.cpu / self.requests if self.requests else 0.0


def wrk() -> str | None:
    """Where wrk is, if it is installed and not switched off."""
    return None if os.environ.get("RELAY_BENCH_GENERATOR") == "own" else shutil.which("wrk")


@contextlib.contextmanager
def only(name: str) -> Iterator[None]:
    """Use the generator of this name, wrk or own, until the block ends."""
    before = os.environ.get("RELAY_BENCH_GENERATOR", "")
    os.environ["RELAY_BENCH_GENERATOR"] = name
    try:
        yield
    finally:
        os.environ["RELAY_BENCH_GENERATOR"] = before


def run(port: int, ask: Ask, clients: int, seconds: float, headers: Mapping[str, str]) -> Load:
    """Put `clients` connections on a port of this machine for so long. Raises subprocess.SubprocessError."""
    sent, before = told(headers), _ended()
    if ask.close:
        sent["Connection"] = "close"
    tool = wrk()
    said = _wrk(tool, port, ask, clients, seconds, sent) if tool else _own(port, ask, clients, seconds, sent)
    try:
        found = json.loads(said)
    except ValueError:
        raise subprocess.SubprocessError(f"the load generator said {said[-300:]!r}") from None
    generator = found.get("cpu", _ended() - before)
    return Load(
        int(found["requests"]),
        found["seconds"],
        int(found["errors"]),
        found["p50"],
        found["p99"],
        generator=generator,
    )


def _ended() -> float:
    """Seconds of CPU of all programs that this process has started and seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _own(port: int, ask: Ask, clients: int, seconds: float, headers: Mapping[str, str]) -> str:
    spec = {"port": port, "clients": clients, "seconds": seconds, "requests": requests(port, ask, headers)}
    return _said([sys.executable, "-m", "tests.bench.generator"], seconds, json.dumps(spec))


def requests(port: int, ask: Ask, headers: Mapping[str, str]) -> list[str]:
    """The requests as they go over the wire; ASCII."""
    names = {"Host": f"127.0.0.1:{port}", **headers}
    fields = "".join(f"{name}: {value}\r\n" for name, value in names.items())
    return [
        f"{ask.method} {ask.path} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}" for body in ask.bodies
    ]


_LUA = """
local bodies, asked = {%s}, 0
wrk.method = %s
%s
request = function()
  asked = asked + 1
  return wrk.format(nil, nil, nil, bodies[asked %% #bodies + 1])
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "errors": %%d, "p50": %%f, "p99": %%f}\\n',
    summary.requests - e.status, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"""


def _wrk(tool: str, port: int, ask: Ask, clients: int, seconds: float, headers: Mapping[str, str]) -> str:
    fields = "".join(f"wrk.headers[ {_lua(name)} ] = {_lua(value)}\n" for name, value in headers.items())
    script = _LUA % (", ".join(map(_lua, ask.bodies)), _lua(ask.method), fields)
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        path = Path(folder, "ask.lua")
        path.write_text(script)
        # wrk counts whole seconds.
        options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(path)]
        said = _said([tool, *options, f"http://127.0.0.1:{port}{ask.path}"], seconds)
    return said.strip().rpartition("\n")[2]


def _lua(text: str) -> str:
    return "[==[" + text + "]==]"


def _said(command: Sequence[str], seconds: float, told: str = "") -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        input=told,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    return done.stdout
