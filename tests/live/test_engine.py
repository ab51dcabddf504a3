"""relay with what makes mitmproxy faster, and without."""

from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import live


@pytest.mark.parametrize("fast", [True, False])
def test_relay_serves_either_way(fast: bool, upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url, engine={"fast": fast}) as relay:
        answer = relay.ask("GET", "/v1/models", headers={"Authorization": "Bearer sk-test-0123456789"})
        assert answer.json()["object"] == "list"
