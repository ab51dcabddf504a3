"""A SOCKS proxy on the way out: who uses it, what it hears, and what becomes of its failures."""

import contextlib
import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wsproto.events import CloseConnection, TextMessage

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_websocket import Socket
from tests.support import live, socks_proxy
from tests.support.connect_proxy import listening, serve
from tests.support.live import eventually, free_port
from tests.support.shapes import openai_error
from tests.support.socks_proxy import NOBODY, SocksProxy

KEY = "sk-test-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
LIMITS = {"connect": "1s", "upstream_idle": "1ms"}
"""So that each test sees its own connections."""
PASSWORD = "p@ss-MARKx"


@pytest.fixture(scope="module")
def proxy() -> Iterator[SocksProxy]:
    with socks_proxy.running() as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[SocksProxy]:
    with socks_proxy.running() as running:
        running.login = ("user", PASSWORD)
        yield running


@pytest.fixture(scope="module")
def relay(
    upstream: Upstream, proxy: SocksProxy, guarded: SocksProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[live.Live]:
    upstreams = [
        {"name": "there", "url": f"http://{NOBODY}:{upstream.port}", "proxy": proxy.url()},
        {"name": "here", "url": f"http://localhost:{upstream.port}", "proxy": proxy.url("socks5")},
        {"name": "login", "url": upstream.url, "proxy": guarded.url(login=f"user:{PASSWORD.replace('@', '%40')}")},
        {"name": "wrong", "url": f"http://{NOBODY}:{upstream.port}", "proxy": guarded.url(login="user:wrong")},
        {"name": "secure", "url": f"https://127.0.0.1:{upstream.port}", "proxy": proxy.url()},
        {"name": "gone", "url": upstream.url, "proxy": f"socks5h://127.0.0.1:{free_port()}"},
        {"name": "direct", "url": upstream.url},
    ]
    routes = [{"path": f"/{each['name']}", "upstream": each["name"]} for each in upstreams[1:]]
    with live.relay(tmp_path_factory.mktemp("socks"), upstreams, routes=routes, limits=LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def as_usual(proxy: SocksProxy, guarded: SocksProxy, upstream: Upstream) -> None:
    upstream.clear()
    for each in (proxy, guarded):
        each.refuse, each.mute = 0, False
        each.asked.clear()
        each.logins.clear()


def test_the_proxy_looks_up_the_name(relay: live.Live, proxy: SocksProxy, upstream: Upstream) -> None:
    assert relay.ask("GET", "/v1/models", headers=AUTH).status == 200
    assert proxy.asked == [(NOBODY, upstream.port)]


def test_relay_looks_it_up_where_it_is_told_to(relay: live.Live, proxy: SocksProxy, upstream: Upstream) -> None:
    assert relay.ask("GET", "/here/v1/models", headers=AUTH).status == 200
    [(host, port)] = proxy.asked
    assert host in ("127.0.0.1", "::1") and port == upstream.port


def test_others_are_asked_directly(relay: live.Live, proxy: SocksProxy) -> None:
    assert relay.ask("GET", "/direct/v1/models", headers=AUTH).status == 200
    assert not proxy.asked


def test_user_and_password_are_shown_to_the_proxy_alone(relay: live.Live, guarded: SocksProxy) -> None:
    assert relay.ask("GET", "/login/v1/models", headers=AUTH).status == 200
    assert guarded.logins == [("user", PASSWORD)]
    openai_error(relay.ask("GET", "/wrong/v1/models", headers=AUTH), 502)
    assert guarded.logins[-1] == ("user", "wrong")
    assert "MARKx" not in relay.log and "p%40ss" not in relay.log


def test_chat_and_balance_go_the_same_way(relay: live.Live, proxy: SocksProxy) -> None:
    body = {"apiKey": KEY, "sessionId": "s", "content": "hello"}
    assert relay.ask("POST", "/chat", body).json()["code"] == 200
    assert relay.ask("GET", f"/pro/balance?apiKey={KEY}").json()["code"] == 200
    assert 2 <= len(proxy.asked) <= 3


def test_a_connection_is_kept(upstream: Upstream, guarded: SocksProxy, tmp_path: Path) -> None:
    def url(login: str) -> str:
        return guarded.url(login=login)

    upstreams = [
        {"name": "one", "url": upstream.url, "proxy": url(f"user:{PASSWORD.replace('@', '%40')}")},
        {"name": "other", "url": upstream.url, "proxy": url("user:wrong")},
    ]
    routes = [{"path": "/other", "upstream": "other"}]
    with live.relay(tmp_path, upstreams, routes=routes) as relay:
        for _ in range(2):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=10)) as connection:
                for _ in range(2):
                    connection.request("GET", "/v1/models", headers=AUTH)
                    assert connection.getresponse().read()
        assert len(guarded.asked) == 1
        openai_error(relay.ask("GET", "/other/v1/models", headers=AUTH), 502)
        assert len(guarded.logins) == 2, "an upstream with another login has connections of its own"


def test_a_stream_outlives_the_connect_limit(relay: live.Live, upstream: Upstream) -> None:
    chunks = [(b"data: %d\n\n" % number, 0.5) for number in range(4)]
    upstream.script("/v1/slow", Behaviour(headers=[("Content-Type", "text/event-stream")], chunks=chunks))
    assert relay.ask("GET", "/v1/slow", headers=AUTH).body.count(b"data: ") == 4


def test_a_websocket(relay: live.Live, proxy: SocksProxy) -> None:
    with Socket(relay, headers=[(b"Authorization", f"Bearer {KEY}".encode())]) as websocket:
        websocket.send(TextMessage("hello"))
        assert isinstance(websocket.receive(), TextMessage)
        websocket.send(CloseConnection(1000))
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_a_proxy_that_refuses_is_502_and_says_where_to_look(relay: live.Live, proxy: SocksProxy, code: int) -> None:
    proxy.refuse = code
    answer = relay.ask("GET", "/v1/models", headers=AUTH)
    openai_error(answer, 502, 504)
    assert "proxy" in answer.json()["error"]["message"]
    assert str(proxy.port) not in answer.body.decode() and NOBODY not in answer.body.decode()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x04\x00", b"\x05\x00\x05", bytes(300)])
def test_what_is_no_socks_proxy(upstream: Upstream, tmp_path: Path, answer: bytes) -> None:
    def talk(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(100)
            client.sendall(answer)

    with listening() as listener:
        serve(listener, talk)
        url = f"socks5h://127.0.0.1:{listener.getsockname()[1]}"
        with live.relay(tmp_path, [{"name": "test", "url": upstream.url, "proxy": url}]) as relay:
            said = relay.ask("GET", "/v1/models", headers=AUTH)
            openai_error(said, 502)
            assert "proxy" in said.json()["error"]["message"]


def test_a_proxy_that_is_not_there(relay: live.Live) -> None:
    answer = relay.ask("GET", "/gone/v1/models", headers=AUTH)
    openai_error(answer, 502)
    assert "proxy" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/secure/v1/models"])
def test_a_proxy_that_never_answers_is_504_in_time(relay: live.Live, proxy: SocksProxy, path: str) -> None:
    proxy.mute = True
    begin = time.monotonic()
    openai_error(relay.ask("GET", path, headers=AUTH), 504)
    assert time.monotonic() - begin < 5


def test_tls_inside_that_never_comes_about_is_given_up(relay: live.Live, upstream: Upstream, proxy: SocksProxy) -> None:
    upstream.script("*", Behaviour(never=True))
    begin = time.monotonic()
    openai_error(relay.ask("GET", "/secure/v1/models", headers=AUTH), 502, 504)
    assert time.monotonic() - begin < 5 and proxy.asked


@pytest.mark.skipif(shutil.which("microsocks") is None, reason="Debian's microsocks is not installed")
def test_debian_s_microsocks(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", PASSWORD]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: _listens(port))
        url = f"socks5h://user:{PASSWORD.replace('@', '%40')}@127.0.0.1:{port}"
        with live.relay(tmp_path, [{"name": "test", "url": upstream.url, "proxy": url}]) as relay:
            assert relay.ask("GET", "/v1/models", headers=AUTH).status == 200
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            assert b"[DONE]" in relay.ask("POST", "/v1/chat/completions", body, AUTH).body
            with Socket(relay, headers=[(b"Authorization", f"Bearer {KEY}".encode())]) as websocket:
                websocket.send(TextMessage("hello"))
                assert isinstance(websocket.receive(), TextMessage)
    finally:
        server.terminate()
        server.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
