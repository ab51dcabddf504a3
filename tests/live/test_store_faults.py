"""What may befall the store of a running relay: a full disk, time, a kill, damage, a second relay, many sessions."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from addons.core.sessions import Session, Turn
from addons.store.embedded import EmbeddedStore
from tests.support import live
from tests.support.live import Live, LogWatch, eventually
from tests.support.shapes import chat_error
from tests.support.stores import keep
from tests.support.talking import (
    COMPLETIONS,
    DONE,
    ask_session,
    at_work,
    chunk,
    completion,
    history,
    message,
    post,
    streamed,
    succeeded,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
LONG = "长" * 900


def on_disk(folder: Path) -> bytes:
    """Every byte of a relay's store, write-ahead log and all."""
    return b"".join(path.read_bytes() for path in sorted((folder / ".relay").rglob("*")) if path.is_file())


def answered(relay: Live, upstream: Upstream, session: str, content: str, words: str = "ok") -> None:
    """One turn."""
    upstream.script(COMPLETIONS, Behaviour(body=completion(words)))
    assert succeeded(post(relay, message(session, content))) == words


# 1. A full disk


@contextmanager
def full_disk(relay: Live) -> Iterator[None]:
    """No file of relay's may grow; Linux tells it so in the middle of a write."""
    files = [path.stat().st_size for path in (relay.folder / ".relay").iterdir()]
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(files) + 5000
    resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (size, hard))  # type: ignore[attr-defined, unused-ignore]
    try:
        yield
    finally:
        resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (hard, hard))  # type: ignore[attr-defined, unused-ignore]


@linux
def test_a_full_disk_is_503_and_damages_nothing(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url) as relay:
        answered(relay, upstream, "s", "kept")
        with full_disk(relay):
            upstream.script(COMPLETIONS, Behaviour(body=completion("x" * 500_000)), times=2)
            chat_error(post(relay, message("s", "lost")), 503)
            chat_error(post(relay, message("new", "lost")), 503)
            big = Behaviour(headers=[("content-type", "text/event-stream")], chunks=streamed_words("y" * 500_000))
            upstream.script(COMPLETIONS, big)
            told = streamed(relay, message("s", "lost"))
            assert not told.broken and told.deltas, "the words were on their way already"
            assert (told.envelope["code"], told.envelope["data"]) == (503, None)
            assert history(relay, "s") == ["kept", "ok"], "what is there can be read"
            assert history(relay, "new") == []
        answered(relay, upstream, "s", "again")
        assert history(relay, "s") == ["kept", "ok", "again", "ok"]
        assert "can't be kept" in relay.log and "Traceback" not in relay.log
        assert "xxx" not in relay.log
    with live.relay(tmp_path, upstream.url) as relay:
        assert history(relay, "s") == ["kept", "ok", "again", "ok"]
        assert "damaged" not in relay.log


@linux
def test_a_conversation_is_forgotten_on_a_full_disk(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url, chat={"session_ttl": "20s"}) as relay:
        answered(relay, upstream, "s", "MARKER-of-the-user", "MARKER" + "m" * 50_000)
        answered(relay, upstream, "other", "kept")
        with full_disk(relay):
            assert ask_session(relay, "DELETE", "s").json()["code"] == 200
            assert history(relay, "s") == []
            assert history(relay, "other") == ["kept", "ok"]
        assert eventually(lambda: b"MARKER" not in on_disk(tmp_path), 15), "a sweep runs every two seconds"
        assert "Traceback" not in relay.log


def streamed_words(words: str) -> list[tuple[bytes, float]]:
    """An upstream's stream of this text."""
    pieces = [chunk(words[at : at + 50_000]) for at in range(0, len(words), 50_000)]
    return [(piece, 0.0) for piece in [*pieces, chunk(None, "stop"), DONE]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this machine lets us have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "relay-test", folder], capture_output=True)
    if done.returncode:
        pytest.skip("no mounting here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_disk_without_room_is_told_until_there_is_room(upstream: Upstream, tmp_path: Path, small_disk: Path) -> None:
    with live.relay(tmp_path, upstream.url, store={"path": str(small_disk / "store")}) as relay:
        answered(relay, upstream, "s", "kept")
        (small_disk / "filler").write_bytes(b"x" * (700 << 10))
        upstream.script(COMPLETIONS, Behaviour(body=completion("x" * 600_000)))
        chat_error(post(relay, message("s", "lost")), 503)
        assert history(relay, "s") == ["kept", "ok"]
        (small_disk / "filler").unlink()
        answered(relay, upstream, "s", "again", "x" * 100_000)
        assert history(relay, "s") == ["kept", "ok", "again", "x" * 100_000]


# 2. Text is forgotten


def test_nothing_is_left_on_the_disk_when_its_time_is_over(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url, chat={"session_ttl": "1s"}) as relay:
        answered(relay, upstream, "s", "MARKER-of-the-user", "MARKER-of-the-model" + "m" * 20_000)
        answered(relay, upstream, "s", "second", "MARKER-again")
        answered(relay, upstream, "short", "MARKER", "MARKER-too")
        assert b"MARKER-" in on_disk(tmp_path)
        assert eventually(lambda: b"MARKER-" not in on_disk(tmp_path), 6), "a sweep runs every second"
        assert b"mmmmmmmmmm" not in on_disk(tmp_path)
        assert history(relay, "s") == []


def test_nothing_is_left_of_what_was_forgotten_by_hand(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url, chat={"session_ttl": "10s"}) as relay:
        answered(relay, upstream, "s", "MARKER-of-the-user", "MARKER-of-the-model")
        assert ask_session(relay, "DELETE", "s").json()["code"] == 200
        assert eventually(lambda: b"MARKER-" not in on_disk(tmp_path), 6)


# 3. A kill


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_relay_that_is_killed_again_and_again_loses_no_finished_turn(upstream: Upstream, tmp_path: Path) -> None:
    turns: list[str] = []
    for life in range(3):
        with live.relay(tmp_path, upstream.url) as relay:
            assert history(relay, "s") == turns
            for number in range(3):
                content = f"{life}.{number} {LONG}"
                answered(relay, upstream, "s", content)
                turns += [content, "ok"]
            upstream.clear()
            upstream.script(COMPLETIONS, Behaviour(body=completion("late"), delay_headers=0.5))
            with relay.connect() as connection:
                body = b'{"apiKey":"sk-test-talk-0123456789","sessionId":"s","content":"under way"}'
                connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                at_work(upstream)
                relay.process.send_signal(signal.SIGKILL)  # the very moment after an answer
                relay.process.wait(10)
    with live.relay(tmp_path, upstream.url) as relay:
        assert history(relay, "s") == turns
        answered(relay, upstream, "s", "goes on")
        assert "damaged" not in relay.log
    assert not list((tmp_path / ".relay").glob("*damaged*"))


# 4. Damage, and a second relay


def test_a_damaged_file_is_set_aside_and_relay_goes_on(upstream: Upstream, tmp_path: Path) -> None:
    junk = b"SQLite format 3\0" + b"\xff" * 8000
    (tmp_path / ".relay").mkdir()
    (tmp_path / ".relay" / "sessions.db").write_bytes(junk)
    with live.relay(tmp_path, upstream.url) as relay:
        time.sleep(0.5)  # what mitmproxy finds in its log while it starts ends it a moment later
        answered(relay, upstream, "s", "works again")
        assert history(relay, "s") == ["works again", "ok"]
        [aside] = (tmp_path / ".relay").glob("sessions.damaged-*.db")
        assert aside.read_bytes() == junk
        [line] = [line for line in relay.log.splitlines() if "is damaged" in line]
        assert aside.name in line and "Traceback" not in relay.log


def test_a_second_relay_on_a_store_ends_and_the_first_goes_on(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with live.relay(tmp_path / "first", upstream.url) as first:
        watch = LogWatch(first)
        answered(first, upstream, "s", "before")
        store = {"path": str(tmp_path / "first" / ".relay")}
        with (
            pytest.raises(AssertionError, match=r"store\.path: another relay uses"),
            live.relay(tmp_path / "second", upstream.url, store=store),
        ):
            pass
        assert "listens at" not in (tmp_path / "second" / "relay.log").read_text()
        answered(first, upstream, "s", "after")
        assert history(first, "s") == ["before", "ok", "after", "ok"]
        watch.check()


# 5. Many sessions

MANY = 100_000


def test_a_sweep_of_very_many_does_not_stall_the_loop(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = EmbeddedStore(tmp_path, 2 * MANY, 2 * MANY, lambda: now[0])
    store._thread.submit(_fill, store, MANY).result()
    now[0] += 10_000

    async def scenario() -> tuple[list[float], list[float]]:
        pauses: list[float] = []
        waits: list[float] = []
        key, owner = store.key("sk-a", "beside")
        sweep = asyncio.ensure_future(store.sweep(100))
        last = time.perf_counter()
        while not sweep.done():
            await asyncio.sleep(0.001)
            here = time.perf_counter()
            pauses.append(here - last)
            last = here
            if len(pauses) % 50 == 0:  # somebody talks meanwhile
                await keep(store, key, owner, Session((Turn("u", "a"),)))
                assert (await store.load(key, 100)).turns
                last = time.perf_counter()
                waits.append(last - here)
        await sweep
        return pauses, waits

    pauses, waits = asyncio.run(scenario())
    assert store._shelf.count == 1
    store.close()
    pauses.sort()
    assert len(pauses) > 50, "the loop ran beside the sweep"
    # On a quiet machine the longest is 3 ms; what else runs on a busy one is not the sweep's doing.
    assert pauses[len(pauses) * 95 // 100] < 0.02
    assert pauses[-1] < 0.5
    assert waits and sorted(waits)[len(waits) // 2] < 0.3, "a message waits for a batch, not for the sweep"


def _fill(store: EmbeddedStore, count: int) -> None:
    shelf = store._shelf
    text = Session((Turn("u" * 50, "a" * 100),)).to_json()
    shelf.sql.execute("BEGIN")
    names = [f"{number:040x}" for number in range(count)]
    shelf.sql.executemany("INSERT INTO Dict (key, value) VALUES (?, ?)", ((name.encode(), text) for name in names))
    shelf.sql.executemany("INSERT INTO Life (key, owner, at) VALUES (?, ?, ?)", ((name, "o", 1.0) for name in names))
    shelf.sql.execute("COMMIT")
    shelf.count = count
