"""Whose a connection is, from a proxy's first bytes: over TLS, with workers, and where both sides don't agree."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import certificates, live, raw
from tests.support.live import eventually

AUTH = [("Authorization", "Bearer sk-test-0123456789")]
PREAMBLE = b"PROXY TCP4 203.0.113.9 127.0.0.1 51000 80\r\n"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
BY_PREAMBLE = {"source": "proxy_protocol", "trusted": ["127.0.0.0/8"]}
STREAM = [("Content-Type", "text/event-stream")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pair:
    return certificates.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def relay(upstream: Upstream, pair: certificates.Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    listen = {"client_address": BY_PREAMBLE, "tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    limits = {"per_address": {"connections": 2, "requests": 5}}
    with live.relay(tmp_path_factory.mktemp("relay"), upstream.url, listen=listen, limits=limits) as running:
        assert eventually(lambda: "relay listens at" in running.log, 30)
        yield running


def announced(relay: live.Live, preamble: bytes = PREAMBLE) -> raw.Client:
    client = raw.Client(relay.port)
    client.send(preamble)
    return client


def test_a_client_is_who_was_announced(relay: live.Live) -> None:
    with announced(relay) as client:
        assert client.ask("GET", "/v1/models", AUTH)[0].status == 200
        assert client.ask("GET", "/v1/models", AUTH)[0].status == 200, "a preamble holds for the connection"
    assert eventually(lambda: relay.log.count("203.0.113.9:51000: GET") == 2)


def test_below_tls(relay: live.Live, pair: certificates.Pair) -> None:
    client = announced(relay, PREAMBLE.replace(b"113.9", b"113.10"))
    client.socket = ssl.create_default_context(cafile=str(pair.cert)).wrap_socket(
        client.socket, server_hostname="localhost"
    )
    with client:
        assert client.ask("GET", "/v1/models", AUTH)[0].status == 200
    assert eventually(lambda: "203.0.113.10:51000: GET" in relay.log)


def test_piece_by_piece(relay: live.Live) -> None:
    with raw.Client(relay.port) as client:
        for byte in PREAMBLE.replace(b"113.9", b"113.11"):
            client.send(bytes((byte,)))
        assert client.ask("GET", "/v1/models", AUTH)[0].status == 200
    assert eventually(lambda: "203.0.113.11:51000: GET" in relay.log)


def test_a_health_check_speaks_for_itself(relay: live.Live) -> None:
    with announced(relay, LOCAL) as client:
        assert client.ask("GET", "/readyz")[0].status == 200


@pytest.mark.parametrize(
    "data",
    [
        raw.request("GET", "/v1/models", AUTH),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PROXY TCP4 nowhere 127.0.0.1 1 2\r\n" + raw.request("GET", "/v1/models", AUTH),
        b"PROXY " + b"x" * 5000,
        b"PROXY",
    ],
    ids=["a request", "TLS", "no address", "no end", "half of it"],
)
def test_without_a_preamble_nobody_is_served(relay: live.Live, upstream: Upstream, data: bytes) -> None:
    upstream.clear()
    with raw.Client(relay.port) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.closed
    assert not upstream.seen
    assert eventually(lambda: "refused for want of a PROXY preamble" in relay.log)
    assert "Traceback" not in relay.log


def test_a_connection_too_many_over_tls_hears_why(
    relay: live.Live, upstream: Upstream, pair: certificates.Pair
) -> None:
    chunks = [(b"data: 1\n\n", 0.1)] * 100
    upstream.script("/v1/slow", Behaviour(headers=STREAM, chunks=chunks), times=2)
    here = PREAMBLE.replace(b"113.9", b"113.20")
    with announced(relay, here) as one, announced(relay, here) as other:
        for client in (one, other):
            client.send(raw.request("GET", "/v1/slow", AUTH))
            assert client.head().status == 200
        late = announced(relay, here)
        late.socket = ssl.create_default_context(cafile=str(pair.cert)).wrap_socket(
            late.socket, server_hostname="localhost"
        )
        with late:
            message = json.dumps({"apiKey": "sk-test-0123456789", "sessionId": "s", "content": "hi"}).encode()
            reply, body = late.ask("POST", "/chat", [("Content-Type", "application/json")], message)
            assert (reply.status, json.loads(body)["code"]) == (200, 429), "in its own shape"
            assert late.closed, "and it does not stay"


def test_workers_count_for_themselves(upstream: Upstream, tmp_path: Path) -> None:
    """At least as many as one of them admits, and at most as many as all of them do."""
    limits = {"per_address": {"requests": 5}}
    listen = {"client_address": BY_PREAMBLE}
    with live.relay(tmp_path, upstream.url, workers=2, listen=listen, limits=limits) as relay:
        assert eventually(lambda: "2 workers serve" in relay.log, 60)
        statuses = []
        for _ in range(16):
            with announced(relay) as client:
                statuses.append(client.ask("GET", "/v1/models", AUTH)[0].status)
        assert 5 <= statuses.count(200) <= 10
        assert set(statuses) == {200, 429}
        assert statuses[:5] == [200] * 5
