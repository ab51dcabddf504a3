"""Who may read /metrics."""

from typing import Any

import pytest
from mitmproxy import http

from addons.exchange import Kind, of
from addons.telemetry.scraping import MetricsPage
from tests.support import flows

TOKEN = "metrics-token-0123456789"
LOCAL = {"Host": "127.0.0.1:8080"}


def ask(
    peer: str = "127.0.0.1",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    listen: Any = None,
    **metrics: Any,
) -> int:
    """The status of a refusal; 0 for who may read them."""
    flow = flows.request(method, "/metrics", headers if headers is not None else LOCAL)
    flow.client_conn.peername = (peer, 40_000)
    opened = flows.routed(flow, metrics=metrics, listen=listen or {})
    assert of(opened) is not None
    MetricsPage(None).requestheaders(opened)  # type: ignore[arg-type]
    return opened.response.status_code if opened.response is not None else 0


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1"])
@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "localhost", "[::1]:8080"])
def test_programs_on_this_machine_may(peer: str, host: str) -> None:
    assert ask(peer, headers={"Host": host}) == 0


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        pytest.param("203.0.113.7", LOCAL, id="another machine"),
        pytest.param("::ffff:203.0.113.7", LOCAL, id="another machine, as IPv6 writes it"),
        pytest.param("127.0.0.1", {"Host": "relay.example"}, id="another name"),
        pytest.param("127.0.0.1", {"Host": "127.0.0.1.evil.example"}, id="a name that looks like it"),
        pytest.param("127.0.0.1", {**LOCAL, "X-Forwarded-For": "127.0.0.1"}, id="passed on"),
        pytest.param("127.0.0.1", {**LOCAL, "via": "1.1 nginx"}, id="passed on by who is honest"),
        pytest.param("127.0.0.1", {**LOCAL, "X-Real-IP": "203.0.113.7"}, id="passed on by nginx"),
        pytest.param("127.0.0.1", {**LOCAL, "CF-Connecting-IP": "203.0.113.7"}, id="passed on by Cloudflare"),
        pytest.param("127.0.0.1", {**LOCAL, "Origin": "null"}, id="a page"),
        pytest.param("127.0.0.1", {**LOCAL, "Sec-Fetch-Site": "same-site"}, id="a page without an Origin"),
    ],
)
def test_others_may_not(peer: str, headers: dict[str, str]) -> None:
    assert ask(peer, headers=headers) == 403


def test_behind_proxies_nobody_may_without_a_token() -> None:
    listen = {"client_address": {"source": "proxy_protocol", "trusted": ["127.0.0.1"]}}
    assert ask(listen=listen) == 403
    shown = {**LOCAL, "Authorization": f"Bearer {TOKEN}"}
    assert ask(headers=shown, listen=listen, token=TOKEN) == 0


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        (f"Bearer {TOKEN}", 0),
        (f"bearer  {TOKEN}", 0),
        ("", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \xff\xfe", 401),
    ],
)
def test_with_a_token_whoever_shows_it_may(shown: str, status: int) -> None:
    headers = {"Host": "relay.example", "X-Forwarded-For": "203.0.113.7", "Authorization": shown}
    assert ask("203.0.113.7", headers=headers, token=TOKEN) == status


def test_it_is_for_reading() -> None:
    assert ask(method="POST") == 405
    assert ask(method="HEAD") == 0


@pytest.mark.parametrize("metrics", [{"enabled": False}, {"listen": "127.0.0.1:9464"}])
def test_where_it_is_not_served_there_is_no_such_path(metrics: dict[str, object]) -> None:
    flow: http.HTTPFlow = flows.opened("GET", "/metrics", LOCAL, metrics=metrics)
    exchange = of(flow)
    assert exchange is not None and exchange.kind is Kind.OWN
    assert flow.response is not None and flow.response.status_code == 404
