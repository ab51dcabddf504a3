"""An addon for the bench alone: takes one of relay's changes for speed back, once relay is up.

RELAY_BENCH_WITHOUT=lookups ./run.sh -s tests/bench/without.py
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from addons.engine.speed import dispatch, layers, lines, lookups, serving, trifles
from addons.engine.wrapping import restore
from addons.flow import capture


def _layers() -> None:
    layers.uninstall()
    vars(layers)["straight"] = lambda _top: None  # else serving.py goes on leading events past the layers


def _dispatch() -> None:
    dispatch.uninstall()
    # serving.py asks it by itself, and not by mitmproxy's method.
    vars(dispatch)["begin"] = lambda manager, event, _args: manager.handle_lifecycle(event)


def _trifle(*names: str) -> Callable[[], None]:
    def take_back() -> None:
        found = [(owner, name) for owner, name, _ in trifles.CHANGES if name in names]
        assert len(found) >= len(names), "a change has another name now"
        for owner, name in found:
            restore(owner, name)

    return take_back


def unseen() -> None:
    """A second script may look into flows, and then relay keeps and cleans them. These do not, and cost nothing."""
    vars(capture)["_LOOKS"] = {name: looks for name, looks in capture._LOOKS.items() if name != "scripts"}


CHANGES: Mapping[str, Callable[[], Any]] = {
    "dispatch": _dispatch,
    "serving": serving.uninstall,
    "layers": _layers,
    "lookups": lookups.uninstall,
    "lines": lines.uninstall,
    "trifles: options": _trifle("__getattr__"),
    "trifles: contexts": _trifle("fork"),
    "trifles: ids": _trifle("uuid"),
    "trifles: addresses, width": _trifle("format_address", "shutil"),
    "trifles: body lengths": _trifle("expected_http_body_size", "connection_close"),
    "trifles: header blocks": _trifle("__init__", "__bytes__"),
    "trifles: all": trifles.uninstall,
}
"""By the name of each: how it is taken back."""


def running() -> None:
    """Everything is in place by now, and no client has come."""
    unseen()
    if name := os.environ.get("RELAY_BENCH_WITHOUT"):
        CHANGES[name]()
