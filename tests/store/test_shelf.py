import asyncio
import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.core.sessions import Request, Session, Turn
from addons.store import StoreError, StoreInUse, folder, shelf
from addons.store.embedded import EmbeddedStore
from tests.support.stores import forget, keep

ROOT = Path(__file__).resolve().parent.parent.parent
TTL = 100.0
KEY = "sk-0123456789abcdefghij"


class Clock:
    """Seconds since the epoch, as a test has them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001  # as real ones do, no two calls see the same moment
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedStore]:
    opened = EmbeddedStore(tmp_path, 1000, 1000, clock)
    yield opened
    opened.close()


def said(text: str, answer: str = "ok") -> Session:
    return Session((Turn(text, answer),), Request("p", 0, 7))


def save(store: EmbeddedStore, name: str, session: Session, api_key: str = KEY) -> str:
    key, owner = store.key(api_key, name)
    asyncio.run(keep(store, key, owner, session))
    return key


def load(store: EmbeddedStore, name: str, api_key: str = KEY) -> Session:
    return asyncio.run(store.load(store.key(api_key, name)[0], TTL))


def on_disk(folder: Path) -> bytes:
    """Every byte in the folder, write-ahead log and all."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def in_thread(store: EmbeddedStore, work: Callable[[sqlite3.Connection], Any]) -> Any:
    """Do something to the shelf's own connection, in its own thread."""
    return store._thread.submit(lambda: work(store._shelf.sql)).result()


def test_a_session_is_kept(store: EmbeddedStore) -> None:
    session = Session((Turn("我叫小明", "你好\ud800"), Turn("a\nb", "", 9)), Request("p", 1, 12))
    save(store, "s", session)
    assert load(store, "s") == session
    assert load(store, "other") == Session()


def test_a_session_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    first = EmbeddedStore(tmp_path, 10, 10, clock)
    save(first, "s", said("hello"))
    first.close()
    second = EmbeddedStore(tmp_path, 10, 10, clock)
    assert load(second, "s") == said("hello")
    assert second.secret == first.secret
    second.close()


def test_the_newest_state_wins(store: EmbeddedStore) -> None:
    for number in range(5):
        save(store, "s", said(f"turn {number}"))
    assert load(store, "s") == said("turn 4")


def test_a_session_belongs_to_key_and_id(store: EmbeddedStore) -> None:
    names = [(key, name) for key in ("sk-a", "sk-b", "sk-a\0", "") for name in ("s", "b\0s", "", "\ud800")]
    assert len({store.key(*name)[0] for name in names}) == len(names)
    assert len({store.key(key, name)[1] for key, name in names}) == 4  # one owner for each key
    save(store, "s", said("mine"), "sk-a")
    assert load(store, "s", "sk-b") == Session()


def test_two_stores_name_a_session_differently(tmp_path: Path, clock: Clock) -> None:
    stores = [EmbeddedStore(tmp_path / name, 9, 9, clock) for name in "ab"]
    assert stores[0].key(KEY, "s") != stores[1].key(KEY, "s")
    for each in stores:
        each.close()


@pytest.mark.parametrize(("waited", "there"), [(TTL - 1, True), (TTL + 1, False)], ids=["in time", "too late"])
def test_a_session_has_its_time_after_the_last_turn(
    store: EmbeddedStore, clock: Clock, waited: float, there: bool
) -> None:
    save(store, "s", said("one"))
    clock.now += TTL - 1
    save(store, "s", said("two"))
    clock.now += waited
    assert load(store, "s") == (said("two") if there else Session())


def test_a_sweep_takes_what_is_old_and_nothing_else(store: EmbeddedStore, clock: Clock) -> None:
    save(store, "old", said("old"))
    clock.now += TTL
    save(store, "new", said("new"))
    asyncio.run(store.sweep(TTL))
    clock.now -= TTL  # as if no time had passed: it is gone, not only too old
    assert load(store, "old") == Session()
    assert load(store, "new") == said("new")
    assert store._shelf.count == 1


def test_a_sweep_goes_on_until_all_is_gone(store: EmbeddedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "SWEEP_BATCH", 4)
    for number in range(13):
        save(store, f"s{number}", said("x"))
    clock.now += 2 * TTL
    asyncio.run(store.sweep(TTL))
    assert store._shelf.count == 0
    assert in_thread(store, lambda sql: sql.execute("SELECT count(*) FROM Dict").fetchone()) == (0,)


def test_a_deleted_session_is_gone(store: EmbeddedStore) -> None:
    key = save(store, "s", said("x"))
    assert asyncio.run(forget(store, key)) is True
    assert asyncio.run(forget(store, key)) is False
    assert load(store, "s") == Session()
    assert store._shelf.count == 0


@pytest.mark.parametrize("limits", [(3, 1000), (1000, 3)], ids=["in all", "of one key"])
def test_the_one_unused_for_longest_makes_room(tmp_path: Path, clock: Clock, limits: tuple[int, int]) -> None:
    store = EmbeddedStore(tmp_path, *limits, clock)
    for name in ("a", "b", "c"):
        save(store, name, said(name))
    save(store, "a", said("again"))  # used again, so b is the oldest
    save(store, "d", said("d"))
    assert [load(store, name).turns != () for name in "abcd"] == [True, False, True, True]
    assert store._shelf.count == 3
    store.close()


def test_one_key_cannot_push_out_another_s_sessions(tmp_path: Path, clock: Clock) -> None:
    store = EmbeddedStore(tmp_path, 1000, 5, clock)
    save(store, "s", said("mine"), "sk-mine")
    for number in range(20):
        save(store, f"s{number}", said("x"), "sk-greedy")
    assert load(store, "s", "sk-mine") == said("mine")
    assert store._shelf.count == 6
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_nobody_else_may_read_the_folder(tmp_path: Path, clock: Clock) -> None:
    before = os.umask(0)
    try:
        store = EmbeddedStore(tmp_path / "new", 9, 9, clock)
        save(store, "s", said("x"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        store.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert {"secret", "sessions.db", "sessions.db-wal"} <= set(modes)


def test_neither_key_nor_session_id_is_written(store: EmbeddedStore, tmp_path: Path) -> None:
    save(store, "8d1cb9b0-d535-43a8", said("x"))
    written = on_disk(tmp_path)
    assert b'["x"' in written
    assert KEY.encode() not in written
    assert b"8d1cb9b0-d535-43a8" not in written


def test_a_secret_that_was_cut_off_is_made_anew(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    store = EmbeddedStore(tmp_path, 9, 9, clock)
    assert len(store.secret) == 32
    assert (tmp_path / "secret").read_bytes() == store.secret
    store.close()


@pytest.mark.parametrize("length", [20, 20_000], ids=["short texts", "long texts"])
@pytest.mark.parametrize("how", ["expired", "deleted", "evicted", "overwritten"])
def test_nothing_of_a_text_is_left_after_a_sweep(tmp_path: Path, clock: Clock, how: str, length: int) -> None:
    store = EmbeddedStore(tmp_path, 12, 1000, clock)
    secret_text, other = "MARKER-" + "m" * length, "KEPT-" + "k" * length
    for number in range(4):
        save(store, f"filler {number}", said(other))
    key = save(store, "s", said(secret_text))
    assert b"MARKER-" in on_disk(tmp_path)
    if how == "deleted":
        asyncio.run(forget(store, key))
    elif how == "overwritten":
        save(store, "s", said("short"))
    elif how == "expired":
        clock.now += 2 * TTL
        save(store, "young", said(other))
    else:
        for number in range(20):
            save(store, f"more {number}", said(other))
    asyncio.run(store.sweep(TTL))
    left = on_disk(tmp_path)
    assert b"MARKER-" not in left
    assert b"mmmmmmmmmm" not in left
    assert b"KEPT-" in left
    store.close()


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(lambda data: b"not a database at all" * 500, id="something else"),
        pytest.param(lambda data: data[:4096] + b"\xff" * (len(data) - 4096), id="overwritten pages"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut in half"),
    ],
)
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, clock: Clock, garbage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = EmbeddedStore(tmp_path, 1000, 1000, clock)
    for number in range(20):
        save(first, f"s{number}", said("x" * 3000))
    first.close()
    file = tmp_path / "sessions.db"
    damaged = garbage(file.read_bytes())
    file.write_bytes(damaged)
    second = EmbeddedStore(tmp_path, 9, 9, clock)
    aside = list(tmp_path.glob("sessions.damaged-*.db"))
    assert [path.read_bytes() for path in aside] == [damaged]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert aside[0].name in caplog.text
    assert load(second, "s1") == Session()
    save(second, "s", said("works again"))
    assert load(second, "s") == said("works again")
    assert second.secret == first.secret
    second.close()


def test_a_whole_file_is_not_set_aside(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        EmbeddedStore(tmp_path, 9, 9, clock).close()
    assert not list(tmp_path.glob("sessions.damaged-*"))
    assert not caplog.records


def test_a_store_is_one_relay_s(tmp_path: Path, clock: Clock) -> None:
    first = EmbeddedStore(tmp_path, 9, 9, clock)
    with pytest.raises(StoreInUse, match=r"store\.path"):
        EmbeddedStore(tmp_path, 9, 9, clock)
    save(first, "s", said("x"))  # the attempt did no harm
    first.close()
    EmbeddedStore(tmp_path, 9, 9, clock).close()


def child(script: str, folder: Path) -> subprocess.Popen[str]:
    """A second process at work on a store."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


HOLDER = """
import sys, time
from pathlib import Path
from addons.store.embedded import EmbeddedStore
from tests.support.stores import keep
store = EmbeddedStore(Path(sys.argv[1]), 9, 9, time.time)
print("open", flush=True)
time.sleep(60)
"""


def test_a_store_is_one_process_s_until_that_ends(tmp_path: Path, clock: Clock) -> None:
    holder = child(HOLDER, tmp_path)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreInUse):
            EmbeddedStore(tmp_path, 9, 9, clock)
    finally:
        holder.kill()
        holder.communicate()
    EmbeddedStore(tmp_path, 9, 9, clock).close()


SAVER = """
import asyncio, sys, time
from pathlib import Path
from addons.core.sessions import Session, Turn
from addons.store.embedded import EmbeddedStore
from tests.support.stores import keep
store = EmbeddedStore(Path(sys.argv[1]), 100000, 100000, time.time)
async def main():
    for number in range(100000):
        key, owner = store.key("sk-a", f"{number % 50}")
        await keep(store, key, owner, Session((Turn(str(number), "x" * (number % 3000)),)))
        print(number, flush=True)
asyncio.run(main())
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    for delay in (0.0, 0.02, 0.05, 0.1):
        saver = child(SAVER, tmp_path)
        assert saver.stdout is not None
        first = saver.stdout.readline()
        time.sleep(delay)
        os.kill(saver.pid, signal.SIGKILL)
        acknowledged = [int(line) for line in [first, *saver.communicate()[0].splitlines(True)] if line.endswith("\n")]
        assert acknowledged
        store = EmbeddedStore(tmp_path, 100_000, 100_000, time.time)
        newest = {number % 50: number for number in acknowledged}
        for slot, number in newest.items():
            held = int(load(store, str(slot), "sk-a").turns[0].user)
            assert held == number or held == acknowledged[-1] + 1  # the one that was under way may be there as well
        store.close()
    assert not list(tmp_path.glob("sessions.damaged-*"))


def test_a_full_disk_is_told_and_costs_nothing_that_was_kept(store: EmbeddedStore) -> None:
    save(store, "s", said("before"))
    pages = in_thread(store, lambda sql: sql.execute("PRAGMA page_count").fetchone()[0])
    in_thread(store, lambda sql: sql.execute(f"PRAGMA max_page_count={pages}").fetchone())
    with pytest.raises(StoreError, match="full") as caught:
        save(store, "s", said("x" * 100_000))
    assert "xxx" not in str(caught.value)
    with pytest.raises(StoreError):
        save(store, "t", said("x" * 100_000))
    assert load(store, "s") == said("before")
    in_thread(store, lambda sql: sql.execute("PRAGMA max_page_count=1000000").fetchone())
    save(store, "s", said("after"))
    assert load(store, "s") == said("after")
    assert store._shelf.count == 1


FULL = """
import asyncio, resource, sys, time
from pathlib import Path
from addons.core.sessions import Session, Turn
from addons.store import StoreError
from addons.store.embedded import EmbeddedStore
from tests.support.stores import forget, keep
folder = Path(sys.argv[1])
store = EmbeddedStore(folder, 9, 9, time.time)
key, owner = store.key("sk-a", "s")
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def save(text):
    try:
        asyncio.run(keep(store, key, owner, Session((Turn(text, "a"),))))
        return "saved"
    except StoreError:
        return "refused"
print(save("one"))
limit(max(path.stat().st_size for path in folder.iterdir()) + 5000)
print(save("x" * 100_000))
print(save("x" * 100_000))
print(asyncio.run(store.load(key, 1000)).turns[0].user)
limit(resource.RLIM_INFINITY)
print(save("two"))
print(asyncio.run(store.load(key, 1000)).turns[0].user)
store.close()
"""


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_a_write_that_fails_half_way_is_undone(tmp_path: Path) -> None:
    out, _ = child(FULL, tmp_path).communicate(timeout=30)
    assert out.split() == ["saved", "refused", "refused", "one", "saved", "two"]


def test_a_failure_between_two_writes_is_undone(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(session: Session) -> bytes:
        raise OSError("no luck")

    save(store, "s", said("before"))
    with monkeypatch.context() as patch:
        patch.setattr(Session, "to_json", fails)
        with pytest.raises(StoreError, match="no luck"):
            save(store, "s", said("after"))
    assert load(store, "s") == said("before")
    save(store, "s", said("again"))
    assert load(store, "s") == said("again")


def test_deleted_pages_are_overwritten(store: EmbeddedStore) -> None:
    assert in_thread(store, lambda sql: sql.execute("PRAGMA secure_delete").fetchone()) == (1,)


def test_a_read_only_store_is_told(store: EmbeddedStore) -> None:
    save(store, "s", said("before"))
    in_thread(store, lambda sql: sql.execute("PRAGMA query_only=ON"))
    with pytest.raises(StoreError, match="readonly"):
        save(store, "s", said("after"))
    with pytest.raises(StoreError, match="readonly"):
        asyncio.run(forget(store, store.key(KEY, "s")[0]))
    assert load(store, "s") == said("before")


def openings(path: Path, clock: Clock) -> Iterator[str]:
    """What is said of a store that can't be opened: by whoever tries, and by whoever opens."""
    for work in (lambda: folder.check(path), lambda: EmbeddedStore(path, 9, 9, clock)):
        with pytest.raises(StoreError) as caught:
            work()
        said = str(caught.value)
        assert said.startswith("store.path: ") and str(path) in said and "\n" not in said
        yield said


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert all("is no folder" in said for said in openings(path, clock))
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "below")
    for path in (Path("/proc/relay"), tmp_path / ("x" * 300)):
        assert all("name another folder" in said for said in openings(path, clock))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "give it the right"),
        (errno.EROFS, "is read-only"),
        (errno.ENOSPC, "there is no room"),
        (errno.ENOLCK, "on a local disk"),
        (errno.ENOTSUP, "on a local disk"),
        (errno.EIO, "no store can be opened"),
    ],
)
def test_what_the_system_refuses_is_told_in_a_sentence(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    assert all(words in said for said in openings(tmp_path, clock))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attempt to write a readonly database", "is read-only"),
        ("database is locked", "another program uses"),
        ("locking protocol", "on a local disk"),
        ("disk I/O error", "on a local disk"),
        ("database or disk is full", "there is no room"),
    ],
)
def test_what_sqlite_refuses_is_told_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    assert words in str(folder.store_error(tmp_path, sqlite3.OperationalError(text)))


def test_a_store_in_other_hands_is_told(tmp_path: Path, clock: Clock) -> None:
    other = sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)
    other.execute("PRAGMA journal_mode=wal")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"store\.path: another program uses"):
        folder.check(tmp_path)
    other.close()


def test_a_store_can_be_tried_and_stays_as_it_is(tmp_path: Path, clock: Clock) -> None:
    folder.check(tmp_path / "new")
    store = EmbeddedStore(tmp_path / "new", 9, 9, clock)
    save(store, "s", said("x"))
    with pytest.raises(StoreInUse):
        folder.check(tmp_path / "new")
    store.close()
    folder.check(tmp_path / "new")
    (tmp_path / "new" / "sessions.db").write_bytes(b"damaged" * 999)
    folder.check(tmp_path / "new")  # whoever opens it sets it aside


# Whose folder it is

posix = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o755, 0o750, 0o701])
def test_a_store_that_is_open_to_others_is_narrowed(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    folder = tmp_path / "store"
    store = EmbeddedStore(folder, 9, 9, clock)
    save(store, "s", said("x"))
    secret = store.secret
    store.close()
    for path in folder.iterdir():
        path.chmod(0o666)
    folder.chmod(mode)
    store = EmbeddedStore(folder, 9, 9, clock)
    assert (store.secret, load(store, "s")) == (secret, said("x"))
    store.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert f"others could read or change {folder}; now its owner alone can" in caplog.text
    caplog.clear()
    EmbeddedStore(folder, 9, 9, clock).close()
    assert not caplog.records


@posix
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o730])
def test_a_folder_of_many_things_that_others_may_write_to_is_refused(tmp_path: Path, clock: Clock, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "other").touch()
    folder.chmod(mode)
    assert all("others may write to" in said for said in openings(folder, clock))
    assert folder.stat().st_mode & 0o7777 == mode, "it is not ours to narrow"
    assert [path.name for path in folder.iterdir()] == ["other"]


@posix
def test_a_folder_of_many_things_that_others_may_read_stays_so(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "other").write_text("x")
    (folder / "other").chmod(0o644)
    folder.chmod(0o755)
    store = EmbeddedStore(folder, 9, 9, clock)
    save(store, "s", said("x"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    store.close()
    assert (folder.stat().st_mode & 0o777, modes.pop("other")) == (0o755, 0o644)
    assert set(modes.values()) == {0o600}


@posix
@pytest.mark.parametrize("name", ["lock", "secret", "sessions.db", "sessions.db-wal", "forgotten", "listen.pem"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_of_relays_own_is_refused(tmp_path: Path, clock: Clock, name: str, kind: str) -> None:
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    folder.mkdir(mode=0o700)
    elsewhere.write_bytes(b"x" * 32)
    path = folder / name
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert all("not a file of relay's own" in said and name in said for said in openings(folder, clock))
    assert elsewhere.read_bytes() == b"x" * 32


@posix
def test_a_link_to_a_folder_of_ours_will_do(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    EmbeddedStore(tmp_path / "link", 9, 9, clock).close()
    assert (tmp_path / "real" / "secret").exists()


@posix
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_another_user_is_refused(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "store"
    EmbeddedStore(folder, 9, 9, clock).close()
    if what == "folder":
        us = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: us + 4321)
        assert all("belongs to another user" in said and "chown" in said for said in openings(folder, clock))
    elif os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    else:
        os.chown(folder / "secret", 54321, 54321)
        assert all("another user's" in said and "secret" in said for said in openings(folder, clock))


@posix
def test_a_file_system_without_permissions_is_told_and_taken(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", lambda self, mode: None)
    EmbeddedStore(tmp_path, 9, 9, clock).close()
    assert "knows no permissions" in caplog.text


# What can't be deleted now

REMEMBERER = """
import asyncio, resource, sys, time
from pathlib import Path
from addons.core.sessions import Session, Turn
from addons.store import StoreError
from addons.store.embedded import EmbeddedStore
from tests.support.stores import forget, keep
folder = Path(sys.argv[1])
store = EmbeddedStore(folder, 9, 9, time.time)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def name(text):
    return store.key("sk-a", text)
def save(text, words):
    asyncio.run(keep(store, *name(text), Session((Turn(words, "a"),))))
def told(text):
    turns = asyncio.run(store.load(name(text)[0], 1000)).turns
    return turns[0].user[:5] if turns else "-"
save("s", "first" * 9000); save("t", "other"); save("u", "third")
asyncio.run(store.sweep(1000))
limit((folder / "forgotten").stat().st_size)
print(asyncio.run(forget(store, name("s")[0])), asyncio.run(forget(store, name("s")[0])), told("s"), told("t"))
try:
    asyncio.run(store.sweep(1000))
except StoreError:
    print("later")
print(told("s"), store._shelf.count)
"""


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_a_session_that_cannot_be_deleted_is_gone_all_the_same(tmp_path: Path, clock: Clock) -> None:
    script = REMEMBERER + "limit(resource.RLIM_INFINITY); asyncio.run(store.sweep(1000)); print(store._shelf.count)"
    out, _ = child(script, tmp_path).communicate(timeout=30)
    assert out.split() == ["True", "False", "-", "other", "-", "3", "2"]
    assert b"firstfirst" not in on_disk(tmp_path) and b"third" in on_disk(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_over_a_restart_too(tmp_path: Path) -> None:
    child(REMEMBERER + "import os; os._exit(0)", tmp_path).communicate(timeout=30)
    assert b"firstfirst" in on_disk(tmp_path)
    store = EmbeddedStore(tmp_path, 9, 9, time.time)
    assert [load(store, name, "sk-a").turns != () for name in "stu"] == [False, True, True]
    asyncio.run(store.sweep(1000))
    assert store._shelf.count == 2
    assert b"firstfirst" not in on_disk(tmp_path)
    assert (tmp_path / "forgotten").read_bytes().strip() == b""
    store.close()


def full(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be deleted."""

    def fails(*_: object) -> int:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(store._shelf, "_forget", fails)


def test_a_session_that_goes_on_is_deleted_no_more(
    tmp_path: Path, clock: Clock, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = save(store, "s", said("old"))
    with monkeypatch.context() as patch:
        full(store, patch)
        assert asyncio.run(forget(store, key)) is True
        assert load(store, "s") == Session()
        save(store, "s", said("new"))
        assert load(store, "s") == said("new")
    asyncio.run(store.sweep(TTL))
    assert load(store, "s") == said("new")
    store.close()
    again = EmbeddedStore(tmp_path, 9, 9, clock)
    assert load(again, "s") == said("new")
    again.close()


def test_more_than_can_be_remembered_is_told(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [save(store, f"{number}", said("x"), f"sk-{number}") for number in range(10)]
    store._shelf.forgotten._free[7:] = []
    full(store, monkeypatch)
    assert all(asyncio.run(forget(store, key)) for key in keys[:7])
    with pytest.raises(StoreError, match="full"):
        asyncio.run(forget(store, keys[7]))
    assert load(store, "7", "sk-7") == said("x"), "who is told that it failed finds it there"


def test_a_file_of_names_that_is_none_does_no_harm(tmp_path: Path, clock: Clock) -> None:
    store = EmbeddedStore(tmp_path, 9, 9, clock)
    key = save(store, "s", said("x"))
    store.close()
    for junk in (b"\xff" * 70_000, b"short", b"", b"../" * 9_000, key[:-1].encode()):
        (tmp_path / "forgotten").write_bytes(junk)
        store = EmbeddedStore(tmp_path, 9, 9, clock)
        asyncio.run(store.sweep(TTL))
        assert load(store, "s") == said("x")
        store.close()


def test_a_turn_is_kept_where_old_ones_cannot_make_room(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddedStore(tmp_path, 2, 9, clock)
    with monkeypatch.context() as patch:
        full(store, patch)
        for name in "abcd":
            save(store, name, said(name))
    assert [load(store, name) for name in "abcd"] == [said(name) for name in "abcd"]
    save(store, "e", said("e"))
    assert store._shelf.count == 2
    store.close()


@pytest.mark.parametrize(
    "value",
    [b"junk", b"", b'{"v":2}', "\x00", 7, b'{"v":1,"turns":[[1,2,3]],"last":null}'],
    ids=["no JSON", "nothing", "a later version", "text", "a number", "turns of numbers"],
)
def test_a_value_that_someone_tampered_with_is_begun_anew(
    store: EmbeddedStore, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    key = save(store, "s", said("x"))
    in_thread(store, lambda sql: sql.execute("UPDATE Dict SET value = ? WHERE key = ?", (value, key.encode())))
    assert load(store, "s") == Session()
    assert "begun anew" in caplog.text
    save(store, "s", said("y"))
    assert load(store, "s") == said("y")


def test_a_closed_store_says_so(tmp_path: Path, clock: Clock) -> None:
    store = EmbeddedStore(tmp_path, 9, 9, clock)
    key, owner = store.key(KEY, "s")
    store.close()
    for call in (store.load(key, TTL), keep(store, key, owner, said("x")), forget(store, key), store.sweep(TTL)):
        with pytest.raises(StoreError, match="closed"):
            asyncio.run(call)


def test_a_caller_that_is_cancelled_leaves_nothing_half_done(store: EmbeddedStore) -> None:
    key, owner = store.key(KEY, "s")

    async def scenario() -> None:
        lease = await store.lease(key, 0)
        task = asyncio.ensure_future(store.save(lease, owner, said("x" * 100_000)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.load(key, TTL) == said("x" * 100_000)

    asyncio.run(scenario())


def test_closing_finishes_what_is_under_way(tmp_path: Path, clock: Clock) -> None:
    store = EmbeddedStore(tmp_path, 1000, 1000, clock)

    async def scenario() -> None:
        names = [store.key(KEY, f"s{number}") for number in range(30)]
        leases = [(await store.lease(key, 0), owner) for key, owner in names]
        saves = [asyncio.ensure_future(store.save(lease, owner, said("x"))) for lease, owner in leases]
        await asyncio.sleep(0)
        store.close()
        await asyncio.gather(*saves)

    asyncio.run(scenario())
    again = EmbeddedStore(tmp_path, 1000, 1000, clock)
    assert again._shelf.count == 30
    again.close()
