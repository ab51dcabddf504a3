"""The HTTP proxy on the way out: who uses it, what it hears, and what becomes of its failures."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import connect_proxy, live
from tests.support.connect_proxy import Proxy
from tests.support.shapes import openai_error

AUTH = {"Authorization": "Bearer sk-test-0123456789"}
LIMITS = {"connect": "1s", "upstream_idle": "1ms"}
"""So that each test sees its own connections."""
KEY = "sk-test-0123456789"


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with connect_proxy.running() as running:
        yield running


@pytest.fixture(scope="module")
def relay(upstream: Upstream, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    """Relay before one upstream without a proxy, one in plain HTTP and one in TLS behind the same proxy."""
    withs_password = proxy.url.replace("://", "://user:p%40ss@")
    upstreams = [
        {"name": "direct", "url": upstream.url},
        {"name": "plain", "url": upstream.url, "proxy": withs_password},
        {"name": "gone", "url": upstream.url, "proxy": f"http://127.0.0.1:{live.free_port()}"},
        {"name": "secure", "url": f"https://127.0.0.1:{upstream.port}", "proxy": proxy.url},
    ]
    routes = [{"path": "/plain", "upstream": "plain"}, {"path": "/secure", "upstream": "secure"}]
    routes.append({"path": "/gone", "upstream": "gone"})
    with live.relay(tmp_path_factory.mktemp("proxied"), upstreams, routes=routes, limits=LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def as_usual(proxy: Proxy) -> None:
    proxy.refuse = proxy.mute = False
    proxy.asked.clear()


def test_an_upstream_without_a_proxy_is_asked_directly(relay: live.Live, proxy: Proxy) -> None:
    assert relay.ask("GET", "/v1/models", headers=AUTH).status == 200
    assert not proxy.asked


def test_an_upstream_with_one_is_asked_through_it(relay: live.Live, proxy: Proxy, upstream: Upstream) -> None:
    assert relay.ask("GET", "/plain/v1/models", headers=AUTH).status == 200
    (head,) = proxy.asked
    assert head.startswith(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n".encode())
    assert b"sk-test" not in head


def test_the_proxy_hears_the_name_and_password_of_its_address(relay: live.Live, proxy: Proxy) -> None:
    relay.ask("GET", "/plain/v1/models", headers=AUTH)
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.asked[0]


def test_chat_and_balance_go_the_same_way(relay: live.Live, proxy: Proxy) -> None:
    body = {"apiKey": KEY, "sessionId": "s", "content": "hello"}
    assert relay.ask("POST", "/plain/chat", body).json()["code"] == 200
    assert relay.ask("GET", f"/plain/pro/balance?apiKey={KEY}").json()["code"] == 200
    assert 2 <= len(proxy.asked) <= 3


def test_a_stream_through_a_proxy_outlives_the_connect_limit(relay: live.Live, upstream: Upstream) -> None:
    chunks = [(b"data: %d\n\n" % number, 0.5) for number in range(5)]
    upstream.script("/v1/slow", Behaviour(headers=[("Content-Type", "text/event-stream")], chunks=chunks))
    answer = relay.ask("GET", "/plain/v1/slow", headers=AUTH)
    assert answer.body.count(b"data: ") == 5


@pytest.mark.parametrize("path", ["/plain/v1/models", "/secure/v1/models"])
def test_a_proxy_that_refuses_is_502_and_says_where_to_look(relay: live.Live, proxy: Proxy, path: str) -> None:
    proxy.refuse = True
    answer = relay.ask("GET", path, headers=AUTH)
    openai_error(answer, 502)
    assert "proxy" in answer.json()["error"]["message"]
    assert str(proxy.port) not in answer.body.decode()


def test_a_proxy_that_is_not_there(relay: live.Live) -> None:
    answer = relay.ask("GET", "/gone/v1/models", headers=AUTH)
    openai_error(answer, 502)
    assert "proxy" in answer.json()["error"]["message"]


def test_a_proxy_that_never_answers_is_504_in_time(relay: live.Live, proxy: Proxy) -> None:
    proxy.mute = True
    begin = time.monotonic()
    openai_error(relay.ask("GET", "/secure/v1/models", headers=AUTH), 504)
    assert time.monotonic() - begin < 5


def test_tls_that_never_comes_about_inside_the_tunnel_is_given_up(relay: live.Live, upstream: Upstream) -> None:
    upstream.script("*", Behaviour(never=True))
    begin = time.monotonic()
    answer = relay.ask("GET", "/secure/v1/models", headers=AUTH)
    openai_error(answer, 502, 504)
    assert time.monotonic() - begin < 5


def test_no_password_is_in_the_log(relay: live.Live, tmp_path: Path) -> None:
    assert "p@ss" not in relay.log and "p%40ss" not in relay.log and "dXNlcjpwQHNz" not in relay.log
