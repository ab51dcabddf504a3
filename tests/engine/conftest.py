"""Engine tests compare with mitmproxy as it stands: there a turn has no end, however slow the machine is."""

from collections.abc import Iterator

import pytest

from addons.engine.speed import serving


@pytest.fixture(autouse=True, scope="module")
def turns_without_end() -> Iterator[None]:
    """No turn is long enough to pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "_LONG", 1e9)
        yield
