"""Blocks: what a worker prints leaves it in whole blocks, since others print to the same place.

mitmdump prints an exchange line by line. Here the lines of one turn of the loop go out in one write, which the system
does not mix with another process's, up to 4 KiB where the output is a pipe.
"""

import asyncio
import atexit
import contextlib
import os
import select
import sys
import threading


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


def _printers(master: object) -> list[tuple[object, str]]:
    """Which objects of mitmproxy's print, and what they call the file."""
    addons = getattr(master, "addons", None)
    dumper = addons.get("dumper") if addons is not None else None
    termlog = getattr(getattr(master, "_termlog_addon", None), "logger", None)
    return [(owner, name) for owner, name in ((dumper, "outfp"), (termlog, "file")) if hasattr(owner, name)]
