"""RESULTS.md: the tables, and on what they were measured."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).with_name("RESULTS.md")
BY_HAND = "## Where the rest of the time goes"
"""From this heading on RESULTS.md is written by hand, or by a command of its own, and kept."""


class Report:
    """Sections in the order in which they come, printed as they come."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def add(self, title: str, text: str, note: str = "") -> None:
        """One section."""
        part = "\n\n".join(each for each in (f"## {title}", note, text) if each)
        self.parts.append(part)
        print(f"\n{part}", flush=True)

    def first(self, title: str, text: str) -> None:
        """A section that stands before all others."""
        self.parts.insert(0, f"## {title}\n\n{text}")
        print(f"\n## {title}\n\n{text}", flush=True)

    def write(self, path: Path, command: str) -> None:
        """Write it, keeping what was written by hand."""
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        _, mark, kept = old.partition(BY_HAND)
        by_hand = mark + kept if mark else f"{BY_HAND}\n\n(to be written from `./run.sh bench --profile`)\n"
        head = f"# Results\n\nMeasured by `{command}` on {datetime.date.today().isoformat()}.\n\n{machine()}"
        path.write_text("\n\n".join([head, *self.parts, by_hand]).rstrip() + "\n", encoding="utf-8")
        print(f"\nwritten: {path}")

    def replace(self, path: Path, title: str) -> None:
        """Put these sections at the end, in place of the one called `title`; all else stays."""
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        before, _, section = old.partition(f"## {title}\n")
        _, mark, after = section.partition("\n## ")
        said = f"{self.parts[0]}\n\nMeasured on {datetime.date.today().isoformat()}:\n\n{machine()}"
        parts = [before.rstrip(), *([f"## {after.strip()}"] if mark else []), said, *self.parts[1:]]
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(f"\nwritten: {path}")


def machine() -> str:
    """What this is running on."""
    lines = [
        f"{os.cpu_count()} cores, {_cpu()}, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, mitmproxy {importlib.metadata.version('mitmproxy')}",
        *(said for said in (_version("nginx", "-v"), _version("wrk", "-v"), _version("node", "--version")) if said),
    ]
    with_load = f"load average before: {', '.join(f'{each:.1f}' for each in os.getloadavg())}"
    return "\n".join(f"- {line}" for line in [*lines, with_load])


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(program: str, option: str) -> str:
    tool = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if tool is None:
        return f"no {program}"
    done = subprocess.run([tool, option], capture_output=True, text=True, timeout=10)
    said = (done.stdout + done.stderr).strip().splitlines()
    first = said[0].partition("Copyright")[0].partition("[")[0].strip() if said else ""
    return first if program in first else f"{program} {first}"
