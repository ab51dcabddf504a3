"""mitmproxy's own methods and relay's faster ones, each in force for as long as a scenario runs."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mitmproxy import options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons.dumper import Dumper
from mitmproxy.http import Headers
from mitmproxy.master import Master
from mitmproxy.proxy.layers.http import HttpLayer

from addons.engine.speed import dispatch, layers, lines, lookups, serving, trifles
from addons.engine.wrapping import stock_of

ROOMS = (dispatch, serving, layers, lines, lookups, trifles)
CHANGED: tuple[tuple[Any, str], ...] = (
    *((owner, name) for owner, name, _ in dispatch._REPLACED),
    *((AddonManager, name) for name in dispatch._WRAPPED),
    *((owner, name) for owner, name, _ in serving._CHANGES),
    (HttpLayer, "event_to_child"),
    (Dumper, "echo_flow"),
    *((owner, "_handle_event") for owner in layers._HANDLERS),
    *((owner, name) for owner, name, _ in trifles.CHANGES),
    *((Headers, name) for name in lookups._CHANGES),
)
_ABSENT = object()

Scenario = Callable[[Master, list[Any]], Awaitable[None]]
Said = tuple[str, int, str, tuple[str, ...]]


@contextmanager
def engine(fast: bool) -> Iterator[None]:
    """The speed changes made, or taken back; in the end all is as it was."""
    before = [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name in CHANGED]
    for room in ROOMS:
        if fast:
            room.install()
        else:
            room.uninstall()
    for function in (lookups._getitem, stock_of(lookups._getitem)):
        # CPython may call the one for the other by `headers[name]` once a class was changed a thousand times; not so
        # where the function was changed.
        function.__defaults__ = None
    try:
        yield
    finally:
        for owner, name, function in before:
            if function is not _ABSENT:
                setattr(owner, name, function)
            elif name in vars(owner):
                delattr(owner, name)


class Listener(logging.Handler):
    """Keeps what is logged: the logger, the level, the text, the functions of the traceback."""

    def __init__(self, said: list[Said], level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        trace = record.exc_info[2] if isinstance(record.exc_info, tuple) else None
        frames = tuple(frame.name for frame in traceback.extract_tb(trace))
        self.said.append((record.name, record.levelno, record.getMessage(), frames))


@contextmanager
def listening(level: int = logging.NOTSET) -> Iterator[list[Said]]:
    """What any logger of mitmproxy's says meanwhile."""
    said: list[Said] = []
    listener = Listener(said, level)
    root = logging.getLogger()
    before, root.level = root.level, logging.DEBUG
    root.addHandler(listener)
    try:
        yield said
    finally:
        root.removeHandler(listener)
        root.setLevel(before)


def play(scenario: Scenario, fast: bool) -> tuple[list[Any], list[Said]]:
    """What a scenario has recorded, and what was logged; under eager tasks, as in mitmproxy."""
    record: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        loop.set_exception_handler(lambda _loop, _context: None)
        master = Master(options.Options())
        try:
            await scenario(master, record)
        finally:
            master._legacy_log_events.uninstall()

    with engine(fast), listening() as said:
        asyncio.run(main())
    return record, [each for each in said if each[0].startswith("mitmproxy")]


def same(scenario: Scenario) -> tuple[list[Any], list[Said]]:
    """What a scenario has recorded, stock's and the changed methods agreeing about it."""
    stock, fast = play(scenario, fast=False), play(scenario, fast=True)
    assert fast[0] == stock[0]
    assert fast[1] == stock[1]
    return stock
