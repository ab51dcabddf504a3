"""HAProxy and nginx before relay, as deploy/ has them: what passes, whose it is, and who leaves."""

import contextlib
import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_websocket import Socket
from tests.support import front, live, raw
from tests.support.live import eventually
from tests.support.redis_server import NEEDED, redis_server
from tests.support.shapes import openai_error

KEY = "sk-test-0123456789"
FREE = "rk-free-0123456789abcdefghijkl"
AUTH = ("Authorization", f"Bearer {KEY}")
JSON = ("Content-Type", "application/json")
STREAM = [("Content-Type", "text/event-stream")]
HERE = {"trusted": ["127.0.0.0/8"]}
HAPROXY = {"client_address": {"source": "proxy_protocol", **HERE}}
NGINX = {"client_address": {"source": "header", **HERE}}
BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
GAP = 0.1
EVENTS = 8
UP = "relay listens at"
MOST = 4
"""Connections of an address, under the settings of these tests."""


@dataclass
class Front:
    """A program before a relay."""

    name: str
    server: live.Live
    relay: live.Live
    announced: int | None = None
    """Where HAProxy is told of other clients than this machine."""

    def client(self, host: str, port: int = 51000) -> "Someone":
        """A client at this address."""
        if self.announced is None:
            return Someone(raw.Client(self.server.port), [(front.CLIENT, host)])
        client = raw.Client(self.announced)
        family, here = ("TCP6", "::1") if ":" in host else ("TCP4", "127.0.0.1")
        client.send(f"PROXY {family} {host} {here} {port} 80\r\n".encode())
        return Someone(client, [])


@dataclass
class Someone:
    """A client at another address."""

    wire: raw.Client
    headers: list[tuple[str, str]]

    def send(self, method: str, target: str, body: bytes | None = None) -> None:
        """Send a request."""
        self.wire.send(raw.request(method, target, [AUTH, JSON, *self.headers], body))

    def ask(self, method: str, target: str, body: bytes | None = None) -> tuple[raw.Reply, bytes]:
        """One exchange."""
        return self.wire.ask(method, target, [AUTH, JSON, *self.headers], body)

    def __enter__(self) -> "Someone":
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.socket.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("haproxy", marks=front.needs("haproxy")),
        pytest.param("nginx", marks=front.needs("nginx")),
    ],
)
def before(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp(request.param)
    limits = {"per_address": {"connections": MOST, "requests": 12}}
    listen = HAPROXY if request.param == "haproxy" else NGINX
    with live.relay(folder, upstream.url, limits=limits, listen=listen) as relay:
        assert eventually(lambda: UP in relay.log, 30)
        if request.param == "haproxy":
            with front.haproxy(folder, [relay.port]) as (running, announced):
                assert eventually(lambda: running.ask("GET", "/healthz").status == 200), running.log
                yield Front("haproxy", running, relay, announced)
        else:
            with front.nginx(folder, [relay.port]) as running:
                yield Front("nginx", running, relay)


@pytest.fixture(autouse=True)
def as_usual(upstream: Upstream) -> None:
    upstream.clear()


# What passes


def test_a_stream_comes_event_by_event(before: Front, upstream: Upstream) -> None:
    chunks = [(b"data: %d\n\n" % number, GAP) for number in range(EVENTS)]
    upstream.script("/v1/slow", Behaviour(headers=STREAM, chunks=chunks))
    with raw.Client(before.server.port) as client:
        client.send(raw.request("GET", "/v1/slow", [AUTH]))
        reply = client.head()
        times = [at for piece, at in client.timed(reply) if piece]
    assert len(times) == EVENTS, "no two events in one piece"
    assert times[-1] - times[-5] > 2 * GAP, "none of them waits for another"


def test_an_answer_of_json_is_not_waited_for_either(before: Front, upstream: Upstream) -> None:
    upstream.script("/v1/slow", Behaviour(headers=[JSON], chunks=[(b'{"a": ', 0.5), (b"1}", 0)]))
    with raw.Client(before.server.port) as client:
        client.send(raw.request("GET", "/v1/slow", [AUTH]))
        begin = time.monotonic()
        times = [at - begin for piece, at in client.timed(client.head()) if piece]
    assert times[0] < 0.4 < times[-1]


def test_a_websocket_passes(before: Front) -> None:
    with Socket(before.server) as websocket:
        websocket.send(TextMessage("hello"))
        assert isinstance(websocket.receive(), TextMessage)
        sent, came = bytes(range(256)) * 400, b""
        websocket.send(BytesMessage(sent))
        while len(came) < len(sent):
            event = websocket.receive()
            assert isinstance(event, BytesMessage)
            came += event.data
        assert came == sent
        websocket.send(CloseConnection(1000))
        assert isinstance(websocket.receive(), CloseConnection)


def test_a_large_upload_passes_as_it_comes(before: Front, upstream: Upstream) -> None:
    block, count = bytes(range(256)) * 4096, 40
    upstream.script("/v1/audio", Behaviour(body=b"{}", headers=[JSON]))
    length = len(block) * count
    with raw.Client(before.server.port, 30) as client:
        client.send(raw.request("POST", "/v1/audio/transcriptions", [AUTH, ("Content-Length", str(length))]))
        client.send(block)
        seen = upstream.wait(lambda seen: [one for one in seen if one.length])[0]
        assert not seen.complete, "its beginning is upstream before its end is sent"
        for _ in range(count - 1):
            client.send(block)
        client.head()
    assert seen.sha256 == hashlib.sha256(block * count).hexdigest()


def test_a_client_keeps_its_connection(before: Front) -> None:
    with raw.Client(before.server.port) as client:
        for _ in range(3):
            reply, body = client.ask("POST", "/v1/chat/completions", [AUTH, JSON], BODY)
            assert reply.status == 200 and b"choices" in body
        body = json.dumps({"apiKey": KEY, "sessionId": "s", "content": "hi"}).encode()
        assert json.loads(client.ask("POST", "/chat", [JSON], body)[1])["code"] == 200


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/readyz", "/METRICS/", "/%6detrics"])
def test_what_is_for_who_runs_relay_is_not_for_its_clients(before: Front, path: str) -> None:
    openai_error(before.server.ask("GET", path), 404)


def test_upstream_hears_of_no_hop(before: Front, upstream: Upstream) -> None:
    assert before.server.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status == 200
    names = {name.lower() for name, _ in upstream.seen[-1].headers}
    assert not {name for name in names if name.startswith(("x-forwarded", "forwarded", "via", "x-real"))}


# Whose it is


@pytest.mark.parametrize("host", ["203.0.113.9", "2001:db8::7"])
def test_relay_knows_the_client_s_address(before: Front, host: str) -> None:
    with before.client(host) as client:
        assert client.ask("GET", "/v1/models")[0].status == 200
    shown = f"[{host}]" if ":" in host else host
    assert eventually(lambda: f"{shown}:" in before.relay.log), before.relay.log


def test_whose_connection_it_is_decides_and_not_what_it_says(before: Front) -> None:
    with before.client("203.0.113.20") as client:
        client.headers.append(("X-Forwarded-For", "198.51.100.66"))
        assert client.ask("GET", "/v1/models")[0].status == 200
    assert eventually(lambda: "203.0.113.20:" in before.relay.log)
    assert "198.51.100.66" not in before.relay.log


def test_requests_of_one_address_are_bounded(before: Front) -> None:
    with before.client("203.0.113.30") as client:
        statuses = [client.ask("GET", "/v1/models")[0].status for _ in range(13)]
        assert statuses == [200] * 12 + [429]
        reply, body = client.ask("GET", "/v1/models")
        assert 1 <= int(reply.get("retry-after") or 0) <= 60
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        message = json.dumps({"apiKey": KEY, "sessionId": "s", "content": "hi"}).encode()
        reply, body = client.ask("POST", "/chat", message)
        assert (reply.status, json.loads(body)["code"]) == (200, 429)
    with before.client("203.0.113.31") as other:
        assert other.ask("GET", "/v1/models")[0].status == 200
    with before.client("2001:db8:1:1::1") as one, before.client("2001:db8:1:1:ffff::9") as same:
        assert [one.ask("GET", "/v1/models")[0].status for _ in range(12)] == [200] * 12
        assert same.ask("GET", "/v1/models")[0].status == 429, "its network of 64 bits is one client"


def test_connections_of_one_address_are_bounded(before: Front, upstream: Upstream) -> None:
    chunks = [(b"data: %d\n\n" % number, 0.1) for number in range(100)]
    upstream.script("/v1/slow", Behaviour(headers=STREAM, chunks=chunks), times=MOST)
    with contextlib.ExitStack() as stack:
        for number in range(MOST):
            client = stack.enter_context(before.client("203.0.113.40", 52000 + number))
            client.send("GET", "/v1/slow")
            assert client.wire.head().status == 200
        with before.client("203.0.113.40", 52100) as late:
            reply, body = late.ask("GET", "/v1/models")
            assert (reply.status, json.loads(body)["error"]["code"]) == (429, "too_many_connections")
            assert reply.get("retry-after")
        with before.client("203.0.113.41") as other:
            assert other.ask("GET", "/v1/models")[0].status == 200

    def again() -> bool:
        with before.client("203.0.113.40", 52200) as client:
            reply, _ = client.ask("GET", "/v1/models")
            return reply.status == 200

    assert eventually(again), "they have left"
    assert "203.0.113.40 has 4 connections" in before.relay.log


def test_the_proxy_bounds_an_address_over_all_relays(before: Front, upstream: Upstream, tmp_path: Path) -> None:
    """Its errors are what clients read, too."""
    chunks = [(b"data: %d\n\n" % number, 0.1) for number in range(100)]
    upstream.script("/v1/slow", Behaviour(headers=STREAM, chunks=chunks), times=2)
    with contextlib.ExitStack() as stack:
        ports, announced = [before.relay.port, before.relay.port], None
        if before.announced:
            fewer = [("sc0_conn_cur gt 200", "sc0_conn_cur gt 2")]
            running, announced = stack.enter_context(front.haproxy(tmp_path, ports, fewer))
            assert eventually(lambda: running.ask("GET", "/healthz").status == 200)
        else:
            fewer = [("limit_conn address 200", "limit_conn address 2")]
            running = stack.enter_context(front.nginx(tmp_path, ports, fewer))
        there = Front(before.name, running, before.relay, announced)
        for number in range(2):
            client = stack.enter_context(there.client("203.0.113.60", 52000 + number))
            client.send("GET", "/v1/slow")
            assert client.wire.head().status == 200
        with there.client("203.0.113.60", 52100) as late:
            reply, body = late.ask("GET", "/v1/models")
            assert (reply.status, reply.get("retry-after")) == (429, "5")
            assert reply.get("content-type") == "application/json; charset=utf-8"
            assert json.loads(body)["error"]["code"] == "too_many_connections"
        for path, data in (("/chat", {"data": None}), ("/pro/balance", {})):
            with there.client("203.0.113.60", 52200) as late:
                reply, body = late.ask("GET", path)
                told = json.loads(body)
                assert (reply.status, told.pop("code"), bool(told.pop("message"))) == (200, 429, True)
                assert told == data
        with there.client("203.0.113.61") as other:
            assert other.ask("GET", "/v1/models")[0].status == 200


def test_the_proxy_s_own_errors_are_no_pages(before: Front, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [live.free_port()]
        if before.announced:
            running, _ = stack.enter_context(front.haproxy(tmp_path, ports))
        else:
            running = stack.enter_context(front.nginx(tmp_path, ports))
        openai_error(running.ask("GET", "/v1/models"), 502, 503)


# Who leaves


@dataclass
class Talkers:
    """Clients that ask without a pause."""

    port: int
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask on connections that are kept for a few requests."""
        while not self._done.is_set():
            try:
                with raw.Client(self.port) as client:
                    self._ask(client)
            except (OSError, raw.Broken) as error:
                self.wrong.append(repr(error))

    def _ask(self, client: raw.Client) -> None:
        for _ in range(10):
            reply, body = client.ask("POST", "/v1/chat/completions", [AUTH, JSON], BODY)
            self.answered += 1
            if reply.status != 200:
                self.wrong.append(f"{reply.status} {body[:200]!r}")
            if self._done.wait(0.01) or (reply.get("connection") or "").lower() == "close":
                return

    @contextlib.contextmanager
    def talking(self, count: int = 2) -> Iterator[None]:
        """So many of them, while the block runs."""
        threads = [threading.Thread(target=self.run) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()


@front.needs("haproxy")
@NEEDED
def test_while_redis_is_away_whoever_needs_none_is_served(upstream: Upstream, tmp_path: Path) -> None:
    store = {"kind": "redis", "path": "store", "on_failure": "pass"}
    keys = {"list": [{"name": "free", "key": FREE}], "open": True}
    upstreams = [{"name": "test", "url": upstream.url, "keys": ["sk-real-0123456789abcdef"]}]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        relay = stack.enter_context(
            live.relay(tmp_path, upstreams, store={**store, "url": redis.url}, keys=keys, listen=HAPROXY)
        )
        running, _ = stack.enter_context(front.haproxy(tmp_path, [relay.port]))

        def status(key: str) -> int:
            return running.ask("POST", "/v1/chat/completions", BODY, {"Authorization": f"Bearer {key}"}).status

        assert eventually(lambda: status(FREE) == 200, 15)
        redis.kill()
        assert eventually(lambda: "relays/relay1 is DOWN" in running.log, 15)
        assert status(FREE) == status(KEY) == 200
        told = running.ask("POST", "/chat", {"apiKey": KEY, "sessionId": "s", "content": "hi"})
        assert (told.status, told.json()["code"]) == (200, 503)
        redis.start()
        assert eventually(lambda: "relays/relay1 is UP" in running.log, 15)
        assert running.chat("hi")["code"] == 200


def test_a_relay_that_drains_is_left_without_an_error(before: Front, upstream: Upstream, tmp_path: Path) -> None:
    chunks = [(b"data: %d\n\n" % number, 0.1) for number in range(20)]
    upstream.script("/v1/slow", Behaviour(headers=STREAM, chunks=chunks), times=2)
    listen = HAPROXY if before.announced else NGINX
    with live.relay(tmp_path, upstream.url, listen=listen) as leaving, contextlib.ExitStack() as stack:
        assert eventually(lambda: UP in leaving.log, 30)
        ports = [leaving.port, before.relay.port]
        if before.announced:
            running, _ = stack.enter_context(front.haproxy(tmp_path, ports))
        else:
            running = stack.enter_context(front.nginx(tmp_path, ports))
        talkers = Talkers(running.port)
        with talkers.talking():
            streams = [stack.enter_context(raw.Client(running.port)) for _ in ports]
            for client in streams:
                client.send(raw.request("GET", "/v1/slow", [AUTH]))
            replies = [client.head() for client in streams]
            assert eventually(lambda: "GET http://relay.invalid/readyz" in leaving.log) or not before.announced
            leaving.process.send_signal(signal.SIGTERM)
            for client, reply in zip(streams, replies, strict=True):
                assert b"".join(client.pieces(reply)).count(b"data: ") == 20
            assert leaving.process.wait(15) == 0
            so_far = talkers.answered
            assert eventually(lambda: talkers.answered > so_far + 20), "the other one serves"
        assert not talkers.wrong, talkers.wrong[:5]
        if before.announced:
            assert "relays/relay1 is DOWN" in running.log, "by its check, before it was gone"
