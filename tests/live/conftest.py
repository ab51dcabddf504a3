"""What tests share: an upstream, and a live relay before it, one of each for a test module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import live


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
