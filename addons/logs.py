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
from collections.abc import Callable
from typing import Any

from addons.core.known_secrets import LONGEST_ESCAPE, LONGEST_ESCAPED, KnownSecrets, unescaped
from addons.core.log_line import message_line
from addons.core.printable import printable
from addons.core.secrets import scrub

_KEPT = 512
"""Exchanges whose secrets are looked for in what is logged."""
_KEPT_SECRETS = 1024
_KEPT_BYTES = 1 << 18
"""What they may have together: a line must not become slow to write, nor these names a burden."""
_SHARE = 16
_SHARE_BYTES = 1 << 13
"""What an exchange keeps whoever else names how many: its first ones, those of its head. Of more it loses the rest."""
_LONGEST = 1 << 14
"""Characters of a record; a traceback of Python's own is shorter."""
_REACH = 512
"""Characters around a cut that are looked at, at least: a key may stand across it."""
_FAR = 1 << 13
_RUN = re.compile(r"[^\s\"',;\\]*+")
_QUOTED = re.compile(r"""\bb(?:'(?:[^'\\]++|\\.)*+(?:'|\\?$)|"(?:[^"\\]++|\\.)*+(?:"|\\?$))""", re.DOTALL)
_HEX = re.compile(r"(?<=ClientHello: )[0-9a-f]+")
_SHORT = 8
"""Bytes of a quotation that may stay: an HTTP version, an empty one."""


class _Kept:
    """What one exchange has named."""

    def __init__(self, client: str, known: KnownSecrets) -> None:
        self.client = client
        self.values = list(known)
        size = 0
        self.share = 0
        """How many of them it keeps when room is short."""
        for value in self.values[:_SHARE]:
            size += len(value)
            if size > _SHARE_BYTES:
                break
            self.share += 1


class _Known:
    """The secrets of exchanges, by the exchange's id. One key in many exchanges is looked for once.

    There is room for so many, and nobody can take that of others. Where it is short, these go first, the oldest of
    each:

    1. what an exchange has named beyond its share;
    2. exchanges that are over;
    3. exchanges of the client that has most of them.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._greedy: OrderedDict[str, None] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()
        self._of_client: dict[str, OrderedDict[str, None]] = {}
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

    def put(self, name: str, known: KnownSecrets, client: str = "") -> None:
        """Look for what the exchange `name` has named; `client` is its address."""
        self._drop(name)
        if not len(known):
            return
        kept = self._kept[name] = _Kept(client, known)
        self._of_client.setdefault(client, OrderedDict())[name] = None
        if len(kept.values) > kept.share:
            self._greedy[name] = None
        for value in kept.values:
            if not self._uses[value]:
                self._shown[value] = known.shown(value)
                self._bytes += len(value)
            self._uses[value] += 1
        while len(self._kept) > _KEPT or len(self._shown) > _KEPT_SECRETS or self._bytes > _KEPT_BYTES:
            self._make_room()

    def over(self, name: str) -> None:
        """The exchange is over: a line may still tell of it, but those under way are worth more."""
        if name in self._kept:
            self._over[name] = None

    def _make_room(self) -> None:
        if self._greedy and len(self._kept) <= _KEPT:
            name, _ = self._greedy.popitem(last=False)
            kept = self._kept[name]
            self._forget(kept.values[kept.share :])
            del kept.values[kept.share :]
        elif self._over:
            self._drop(next(iter(self._over)))
        else:
            most = max(self._of_client.values(), key=len)
            self._drop(next(iter(most)))

    def _drop(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is None:
            return
        self._greedy.pop(name, None)
        self._over.pop(name, None)
        own = self._of_client[kept.client]
        del own[name]
        if not own:
            del self._of_client[kept.client]
        self._forget(kept.values)

    def _forget(self, values: list[bytes]) -> None:
        for value in values:
            self._uses[value] -= 1
            if not self._uses[value]:
                del self._uses[value]
                self._bytes -= len(value)
                del self._shown[value]

    def reach(self) -> int:
        """Characters that one of them may have, however it is spelt, but for those that `without_long` takes out."""
        longest = max((len(value) for value in self._shown if len(value) <= _FAR), default=0)
        return max(_REACH, longest, min(longest, LONGEST_ESCAPED) * LONGEST_ESCAPE)

    def without_long(self, text: str) -> str:
        """A text of any length without the very long ones: there is room for few of these."""
        for value, shown in self._shown.items():
            if len(value) > _FAR:
                text = text.replace(value.decode("utf-8", "surrogateescape"), shown.decode("utf-8", "replace"))
        return text

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
        # Exchanges under way are asked only where their bytes may be quoted as text: mitmproxy logs a lot below that.
        serious = self.levelno >= logging.WARNING
        try:
            text = self.getMessage()
        except Exception:  # a malformed log call: logging would print its arguments when it reports that
            text = "a malformed log call"
        text = _safe(text if self.name.startswith("addons") else _unquoted(text), serious)
        if self.exc_info:
            # In the message, since mitmproxy's formatter writes `exc_info` anew, whatever `exc_text` says.
            trace = "".join(traceback.format_exception(*self.exc_info)).rstrip()
            text = "\n".join([text, _safe(_unquoted(trace), serious)])
        self.msg, self.args = text, None
        self.exc_info = self.exc_text = None
        if self.stack_info:
            self.stack_info = _safe(self.stack_info, serious=True)


def _safe(text: str, serious: bool) -> str:
    """`text` without keys and what steers a terminal, and with an end."""
    return printable(_ended(text, _masked if serious else scrub))


def _masked(text: str) -> str:
    return scrub(known_secrets.mask(text))


def _ended(text: str, mask: Callable[[str], str]) -> str:
    """The masked text, cut. What stands at the cut is masked with as much beyond it as a key may have: half a key would
    not be found."""
    if len(text) <= _LONGEST:
        return mask(text)
    left_out = len(text) - _LONGEST
    half = _LONGEST // 2
    if mask is _masked:
        text = known_secrets.without_long(text)
    reach = known_secrets.reach()
    first, last = mask(text[: half + reach]), mask(text[-(half + reach) :])
    # Half of a key that began or ended outside stands at most so far within.
    first = first[: min(half, max(0, len(first) - reach))]
    last = last[max(len(last) - half, reach) :]
    # A longer one that only looks like a key has lost its beginning.
    last = last[_RUN.match(last).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    return f"{first}\n... {left_out} characters left out ...\n{last}"


def _unquoted(text: str) -> str:
    text = _HEX.sub("...", text)
    return _QUOTED.sub(lambda found: found[0] if len(found[0]) <= _SHORT + 3 else "b'...'", text)


class _Flush(logging.Handler):
    """Lets what has gone wrong be seen at once: Python holds lines back where stdout is a file or a pipe."""

    def emit(self, record: logging.LogRecord) -> None:
        """Flush; mitmproxy's own handler, which stands before this one, has printed the record."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break at its end."""
        return message_line(record.created, record.levelname.lower(), record.getMessage())


def install() -> None:
    """Make every record of this process a safe one, and none of a failure wait."""
    logging.setLogRecordFactory(SafeRecord)
    root = logging.getLogger()
    for each in [each for each in root.handlers if type(each).__name__ == _Flush.__name__]:
        root.removeHandler(each)  # of an earlier load
    root.addHandler(_Flush(logging.WARNING))
