"""Saving: a flow of many megabytes is written to `-w FILE` by a thread, since the disk takes its time; and every flow
can be written.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from mitmproxy.addons.save import Save
from mitmproxy.io import tnetstring

from addons.engine.wrapping import wrap

_SMALL = 1 << 18
"""Bytes that are written at once, as stock does, unless others are still on their way."""
_MOST = 256 << 20
"""Bytes that may wait to be written; whoever brings more waits, too."""


def install() -> None:
    """Make the changes of this room."""
    wrap(Save, "maybe_rotate_to_new_file", _open)
    wrap(tnetstring, "dumps", _dumps)


def _dumps(stock: Any, value: Any) -> bytes:
    """mitmproxy 12.2.3 writes texts as UTF-8, which has no halves of characters, while JSON can name them; so what a
    stranger says with one in it, quoted in a comment or in metadata, costs the record. Here they are `?` then. Remove
    when tnetstring.dumps takes every str.
    """
    try:
        return bytes(stock(value))
    except UnicodeEncodeError:
        return bytes(stock(_writable(value)))


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_writable(name): _writable(each) for name, each in value.items()}
    return [_writable(each) for each in value] if isinstance(value, list | tuple) else value


def _open(stock: Any, save: Save) -> None:
    """mitmproxy 12.2.3 writes a flow to the file on the loop, and flushes; so while the disk takes its time over many
    megabytes nobody is served. Remove when Save writes in a thread.
    """
    stock(save)
    if save.stream is not None and not isinstance(save.stream.fo, BackgroundFile):
        file: Any = BackgroundFile(save.stream.fo)
        save.stream.fo = file


class BackgroundFile:
    """A file whose long writes are done by a thread, in their order. An error is raised by the next call."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relay-save")
        self._last: Future[None] | None = None
        self._waiting = 0
        self._lock = threading.Lock()
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write it now, or soon. Raises OSError."""
        busy = self._is_busy()
        if not busy and len(data) <= _SMALL:
            return self._file.write(data)
        if busy and self._waiting + len(data) > _MOST and self._last is not None:
            self._last.result()
        with self._lock:
            self._waiting += len(data)
        self._last = self._thread.submit(self._write, data)
        return len(data)

    def flush(self) -> None:
        """Flush what is written now; the thread does so by itself. Raises OSError."""
        if not self._is_busy():
            self._file.flush()

    def close(self) -> None:
        """Write what is left, and close. Raises OSError."""
        self._thread.shutdown()
        self._file.close()
        if self._error is not None:
            raise self._error

    def _is_busy(self) -> bool:
        """Whether something is still to be written. Raises what went wrong with what was."""
        if self._error is not None:
            raise self._error
        if self._last is None or not self._last.done():
            return self._last is not None
        last, self._last = self._last, None
        last.result()
        return False

    def _write(self, data: bytes) -> None:
        try:
            if self._error is None:  # what came behind a gap would be of no use
                self._file.write(data)
                self._file.flush()
        except OSError as error:
            self._error = error
        finally:
            with self._lock:
                self._waiting -= len(data)
