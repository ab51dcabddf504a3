"""Watching: relay in mitmweb beside relay in mitmdump, under the same load, in turn; and mitmproxy's own two."""

import contextlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench import load, targets
from tests.bench.load import Load
from tests.bench.processes import started
from tests.bench.rounds import middle, ratio, rotate
from tests.bench.tables import table, times, us
from tests.bench.targets import PLAIN, RELAY, Starter, Target
from tests.support.live import environment, free_port

WEB, UNNOTED, PLAIN_WEB = "relay in mitmweb", "relay in mitmweb, no threads", "mitmweb"
AIM = 0.8
"""How many times relay's rate in mitmdump it has to be in mitmweb."""
TITLE = "What watching costs"
NOTE = (
    "Small chat completions, 8 clients, keep-alive; no page is open. The aim for relay in mitmweb is "
    f"{AIM:g} times its own rate in mitmdump. *x own* is beside the same program that nobody watches."
)
_CLIENTS = 8
_OWN = {WEB: RELAY, UNNOTED: RELAY, PLAIN_WEB: PLAIN}


def starters() -> Mapping[str, Starter]:
    """All that is compared."""
    return {RELAY: targets.relay, WEB: web, UNNOTED: unnoted, PLAIN: targets.plain, PLAIN_WEB: plain_web}


@contextlib.contextmanager
def web(folder: Path, upstream_port: int, name: str = WEB, **settings: object) -> Iterator[Target]:
    """relay in mitmweb, as `./run.sh web` starts it."""
    arguments = ("--web-port", str(free_port()), "--set", "web_password=bench")
    with targets.relay(folder, upstream_port, arguments, None, name, "web", **settings) as target:
        yield target


@contextlib.contextmanager
def unnoted(folder: Path, upstream_port: int) -> Iterator[Target]:
    """The same without threads and causes."""
    with web(folder, upstream_port, UNNOTED, inspect={"keep_threads": 0}) as target:
        yield target


@contextlib.contextmanager
def plain_web(folder: Path, upstream_port: int) -> Iterator[Target]:
    """mitmweb as it comes, in reverse mode."""
    port = free_port()
    where = ["--mode", f"reverse:http://127.0.0.1:{upstream_port}", "--listen-host", "127.0.0.1", "-p", str(port)]
    quiet = ["--set", f"confdir={folder}", "--no-web-open-browser", "--web-port", str(free_port())]
    program = str(Path(sysconfig.get_path("scripts")) / "mitmweb")
    with started(PLAIN_WEB, [sys.executable, "-P", program, *where, *quiet], port, folder, environment()) as child:
        yield Target(PLAIN_WEB, child, port)


def section(there: Sequence[Target], seconds: float, rounds: int) -> str:
    """One table."""
    running = [each for each in there if each.name != targets.DIRECT]
    found = rotate(running, rounds, lambda target: target.load(load.COMPLETION, _CLIENTS, seconds))
    rows = [[name, *_row(name, found)] for name in found]
    return table(["", "requests/s", "x own", "CPU us/request", "x own", "errors"], rows)


def _row(name: str, found: Mapping[str, Sequence[Load]]) -> list[str]:
    loads, own = found[name], _OWN.get(name)
    return [
        f"{middle(loads, lambda each: each.rate):,.0f}",
        times(ratio(found, name, own, lambda each: each.rate) if own else None),
        us(middle(loads, lambda each: each.cpu_each)),
        times(ratio(found, name, own, lambda each: each.cpu_each) if own else None),
        str(sum(each.errors for each in loads)),
    ]
