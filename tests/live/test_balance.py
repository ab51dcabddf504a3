"""`/pro/balance` in front of upstreams that each tell it in their own way."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Live

KEY = "sk-0123456789abcdef"
SITE = {"success": True, "message": "", "data": {"quota_per_unit": 500000}}
TOKEN = {"total_granted": 10_000_000, "total_used": 500_000, "total_available": 9_500_000, "unlimited_quota": False}
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek": (
        {"/user/balance": {"balance_infos": [{"currency": "CNY", "total_balance": "110.00"}]}},
        '{"total": null, "balance": 110.00, "used": null}',
    ),
    "moonshot": (
        {"/v1/users/me/balance": {"code": 0, "status": True, "data": {"available_balance": 49.58894}}},
        '{"total": null, "balance": 49.59, "used": null}',
    ),
    "siliconflow": (
        {"/v1/user/info": {"code": 20000, "message": "OK", "status": True, "data": {"totalBalance": "88.88"}}},
        '{"total": null, "balance": 88.88, "used": null}',
    ),
    "openrouter-key": (
        {"/v1/key": {"data": {"limit": 10, "limit_remaining": 7.5, "usage": 40.1}}},
        '{"total": 10.00, "balance": 7.50, "used": 2.50}',
    ),
    "newapi": (
        {"/api/usage/token/": {"code": True, "message": "ok", "data": TOKEN}, "/api/status": SITE},
        '{"total": 20.00, "balance": 19.00, "used": 1.00}',
    ),
    "credit_grants": (
        {"/v1/dashboard/billing/credit_grants": {"total_granted": 20, "total_used": 1.5, "total_available": 18.5}},
        '{"total": 20.00, "balance": 18.50, "used": 1.50}',
    ),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.running() as running:
        yield running


@pytest.fixture(scope="module")
def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    upstreams = [{"name": "first", "url": upstream.url}]
    upstreams += [{"name": way, "url": upstream.url, "balance": way} for way in WAYS]
    routes = [{"path": f"/{way}", "upstream": way} for way in WAYS]
    folder = tmp_path_factory.mktemp("balance")
    with live.relay(folder, upstreams, routes=routes, balance={"cache": "100ms"}) as running:
        yield running


def answers(upstream: Upstream, said: dict[str, Any]) -> None:
    for path, value in said.items():
        upstream.script(path, Behaviour(status=200, body=json.dumps(value).encode()))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_asked_and_understood(relay: Live, upstream: Upstream, way: str) -> None:
    said, data = WAYS[way]
    answers(upstream, said)
    answer = relay.ask("GET", f"/{way}/pro/balance?apiKey={KEY}")
    assert answer.status == 200 and f'"data": {data}' in answer.body.decode()
    assert answer.json()["detail"]["source"] == way


def test_an_old_answer_is_told_as_such(relay: Live, upstream: Upstream) -> None:
    key = "sk-stale-0123456789"
    answers(upstream, WAYS["deepseek"][0])
    fresh = relay.ask("GET", f"/deepseek/pro/balance?apiKey={key}").json()
    time.sleep(0.2)
    upstream.script("/user/balance", Behaviour(close_without_answer=True))
    stale = relay.ask("GET", f"/deepseek/pro/balance?apiKey={key}").json()
    assert stale == fresh | {"detail": fresh["detail"] | {"stale": True}}
    time.sleep(0.2)
    upstream.script("/user/balance", Behaviour(status=401, body=b'{"error": {"message": "no"}}'))
    assert relay.ask("GET", f"/deepseek/pro/balance?apiKey={key}").json()["code"] == 401
