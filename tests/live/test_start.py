"""How relay starts, reloads, fails and ends, in a process of its own."""

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
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support.live import ROOT, Live, environment, eventually, free_port, read_all, read_answer, started
from tests.support.shapes import balance_error, chat_error, openai_error

KEY = "sk-test-start-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
COMPLETIONS = "/v1/chat/completions"
MITMDUMP = [sys.executable, str(Path(sysconfig.get_path("scripts")) / "mitmdump")]
START = [sys.executable, "-m", "addons.cli", "start"]


def config(folder: Path, upstream: str, port: int, **more: Any) -> Path:
    """A relay.yaml."""
    written = {"listen": {"port": port}, "upstreams": [{"name": "test", "url": upstream}], **more}
    path = folder / "relay.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return path


def ends(command: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and words of something that is expected to end by itself, without a traceback."""
    done = subprocess.run(
        command, cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    return done.returncode, said


def message(session: str, content: str) -> dict[str, str]:
    return {"apiKey": KEY, "sessionId": session, "content": content}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of relay, to be edited."""
    shutil.copytree(ROOT / "addons", tmp_path / "addons", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def at_home(house: Path, path: Path) -> dict[str, str]:
    """The environment of a relay that runs from a copy."""
    return environment(RELAY_CONFIG=str(path), PYTHONPATH=str(house))


# 1. Starting


def test_bare_mitmdump_takes_everything_from_relay_yaml(upstream: Upstream, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", 8080))
        except OSError:
            pytest.skip("port 8080 is taken: bare mitmdump needs it for a moment")
    port = free_port()
    environ = environment(RELAY_CONFIG=str(config(tmp_path, upstream.url, port)))
    del environ["PYTHONPATH"]
    with started([*MITMDUMP, "-s", str(ROOT / "addons" / "relay.py")], tmp_path, port, environ) as live:
        assert live.chat("我叫小明", session="bare")["data"] == "你好，小明！我记住了。"
        assert live.ask("GET", "/v1/models", headers=AUTH).status == 200
        openai_error(live.ask("GET", "http://evil.invalid/x", headers=AUTH), 404)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", 8080)) != 0, "the port of mitmproxy's own is given up"
        assert live.stop() == 0
        assert "Traceback" not in live.log and KEY not in live.log


BROKEN = """
listen: {port: many}
upstreams: [{name: test, url: ftp://x, colour: blue}]
chat: {timeout: soon}
limitz: {}
"""


@pytest.mark.parametrize("bare", [False, True], ids=["run.sh", "bare mitmdump"])
def test_a_broken_relay_yaml_stops_the_start_with_every_mistake(tmp_path: Path, bare: bool) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(BROKEN)
    port = str(free_port())
    command = [*MITMDUMP, "-s", str(ROOT / "addons" / "relay.py"), "-p", port] if bare else [*START, "-p", port]
    code, said = ends(command, tmp_path, environment(RELAY_CONFIG=str(path)))
    assert code != 0
    for mistake in ("listen.port", "many", "url", "ftp", "colour", "chat.timeout", "soon", "limitz"):
        assert mistake in said, said


def test_a_relay_yaml_that_is_named_and_missing_stops_the_start(tmp_path: Path) -> None:
    code, said = ends(START, tmp_path, environment(RELAY_CONFIG=str(tmp_path / "nowhere.yaml")))
    assert code != 0 and "nowhere.yaml" in said


def test_a_second_relay_on_the_same_store_says_so_and_ends(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    with started(START, tmp_path, port, environment(RELAY_CONFIG=str(config(tmp_path, upstream.url, port)))) as first:
        second = tmp_path / "second"
        second.mkdir()
        path = config(second, upstream.url, free_port(), store={"path": str(tmp_path / ".relay")})
        code, said = ends(START, second, environment(RELAY_CONFIG=str(path)))
        assert code != 0
        assert "store" in said and "another relay" in said
        assert first.chat("hello")["code"] == 200


BARE = [*MITMDUMP, "-s", str(ROOT / "addons" / "relay.py")]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("bare", [False, True], ids=["run.sh", "bare mitmdump"])
def test_another_mitmproxy_is_refused(house: Path, bare: bool, fast: bool) -> None:
    entrance = house / "addons" / "mitmproxy_version.py"
    written = entrance.read_text(encoding="utf-8")
    entrance.write_text(re.sub(r'WRITTEN_FOR = "[\d.]+"', 'WRITTEN_FOR = "0.0"', written), encoding="utf-8")
    command = [*MITMDUMP, "-s", str(house / "addons" / "relay.py"), "-p", str(free_port())] if bare else START
    path = config(house, "https://a.test", free_port(), engine={"fast": fast})
    code, said = ends(command, house, at_home(house, path))
    assert code == 1
    assert "relay is written for mitmproxy 0.0, and this is " in said and "relay listens at" not in said


OLDER = """\
import mitmproxy.contentviews
import mitmproxy.proxy.layers.http
import mitmproxy.version

mitmproxy.version.VERSION = "11.1.3"
del mitmproxy.contentviews.InteractiveContentview
del mitmproxy.proxy.layers.http.DropStream
"""
"""Makes a mitmproxy an older one: of another version, and without names that relay imports."""


def test_a_mitmproxy_without_the_names_that_relay_imports_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OLDER, encoding="utf-8")
    port = free_port()
    code, said = ends([*BARE, "-p", str(port)], tmp_path, environment(PYTHONPATH=str(tmp_path)))
    assert code == 1
    assert said.count("relay is written for mitmproxy 12.2.3, and this is 11.1.3: ") == 1, said
    assert "ImportError" not in said and "AttributeError" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_so_it_is_under_run_sh(house: Path) -> None:
    entry = house / "addons" / "relay.py"
    entry.write_text(OLDER + entry.read_text(encoding="utf-8"), encoding="utf-8")
    code, said = ends(START, house, at_home(house, config(house, "https://a.test", free_port())))
    assert code == 1
    assert said.count("relay is written for mitmproxy 12.2.3, and this is 11.1.3: ") == 1, said
    assert "ImportError" not in said and "relay listens at" not in said


@pytest.mark.parametrize("bare", [False, True], ids=["run.sh", "bare mitmdump"])
@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ({}, ["--set", "flow_detial=0"], "--set flow_detial: there is no such option here; did you mean flow_detail?"),
        ({}, ["--set", "flow_detail=many"], "flow_detail: not an integer"),
        ({}, ["-s", "nowhere.py"], "No such script: nowhere.py"),
        ({"store": {"path": "relay.yaml"}}, [], "store.path: "),
        ({"store": {"path": "relay.yaml/below"}}, [], "store.path: "),
        ({"listen": {"tls": {"cert": "relay.yaml", "key": "relay.yaml"}}}, [], "listen.tls.cert: "),
        ({"listen": {"host": "192.0.2.1"}}, [], "192.0.2.1 is no address of this machine: change listen.host"),
        ({"listen": {"host": "relay.invalid"}}, [], "change listen.host in relay.yaml"),
    ],
)
def test_a_start_that_fails_says_so_and_nothing_else(
    tmp_path: Path, bare: bool, settings: dict[str, dict[str, Any]], arguments: list[str], words: str
) -> None:
    path = config(tmp_path, "https://a.test", free_port())
    written = yaml.safe_load(path.read_text())
    for section, keys in settings.items():
        written[section] = written.get(section, {}) | keys
    path.write_text(yaml.safe_dump(written))
    command = BARE if bare else START
    code, said = ends([*command, *arguments], tmp_path, environment(RELAY_CONFIG=str(path)))
    assert code == 1
    assert words in said and "relay listens at" not in said


def test_a_taken_port_is_told_by_bare_mitmdump_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = config(tmp_path, "https://a.test", port)
        code, said = ends(BARE, tmp_path, environment(RELAY_CONFIG=str(path)))
    assert code == 1
    assert f"127.0.0.1:{port} is in use already: stop what listens there" in said


def test_relay_says_where_it_listens_once_it_does(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    with started(START, tmp_path, port, environment(RELAY_CONFIG=str(config(tmp_path, upstream.url, port)))) as live:
        assert eventually(lambda: f"relay listens at   http://127.0.0.1:{port}\n" in live.log)
        assert live.stop() == 0
        assert live.log.count("listens at") == 1


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_and_quietly(upstream: Upstream, tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with started(START, tmp_path, port, environment(RELAY_CONFIG=str(config(tmp_path, upstream.url, port)))) as live:
        assert eventually(lambda: re.search("listens at .*\n", live.log))
        begin = len(live.log)
        while live.process.poll() is None:
            live.process.send_signal(number)
            time.sleep(0.001)
        assert live.process.returncode in (0, -number), "a shell makes 128 and the signal's number of it"
        assert live.log[begin:].strip() == ""  # a line end of what was said before may be late


# 2. Failing closed

PROVOKE = """

def _provoke(owner, name):
    stock = getattr(owner, name)

    def provoked(self, flow):
        if f"provoke={owner.__name__}.{name}" in flow.request.headers.get("x-provoke", ""):
            raise RuntimeError("provoked")
        return stock(self, flow)

    setattr(owner, name, provoked)


for _name in ("requestheaders", "request", "responseheaders", "response"):
    if hasattr(CLASS, _name):
        _provoke(CLASS, _name)
"""
RAISING = {
    "proxy/routing": "Routing",
    "proxy/timeouts": "Timeouts",
    "proxy/cors": "Cors",
    "endpoints/health": "Health",
    "endpoints/chat": "Chat",
    "endpoints/balance": "Balance",
    "proxy/streaming": "Streaming",
}


@pytest.fixture(scope="module")
def raising(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay whose hooks raise where a request says `x-provoke: provoke=Class.hook`."""
    house = tmp_path_factory.mktemp("raising")
    shutil.copytree(ROOT / "addons", house / "addons", ignore=shutil.ignore_patterns("__pycache__"))
    for module, owner in RAISING.items():
        with (house / "addons" / f"{module}.py").open("a", encoding="utf-8") as file:
            file.write(PROVOKE.replace("CLASS", owner))
    port = free_port()
    with started(START, house, port, at_home(house, config(house, upstream.url, port))) as live:
        # mitmproxy ends itself over an error that is logged while it starts: let it come up first.
        assert eventually(lambda: _works(live))
        time.sleep(0.3)
        yield live


@pytest.mark.parametrize("body", [None, b"{}"], ids=["GET", "POST"])
@pytest.mark.parametrize("owner", [owner for owner in RAISING.values() if owner not in ("Balance", "Chat")])
def test_a_hook_that_raises_lets_nothing_pass(
    raising: Live, upstream: Upstream, owner: str, body: bytes | None
) -> None:
    upstream.clear()
    provoke = {**AUTH, "x-provoke": f"provoke={owner}.requestheaders"}
    path = "/healthz" if owner == "Health" else "/v1/echo"
    openai_error(raising.ask("POST" if body else "GET", path, body, provoke), 503)
    assert not upstream.seen
    assert "provoked" in raising.log, "the log says why"
    assert KEY not in raising.log
    assert raising.ask("GET", "/v1/models", headers=AUTH).status == 200


@pytest.mark.parametrize("hook", ["Chat.requestheaders", "Chat.request", "Routing.requestheaders"])
def test_a_chat_whose_hook_raises_goes_nowhere(raising: Live, upstream: Upstream, hook: str) -> None:
    upstream.clear()
    answer = raising.ask("POST", "/chat", message(hook, "hello"), {"x-provoke": f"provoke={hook}"})
    if hook.startswith("Routing"):  # nobody has said yet whose request this is
        openai_error(answer, 503)
    else:
        chat_error(answer, 503)
    assert not upstream.seen
    assert raising.chat("hello", session=hook, key=KEY)["code"] == 200, "the session is free"


@pytest.mark.parametrize("hook", ["Balance.requestheaders", "Balance.request"])
def test_a_balance_whose_hook_raises_has_no_data(raising: Live, upstream: Upstream, hook: str) -> None:
    upstream.clear()
    answer = raising.ask("GET", f"/pro/balance?apiKey={KEY}", headers={"x-provoke": f"provoke={hook}"})
    balance_error(answer, 503)
    assert not upstream.seen


@pytest.mark.parametrize("hook", ["Routing.responseheaders", "Streaming.responseheaders"])
def test_an_answer_whose_hook_raises_does_not_pass_raw(raising: Live, upstream: Upstream, hook: str) -> None:
    upstream.script("/v1/models", Behaviour(body=b"raw words of the upstream"))
    request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with raising.connect(5) as connection:
        connection.sendall(f"{request}x-provoke: provoke={hook}\r\n\r\n".encode())
        try:
            answer = read_answer(connection)
        except (http.client.HTTPException, ConnectionError):
            return
        openai_error(answer, 503)
        if answer.headers.get("connection") != "close":
            connection.sendall(f"{request}\r\n".encode())
            assert read_answer(connection).status == 200


def test_a_broken_entry_stops_the_start(house: Path, upstream: Upstream) -> None:
    (house / "addons" / "relay.py").write_text("def broken(:\n")
    port = free_port()
    environ = at_home(house, config(house, upstream.url, port))
    done = subprocess.run(START, cwd=house, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode != 0


def test_a_broken_edit_of_the_entry_lets_nothing_pass(house: Path, upstream: Upstream) -> None:
    port = free_port()
    entry = house / "addons" / "relay.py"
    whole = entry.read_text(encoding="utf-8")
    with started(START, house, port, at_home(house, config(house, upstream.url, port))) as live:
        assert eventually(lambda: _works(live))
        for slip in ("def broken(:\n", "import no_such_module\n", "raise RuntimeError('x')\n"):
            said = len(live.log)
            entry.write_text(slip)
            assert eventually(lambda said=said: "error" in live.log[said:].lower(), 20), (
                "it says that something is wrong"
            )
            upstream.clear()
            for path in ("/v1/models", "/chat", f"http://127.0.0.1:{upstream.port}/v1/models"):
                with contextlib.suppress(http.client.HTTPException, OSError):
                    assert live.ask("GET", path, headers=AUTH).status >= 500
            assert not upstream.seen
        entry.write_text(whole, encoding="utf-8")
        assert eventually(lambda: _works(live), 20), "the next edit heals it"


def _works(live: Live) -> bool:
    try:
        return live.ask("GET", "/v1/models", headers=AUTH).status == 200
    except (http.client.HTTPException, OSError):
        return False


def test_touching_the_entry_reloads_and_keeps_sessions(house: Path, upstream: Upstream) -> None:
    port = free_port()
    entry = house / "addons" / "relay.py"
    upstream.clear()
    with (
        ThreadPoolExecutor(2) as pool,
        started(START, house, port, at_home(house, config(house, upstream.url, port))) as live,
    ):
        assert live.chat("我叫小明", session="touch")["code"] == 200
        upstream.script(COMPLETIONS, Behaviour(delay_headers=3.5))
        flying = pool.submit(live.ask, "POST", "/chat", message("flying", "我叫小红"))
        upstream.wait(lambda seen: len(seen) > 1)
        path = house / "addons" / "errors.py"
        path.write_text(path.read_text(encoding="utf-8").replace("Method not allowed", "Edited"), encoding="utf-8")
        os.utime(entry)
        assert eventually(lambda: b"Edited" in live.ask("GET", "/chat").body, 6), "the new code is in force"
        assert live.chat("我叫什么名字？", session="touch")["data"] == "你叫小明。"
        waiting = pool.submit(live.ask, "POST", "/chat", message("flying", "我叫什么名字？"))
        answer = flying.result()
        assert answer.status == 200
        assert list(answer.json()) == ["code", "message", "data"], "what was under way does not end raw"
        assert answer.json()["code"] == 200, "nor is its turn lost"
        assert waiting.result().json()["data"] == "你叫小红。", "and the next message has waited for it"
        assert live.chat("我叫什么名字？", session="flying", key=KEY)["code"] == 200, "nor is its session locked"
        assert "Traceback" not in live.log


# 3. Ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_it_cleanly(upstream: Upstream, tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    path = config(tmp_path, upstream.url, port, limits={"drain": "1s"})  # what SIGTERM waits for
    with started(START, tmp_path, port, environment(RELAY_CONFIG=str(path))) as live:
        upstream.clear()
        upstream.script(COMPLETIONS, Behaviour(never=True), times=2)
        body = json.dumps({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}).encode()
        chat = json.dumps(message("ends", "hello")).encode()
        with live.connect() as idle, live.connect() as passing, live.connect() as chatting:
            head = f"Host: x\r\nAuthorization: Bearer {KEY}\r\n"
            passing.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            chatting.sendall(f"POST /chat HTTP/1.1\r\n{head}Content-Length: {len(chat)}\r\n\r\n".encode() + chat)
            seen = upstream.wait(lambda all_seen: all_seen if len(all_seen) == 2 else None) or []
            begin = time.monotonic()
            live.process.send_signal(number)
            assert live.process.wait(10) == 0
            assert time.monotonic() - begin < 8
            for each in (idle, passing):
                assert b"200 OK" not in read_all(each)
            told = read_all(chatting)
            assert not told or b'"code": 502' in told, "a break, or an envelope that says so, and never a success"
        assert eventually(lambda: all(one.closed_at is not None for one in seen))
        assert "Traceback" not in live.log and KEY not in live.log
        assert "Task was destroyed" not in live.log and "never retrieved" not in live.log


# 4. Together


def test_eight_clients_at_a_time_get_their_own_answers(relay: Live, upstream: Upstream) -> None:
    upstream.clear()

    def client(number: int) -> None:
        key, name = f"sk-test-client-{number}-0123456789", f"name{number}"
        for turn in range(3):
            session = f"session {turn}"
            assert name in relay.chat(f"my name is {name}", key=key, session=session)["data"]
            assert relay.chat("what is my name?", key=key, session=session)["data"] == f"Your name is {name}."
            used = f"{number}{turn}"
            answer = relay.ask("GET", f"/pro/balance?apiKey={key}-used{used}00")
            assert answer.json()["data"]["used"] == float(used), answer
            told = {"stream": True, "model": "gpt-4o", "messages": [{"role": "user", "content": f"I say {name}!"}]}
            stream = relay.ask("POST", COMPLETIONS, told, {"Authorization": f"Bearer {key}"})
            events = [json.loads(line[6:]) for line in stream.body.splitlines() if line.startswith(b"data: {")]
            words = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
            assert f"I say {name}!" in words
            assert stream.body.endswith(b"data: [DONE]\n\n")

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client, number) for number in range(8)]:
            done.result()
    assert "Traceback" not in relay.log and "sk-test" not in relay.log
    assert upstream.open <= 8 * 3, "connections that rest are as many as were used at a time"
