"""No key in the log: every log record passes here before any handler sees it.

mitmproxy logs what it could not parse, addresses and tracebacks among it. A record factory is the one place that all of
it goes through, whichever logger and handler it is meant for.

1. What looks like a key is cut.
2. So is any key of an exchange under way, whatever it looks like.
3. Bytes that mitmproxy and the libraries under it quote are left out: they quote what came over the wire where it is no
   request yet and nobody can tell what in it is a key.
"""

import contextlib
import logging
import re
import sys
import traceback
from collections import OrderedDict
from typing import Any

from addons.core.secrets import mask, scrub

_KEPT = 512
_QUOTED = re.compile(r"""\bb(?:'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$))""", re.DOTALL)
_HEX = re.compile(r"(?<=ClientHello: )[0-9a-f]+")
_SHORT = 8
"""Bytes of a quotation that may stay: an HTTP version, an empty one."""


class _Known(OrderedDict[str, dict[str, str]]):
    """The keys of the newest exchanges, by the exchange's id: each maps a key to what is shown for it."""

    def __setitem__(self, name: str, keys: dict[str, str]) -> None:
        super().__setitem__(name, keys)
        while len(self) > _KEPT:
            self.popitem(last=False)

    def mask(self, text: str) -> str:
        """`text` without any of them."""
        found = {key: shown for keys in self.values() for key, shown in keys.items() if key in text}
        return mask(text, found) if found else text


known_keys = _Known()


class SafeRecord(logging.LogRecord):
    """A log record whose text, traceback included, shows no key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            text = self.getMessage()
        except Exception:  # a malformed log call: logging would print its arguments when it reports that
            text = "a malformed log call"
        if self.exc_info:
            # In the message, since mitmproxy's formatter writes `exc_info` anew, whatever `exc_text` says.
            text = "\n".join([text, _unquoted("".join(traceback.format_exception(*self.exc_info)).rstrip())])
        if not self.name.startswith("addons"):
            text = _unquoted(text)
        # Exchanges under way are asked only where their bytes may be quoted as text: mitmproxy logs a lot below that.
        serious = self.levelno >= logging.WARNING
        self.msg, self.args = scrub(known_keys.mask(text) if serious else text), None
        self.exc_info = self.exc_text = None
        if self.stack_info:
            self.stack_info = scrub(known_keys.mask(self.stack_info))


def _unquoted(text: str) -> str:
    text = _HEX.sub("...", text)
    return _QUOTED.sub(lambda found: found[0] if len(found[0]) <= _SHORT + 3 else "b'...'", text)


class _Flush(logging.Handler):
    """Lets what has gone wrong be seen at once: Python holds lines back where stdout is a file or a pipe."""

    def emit(self, record: logging.LogRecord) -> None:
        """Flush; mitmproxy's own handler, which stands before this one, has printed the record."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()


def install() -> None:
    """Make every record of this process a safe one, and none of a failure wait."""
    logging.setLogRecordFactory(SafeRecord)
    root = logging.getLogger()
    for each in [each for each in root.handlers if type(each).__name__ == _Flush.__name__]:
        root.removeHandler(each)  # of an earlier load
    root.addHandler(_Flush(logging.WARNING))
