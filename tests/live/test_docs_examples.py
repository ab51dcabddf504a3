"""The commands of the pages print what the pages show.

What stands behind a `$` in a console block is run against one `./run.sh demo`, in the order of the page. Ids, times and
the demo's own port differ from run to run and are evened out; a line `...` stands for any number of lines.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.live import Live, environment, eventually, free_port, started
from tests.support.pages import PAGE, commands

LAST_OF_DEMO = "Ctrl-C ends it"


def _even(output: str) -> str:
    """The output without what differs from run to run."""
    output = re.sub(r"chatcmpl-\w+", "chatcmpl-", output)
    output = re.sub(r'"created":\d+', '"created":0', output)
    output = re.sub(r'"as_of": "[0-9TZ:-]+"', '"as_of": ""', output)
    return re.sub(r"(forwards to +http://127\.0\.0\.1):\d+", r"\1", output).rstrip("\n")


def _matches(shown: str, printed: str) -> None:
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", _even(shown), flags=re.MULTILINE)]
    if re.fullmatch("(?s:.*)".join(parts), _even(printed)) is None:
        assert _even(printed) == _even(shown)  # for pytest to show the difference


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """`./run.sh demo`, once it has said all it says."""
    port = free_port()
    command = [sys.executable, "-m", "addons.cli", "demo", "-p", str(port)]
    with started(command, tmp_path_factory.mktemp("demo"), port, environment()) as live:
        assert eventually(lambda: LAST_OF_DEMO in live.log, 20), live.log
        yield live


def test_what_the_demo_says(demo: Live) -> None:
    said = demo.log[: demo.log.index(LAST_OF_DEMO) + len(LAST_OF_DEMO)]
    [shown] = commands("./run.sh demo")
    _matches(shown.output, said.replace(demo.url, PAGE))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_what_curl_prints(demo: Live) -> None:
    for shown in commands("curl"):
        command = shown.command.replace(PAGE, demo.url).replace("curl ", "curl -sS ", 1)
        run = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", timeout=20, check=True)
        _matches(shown.output, run.stdout)


def test_what_python_prints(demo: Live) -> None:
    for shown in commands("python"):
        assert shown.before is not None
        assert shown.before.language == "python"
        command = [sys.executable, "-c", shown.before.text.replace(PAGE, demo.url)]
        run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=30, env=environment(), check=True)
        _matches(shown.output, run.stdout)
