"""Limits of an address, and whose a request is, hook by hook."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mitmproxy import connection, http
from mitmproxy.test import tflow

from addons.config.settings import Settings
from addons.proxy.address_limits import PATIENCE, SPARE, AddressLimits
from addons.proxy.client_addresses import ClientAddresses
from addons.proxy.routing import Routing
from tests.support import flows

PROXY = "10.0.0.7"
BY_HEADER = {"source": "header", "trusted": ["10.0.0.0/8"]}


class Relay:
    """The three rooms that meet a client first, and a clock."""

    def __init__(self, client_address: Any = None, **limits: Any) -> None:
        self.now = 1000.0
        self.settings: Settings = flows.settings(
            listen={"client_address": client_address}, limits={"per_address": limits}
        )
        self.addresses = ClientAddresses(self.settings)
        self.limits = AddressLimits(self.settings, self.addresses, lambda: self.now)
        self.routing = Routing(self.settings)

    def connect(self, host: str) -> connection.Client:
        """A client at this address."""
        client = tflow.tclient_conn()
        client.id, client.peername = f"{host} {id(client)}", (host, 51000)
        client.error = None
        self.addresses.client_connected(client)
        self.limits.client_connected(client)
        return client

    def leave(self, client: connection.Client) -> None:
        """It has left."""
        self.addresses.client_disconnected(client)
        self.limits.client_disconnected(client)

    def begin(self, client: connection.Client, path: str = "/v1/models", forwarded: str = "") -> http.HTTPFlow:
        """A request's head."""
        flow = flows.request("GET", path, {"X-Forwarded-For": forwarded} if forwarded else {})
        flow.client_conn, flow.live = client, True
        for addon in (self.addresses, self.routing, self.limits):
            addon.requestheaders(flow)
        return flow

    def end(self, flow: http.HTTPFlow) -> None:
        """It was answered."""
        for addon in (self.addresses, self.limits):
            addon.response(flow)
        flow.live = False

    def ask(self, client: connection.Client, path: str = "/v1/models", forwarded: str = "") -> int:
        """The status of relay's own answer to a request, 200 where it goes up."""
        flow = self.begin(client, path, forwarded)
        self.end(flow)
        return flow.response.status_code if flow.response is not None else 200


@contextmanager
def loop() -> Iterator[None]:
    """Timers need one that runs."""

    async def nothing() -> None:
        pass

    runner = asyncio.Runner()
    with runner:
        runner.run(nothing())
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(runner.get_loop())
        try:
            yield
        finally:
            asyncio.events._set_running_loop(before)


def test_a_connection_too_many_is_answered_and_those_behind_it_are_not_taken() -> None:
    relay = Relay(connections=2)
    with loop():
        first, second = relay.connect("203.0.113.9"), relay.connect("203.0.113.9")
        late = [relay.connect("203.0.113.9") for _ in range(SPARE)]
        assert [each.error for each in (first, second, *late)] == [None] * (2 + SPARE)
        assert relay.connect("203.0.113.9").error is not None
        assert relay.connect("203.0.113.10").error is None
        assert relay.ask(first) == 200
        flow = relay.begin(late[0])
        answer = flows.answer_of(flow)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert flows.exchange(flow).client_closes
        assert b"too_many_connections" in (answer.raw_content or b"")
        relay.leave(late[0])
        again = relay.connect("203.0.113.9")
        assert again.error is None, "there is room to say so again"
        relay.leave(first)
        assert relay.ask(relay.connect("203.0.113.9")) == 200
        for each in (second, again, *late):
            relay.leave(each)
    assert not relay.limits._over and not relay.limits._spare
    assert PATIENCE < 20


def test_the_health_of_relay_is_told_however_many_there_are() -> None:
    relay = Relay(connections=1, requests=1)
    with loop():
        first, late = relay.connect("203.0.113.9"), relay.connect("203.0.113.9")
        assert relay.ask(first) == 200
        assert relay.ask(first) == 429
        for path in ("/readyz", "/healthz"):
            for client in (first, late):
                assert flows.exchange(relay.begin(client, path)).refused is False


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 429), ("/chat", 200), ("/pro/balance", 200), ("/x", 404)])
def test_too_many_requests_are_told_in_the_caller_s_shape(path: str, status: int) -> None:
    relay = Relay(requests=1)
    client = relay.connect("203.0.113.9")
    assert relay.ask(client) == 200
    flow = relay.begin(client, path)
    answer = flows.answer_of(flow)
    assert answer.status_code == status
    if path != "/x":
        assert answer.headers["retry-after"] == "60"
        assert "每分钟" in (answer.text or "") and "a minute" in (answer.text or "")
    relay.now += 60
    assert relay.ask(client) == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_this_machine_has_no_limit(host: str) -> None:
    relay = Relay(connections=1, requests=1)
    clients = [relay.connect(host) for _ in range(20)]
    assert {relay.ask(client) for client in clients} == {200}


def test_null_is_no_limit() -> None:
    relay = Relay(connections=None, requests=None)
    assert {relay.ask(relay.connect("203.0.113.9")) for _ in range(300)} == {200}


def test_a_limit_that_changes_holds_for_who_is_there() -> None:
    relay = Relay(connections=5)
    with loop():
        clients = [relay.connect("203.0.113.9") for _ in range(5)]
        relay.limits.adopt(flows.settings(limits={"per_address": {"connections": 3}}))
        relay.leave(clients.pop())
        assert relay.ask(relay.connect("203.0.113.9")) == 429


# Behind a proxy that names the client in a header


def test_a_proxy_s_requests_are_its_clients() -> None:
    relay = Relay(BY_HEADER, connections=1, requests=3)
    proxies = [relay.connect(PROXY) for _ in range(3)]
    flow = relay.begin(proxies[0], forwarded="203.0.113.9")
    assert flow.client_conn.peername is not None and flow.client_conn.peername[0] == "203.0.113.9"
    assert "x-forwarded-for" not in flow.request.headers
    assert relay.ask(proxies[1], forwarded="203.0.113.9") == 429, "one is under way"
    assert relay.ask(proxies[2], forwarded="6.6.6.6, 203.0.113.10") == 200
    relay.end(flow)
    assert [relay.ask(proxies[1], forwarded="203.0.113.9") for _ in range(3)] == [200, 200, 429]
    assert relay.ask(proxies[1]) == 200, "a proxy that names nobody speaks for itself"


def test_a_header_counts_from_proxies_alone() -> None:
    relay = Relay(BY_HEADER, requests=1)
    client = relay.connect("203.0.113.9")
    assert relay.ask(client, forwarded="198.51.100.1") == 200
    assert relay.ask(client, forwarded="198.51.100.2") == 429
    assert client.peername == ("203.0.113.9", 51000)


def test_another_header() -> None:
    relay = Relay({**BY_HEADER, "header": "X-Client"}, requests=1)
    proxy = relay.connect(PROXY)
    for expected in (False, True):
        flow = flows.request("GET", "/v1/models", {"X-Client": "203.0.113.9", "X-Forwarded-For": "1.1.1.1"})
        flow.client_conn, flow.live = proxy, True
        for addon in (relay.addresses, relay.routing, relay.limits):
            addon.requestheaders(flow)
        assert "x-client" not in flow.request.headers and "x-forwarded-for" not in flow.request.headers
        assert flows.exchange(flow).refused is expected
        relay.end(flow)


def test_each_record_keeps_its_client() -> None:
    relay = Relay(BY_HEADER)
    proxy = relay.connect(PROXY)
    kept = []
    for number in range(3):
        flow = relay.begin(proxy, forwarded=f"203.0.113.{number}")
        relay.end(flow)
        kept.append(flow)
    relay.leave(proxy)
    assert [flow.client_conn.peername for flow in kept] == [(f"203.0.113.{number}", 0) for number in range(3)]
    assert proxy.peername == (PROXY, 51000)
    assert not relay.addresses._proxies and not len(relay.limits.known)


def test_streams_at_the_same_time_are_told_apart() -> None:
    relay = Relay(BY_HEADER, connections=1)
    proxy = relay.connect(PROXY)
    one, other = relay.begin(proxy, forwarded="203.0.113.1"), relay.begin(proxy, forwarded="203.0.113.2")
    relay.end(one)
    assert one.client_conn.peername == ("203.0.113.1", 0), "as its line in the log says"
    relay.end(other)
    relay.begin(proxy, forwarded="203.0.113.3")
    assert one.client_conn.peername == ("203.0.113.1", 0)
    assert other.client_conn.peername == ("203.0.113.2", 0)


def test_a_proxy_that_leaves_takes_its_requests_with_it() -> None:
    relay = Relay(BY_HEADER, connections=1)
    proxy = relay.connect(PROXY)
    flow = relay.begin(proxy, forwarded="203.0.113.9")
    relay.leave(proxy)
    assert not len(relay.limits.known)
    relay.limits.error(flow)
    assert not len(relay.limits.known) and not relay.limits._under_way.get(proxy.id)


def test_a_websocket_counts_until_it_ends() -> None:
    relay = Relay(BY_HEADER, connections=1)
    proxy = relay.connect(PROXY)
    flow = relay.begin(proxy, forwarded="203.0.113.9")
    flow.websocket = tflow.twebsocket()
    relay.limits.response(flow)
    assert relay.ask(relay.connect(PROXY), forwarded="203.0.113.9") == 429
    relay.limits.websocket_end(flow)
    assert relay.ask(relay.connect(PROXY), forwarded="203.0.113.9") == 200


def test_records_are_not_kept_for_it() -> None:
    relay = Relay(BY_HEADER)
    proxy = relay.connect(PROXY)
    for number in range(50):
        relay.ask(proxy, forwarded=f"203.0.113.{number}")
    gc.collect()
    relay.begin(proxy, forwarded="203.0.113.9")
    assert len(relay.addresses._proxies[proxy.id].named) <= 2
