"""Printing: what mitmdump prints of a flow steers nobody's terminal.

mitmproxy 12.2.3 replaces the controls of C0 in what it prints of paths, reasons, errors and bodies. C1 (which terminals
obey, too), line separators and the controls of bidirectional text pass; here they are escaped as they are in the log.
"""

from typing import Any

from mitmproxy.utils import strutils

from addons.core.printable import printable
from addons.engine.wrapping import wrap


def install() -> None:
    """Make the change."""
    wrap(strutils, "escape_control_characters", _escaped)


def _escaped(stock: Any, text: str, keep_spacing: bool = True) -> str:
    shown: str = printable(stock(text, keep_spacing))
    return shown
