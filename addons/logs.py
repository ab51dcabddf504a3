"""No key in the log: every log record passes here before any handler sees it.

mitmproxy logs what it could not parse, addresses and tracebacks among it. A record factory is the one place that all of
it goes through, whichever logger and handler it is meant for.
"""

import logging
import traceback
from typing import Any

from addons.core.secrets import scrub


class SafeRecord(logging.LogRecord):
    """A log record whose text, traceback included, shows no key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.msg = scrub(self.getMessage())
            self.args = None
        except Exception:  # a malformed log call: logging would print its arguments when it reports that
            self.msg, self.args = "a malformed log call", None
        if self.stack_info:
            self.stack_info = scrub(self.stack_info)
        if self.exc_info and not self.exc_text:
            self.exc_text = scrub("".join(traceback.format_exception(*self.exc_info)).rstrip())


def install() -> None:
    """Make every record of this process a safe one."""
    logging.setLogRecordFactory(SafeRecord)
