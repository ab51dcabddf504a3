"""Several relays and one Redis: what one knows the other knows."""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.answer import Behaviour
from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.live import ROOT, Live, eventually
from tests.support.redis_server import NEEDED, RedisServer, redis_server

pytestmark = NEEDED

REAL = "sk-real-MARKx-0123456789abcdef"
ALICE = "rk-alice-MARKx-0123456789abcdefg"
FREE = "rk-free-MARKx-0123456789abcdefg"
OWN = "sk-own-MARKx-0123456789abcdefg"
CHAT = "/v1/chat/completions"
LISTED = [{"name": "alice", "key": ALICE, "budget": {"amount": 5, "per": "month"}}, {"name": "free", "key": FREE}]
prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.contextmanager
def begun(folder: Path, upstream: Upstream, redis: RedisServer, prefix: str, **more: Any) -> Iterator[Live]:
    folder.mkdir(parents=True, exist_ok=True)
    store = {"kind": "redis", "url": redis.url, "prefix": prefix, "path": "store", **more.pop("store", {})}
    upstreams = [{"name": "test", "url": upstream.url, "keys": [REAL]}]
    keys = {"list": LISTED, "open": True} | more.pop("keys", {})
    with live.relay(folder, upstreams, store=store, keys=keys, **more) as running:
        yield running


@pytest.fixture(scope="module")
def pair(
    upstream: Upstream, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, Live]]:
    folder, prefix = tmp_path_factory.mktemp("relays"), next(prefixes)
    with begun(folder / "a", upstream, redis, prefix) as one, begun(folder / "b", upstream, redis, prefix) as other:
        assert one.ask("GET", "/readyz").status == other.ask("GET", "/readyz").status == 200
        yield one, other


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def complete(relay: Live, key: str, **more: Any) -> live.Answer:
    body = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}], **more}
    return relay.ask("POST", CHAT, body, bearer(key))


def balance(relay: Live, key: str) -> dict[str, Any]:
    told: dict[str, Any] = relay.ask("GET", f"/pro/balance?apiKey={key}").json()
    return told


def test_a_conversation_goes_on_wherever(pair: tuple[Live, Live], upstream: Upstream) -> None:
    for number in range(4):
        assert pair[number % 2].chat(f"word {number}", session="wherever")["code"] == 200
    seen = upstream.seen[-1].json()["messages"]
    assert [each["content"] for each in seen if each["role"] == "user"] == [f"word {n}" for n in range(4)]
    shown = pair[0].ask("GET", "/chat/wherever", headers=bearer("sk-test-0123456789")).json()
    assert len(shown["data"]) == 8, shown
    assert pair[1].ask("DELETE", "/chat/wherever", headers=bearer("sk-test-0123456789")).json()["code"] == 200
    assert pair[0].ask("GET", "/chat/wherever", headers=bearer("sk-test-0123456789")).json()["data"] == []


def test_messages_of_one_session_wait_for_each_other(pair: tuple[Live, Live], upstream: Upstream) -> None:
    upstream.clear()
    upstream.script(CHAT, *[Behaviour(delay_headers=0.3)] * 8)
    answers = list[dict[str, Any]]()
    talks = [
        threading.Thread(target=lambda n=n: answers.append(pair[n % 2].chat(f"w{n}", session="order")))
        for n in range(8)
    ]
    for talk in talks:
        talk.start()
        time.sleep(0.2)
    for talk in talks:
        talk.join()
    assert [each["code"] for each in answers] == [200] * 8
    said = [each["content"] for each in upstream.seen[-1].json()["messages"] if each["role"] == "user"]
    assert said == [f"w{n}" for n in range(8)], "in order of arrival"


def test_a_budget_is_one_wherever_it_is_spent(pair: tuple[Live, Live], upstream: Upstream) -> None:
    upstream.clear()
    for number in range(4):
        assert complete(pair[number % 2], ALICE).status == 200
    assert eventually(lambda: balance(pair[0], ALICE)["data"] == balance(pair[1], ALICE)["data"])
    told = balance(pair[0], ALICE)
    assert told["code"] == 200 and "held" not in told["detail"], told
    page = "/v1/dashboard/billing/usage?start_date=2020-01-01&end_date=2099-01-01"

    def told_by(relay: Live) -> Any:
        return relay.ask("GET", page, headers=bearer(ALICE)).json()["daily_costs"]

    assert eventually(lambda: told_by(pair[0]) == told_by(pair[1]) != [])


def command(relay: Live, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of run.sh, for the settings of a relay."""
    environ = live.environment(RELAY_CONFIG=str(relay.folder / "relay.yaml"))
    line = [sys.executable, "-m", "addons.cli", *words]
    return subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)


def test_a_key_that_is_handed_out_works_everywhere_at_once(pair: tuple[Live, Live], upstream: Upstream) -> None:
    made = command(pair[0], "keys", "new", "bob", "--budget", "1")
    assert made.returncode == 0, made.stderr
    key = made.stdout.split()[0]
    assert eventually(lambda: complete(pair[1], key).status == 200, 1.0)
    assert dict(upstream.seen[-1].headers).get("Authorization") == f"Bearer {REAL}"
    assert complete(pair[0], key).status == 200
    shown = command(pair[1], "keys", "list").stdout
    assert "bob" in shown and key not in shown
    used = command(pair[1], "usage", "--by", "key")
    assert used.returncode == 0 and "bob" in used.stdout, used
    assert command(pair[1], "keys", "revoke", "bob").returncode == 0
    for relay in pair:
        assert eventually(lambda relay=relay: complete(relay, key).status == 401, 1.0)


def test_nothing_in_redis_says_a_key(pair: tuple[Live, Live], redis: RedisServer) -> None:
    assert complete(pair[0], ALICE).status == complete(pair[1], OWN).status == 200
    assert pair[0].chat("hello", key=OWN)["code"] == 200
    kept = (redis.folder / "appendonlydir").rglob("*") if (redis.folder / "appendonlydir").is_dir() else []
    found = b"".join(file.read_bytes() for file in kept if file.is_file())
    assert b"hello" in found and b"MARKx" not in found


def test_redis_may_come_late_and_go_away(upstream: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    with begun(tmp_path / "relay", upstream, server, "late", limits={"connect": "1s"}) as relay:
        try:
            assert relay.ask("GET", "/healthz").status == 200
            ready = relay.ask("GET", "/readyz")
            assert ready.status == 503 and "store" in ready.json()["error"]["message"]
            refused = complete(relay, OWN)
            assert refused.status == 503 and "starting" in refused.json()["error"]["message"]
            assert relay.chat("hello")["code"] == 503
            server.start()
            assert eventually(lambda: relay.ask("GET", "/readyz").status == 200, 5)
            assert complete(relay, ALICE).status == complete(relay, OWN).status == 200
            assert relay.chat("hello")["code"] == 200
            server.kill()
            assert relay.ask("GET", "/readyz").status == 503
            refused = complete(relay, ALICE)
            assert refused.status == 503 and "written down" in refused.json()["error"]["message"]
            assert complete(relay, FREE).status == 503, "its limits can't be counted"
            assert complete(relay, OWN).status == 200, "nothing of it stands in Redis"
            answer = relay.chat("hello")
            assert answer["code"] == 503 and "sessions" in answer["message"]
            server.start()
            assert eventually(lambda: relay.ask("GET", "/readyz").status == 200, 5)
            assert relay.chat("hello")["code"] == 200 and complete(relay, ALICE).status == 200
            assert "Traceback" not in relay.log
        finally:
            server.close()


def test_workers_share_it_too(upstream: Upstream, redis: RedisServer, tmp_path: Path) -> None:
    with begun(tmp_path / "crew", upstream, redis, next(prefixes), workers=2) as crew:
        for number in range(6):
            assert crew.chat(f"word {number}")["code"] == 200
        said = [each["content"] for each in upstream.seen[-1].json()["messages"] if each["role"] == "user"]
        assert said == [f"word {number}" for number in range(6)]
        assert complete(crew, ALICE).status == 200
        assert eventually(lambda: balance(crew, ALICE)["data"]["used"] is not None)
        config = crew.folder / "relay.yaml"
        config.write_text(config.read_text().replace("prefix: test", "prefix: other"))
        crew.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "restart relay" in crew.log, 10), crew.log
        assert crew.chat("still there")["code"] == 200


def test_what_a_relay_had_in_its_folder_is_taken_over(upstream: Upstream, redis: RedisServer, tmp_path: Path) -> None:
    upstreams = [{"name": "test", "url": upstream.url, "keys": [REAL]}]
    price = {"dear": {"input": 1000, "output": 100000}}
    with live.relay(tmp_path, upstreams, store={"path": "store"}, prices=price) as alone:
        key = command(alone, "keys", "new", "carol", "--budget", "9", "--per", "total").stdout.split()[0]
        assert eventually(lambda: complete(alone, key, model="dear").status == 200)
        assert eventually(lambda: "held" not in balance(alone, key)["detail"] and balance(alone, key)["data"]["used"])
        before = balance(alone, key)["data"]
    store = {"kind": "redis", "url": redis.url, "prefix": next(prefixes), "path": "store"}
    with live.relay(tmp_path, upstreams, store=store, prices=price) as shared:
        assert balance(shared, key)["data"] == before
        assert complete(shared, key, model="dear").status == 200
        assert "taken over 1 key" in shared.log
        assert eventually(lambda: balance(shared, key)["data"]["used"] == 2 * before["used"])
    with live.relay(tmp_path, upstreams, store={"path": "store"}, prices=price) as alone:
        assert balance(alone, key)["data"]["used"] == 2 * before["used"], "and back again"
        assert complete(alone, key, model="dear").status == 200


def test_who_ends_leaves_nothing_held_and_nothing_unwritten(
    upstream: Upstream, redis: RedisServer, tmp_path: Path, pair: tuple[Live, Live]
) -> None:
    prefix = pair[0].settings["store"]["prefix"]
    for number in range(3):
        with begun(tmp_path, upstream, redis, prefix) as third:
            assert third.chat(f"word {number}", key=ALICE, session="ends")["code"] == 200
            assert complete(third, ALICE).status == 200
            third.process.send_signal((signal.SIGINT, signal.SIGTERM, signal.SIGINT)[number])
            third.process.wait(10)
            assert "Traceback" not in third.log
        begin = time.monotonic()
        assert pair[0].chat("goes on", key=ALICE, session="ends")["code"] == 200
        assert time.monotonic() - begin < 5, "its lease was given back"
        assert eventually(lambda: "held" not in balance(pair[0], ALICE)["detail"])


def test_code_and_settings_that_are_read_again_keep_it(upstream: Upstream, redis: RedisServer, tmp_path: Path) -> None:
    entry = ROOT / "addons" / "relay.py"
    with begun(tmp_path, upstream, redis, next(prefixes)) as relay:
        assert relay.chat("before")["code"] == 200
        upstream.clear()
        upstream.script(CHAT, Behaviour(delay_headers=1.5))
        under_way = threading.Thread(target=lambda: answers.append(relay.chat("meanwhile")))
        answers = list[dict[str, Any]]()
        under_way.start()
        upstream.wait(lambda seen: bool(seen))
        copy = tmp_path / "relay.yaml"
        entry.touch()  # mitmproxy loads the code anew
        time.sleep(2)
        under_way.join()
        assert answers[0]["code"] == 200, relay.log
        assert relay.chat("after")["code"] == 200
        said = [each["content"] for each in upstream.seen[-1].json()["messages"] if each["role"] == "user"]
        assert said == ["before", "meanwhile", "after"]
        copy.write_text(copy.read_text().replace("prefix: test", "prefix: another"))
        relay.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "restart relay" in relay.log)
        assert relay.chat("still there")["code"] == 200 and complete(relay, ALICE).status == 200
        assert "Traceback" not in relay.log
