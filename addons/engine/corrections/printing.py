"""Printing: what mitmdump prints of a flow steers nobody's terminal.

mitmproxy 12.2.3 replaces the controls of C0 in what it prints of paths, reasons, errors and bodies. C1 (which terminals
obey, too), line separators and the controls of bidirectional text pass, and what it prints of a websocket's messages
and end has the path and the reason as they came; here all of it is escaped as it is in the log.
"""

from typing import Any

from mitmproxy import http
from mitmproxy.addons.dumper import Dumper
from mitmproxy.utils import strutils

from addons.core.printable import printable
from addons.engine.wrapping import wrap


def install() -> None:
    """Make the changes."""
    wrap(strutils, "escape_control_characters", _escaped)
    wrap(Dumper, "websocket_message", _with_escapes)
    wrap(Dumper, "websocket_end", _with_escapes)


def _escaped(stock: Any, text: str, keep_spacing: bool = True) -> str:
    """mitmproxy 12.2.3 replaces the controls of C0 alone; so those of C1, which terminals obey, too, line separators
    and the controls of bidirectional text steer the terminal of whoever reads. Remove when escape_control_characters
    replaces all that str.isprintable refuses.
    """
    shown: str = printable(stock(text, keep_spacing))
    return shown


def _with_escapes(stock: Any, dumper: Dumper, flow: http.HTTPFlow) -> None:
    """mitmproxy 12.2.3 prints the path and the close reason of a websocket as they came; so a stranger's bytes steer
    the terminal. Remove when Dumper escapes them in websocket_message and websocket_end.
    """
    socket, path = flow.websocket, flow.request.data.path
    reason = socket.close_reason if socket is not None else None
    try:
        flow.request.data.path = printable(flow.request.path, one_line=True).encode("utf-8", "surrogateescape")
        if socket is not None and reason:
            socket.close_reason = printable(reason, one_line=True)
        stock(dumper, flow)
    finally:
        flow.request.data.path = path
        if socket is not None:
            socket.close_reason = reason
