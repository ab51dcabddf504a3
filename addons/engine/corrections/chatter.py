"""Chatter: lines of mitmproxy's log that say the same of each exchange."""

import logging
from contextvars import ContextVar
from typing import Any

from mitmproxy.proxy import server

from addons.engine.wrapping import wrap

lent = ContextVar("lent", default=False)
"""The connection to upstream in this task was there before: it is neither made nor closed here."""

_STREAMING = ("Streaming request to ", "Streaming response from ")
_LENDING = ("server connect ", "server disconnect ")


def install() -> None:
    """Make the change of this room."""
    wrap(server.ConnectionHandler, "log", _log)


def goes_without_saying(message: str, level: int) -> bool:
    """Whether a line of the log is left out."""
    if level == logging.NOTSET:
        return True  # `pause`
    if level != logging.INFO:
        return False
    return message.startswith(_STREAMING) or (lent.get() and message.startswith(_LENDING))


def _log(stock: Any, handler: Any, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
    """mitmproxy 12.2.3 says of each body that is streamed that it is, and of each connection of the pool that it
    is made and closed; so mitmweb's event log is full of what is always so, and each line costs as much as a hook.
    Remove when these lines are of the level DEBUG, and connections to servers are shared by clients.
    """
    if not goes_without_saying(message, level):
        stock(handler, message, level, exc_info)
