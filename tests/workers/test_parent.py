"""What the parent decides, without processes."""

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from addons import workers
from addons.config.settings import Settings
from addons.engine.corrections import output
from addons.workers import parent, processes
from addons.workers.processes import Orders, exit_text
from tests.support.config_text import read
from tests.support.pairs import Memory


def at_work(settings: Settings) -> parent.Parent:
    """A parent that is not started."""
    orders = Orders(settings, ["mitmdump"])
    return parent.Parent(2, orders, lambda: orders, [], Memory())


@pytest.mark.parametrize(
    ("workers_key", "cores", "count"), [(1, 8, 1), (3, 8, 3), ("auto", 8, 8), ("auto", 100, 64), ("auto", None, 1)]
)
def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch, workers_key: int, cores: int | None, count: int) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: cores)
    settings = Settings.model_validate({"workers": workers_key})
    assert workers.count(settings.workers) == count


def test_who_keeps_ending_early_waits_longer_each_time() -> None:
    family = at_work(Settings())
    assert [family._pause(1, 2.0) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert family._pause(2, 2.0) == 0, "each for itself"
    assert family._pause(1, parent.STEADY) == 0
    assert family._pause(1, 2.0) == 0


class Someone:
    """A worker's process, as a test has it."""

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.name = f"worker {number}"
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.draining = self.late = False
        self.age = 1.0

    @property
    def was_ready(self) -> bool:
        return self.ready.done() and self.ready.result()

    @property
    def serves(self) -> bool:
        return self.was_ready and not self.ended.done()

    def comes_up(self) -> None:
        self.ready.set_result(True)

    def ends(self, code: int) -> None:
        if not self.ready.done():
            self.ready.set_result(False)
        if not self.ended.done():
            self.ended.set_result(code)

    def end(self) -> None:
        self.ends(0)

    def drain(self) -> None:
        self.draining = True
        self.ends(0)

    retire = leave = drain

    def kill(self) -> None:
        self.ends(-9)


async def _sweep(*_: object) -> None:
    """Nothing is kept."""


class Crew:
    """Plays the system for a parent: each start is a Someone, or an error where `refusals` has one for it."""

    def __init__(self, family: parent.Parent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.family = family
        self.started: asyncio.Queue[Someone] = asyncio.Queue()
        self.refusals: list[OSError] = []
        monkeypatch.setattr(processes.Process, "start", self._start)
        monkeypatch.setattr(parent, "_log_to_stdout", lambda on_broken, log: None)
        monkeypatch.setattr(parent, "sweep", _sweep)
        monkeypatch.setattr(family, "_pause", self._pause)
        self.ages: list[float] = []

    def _pause(self, number: int, age: float) -> float:
        self.ages.append(age)
        return 0.0

    async def _start(self, number: int, *_: object) -> Someone:
        if self.refusals:
            raise self.refusals.pop()
        someone = Someone(number)
        self.started.put_nowait(someone)
        return someone

    async def next(self, number: int) -> Someone:
        someone = await asyncio.wait_for(self.started.get(), 5)
        assert someone.number == number
        return someone


def played(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Crew, parent.Parent], Awaitable[None]], count: int = 2
) -> int:
    """The exit code of a parent during which `play` happens."""

    async def scenario() -> int:
        family = at_work(Settings())
        family.count = count
        crew = Crew(family, monkeypatch)
        life = asyncio.create_task(family.run())
        await play(crew, family)
        return await asyncio.wait_for(life, 5)

    before = signal.getsignal(signal.SIGHUP)
    try:
        return asyncio.run(scenario())
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.signal(signal.SIGHUP, before)


AGAIN = OSError(errno.EAGAIN, "Resource temporarily unavailable")


def test_who_ends_while_it_starts_is_started_again_once_one_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        announced: list[bool] = []
        family.announce = lambda: announced.append(True)
        first = await crew.next(1)
        assert not announced
        first.comes_up()
        (await crew.next(2)).ends(-9)
        assert announced == [True]
        (await crew.next(2)).ends(3)
        crew.refusals = [AGAIN, AGAIN]
        first.ends(1)
        for _ in range(2):  # whoever came first
            someone = await asyncio.wait_for(crew.started.get(), 5)
            someone.comes_up()
        while not family._all_told:
            await asyncio.sleep(0)
        family.stop(0)

    caplog.set_level("INFO")
    assert played(monkeypatch, play) == 0
    assert "worker 2 was ended by SIGKILL; it is started again" in caplog.text
    assert "can't be started (Resource temporarily unavailable); it is started again" in caplog.text
    assert caplog.text.count("2 workers serve") == 1


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [(3, 3, "its words are above"), (0, 1, "its words are above"), (-9, 137, "set workers to a smaller number")],
)
def test_without_a_first_worker_all_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ended: int, code: int, words: str
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        (await crew.next(1)).ends(ended)

    assert played(monkeypatch, play) == code
    assert words in caplog.text and len(caplog.records) == 1


def test_a_first_worker_that_cannot_be_started_ends_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        crew.refusals = [AGAIN]

    assert played(monkeypatch, play) == 1
    assert "worker 1 can't be started (Resource temporarily unavailable)" in caplog.text


def test_whoever_is_not_ready_in_time_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        (await crew.next(1)).comes_up()
        late = await crew.next(2)
        (await crew.next(2)).comes_up()
        assert late.late and late.ended.result() == -9
        assert crew.ages == [0.0], "however long it took, it never served"
        family.stop(0)

    monkeypatch.setattr(parent, "START_TIMEOUT", 0.05)
    assert played(monkeypatch, play) == 0
    assert "worker 2 was not ready within 0.05 s" in caplog.text


def test_a_first_worker_that_is_not_ready_in_time_ends_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        await crew.next(1)

    monkeypatch.setattr(parent, "START_TIMEOUT", 0.05)
    assert played(monkeypatch, play) == 137
    assert "smaller number" not in caplog.text, "nobody but its parent has killed it"


def test_a_failed_fork_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has served for long ends, and none can be started: each try counts as an early end."""

    async def play(crew: Crew, family: parent.Parent) -> None:
        first = await crew.next(1)
        first.comes_up()
        first.age = 1000.0
        crew.refusals = [AGAIN, AGAIN, AGAIN]
        first.ends(1)
        await crew.next(1)
        assert crew.ages == [1000.0, 0.0, 0.0, 0.0]
        family.stop(0)

    assert played(monkeypatch, play, count=1) == 0


def test_a_successor_that_is_killed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        old = await crew.next(1)
        old.comes_up()
        while not family._all_told:
            await asyncio.sleep(0)
        family._renew.set()
        (await crew.next(1)).ends(-9)
        (await crew.next(1)).comes_up()
        assert await asyncio.wait_for(old.ended, 5) == 0 and old.draining
        family._renew.set()
        for _ in range(parent.ATTEMPTS):
            (await crew.next(1)).ends(-9)
        family._renew.set()
        (await crew.next(1)).ends(3)
        while caplog.text.count("the old one goes on") < 2:
            await asyncio.sleep(0)
        assert family._current[1].serves
        family.stop(0)

    assert played(monkeypatch, play, count=1) == 0
    assert caplog.text.count("it is started again") == parent.ATTEMPTS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    async def play(crew: Crew, family: parent.Parent) -> None:
        first = await crew.next(1)
        first.comes_up()
        monkeypatch.setattr(first, "end", lambda: None)
        monkeypatch.setattr(first, "leave", lambda: None)
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        assert not first.ended.done()
        os.kill(os.getpid(), number)

    assert played(monkeypatch, play, count=1) == 128 + number


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (3, "ended with exit code 3"), (-9, "was ended by SIGKILL"), (-99, "by signal 99")],
)
def test_an_end_in_words(code: int, words: str) -> None:
    assert words in exit_text(code)


def test_which_changes_take_a_restart(tmp_path: Path) -> None:
    def fixed(text: str) -> list[str]:
        return parent._fixed(read(tmp_path / "relay.yaml", ""), read(tmp_path / "relay.yaml", text))

    assert fixed("chat: {model: x}\nlisten: {tls: null}\nworkers: 1") == []
    assert fixed("listen: {host: '::', port: 1}\nworkers: auto\nstore: {max_sessions: 1}") == [
        *("listen.host", "listen.port", "workers", "store")
    ]


# What workers print


def printing(monkeypatch: pytest.MonkeyPatch) -> tuple[output.Blocks, list[bytes]]:
    """A file to print to, and what is written, write by write."""
    written: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return output.Blocks(1), written


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
    output.Blocks(writing).write(text)
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
        print("x", file=output.Blocks(writing))
    os.close(writing)
