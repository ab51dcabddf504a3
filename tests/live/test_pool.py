"""Connections to upstreams are shared by all clients: who gets one, and what never becomes somebody else's answer."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mitmproxy import http as mhttp
from mitmproxy.io import FlowReader
from wsproto.events import TextMessage

from addons.cli.fake_openai.server import Upstream
from tests.live.test_wire_tls import Http2
from tests.live.test_wire_websocket import Socket
from tests.support import certificates, connect_proxy, live, marking_upstream, raw
from tests.support.live import eventually
from tests.support.marking_upstream import MarkingUpstream, Step

AUTH = [("Authorization", "Bearer sk-test-0123456789")]


@pytest.fixture(scope="module")
def marking() -> Iterator[MarkingUpstream]:
    with marking_upstream.running() as running:
        running.shapes.update(SHAPES)
        yield running


@pytest.fixture(scope="module")
def pooled(marking: MarkingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    with live.relay(tmp_path_factory.mktemp("pool"), marking.url) as running:
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pair:
    return certificates.self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def anew(marking: MarkingUpstream) -> None:
    marking.close_all()
    assert eventually(lambda: marking.open == 0)
    time.sleep(0.02)
    marking.forget()


def ask(relay: live.Live, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    """Ask as a client that is new."""
    with raw.Client(relay.port) as client:
        reply, said = client.ask(method, path, AUTH, body)
        return reply.status, said


def test_a_new_client_gets_the_connection_of_one_that_has_left(pooled: live.Live, marking: MarkingUpstream) -> None:
    for number in range(10):
        assert ask(pooled, f"/v1/plain/mark{number}") == (200, b"mark%d" % number)
    assert marking.connections == 1


def test_idle_clients_that_stay_hold_none(pooled: live.Live, marking: MarkingUpstream) -> None:
    clients = [raw.Client(pooled.port) for _ in range(150)]
    try:
        for rounds in range(2):
            for number, client in enumerate(clients):
                mark = b"mark%d-%d" % (rounds, number)
                assert client.ask("GET", f"/v1/plain/{mark.decode()}", AUTH)[1] == mark
    finally:
        for client in clients:
            client.socket.close()
    assert marking.connections == 1 and len(marking.asked) == 300


def test_who_is_served_at_the_same_time_has_one_of_his_own(pooled: live.Live, marking: MarkingUpstream) -> None:
    said: list[tuple[int, bytes]] = []

    def one(number: int) -> None:
        for each in range(20):
            said.append(ask(pooled, f"/v1/slow/mark{number}-{each}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(said) == sorted((200, b"mark%d-%d" % (n, each)) for n in range(8) for each in range(20))
    assert marking.connections <= 12


def test_a_client_of_http2_gives_it_back_too(tmp_path: Path, marking: MarkingUpstream) -> None:
    pair = certificates.self_signed(tmp_path)
    listen = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    with live.relay(tmp_path, marking.url, listen=listen) as relay:
        for _ in range(2):
            with Http2(relay, pair) as client:
                for number in range(6):
                    assert client.ask("GET", f"/v1/plain/mark{number}").body == b"mark%d" % number
        assert marking.connections == 1
        with Http2(relay, pair) as client:
            streams = [client.send("GET", f"/v1/slow/mark{number}") for number in range(20)]
            while not all(each.ended for each in streams):
                client.receive()
            assert [each.body for each in streams] == [b"mark%d" % number for number in range(20)]
        assert marking.connections <= 20


# -- what never returns

BIG = b"x" * 8_000_000


def _length(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), more, body)


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


def _chunked(mark: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(mark), mark)


def _shape(*steps: bytes | float) -> marking_upstream.Shape:
    def say(mark: bytes) -> Sequence[Step]:
        return [each.replace(b"MARK", mark) if isinstance(each, bytes) else each for each in steps]

    return say


SHAPES: dict[bytes, marking_upstream.Shape] = {
    b"slow": lambda mark: (0.005, _length(mark)),
    b"twice": lambda mark: (_length(mark) + EVIL,),
    b"twice-later": lambda mark: (_length(mark), 0.03, EVIL),
    b"one-byte": lambda mark: (_length(mark) + b"H",),
    b"line-end": lambda mark: (_length(mark) + b"\r\n",),
    b"chunks-more": lambda mark: (_chunked(mark) + EVIL,),
    b"chunks-split": lambda mark: (_chunked(mark), 0.01, EVIL),
    b"trailers-more": lambda mark: (_chunked(mark)[:-2] + b"X: y\r\n\r\n" + EVIL,),
    b"head": lambda mark: (_length(mark),),  # to HEAD: a body that has no place
    b"no-content": lambda mark: (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL,),
    b"not-modified": lambda mark: (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil" + EVIL,),
    b"interim": lambda mark: (b"HTTP/1.1 199 Strange\r\n\r\n" + _length(mark),),
    b"says-close": lambda mark: (_length(mark, b"Connection: close\r\n"), 0.02, EVIL),
    b"old": lambda mark: (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(mark), mark),),
    b"to-the-end-close": lambda mark: (b"HTTP/1.1 200 OK\r\n\r\n" + mark,),
    b"short-close": lambda mark: (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + mark,),
    b"two-lengths": lambda mark: (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil" + EVIL,),
    b"length-and-chunks": lambda mark: (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
    ),
    b"early": lambda mark: (_length(mark), 0.03),
    b"upgrade": lambda mark: (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + EVIL,),
    b"soon-over": lambda mark: (_length(mark, b"Keep-Alive: timeout=1\r\n"),),
    b"long": lambda mark: (_length(mark, b"Keep-Alive: timeout=30\r\n"),),
}
KEPT = ("slow", "long")


@pytest.mark.parametrize("shape", [each.decode() for each in SHAPES if each.decode() not in KEPT])
def test_a_second_client_only_ever_gets_his_own_answer(pooled: live.Live, marking: MarkingUpstream, shape: str) -> None:
    for number in range(3):
        with raw.Client(pooled.port) as first:
            method, body = ("HEAD", None) if shape == "head" else ("POST", BIG) if shape == "early" else ("GET", None)
            with contextlib.suppress(raw.Broken, ConnectionError, IndexError, ValueError):  # an answer that is a break
                if shape == "upgrade":
                    first.send(raw.request(method, f"/v1/{shape}/first{number}", AUTH))
                    first.head()  # what follows has no end
                else:
                    first.ask(method, f"/v1/{shape}/first{number}", AUTH, body)
            # What comes when the next request is up already can't be told from its answer.
            for pause in (0.06,) if shape.endswith(("later", "split")) else (0.0, 0.06):
                time.sleep(pause)
                assert ask(pooled, f"/v1/plain/second{number}") == (200, b"second%d" % number)
    assert marking.connections > 3, "what is not clean is not used again"
    assert eventually(lambda: marking.open <= 2), "it is closed"


@pytest.mark.parametrize("shape", KEPT)
def test_what_is_clean_is_kept(pooled: live.Live, marking: MarkingUpstream, shape: str) -> None:
    for number in range(3):
        ask(pooled, f"/v1/{shape}/mark{number}")
    assert marking.connections == 1


def test_an_answer_that_its_client_leaves_is_nobody_s(pooled: live.Live, marking: MarkingUpstream) -> None:
    marking.shapes[b"endless"] = lambda mark: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *(step for _ in range(40) for step in (b"4\r\nevil\r\n", 0.01)),
        b"0\r\n\r\n",
    )
    for number in range(3):
        with raw.Client(pooled.port) as first:
            first.send(raw.request("GET", "/v1/endless/first", AUTH))
            assert first.head().status == 200
        assert ask(pooled, f"/v1/plain/second{number}") == (200, b"second%d" % number)


def test_a_websocket_s_connection_is_its_own(relay: live.Live, upstream: Upstream) -> None:
    before = upstream.accepted
    for _ in range(2):
        with Socket(relay, headers=[(b"Authorization", b"Bearer sk-test-0123456789")]) as websocket:
            websocket.send(TextMessage("hello"))
            assert isinstance(websocket.receive(), TextMessage)
    assert upstream.accepted == before + 2


# -- how long, how many, how warm


def test_it_rests_no_longer_than_relay_yaml_says(tmp_path: Path, marking: MarkingUpstream) -> None:
    with live.relay(tmp_path, marking.url, limits={"upstream_idle": "300ms"}) as relay:
        ask(relay, "/v1/plain/one")
        assert marking.open == 1
        assert eventually(lambda: marking.open == 0), "it is closed when its time is over"
        ask(relay, "/v1/plain/two")
    assert marking.connections == 2


def test_some_are_kept_ready(tmp_path: Path, marking: MarkingUpstream) -> None:
    with live.relay(tmp_path, [{"name": "one", "url": marking.url, "warm": 3}]) as relay:
        assert eventually(lambda: marking.open == 3)
        assert ask(relay, "/v1/plain/one") == (200, b"one")
        assert marking.connections == 3, "a new client is served by one of them"
        marking.close_all()
        assert eventually(lambda: marking.open == 3), "those that upstream closes are made anew"
        assert ask(relay, "/v1/plain/two") == (200, b"two")


def test_an_upstream_that_is_not_there_is_asked_for_less_and_less(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{live.free_port()}"
    with live.relay(tmp_path, [{"name": "one", "url": url, "warm": 2}]) as relay:
        time.sleep(1.5)
        assert relay.ask("GET", "/v1/models", headers=dict(AUTH)).status == 502
        assert "Traceback" not in relay.log and "never retrieved" not in relay.log


PEEK = """
from mitmproxy import ctx


def see(flow):
    from addons.engine.speed.layers import straight

    handler = ctx.master.addons.get("proxyserver").connections[flow.client_conn.id]
    print("held:", len(handler.transports), len(straight(handler.layer).connections), flush=True)


response = error = see
"""


@pytest.mark.parametrize("way", ["closes", "refuses"])
def test_a_client_that_stays_holds_nothing_of_the_connections_before(
    tmp_path: Path, marking: MarkingUpstream, way: str
) -> None:
    peek = tmp_path / "peek.py"
    peek.write_text(PEEK)
    marking.shapes[b"unsaid-close"] = lambda mark: (_length(mark),)
    url = marking.url if way == "closes" else f"http://127.0.0.1:{live.free_port()}"
    with live.relay(tmp_path, url, ("-s", str(peek))) as relay, raw.Client(relay.port) as client:
        for number in range(8):
            client.ask("GET", f"/v1/unsaid-close/mark{number}", AUTH)
            time.sleep(0.05)
        assert eventually(lambda: relay.log.count("held:") == 8)
        held = [line.split()[-2:] for line in relay.log.splitlines() if "held:" in line]
        assert held[-1] == held[1], held


@pytest.mark.parametrize("body", [None, b"a" * 1000], ids=["held", "streamed"])
def test_who_has_left_before_the_connection_is_there_is_not_asked_for(
    tmp_path: Path, pair: certificates.Pair, body: bytes | None
) -> None:
    """A stream of HTTP/2, whose connection stays. It may be billed, and nobody reads it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    listen = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    with connect_proxy.listening() as listener:
        upstream = MarkingUpstream(listener.getsockname()[1], "https")

        def accept(client: socket.socket) -> None:
            time.sleep(0.4)
            marking_upstream._accept(client, upstream, context)

        connect_proxy.serve(listener, accept)
        upstreams = [{"name": "one", "url": upstream.url, "ca": str(pair.cert)}]
        with live.relay(tmp_path, upstreams, listen=listen) as relay, Http2(relay, pair) as client:
            left = client.send("POST" if body else "GET", "/v1/plain/left", body=body)
            time.sleep(0.1)
            client.cancel(left)
            assert client.ask("GET", "/v1/plain/stays").body == b"stays"
            time.sleep(0.3)
            assert upstream.asked == [b"stays"]
            assert relay.log.count("stream reset by client") == 1
            assert "Traceback" not in relay.log


# -- TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_tls_is_kept_and_its_sessions_are_resumed(
    tmp_path: Path, pair: certificates.Pair, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.maximum_version = version
    saved = tmp_path / "saved.flow"
    with marking_upstream.running(context) as upstream:
        upstreams = [{"name": "one", "url": upstream.url, "ca": str(pair.cert)}]
        with live.relay(tmp_path, upstreams, ("-w", str(saved))) as relay:
            for number in range(4):
                assert ask(relay, f"/v1/plain/mark{number}") == (200, b"mark%d" % number)
            assert upstream.connections == 1
            for number in range(3):
                upstream.close_all()
                assert eventually(lambda: upstream.open == 0)
                time.sleep(0.05)
                assert ask(relay, f"/v1/plain/again{number}") == (200, b"again%d" % number)
            assert upstream.connections == 4 and upstream.resumed == 3
    with saved.open("rb") as file:
        flows = [each for each in FlowReader(file).stream() if isinstance(each, mhttp.HTTPFlow)]
    assert len(flows) == 7
    for flow in flows:
        server = flow.server_conn
        assert server.tls and server.sni == "127.0.0.1" and server.alpn is not None and server.cipher
        assert server.tls_version == ("TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
        assert [each.cn for each in server.certificate_list] == ["localhost"]
        assert server.timestamp_start and server.timestamp_tcp_setup and server.timestamp_tls_setup
        assert server.timestamp_start <= server.timestamp_tcp_setup <= server.timestamp_tls_setup


def test_an_authority_of_one_upstream_is_not_another_s(tmp_path: Path, pair: certificates.Pair) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with marking_upstream.running(context) as upstream:
        upstreams = [
            {"name": "trusted", "url": upstream.url, "ca": str(pair.cert)},
            {"name": "unknown", "url": upstream.url},
        ]
        routes = [{"path": "/unknown", "upstream": "unknown"}]
        with live.relay(tmp_path, upstreams, routes=routes) as relay:
            for _ in range(2):
                assert ask(relay, "/v1/plain/mark")[0] == 200
                status, said = ask(relay, "/unknown/v1/plain/mark")
                assert status == 502 and "TLS" in json.loads(said)["error"]["message"]


def test_mitmproxy_s_options_for_tls_are_heeded(tmp_path: Path, pair: certificates.Pair) -> None:
    both = tmp_path / "client.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(pair.cert)
    with marking_upstream.running(context) as upstream:
        options = ("--set", "ssl_insecure=true", "--set", f"client_certs={both}")
        with live.relay(tmp_path, upstream.url, options) as relay:
            assert ask(relay, "/v1/plain/mark") == (200, b"mark")
        with live.relay(tmp_path, upstream.url, ("--set", "ssl_insecure=true")) as relay:
            assert ask(relay, "/v1/plain/mark")[0] == 502


def test_secrets_of_tls_are_logged_where_that_is_asked_for(
    tmp_path: Path, pair: certificates.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with marking_upstream.running(context) as upstream:
        upstreams = [{"name": "one", "url": upstream.url, "ca": str(pair.cert)}]
        with live.relay(tmp_path, upstreams) as relay:
            assert ask(relay, "/v1/plain/mark") == (200, b"mark")
    assert "CLIENT_" in log.read_text()


def test_http_client_is_served_as_ever(pooled: live.Live) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", pooled.port, timeout=10)
    for number in range(3):
        connection.request("POST", f"/v1/plain/mark{number}", BIG, dict(AUTH))
        assert connection.getresponse().read() == b"mark%d" % number
    connection.close()


def test_what_is_said_last_to_a_connection_reaches_nobody_else(relay: live.Live, upstream: Upstream) -> None:
    """The answer of a message is over before its turn is on the disk, and meanwhile others take its connection."""

    def talk(number: int) -> None:
        for each in range(25):
            body = {"apiKey": f"sk-{number}", "sessionId": f"s{number}", "content": f"hello {each}", "stream": True}
            assert b'"code": 200' in relay.ask("POST", "/chat", body).body

    def look(_number: int) -> None:
        for _ in range(60):
            assert relay.ask("GET", "/v1/models", headers=dict(AUTH)).status == 200

    with ThreadPoolExecutor(10) as threads:
        for done in [threads.submit(talk if number < 6 else look, number) for number in range(10)]:
            done.result()
    assert "Traceback" not in relay.log
