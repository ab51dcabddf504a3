"""Where the time goes: a flame graph of relay under load, and a table by room. Needs py-spy."""

import contextlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load, targets
from tests.bench.tables import table

_ADDONS = Path(__file__).resolve().parent.parent.parent / "addons"
PLACE = Path(__file__).with_name("profile.svg")
_HOW = (
    "bench: py-spy is not installed: pip install py-spy (or uv tool install py-spy); as another user, run it with sudo"
)


def profile(svg: Path, seconds: float, clients: int) -> int:
    """Write the flame graph, print the table; an exit code."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=sysconfig.get_path("scripts"))
    if spy is None:
        print(_HOW, file=sys.stderr)
        return 1
    with targets.running({targets.RELAY: targets.relay}, streams=False, missing={}) as there:
        relay = next((each for each in there if each.name == targets.RELAY), None)
        if relay is None:
            print("bench: relay did not start", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, _loaded(relay, clients, seconds * 2 + 4):
            raw = Path(folder, "raw")
            for form, output in (("flamegraph", svg.absolute()), ("raw", raw)):
                command = [
                    spy,
                    "record",
                    "--pid",
                    str(relay.child.pid),
                    "--duration",
                    str(round(seconds)),
                    "--rate",
                    "250",
                ]
                command += ["--format", form, "--output", str(output)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 3 + 60)
                if done.returncode:
                    print(f"bench: py-spy failed: {done.stderr.strip()[-500:]}", file=sys.stderr)
                    return 1
            print(rooms(raw.read_text()))
    print(f"\nwritten: {svg}")
    return 0


@contextlib.contextmanager
def _loaded(target: targets.Target, clients: int, seconds: float) -> Iterator[None]:
    thread = threading.Thread(target=target.load, args=(load.COMPLETION, clients, seconds))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def rooms(raw: str) -> str:
    """Two tables from py-spy's raw format (`a;b;c count`): time by room, and the functions that take most."""
    by_room, by_function, total = Counter[str](), Counter[str](), 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            continue
        frame = stack.rpartition(";")[2]
        by_function[frame.rpartition(":")[0].rstrip(")") + ")"] += int(count)
        by_room[_room(frame)] += int(count)
        total += int(count)

    def rows(counter: Counter[str], number: int) -> list[list[str]]:
        return [[name, f"{count / total:.1%}"] for name, count in counter.most_common(number)]

    return (
        table(["room", "own time"], rows(by_room, 12)) + "\n\n" + table(["function", "own time"], rows(by_function, 25))
    )


def _room(frame: str) -> str:
    file = frame.partition("(")[2].rpartition(":")[0]
    # py-spy shortens paths by what is on Python's path, which may hold addons/ itself.
    if file and ((_ADDONS / file).exists() or file.startswith("addons/")):
        return "relay's engine" if "engine/" in file else "relay's addons"
    for room in ("mitmproxy/addons", "mitmproxy/net", "mitmproxy/proxy", "mitmproxy", "asyncio", "h11"):
        if f"{room}/" in file:
            return room
    return "others of Python and its libraries"
