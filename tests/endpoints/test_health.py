"""relay's own paths for whoever watches over it."""

import asyncio
from typing import Any

import pytest
from mitmproxy import http

from addons.core.sessions import Session
from addons.endpoints import health
from addons.endpoints.health import Health, Readiness
from addons.exchange import Kind
from addons.store import StoreError
from addons.upstreams.health import UpstreamHealth
from tests.support import flows


class Store:
    """One that answers as it is told."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked = 0

    async def load(self, _key: str, _ttl: float) -> Session:
        self.asked += 1
        if self.how == "away":
            raise StoreError("the disk has gone")
        if self.how == "slow":
            await asyncio.sleep(30)
        return Session()


def ask(path: str, store: Store, method: str = "GET") -> http.HTTPFlow:
    flow = flows.opened(method, path)
    assert flows.exchange(flow).kind is Kind.OWN
    own: Any = Health(store, Readiness(), UpstreamHealth(b""))  # type: ignore[arg-type]
    own.requestheaders(flow)
    asyncio.run(own.request(flow))
    return flow


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_all_is_well(path: str, method: str) -> None:
    store = Store("well")
    flow = ask(path, store, method)
    assert flows.answer_of(flow).status_code == 200
    if method == "GET":
        upstreams = (
            {"upstreams": [{"name": name, "state": "ok"} for name in ("test", "other")]}
            if path.startswith("/readyz")
            else {}
        )
        assert flows.json_of(flow) == {"status": "ok", **upstreams}
    assert store.asked == path.startswith("/readyz")


@pytest.mark.parametrize("how", ["away", "slow"])
def test_without_its_store_relay_runs_and_is_not_ready(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.05)
    assert flows.answer_of(ask("/healthz", Store(how))).status_code == 200
    flow = ask("/readyz", Store(how))
    assert flows.answer_of(flow).status_code == 503
    assert "store" in flows.json_of(flow)["error"]["message"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_another_method_is_refused_and_asks_nobody(path: str) -> None:
    store = Store("well")
    assert flows.answer_of(ask(path, store, "POST")).status_code == 405
    assert not store.asked
