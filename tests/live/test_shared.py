"""Several relays and one Redis: what one knows the other knows."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.answer import Behaviour
from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.live import Live, eventually
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
    upstream.script(CHAT, *[Behaviour(delay_headers=0.1)] * 8)
    answers = list[dict[str, Any]]()
    talks = [
        threading.Thread(target=lambda n=n: answers.append(pair[n % 2].chat(f"w{n}", session="order")))
        for n in range(8)
    ]
    for talk in talks:
        talk.start()
        time.sleep(0.02)
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
