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
from collections import Counter, OrderedDict
from typing import Any

from addons.core.known_secrets import KnownSecrets, unescaped
from addons.core.printable import printable
from addons.core.secrets import scrub

_KEPT = 512
"""Exchanges whose secrets are looked for in what is logged: the newest ones."""
_KEPT_SECRETS = 1024
_KEPT_BYTES = 1 << 18
"""What they may have together: a line must not become slow to write, nor these names a burden."""
_LONGEST = 1 << 14
"""Characters of a record; a traceback of Python's own is shorter."""
_QUOTED = re.compile(r"""\bb(?:'(?:[^'\\]++|\\.)*+(?:'|\\?$)|"(?:[^"\\]++|\\.)*+(?:"|\\?$))""", re.DOTALL)
_HEX = re.compile(r"(?<=ClientHello: )[0-9a-f]+")
_SHORT = 8
"""Bytes of a quotation that may stay: an HTTP version, an empty one."""


class _Known:
    """The secrets of the newest exchanges, by the exchange's id. One key in many exchanges is looked for once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, dict[bytes, bytes]] = OrderedDict()
        self._uses: Counter[bytes] = Counter()
        self._shown: dict[bytes, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    @property
    def secrets(self) -> dict[bytes, bytes]:
        """All that is looked for, and what is shown for each."""
        return self._shown

    def __setitem__(self, name: str, known: KnownSecrets) -> None:
        self._drop(name)
        if not len(known):
            return
        self._kept[name] = values = {value: known.shown(value) for value in known}
        for value, shown in values.items():
            if not self._uses[value]:
                self._shown[value] = shown
                self._bytes += len(value)
            self._uses[value] += 1
        while len(self._kept) > _KEPT or len(self._shown) > _KEPT_SECRETS or self._bytes > _KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        for value in self._kept.pop(name, ()):
            self._uses[value] -= 1
            if not self._uses[value]:
                del self._uses[value], self._shown[value]
                self._bytes -= len(value)

    def mask(self, text: str) -> str:
        """`text` without any of them."""
        raw = text.encode("utf-8", "surrogatepass")
        plain = unescaped(raw)
        found = KnownSecrets(b"")
        for value, shown in self._shown.items():
            if value in raw or (plain is not raw and value in plain):
                found.put(value, shown)
        return found.mask(text) if len(found) else text


known_secrets = _Known()


class SafeRecord(logging.LogRecord):
    """A log record whose text, traceback included, shows no key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            text = _ended(self.getMessage())
        except Exception:  # a malformed log call: logging would print its arguments when it reports that
            text = "a malformed log call"
        if self.exc_info:
            # In the message, since mitmproxy's formatter writes `exc_info` anew, whatever `exc_text` says.
            text = "\n".join([text, _unquoted(_ended("".join(traceback.format_exception(*self.exc_info)).rstrip()))])
        if not self.name.startswith("addons"):
            text = _unquoted(text)
        # Exchanges under way are asked only where their bytes may be quoted as text: mitmproxy logs a lot below that.
        serious = self.levelno >= logging.WARNING
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
