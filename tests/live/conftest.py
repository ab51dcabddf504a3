"""What tests share: an upstream, and a live relay before it, one of each for a test module."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import live

_LAST_LINES = 60


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A look-alike of OpenAI."""
    with Upstream.running() as running:
        yield running


@pytest.fixture(scope="module")
def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    """A relay before it, with every default."""
    folder: Path = tmp_path_factory.mktemp("relay")
    with live.relay(folder, upstream.url) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of a test that has failed: what its relays printed last."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, live.Live):
                last = "\n".join(value.log.splitlines()[-_LAST_LINES:])
                report.sections.append((f"the end of {name}'s log, {_ended(value)}", last))
    return report


def _ended(relay: live.Live) -> str:
    code = relay.process.poll()
    return "which runs" if code is None else f"which ended with {code}"
