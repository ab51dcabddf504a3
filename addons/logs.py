"""No key in the log: every log record passes here before any handler sees it.

mitmproxy logs what it could not parse, addresses and tracebacks among it. A record factory is the one place that all of
it goes through, whichever logger and handler it is meant for.

1. What looks like a key is cut.
2. So is any key of an exchange under way, whatever it looks like.
3. Bytes that mitmproxy and the libraries under it quote are left out: they quote what came over the wire where it is no
   request yet and nobody can tell what in it is a key.

What would steer a terminal, or make one line look like two, is escaped (`core.printable`), and a record has an end.
"""

import contextlib
import logging
import re
import sys
import traceback
from collections import OrderedDict
from typing import Any

from addons.core.known_secrets import KnownSecrets, unescaped
from addons.core.printable import printable
from addons.core.secrets import scrub

_KEPT = 512
"""Exchanges whose secrets are looked for in what is logged: the newest ones."""
_KEPT_SECRETS = 2048
_KEPT_BYTES = 1 << 18
"""What they may have together: a line must not become slow to write, nor these names a burden."""
_LONGEST = 1 << 15
"""Characters of a record; a traceback of Python's own is shorter."""
_QUOTED = re.compile(r"""\bb(?:'(?:[^'\\]++|\\.)*+(?:'|\\?$)|"(?:[^"\\]++|\\.)*+(?:"|\\?$))""", re.DOTALL)
_HEX = re.compile(r"(?<=ClientHello: )[0-9a-f]+")
_SHORT = 8
"""Bytes of a quotation that may stay: an HTTP version, an empty one."""


class _Known:
    """The secrets of the newest exchanges, by the exchange's id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[KnownSecrets, int, int]] = OrderedDict()
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __setitem__(self, name: str, known: KnownSecrets) -> None:
        self._drop(name)
        if not len(known):
            return
        size = sum(map(len, known))
        self._kept[name] = (known, len(known), size)
        self._count += len(known)
        self._bytes += size
        while len(self._kept) > _KEPT or self._count > _KEPT_SECRETS or self._bytes > _KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is not None:
            self._count -= kept[1]
            self._bytes -= kept[2]

    def mask(self, text: str) -> str:
        """`text` without any of them."""
        raw = text.encode("utf-8", "surrogatepass")
        plain = unescaped(raw)
        for known, _, _ in list(self._kept.values()):
            if any(value in raw or value in plain for value in known):
                text = known.mask(text)
        return text


known_secrets = _Known()


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
        text = _ended(text)
        self.msg, self.args = printable(scrub(known_secrets.mask(text) if serious else text)), None
        self.exc_info = self.exc_text = None
        if self.stack_info:
            self.stack_info = printable(scrub(known_secrets.mask(_ended(self.stack_info))))


def _ended(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n... {len(text) - _LONGEST} characters left out ...\n{text[-half:]}"


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
