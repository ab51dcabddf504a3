"""Several workers behind one address, as real processes: how they share, fail, and end."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support.crew import (
    AUTH,
    KEY,
    START,
    UP,
    alive,
    asleep,
    children,
    configure,
    crew,
    sockets,
    surroundings,
    workers,
)
from tests.support.live import ROOT, Live, LogWatch, eventually, free_port, read_all, read_answer, started

COMPLETIONS = "/v1/chat/completions"
MODELS = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def pair(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two workers that nobody ends before their time."""
    with crew(tmp_path_factory.mktemp("pair"), upstream.url, chat={"max_waiting": 4}) as live:
        yield live


@pytest.fixture(scope="module")
def mortal(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two workers that come to harm, test by test; in the last one their parent does."""
    with crew(tmp_path_factory.mktemp("mortal"), upstream.url) as live:
        yield live


def copy_to(folder: Path) -> Path:
    """A copy of relay, to be edited."""
    shutil.copytree(ROOT / "addons", folder / "addons", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of relay, to be edited."""
    return copy_to(tmp_path / "house")


@pytest.fixture(autouse=True)
def fresh(upstream: Upstream) -> None:
    upstream.clear()


def message(session: str, content: str = "hello") -> dict[str, str]:
    return {"apiKey": KEY, "sessionId": session, "content": content}


def chat(live: Live, session: str, content: str) -> dict[str, Any]:
    return live.chat(content, key=KEY, session=session)


def history(live: Live, session: str) -> list[dict[str, str]]:
    said = live.ask("GET", f"/chat/{session}", headers=AUTH).json()
    assert said["code"] == 200
    turns: list[dict[str, str]] = said["data"]
    return turns


def ends(command: list[str], folder: Path, environ: dict[str, str]) -> tuple[int, str]:
    """Exit code and words of what is expected to end by itself."""
    done = subprocess.run(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stdout + done.stderr


# 1. Sharing


def test_connections_are_spread(pair: Live) -> None:
    before = {number: sockets(pid) for number, pid in workers(pair).items()}
    assert list(before) == [1, 2]
    connections = [pair.connect() for _ in range(40)]
    try:
        for each in connections:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert all(read_answer(each).status == 200 for each in connections)
        more = {number: sockets(pid) - before[number] for number, pid in workers(pair).items()}
        assert sum(more.values()) == 40
        assert min(more.values()) >= 4, more
    finally:
        for each in connections:
            each.close()


def test_a_session_goes_on_at_any_worker(pair: Live) -> None:
    pids = workers(pair)
    with asleep(pids[2]):
        assert chat(pair, "anywhere", "我叫小明")["code"] == 200
    with asleep(pids[1]):
        assert chat(pair, "anywhere", "我叫什么名字?")["data"] == "你叫小明。"
    with asleep(pids[2]):
        assert len(history(pair, "anywhere")) == 4
        assert pair.ask("DELETE", "/chat/anywhere", headers=AUTH).json()["code"] == 200
    with asleep(pids[1]):
        assert history(pair, "anywhere") == []


def test_messages_of_one_session_keep_their_order_across_workers(pair: Live) -> None:
    told: dict[str, str] = {}
    held = threading.Semaphore(5)  # one is answered, four may wait

    def client(number: int) -> None:
        for turn in range(3):
            content = f"client {number} turn {turn}"
            with held:
                said = chat(pair, "order", content)
            assert said["code"] == 200, said
            told[content] = said["data"]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client, number) for number in range(8)]:
            done.result()
    turns = history(pair, "order")
    asked = [each["content"] for each in turns if each["role"] == "user"]
    assert sorted(asked) == sorted(told)
    for position, (user, assistant) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        assert assistant["content"] == told[user["content"]]
        assert f"I saw {2 * position} earlier message" in assistant["content"], "each turn saw those before it"


def test_as_many_may_wait_for_a_session_as_with_one_process(pair: Live, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=1.5))
    with ThreadPoolExecutor(12) as pool:
        codes = sorted(pool.map(lambda number: chat(pair, "busy", f"{number}")["code"], range(12)))
    assert codes == [200] * 5 + [409] * 7
    assert len(history(pair, "busy")) == 10


def test_who_stops_waiting_makes_room_for_others(pair: Live, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=1))
    body = json.dumps(message("patience")).encode()
    request = f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(chat, pair, "patience", "first")
        upstream.wait(lambda seen: len(seen) == 1)
        for _ in range(3):
            waiting = [pair.connect() for _ in range(4)]
            for each in waiting:
                each.sendall(request)
            time.sleep(0.1)
            for each in waiting:
                each.close()
        assert first.result()["code"] == 200
    assert chat(pair, "patience", "last")["code"] == 200
    assert len(history(pair, "patience")) == 4


def test_what_is_logged_stays_in_whole_blocks(pair: Live) -> None:
    watch = LogWatch(pair)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", pair.port, timeout=20)
        for turn in range(60):
            connection.request("GET", f"/healthz?{number}-{turn}")
            connection.getresponse().read()
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client, number) for number in range(8)]:
            done.result()
    assert eventually(lambda: watch.new.count("<<") >= 480), watch.new
    lines = watch.new.splitlines()
    for asked, answered in zip(lines[::2], lines[1::2], strict=True):
        assert re.fullmatch(r"127\.0\.0\.1:\d+: GET \S+/healthz\?\d+-\d+", asked), asked
        assert re.fullmatch(r" +<< 200 OK \d+b", answered), answered


def test_no_key_is_in_a_log_a_list_of_processes_or_an_environment(pair: Live) -> None:
    assert chat(pair, "keys", "hello")["code"] == 200
    pair.raw(f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nbroken\x00: 1\r\n\r\n".encode())
    assert KEY not in pair.log and "Traceback" not in pair.log
    secret = (pair.folder / ".relay" / "secret").read_bytes()
    for pid in (pair.process.pid, *workers(pair).values()):
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert KEY.encode() not in told and secret.hex().encode() not in told and secret not in told


def test_the_introduction_is_printed_once(pair: Live) -> None:
    assert pair.log.count("relay listens at") == 1
    assert re.search(r"^workers +2$", pair.log, re.MULTILINE)
    assert len(re.findall(r"^\[[\d:.]+\] 2 workers serve$", pair.log, re.MULTILINE)) == 1


# 2. Who else is there


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_relay_on_the_port_says_so_and_ends(
    pair: Live, upstream: Upstream, tmp_path: Path, count: int
) -> None:
    path = configure(tmp_path, upstream.url, pair.port, workers=count)
    code, said = ends(START, tmp_path, surroundings(path))
    assert code == 1
    assert f"127.0.0.1:{pair.port} is in use already (by another relay, it seems)" in said
    assert not (tmp_path / ".relay").exists()


def test_a_second_relay_on_the_store_says_so_and_ends(pair: Live, upstream: Upstream, tmp_path: Path) -> None:
    path = configure(tmp_path, upstream.url, free_port(), store={"path": str(pair.folder / ".relay")})
    code, said = ends(START, tmp_path, surroundings(path))
    assert code == 1
    assert "another relay uses the session store" in said and "listens at" not in said


def test_what_is_for_one_process_stays_with_one(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    environ = surroundings(configure(tmp_path, upstream.url, port))
    with started([*START, "-w", "out.flow"], tmp_path, port, environ) as live:
        assert eventually(lambda: re.search(r"^workers +1 and not 2: -w is for one process$", live.log, re.MULTILINE))
        assert eventually(lambda: answers(live))
        assert children(live.process.pid) == []


def answers(live: Live) -> bool:
    """Whether it is up."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return live.ask("GET", "/healthz").status == 200
    return False


def test_mitmdump_alone_says_that_it_is_alone(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    environ = surroundings(configure(tmp_path, upstream.url, port))
    mitmdump = [sys.executable, str(Path(sysconfig.get_path("scripts")) / "mitmdump")]
    with started(
        [*mitmdump, "-s", str(ROOT / "addons" / "relay.py"), "-p", str(port)], tmp_path, port, environ
    ) as live:
        assert eventually(lambda: answers(live))
        live.stop()
        assert "relay.yaml asks for 2 workers: this is one process; ./run.sh starts them all" in live.log


# 3. Failing


def test_a_start_that_fails_ends_with_the_workers_exit_code(house: Path, upstream: Upstream, tmp_path: Path) -> None:
    environ = surroundings(configure(tmp_path, upstream.url, free_port()), PYTHONPATH=str(house))
    entry = house / "addons" / "relay.py"
    entry.write_text("def broken(:\n")
    code, said = ends(START, tmp_path, environ)
    assert code == 1
    assert said.count("def broken(:") == 1, "it is said once"
    assert re.search(r"worker 1 \(process \d+\) ended with exit code 1 before it was ready", said)
    assert UP not in said


ONCE = """import os, signal
from pathlib import Path
if os.environ["RELAY_WORKER"] == "{number}" and not os.path.exists(r"{flag}"):
    Path(r"{flag}").touch()
    {harm}
"""
"""Put before relay's entry: the first start of one worker comes to harm."""


@pytest.mark.parametrize(
    ("harm", "told"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"), ("os._exit(3)", "ended with exit code 3")],
    ids=["killed", "ended"],
)
def test_who_ends_at_its_start_is_started_again(
    house: Path, upstream: Upstream, tmp_path: Path, harm: str, told: str
) -> None:
    entry = house / "addons" / "relay.py"
    begin = ONCE.format(number=2, flag=tmp_path / "flag", harm=harm)
    entry.write_text(begin + entry.read_text(encoding="utf-8"), encoding="utf-8")
    with crew(tmp_path, upstream.url, home=house) as live:
        assert re.search(rf"worker 2 \(process \d+\) {told}; it is started again$", live.log, re.MULTILINE)
        assert live.log.count(UP) == 1 and sorted(workers(live)) == [1, 2]
        assert live.stop() == 0


def test_a_first_worker_that_is_killed_ends_all(house: Path, upstream: Upstream, tmp_path: Path) -> None:
    environ = surroundings(configure(tmp_path, upstream.url, free_port()), PYTHONPATH=str(house))
    entry = house / "addons" / "relay.py"
    begin = ONCE.format(number=1, flag=tmp_path / "flag", harm="os.kill(os.getpid(), signal.SIGKILL)")
    entry.write_text(begin + entry.read_text(encoding="utf-8"), encoding="utf-8")
    code, said = ends(START, tmp_path, environ)
    assert code == 128 + signal.SIGKILL
    assert "was ended by SIGKILL before it was ready" in said and "set workers to a smaller number" in said
    assert "listens at" not in said and "Traceback" not in said


def test_a_file_that_mitmproxys_own_settings_name_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / ".mitmproxy").mkdir()
    (tmp_path / ".mitmproxy" / "config.yaml").write_text("save_stream_file: out.flow\n")
    environ = surroundings(configure(tmp_path, upstream.url, free_port()), HOME=str(tmp_path))
    code, said = ends(START, tmp_path, environ)
    assert code == 1
    assert "save_stream_file in mitmproxy's config.yaml is for one process" in said and "Traceback" not in said


def test_another_mitmproxy_is_refused(house: Path, upstream: Upstream, tmp_path: Path) -> None:
    environ = surroundings(configure(tmp_path, upstream.url, free_port()), PYTHONPATH=str(house))
    engine = house / "addons" / "mitmproxy_version.py"
    written = engine.read_text(encoding="utf-8")
    engine.write_text(re.sub(r'WRITTEN_FOR = "[\d.]+"', 'WRITTEN_FOR = "0.0"', written), encoding="utf-8")
    code, said = ends(START, tmp_path, environ)
    assert code == 1
    assert "relay is written for mitmproxy 0.0, and this is " in said and "Traceback" not in said


def start_again(live: Live, number: int, killed: int) -> bool:
    """Whether another process has come for one that was killed."""
    return eventually(lambda: workers(live).get(number) not in (None, killed))


def test_a_killed_worker_loses_no_connection_that_waits(mortal: Live) -> None:
    pids = workers(mortal)
    watch = LogWatch(mortal)
    with asleep(*pids.values()):
        waiting = [mortal.connect() for _ in range(40)]
        for each in waiting:
            each.sendall(f"{MODELS}Connection: close\r\n\r\n".encode())
        os.kill(pids[1], signal.SIGKILL)
        assert start_again(mortal, 1, pids[1])
    for each in waiting:
        with each:
            assert b" 200 OK\r\n" in read_all(each)
    line = rf"^\[[\d:.]+\] worker 1 \(process {pids[1]}\) was ended by SIGKILL; it is started again$"
    assert len(re.findall(line, watch.new, re.MULTILINE)) == 1
    assert watch.new.count("worker") == 1, watch.new


def test_a_worker_killed_under_load_breaks_only_what_it_had(mortal: Live, upstream: Upstream) -> None:
    stop = threading.Event()

    def client() -> tuple[int, int]:
        """How many were answered, and how many broke off. A connection that is refused raises."""
        answered = broken = 0
        while not stop.is_set():
            with mortal.connect() as connection:
                try:
                    for _ in range(5):
                        connection.sendall(f"{MODELS}\r\n".encode())
                        assert read_answer(connection).status == 200
                        answered += 1
                except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
                    broken += 1
        return answered, broken

    with ThreadPoolExecutor(9) as pool:
        upstream.script(COMPLETIONS, Behaviour(delay_headers=1))
        holding = pool.submit(chat, mortal, "held", "hello")  # whoever has it, its session must not stay locked
        upstream.wait(lambda seen: len(seen) == 1)
        running = [pool.submit(client) for _ in range(8)]
        killed = workers(mortal)[2]
        os.kill(killed, signal.SIGKILL)
        assert start_again(mortal, 2, killed)
        time.sleep(1)
        stop.set()
        results = [each.result() for each in running]
        assert all(answered > 0 for answered, _ in results)
        assert all(broken <= 1 for _, broken in results), "each had one exchange under way, at most"
        with contextlib.suppress(http.client.HTTPException, ConnectionResetError):
            holding.result()
    assert chat(mortal, "held", "again")["code"] == 200


def test_what_was_answered_outlives_all_workers(mortal: Live) -> None:
    assert chat(mortal, "survives", "我叫小明")["code"] == 200
    for pid in workers(mortal).values():
        os.kill(pid, signal.SIGKILL)
    assert chat(mortal, "survives", "我叫什么名字?")["data"] == "你叫小明。", "it waits for the next worker"
    assert "it is started again in 1 s" in mortal.log, "who keeps ending early has to wait"


# 4. Ending


def gone(live: Live, pids: Iterable[int]) -> None:
    """Nothing is left of a relay."""
    assert eventually(lambda: not any(alive(pid) for pid in pids))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", live.port))
        probe.listen()


def test_workers_end_when_their_parent_is_gone(mortal: Live) -> None:
    assert eventually(lambda: len(workers(mortal)) == 2)
    pids = workers(mortal).values()
    mortal.process.kill()
    mortal.process.wait()
    gone(mortal, pids)
    assert "Traceback" not in mortal.log and KEY not in mortal.log


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM to each"])
def test_a_signal_ends_all_of_it(upstream: Upstream, tmp_path: Path, how: str) -> None:
    with crew(tmp_path, upstream.url, prefix=["setsid"], limits={"drain": "1s"}) as live:
        pids = workers(live).values()
        upstream.script(COMPLETIONS, Behaviour(never=True), times=2)
        body = json.dumps({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}).encode()
        with live.connect() as idle, live.connect() as passing:
            passing.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            [seen] = upstream.wait(lambda all_seen: all_seen if len(all_seen) == 1 else None) or []
            begin = time.monotonic()
            if how == "Ctrl-C":  # as a terminal does
                os.killpg(live.process.pid, signal.SIGINT)
            else:  # as a service manager does
                for pid in (*pids, live.process.pid):
                    os.kill(pid, signal.SIGTERM)
            assert live.process.wait(15) == 0
            assert time.monotonic() - begin < (5 if how == "Ctrl-C" else 10), "limits.drain, and some seconds more"
            for each in (idle, passing):
                assert b"200 OK" not in read_all(each)
        gone(live, pids)
        assert eventually(lambda: seen.closed_at is not None)
        assert "Traceback" not in live.log and KEY not in live.log
        assert "Task was destroyed" not in live.log and "never retrieved" not in live.log


def held_up(live: Live, upstream: Upstream) -> socket.socket:
    """A client whose exchange does not end."""
    upstream.script(COMPLETIONS, Behaviour(never=True))
    client = live.connect()
    body = json.dumps({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}).encode()
    client.sendall(
        f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    upstream.wait(lambda seen: len(seen) == 1)
    return client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_all_of_it_at_once(upstream: Upstream, tmp_path: Path, number: signal.Signals) -> None:
    with crew(tmp_path, upstream.url) as live, held_up(live, upstream):
        pids = workers(live).values()
        with asleep(*pids):  # they can't end in order
            live.process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                live.process.wait(0.5)
            live.process.send_signal(number)
            assert live.process.wait(10) == 128 + number
        gone(live, pids)
        assert "Traceback" not in live.log and "ignored" not in live.log and "did not end" not in live.log


def test_signals_without_end_leave_no_word(upstream: Upstream, tmp_path: Path) -> None:
    """Whoever sends them to each process, again and again, while it closes."""
    with crew(tmp_path, upstream.url) as live, held_up(live, upstream):
        pids = [*workers(live).values(), live.process.pid]
        begun = len(live.log)
        while live.process.poll() is None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.001)
        assert live.process.returncode in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
        gone(live, pids)
        # What was under way may have been told before the second signal, as it is after any.
        told = re.sub(
            r"^127\.0\.0\.1:\d+: POST \S+\n << (Client disconnected\.|server closed connection)\n",
            "",
            live.log[begun:],
            flags=re.MULTILINE,
        )
        assert told == ""


def test_ctrl_c_while_it_starts_ends_it_quietly(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    environ = surroundings(configure(tmp_path, upstream.url, port))
    with started(START, tmp_path, port, environ) as live:
        assert eventually(lambda: len(children(live.process.pid)) == 1)
        pids = children(live.process.pid)
        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(10) == 0
        gone(live, pids)
        assert "Traceback" not in live.log and "before it was ready" not in live.log


# 5. Renewing


@pytest.fixture(scope="module")
def changing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two workers of a copy of relay that is edited while they run."""
    folder = tmp_path_factory.mktemp("changing")
    with crew(folder, upstream.url, home=copy_to(folder / "house")) as live:
        yield live


def renewed(live: Live, watch: LogWatch) -> dict[int, int]:
    """Wait until all workers are new ones; their processes."""
    assert eventually(lambda: "relay.yaml is read anew" in watch.new, 20), watch.new
    return workers(live)


def test_sighup_renews_without_a_failed_request(changing: Live, upstream: Upstream) -> None:
    told = {"stream": True, "model": "gpt-4o", "messages": [{"role": "user", "content": "tell me a story"}]}
    pieces = [f"data: {number}\n\n".encode() for number in range(16)]
    stop = threading.Event()

    def reader() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", changing.port, timeout=20)
        count = 0
        while not stop.is_set():
            connection.request("GET", "/v1/models", headers=AUTH)  # connects anew after `Connection: close`
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
            count += 1
            time.sleep(0.01)
        connection.close()
        return count

    def talker(number: int) -> int:
        count = 0
        while not stop.is_set():
            said = chat(changing, f"talk {number}", f"turn {count}")
            assert said["code"] == 200 and f"I saw {min(2 * count, 100)} earlier" in said["data"], said
            count += 1
            time.sleep(0.02)
        return count

    watch = LogWatch(changing)
    before = workers(changing)
    story = Behaviour(headers=[("Content-Type", "text/event-stream")], chunks=[(piece, 0.25) for piece in pieces])
    upstream.script(COMPLETIONS, story, times=4)
    with ThreadPoolExecutor(10) as pool:
        streams = [pool.submit(changing.ask, "POST", COMPLETIONS, told, AUTH) for _ in range(4)]
        upstream.wait(lambda seen: len(seen) == 4)
        running = [pool.submit(reader) for _ in range(4)] + [pool.submit(talker, number) for number in range(2)]
        with changing.connect() as idle:
            idle.sendall(f"{MODELS}\r\n".encode())
            assert read_answer(idle).status == 200
            configure(changing.folder, upstream.url, changing.port, chat={"model": "gpt-4o-mini"})
            changing.process.send_signal(signal.SIGHUP)
            after = renewed(changing, watch)
            assert sorted(after) == [1, 2] and not set(after.values()) & set(before.values())
            assert read_all(idle) == b"", "a client with nothing under way is sent away"
        time.sleep(0.5)
        stop.set()
        assert all(each.result() > 3 for each in running)
        assert [each.result().body for each in streams] == [b"".join(pieces)] * 4, "streams end whole"
    assert eventually(lambda: not any(alive(pid) for pid in before.values()))
    upstream.clear()
    assert chat(changing, "new", "hello")["code"] == 200
    assert upstream.seen[0].json()["model"] == "gpt-4o-mini"
    assert watch.new.count("worker") == 1, "no word of those that have ended as they should"
    watch.check()


def test_sighup_with_a_wrong_relay_yaml_changes_nothing(changing: Live, upstream: Upstream) -> None:
    before = workers(changing)
    watch = LogWatch(changing)
    (changing.folder / "relay.yaml").write_text("limitz: {}")
    changing.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "relay.yaml was not read anew; the settings in force stay." in watch.new)
    assert "limitz" in watch.new
    assert workers(changing) == before

    os.kill(before[1], signal.SIGKILL)  # who is started again has the settings that are in force
    assert start_again(changing, 1, before[1])
    with asleep(before[2]):
        upstream.clear()
        assert chat(changing, "wrong", "hello")["code"] == 200
        assert upstream.seen[0].json()["model"] == "gpt-4o-mini"
    watch.check()


def test_some_settings_take_a_restart(changing: Live, upstream: Upstream) -> None:
    watch = LogWatch(changing)
    configure(changing.folder, upstream.url, free_port(), workers=3, store={"path": "elsewhere"})
    changing.process.send_signal(signal.SIGHUP)
    assert sorted(renewed(changing, watch)) == [1, 2]
    assert "listen.port and workers and store changed in relay.yaml: that takes a restart of relay" in watch.new
    assert not (changing.folder / "elsewhere").exists()
    assert len(history(changing, "wrong")) == 2
    watch.check()


def test_touching_the_entry_reloads_each_worker(changing: Live, upstream: Upstream) -> None:
    before = workers(changing)
    watch = LogWatch(changing)
    assert chat(changing, "touch", "我叫小明")["code"] == 200
    upstream.clear()
    upstream.script(COMPLETIONS, Behaviour(delay_headers=2.5))
    house = changing.folder / "house" / "addons"
    with ThreadPoolExecutor(1) as pool:
        flying = pool.submit(chat, changing, "flying", "我叫小红")
        upstream.wait(lambda seen: len(seen) == 1)
        path = house / "errors.py"
        path.write_text(path.read_text(encoding="utf-8").replace("Method not allowed", "Edited"), encoding="utf-8")
        os.utime(house / "relay.py")
        for pid in before.values():
            with asleep(pid):
                assert eventually(lambda: b"Edited" in changing.ask("GET", "/chat").body, 6), "the new code is in force"
                assert chat(changing, "touch", "我叫什么名字?")["data"] == "你叫小明。"
        assert list(flying.result()) == ["code", "message", "data"], "what was under way does not end raw"
    assert chat(changing, "flying", "hello")["code"] == 200, "nor is its session locked"
    assert workers(changing) == before
    watch.check()


def test_a_new_worker_that_fails_leaves_the_old_ones(changing: Live) -> None:
    before = workers(changing)
    watch = LogWatch(changing)
    (changing.folder / "house" / "addons" / "errors.py").write_text("raise RuntimeError('a slip')\n")
    changing.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "before it was ready; the old one goes on" in watch.new, 20), watch.new
    assert workers(changing) == before
    assert chat(changing, "goes on", "hello")["code"] == 200
