"""Records real agents through a relay, before a model that is played.

    python -m tests.agents.record [--cache FOLDER] [--into FOLDER] [--keep] [NAME...]

A NAME is a run's or the beginning of one (runs.py). Agents come from npm and PyPI into the cache, once. npm, node, git
and, for aider, a Python from 3.10 to 3.12 have to be there.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from mitmproxy import http
from mitmproxy.io import FlowReader

from tests.agents.model.server import Model
from tests.agents.programs import MARK, Place
from tests.agents.recording import FOLDER, Exchange, Recording
from tests.agents.runs import RUNS, Does, Run, Say, Wait, Write
from tests.agents.scrub import HOME, PROJECT, Scrub
from tests.support.live import relay

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "relay-agents"
ROUTES = {"anthropic": "/anthropic", "google": "/gemini", "elsewhere": "/elsewhere"}
UPSTREAMS = ("openai", *ROUTES)
LONGEST = 240.0
"""Seconds that an agent may take for one of its turns."""


class Failed(Exception):
    """The run did not go as its script says."""


def record(run: Run, cache: Path, keep: bool) -> Recording:
    """Install the agent, run it, read what passed. Raises Failed, CalledProcessError and OSError."""
    binaries = run.program.installed(cache)
    base = Path(tempfile.mkdtemp(prefix=f"relay-{run.name}-"))
    try:
        with Model.running(run.rules, UPSTREAMS) as model:
            with _relay(base, model) as url:
                _act(run, binaries, base, url)
            if model.unknown:
                raise Failed(f"the model was asked for what it does not know: {model.unknown}")
            hosts = {urlsplit(each).netloc: f"{name}.test" for name, each in model.urls.items()}
        folders = {base / "project": PROJECT, base / "home": HOME, base: "/home", cache: "/opt/agents"}
        scrub = Scrub(folders, {**hosts, urlsplit(url).netloc: "relay.test"})
        exchanges = tuple(scrub.exchange(each) for each in _read(base / "run.flow", hosts))
    finally:
        if keep:
            print(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    program = run.program
    return Recording(run.name, program.name, program.packages, f"{datetime.now(UTC):%Y-%m-%d}", exchanges)


@contextlib.contextmanager
def _relay(base: Path, model: Model) -> Iterator[str]:
    own = base / "relay"
    own.mkdir()
    upstreams = [{"name": name, "url": url} for name, url in model.urls.items()]
    routes = [{"path": path, "upstream": name} for name, path in ROUTES.items()]
    with relay(own, upstreams, ["-w", str(base / "run.flow")], routes=routes, inspect={"max_body": "16m"}) as live:
        yield live.url
        if found := next((each for each in ("Traceback", MARK) if each in live.log), None):
            raise Failed(f"{found} in relay's log:\n{live.log[-4000:]}")


def _act(run: Run, binaries: Path, base: Path, url: str) -> None:
    place = Place(base / "home", base / "project", url)
    for folder in (place.home, place.project, base / "tmp"):
        folder.mkdir()
    for name, text in {"notes.txt": "Bread\nCheese\nTea\n", "todo.md": "- call Ada\n- water the fern\n"}.items():
        (place.project / name).write_text(text)
    environment = {
        "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place.home),
        "TMPDIR": str(base / "tmp"),
        **{"TERM": "dumb", "LANG": "C.UTF-8", "USER": "dev", "LOGNAME": "dev", "SHELL": "/bin/bash", "TZ": "UTC"},
    }
    _git(place, environment)
    run.program.prepare(place)
    for step in run.steps:
        _step(step, run, place, binaries, {**environment, **run.program.environment(place)})


def _git(place: Place, environment: Mapping[str, str]) -> None:
    for command in (
        ("config", "--global", "user.name", "Dev"),
        ("config", "--global", "user.email", "dev@example.com"),
        ("config", "--global", "init.defaultBranch", "main"),
        ("init", "--quiet"),
        ("add", "."),
        ("commit", "--quiet", "-m", "Notes"),
    ):
        subprocess.run(["git", *command], cwd=place.project, env=dict(environment), check=True)


def _step(step: Does, run: Run, place: Place, binaries: Path, environment: Mapping[str, str]) -> None:
    match step:
        case Write():
            (place.home if step.home else place.project).joinpath(step.file).write_text(
                step.text.replace("{relay}", place.relay), encoding="utf-8"
            )
        case Wait():
            time.sleep(step.seconds)
        case Say():
            _await(_started(step, run, place, binaries, environment))
        case tuple():
            for process in [_started(each, run, place, binaries, environment) for each in step]:
                _await(process)


def _started(say: Say, run: Run, place: Place, binaries: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [str(binaries / run.program.executable), *run.program.command(say.prompts, say.again), *say.more]
    given = {name: value.replace("{relay}", place.relay) for name, value in say.environment.items()}
    return subprocess.Popen(
        command,
        cwd=place.project,
        env={**environment, **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _await(process: subprocess.Popen[str]) -> None:
    try:
        said, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        raise Failed(f"it took longer than {LONGEST:g} s:\n{said[-4000:]}") from None
    if process.returncode:
        raise Failed(f"it ended with {process.returncode}:\n{said[-4000:]}")
    print("\n".join(f"    {line[:200]}" for line in said.strip().splitlines()[-6:]))


def _read(path: Path, hosts: Mapping[str, str]) -> list[Exchange]:
    with path.open("rb") as file:
        flows = [each for each in FlowReader(file).stream() if isinstance(each, http.HTTPFlow)]
    flows.sort(key=lambda each: each.request.timestamp_start)
    return [_exchange(each, flows[0].request.timestamp_start, hosts) for each in flows]


def _exchange(flow: http.HTTPFlow, start: float, hosts: Mapping[str, str]) -> Exchange:
    request, response = flow.request, flow.response
    begun = request.timestamp_start
    ended = (response and response.timestamp_end) or begun
    if flow.websocket and flow.websocket.timestamp_end:
        ended = flow.websocket.timestamp_end
    first = flow.metadata.get("relay.first_byte_ms")
    upstream = hosts.get(f"{request.host}:{request.port}", "").removesuffix(".test")
    return Exchange(
        at=round(begun - start, 3),
        took=round(ended - begun, 3),
        first_byte=None if first is None else round(first / 1000, 4),
        upstream=upstream,
        method=request.method,
        path=request.path,
        headers=tuple(request.headers.items(multi=True)),
        body=request.get_content(strict=False) or b"",
        status=response.status_code if response else None,
        answer_headers=tuple(response.headers.items(multi=True)) if response else (),
        answer=(response.get_content(strict=False) or b"") if response else b"",
        error=flow.error.msg if flow.error else None,
        messages=tuple(
            (round(each.timestamp - start, 3), each.from_client, each.content.decode())
            for each in (flow.websocket.messages if flow.websocket else ())
        ),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record real agents through relay.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="runs, or how their names begin (default: all)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where agents are installed (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=FOLDER, help="where recordings go (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of each run, and say where it is")
    given = parser.parse_args()
    chosen = [run for run in RUNS if not given.names or run.name.startswith(tuple(given.names))]
    if not chosen:
        sys.exit(f"no such run; there are: {', '.join(run.name for run in RUNS)}")
    given.cache.mkdir(parents=True, exist_ok=True)
    failed = []
    for run in chosen:
        print(f"{run.name}:", flush=True)
        try:
            recording = record(run, given.cache.resolve(), given.keep)
        except (Failed, subprocess.CalledProcessError, OSError, AssertionError) as error:
            failed.append(run.name)
            print(f"  failed: {error}", flush=True)
            continue
        path = recording.save(given.into)
        print(f"  {len(recording.exchanges)} requests, {path.stat().st_size} bytes: {path}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
