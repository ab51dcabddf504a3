"""A file whose long writes are done by a thread."""

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.io import tnetstring

from addons.engine.corrections.saving import BackgroundFile, _dumps
from addons.engine.wrapping import stock_of


class Slow(io.BytesIO):
    """A disk that takes its time, or is full."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.going = threading.Event()
        self.error = error
        self.threads = set[str]()

    def write(self, data: Any) -> int:
        self.threads.add(threading.current_thread().name)
        if len(data) > 1000:
            self.going.wait(10)
            if self.error is not None:
                raise self.error
        return super().write(data)

    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


LONG = b"x" * (1 << 20)


def test_what_is_short_is_written_at_once() -> None:
    slow = Slow()
    file = BackgroundFile(slow)
    file.write(b"ab")
    file.flush()
    assert slow.getvalue() == b"ab" and slow.threads == {threading.current_thread().name}


def test_a_long_write_waits_for_nobody_and_the_order_stays() -> None:
    slow = Slow()
    file = BackgroundFile(slow)
    file.write(b"a")
    file.write(LONG)  # returns though the disk does not go on
    file.write(b"b")
    file.flush()
    slow.going.set()
    file.close()
    assert slow.kept == b"a" + LONG + b"b"


def test_an_error_is_raised_by_the_next_call() -> None:
    slow = Slow(OSError(28, "full"))
    slow.going.set()
    file = BackgroundFile(slow)
    file.write(LONG)
    with pytest.raises(OSError, match="full"):
        file.close()
    assert slow.closed


def test_no_later_write_hides_an_error() -> None:
    slow = Slow(OSError(28, "full"))
    file = BackgroundFile(slow)
    file.write(LONG)
    file.write(b"behind the gap")
    slow.going.set()
    with pytest.raises(OSError, match="full"):
        file.close()
    assert slow.kept == b""


def test_what_may_wait_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("addons.engine.corrections.saving._MOST", 3 << 20)
    with (tmp_path / "x").open("wb") as real:
        file = BackgroundFile(real)
        for _ in range(50):
            file.write(LONG)
            assert file._waiting <= 4 << 20
        file.close()
    assert (tmp_path / "x").stat().st_size == 50 << 20


def test_a_record_with_halves_of_characters_is_written() -> None:
    """JSON can name them, and mitmproxy can't write them."""
    stock = stock_of(tnetstring.dumps)
    told = {"comment": "\ud800 told", "metadata": {"\udc00": ["a", ("\ud800", 1, None)], "b": b"\xff"}}
    with pytest.raises(UnicodeEncodeError):
        stock(told)
    read = tnetstring.loads(_dumps(stock, told))
    assert read == {"comment": "? told", "metadata": {"?": ["a", ["?", 1, None]], "b": b"\xff"}}
    assert _dumps(stock, {"a": "é"}) == stock({"a": "é"})
