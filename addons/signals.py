"""Signals: a first SIGINT or SIGTERM ends in order, a second one at once and without a word. SIGHUP has relay.yaml read
again, or says that the terminal is gone, which ends in order, too.

1. asyncio has Python write each signal to a descriptor of the loop. In a loop that is being closed this one is gone,
   and CPython prints `Exception ignored when trying to write to the signal wakeup fd`. So the handlers leave the loop
   before it closes.
2. After the first signal the system's own handling is in force, which needs no loop, no thread and no Python: the
   process is gone, and its exit code names the signal.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


_HANG_UP: tuple[signal.Signals, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


def read_again_by(loop: asyncio.AbstractEventLoop, again: Callable[[], None], end: Callable[[], None]) -> None:
    """Call `again` in the loop when SIGHUP comes; `end` where the terminal that was there is gone, unless SIGHUP was
    ignored till now (nohup). Nothing on Windows."""
    for number in _HANG_UP:
        ends = signal.getsignal(number) is not signal.SIG_IGN and _has_terminal()

        def begin(ends: bool = ends) -> None:
            (end if ends and not _has_terminal() else again)()

        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, begin)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _forget_hang_up(loop: asyncio.AbstractEventLoop) -> None:
    """relay ends: there is nothing left to be read again."""
    for number in _HANG_UP:
        if loop.remove_signal_handler(number):
            signal.signal(number, signal.SIG_IGN)


def end_by(loop: asyncio.AbstractEventLoop, first: Callable[[signal.Signals], None]) -> None:
    """Call `first` in the loop with the signal to end that comes; the next one ends this process. Not on Windows."""

    def begin(number: signal.Signals) -> None:
        _forget_hang_up(loop)
        for each in ENDING:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        first(number)

    for number in ENDING:
        # Windows has none of these, and only the main thread may set them.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, begin, number)


def leave(loop: asyncio.AbstractEventLoop) -> None:
    """The loop is about to close for another reason: a signal that comes now is borne, the next one ends."""
    with contextlib.suppress(NotImplementedError, ValueError), _blocked():
        _forget_hang_up(loop)
        for number in ENDING:
            if loop.remove_signal_handler(number):
                signal.signal(number, _bear)
        signal.set_wakeup_fd(-1)  # the loop's own goes with its last handler, and others may have one


def _bear(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """No signal is taken in between."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
