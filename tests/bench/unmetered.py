"""An addon for the bench alone: relay without its meter, to see what that costs."""

from typing import Any

from mitmproxy import ctx

from addons.chain import Chain
from addons.meter.metering import Meter
from tests.bench import without


def running() -> None:
    """Everything is in place by now, and no client has come."""
    without.unseen()
    relay: Any = ctx.master.addons.get("relay")
    kept = [each for each in relay.chain.addons if not isinstance(each, Meter)]
    assert len(kept) == len(relay.chain.addons) - 1, "the meter has another name now"
    relay.chain = Chain(kept)
