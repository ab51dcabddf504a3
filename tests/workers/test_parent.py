"""What the parent decides, without processes."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from addons import config, workers
from addons.workers import blocks, parent
from addons.workers.processes import Orders, told
from tests.config_text import read
from tests.workers.pairs import Memory


def at_work(settings: config.Settings) -> parent.Parent:
    """A parent that is not started."""
    orders = Orders(settings, ["mitmdump"])
    return parent.Parent(2, orders, lambda: orders, [], Memory())


@pytest.mark.parametrize(
    ("workers_key", "cores", "count"), [(1, 8, 1), (3, 8, 3), ("auto", 8, 8), ("auto", 100, 64), ("auto", None, 1)]
)
def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch, workers_key: int, cores: int | None, count: int) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: cores)
    settings = config.Settings.model_validate({"workers": workers_key})
    assert workers.count(settings.workers) == count


def test_who_keeps_ending_early_waits_longer_each_time() -> None:
    family = at_work(config.Settings())
    assert [family._pause(1, 2.0) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert family._pause(2, 2.0) == 0, "each for itself"
    assert family._pause(1, parent.STEADY) == 0
    assert family._pause(1, 2.0) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (3, "ended with exit code 3"), (-9, "was ended by SIGKILL"), (-99, "by signal 99")],
)
def test_an_end_in_words(code: int, words: str) -> None:
    assert words in told(code)


def test_which_changes_take_a_restart(tmp_path: Path) -> None:
    def fixed(text: str) -> list[str]:
        return parent._fixed(read(tmp_path / "relay.yaml", ""), read(tmp_path / "relay.yaml", text))

    assert fixed("chat: {model: x}\nlisten: {tls: null}\nworkers: 1") == []
    assert fixed("listen: {host: '::', port: 1}\nworkers: auto\nstore: {max_sessions: 1}") == [
        *("listen.host", "listen.port", "workers", "store")
    ]


# What workers print


def printing(monkeypatch: pytest.MonkeyPatch) -> tuple[blocks.Blocks, list[bytes]]:
    """A file to print to, and what is written, write by write."""
    written: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return blocks.Blocks(1), written


def test_one_turn_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    file, written = printing(monkeypatch)

    async def turns() -> None:
        print("127.0.0.1:1: GET /", file=file)
        print("  << 200 OK", file=file)
        assert not written
        await asyncio.sleep(0)
        print("你好 \ud800", file=file)
        file.flush()

    asyncio.run(turns())
    assert written == [b"127.0.0.1:1: GET /\n  << 200 OK\n", "你好 \\ud800\n".encode()]


def test_outside_of_the_loop_a_line_is_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    file, written = printing(monkeypatch)
    print("at the end", "of all", file=file)
    assert written == [b"at the end of all\n"]


def test_what_cannot_be_written_at_once_is_written_on() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "line\n" * 100_000
    reader = threading.Thread(target=lambda: received.append(_all(reading)))
    received: list[bytes] = []
    reader.start()
    blocks.Blocks(writing).write(text)
    os.close(writing)
    reader.join()
    assert received == [text.encode()]


def _all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def test_who_cannot_print_ends() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(SystemExit):
        print("x", file=blocks.Blocks(writing))
    os.close(writing)
