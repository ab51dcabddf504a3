"""Blocks: what a worker prints leaves it in whole blocks, since others print to the same place.

mitmdump prints an exchange line by line. Here the lines of one turn of the loop go out in one write, which the system
does not mix with another process's, up to 4 KiB where the output is a pipe.

And what all workers would say while they start is left to one of them.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import select
import sys
import threading
from typing import TextIO


class Blocks:
    """A text file for printing, in place of sys.stdout."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text: list[str] = []
        self._lock = threading.Lock()
        self._called = False

    def write(self, text: str) -> int:
        """Keep it until the turn is over; outside of the loop until the line is."""
        with self._lock:
            self._text.append(text)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if text.endswith("\n"):
                self.flush()
        else:
            if not self._called:
                self._called = True
                loop.call_soon(self._turn_over)
        return len(text)

    def _turn_over(self) -> None:
        self._called = False
        self.flush()

    def flush(self) -> None:
        """Write what was kept. Ends the process where that fails, as mitmproxy's own log does."""
        with self._lock:
            data = "".join(self._text).encode("utf-8", "backslashreplace")
            self._text.clear()
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # another program has set our output so
                    select.select((), (self._descriptor,), ())
                except OSError:
                    sys.exit(1)


def install(master: object) -> None:
    """Have the log and the list of exchanges of a mitmdump printed in blocks.

    mitmproxy 12.2.3 prints line by line, so the lines of several processes get mixed. Remove when TermLog and Dumper
    write an event in one piece.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        blocks = Blocks(sys.stdout.fileno())
        for owner, name in _printers(master):
            setattr(owner, name, blocks)
        atexit.register(blocks.flush)


def print_with(master: object, formatter: logging.Formatter) -> TextIO | None:
    """Have a mitmproxy print its log by `formatter`, and the list of exchanges not at all; where whoever has a list of
    his own may write it. None where this one prints no log.

    mitmproxy 12.2.3 formats its log for people, and has no option for that. Remove when TermLog takes a formatter.
    """
    handler = _termlog(master)
    if handler is None:
        return None
    if not isinstance(getattr(handler, "file", None), Blocks):
        install(master)
    handler.setFormatter(formatter)
    file: TextIO = handler.file  # type: ignore[attr-defined]
    return file


class ErrorsOnly(logging.Filter):
    """Keeps the log that mitmproxy prints to errors, from `begin` to `end`.

    mitmproxy 12.2.3 says of each start what it loads and where it listens; so several workers would say it as many
    times. Remove when TermLog is an addon that can be found by its name, or has a filter of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handler: logging.Handler | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is an error."""
        return record.levelno >= logging.ERROR

    def begin(self, master: object) -> None:
        """Print errors alone from now on. Does nothing where this master prints no log."""
        self._handler = _termlog(master)
        if self._handler is not None:
            self._handler.addFilter(self)

    def end(self) -> None:
        """Print again what the log is set to."""
        if self._handler is not None:
            self._handler.removeFilter(self)


def _printers(master: object) -> list[tuple[object, str]]:
    """Which objects of mitmproxy's print, and what they call the file."""
    addons = getattr(master, "addons", None)
    dumper = addons.get("dumper") if addons is not None else None
    printers = ((dumper, "outfp"), (_termlog(master), "file"))
    return [(owner, name) for owner, name in printers if hasattr(owner, name)]


def _termlog(master: object) -> logging.Handler | None:
    """What prints the log; the addon that has it is in no list of addons."""
    handler: logging.Handler | None = getattr(getattr(master, "_termlog_addon", None), "logger", None)
    return handler
