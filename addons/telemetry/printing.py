"""Printing: `log: json`, one line for each exchange that is over."""

import sys
from typing import TextIO

from addons.core.log_line import exchange_line
from addons.core.metrics import Numbers
from addons.core.observed import Observed


class ExchangeLines:
    """Writes lines to where mitmproxy prints, once that is known."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self.file: TextIO | None = None

    def over(self, seen: Observed) -> None:
        """An exchange is over."""
        if self.file is None:
            return
        try:
            line = exchange_line(seen)
        except Exception:
            self._numbers.count("relay_log_lines_lost")
            raise
        try:
            self.file.write(line + "\n")
        except OSError:
            sys.exit(1)  # as mitmproxy does where it can't print
