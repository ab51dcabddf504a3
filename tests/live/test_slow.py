"""Clients that are slow, and clients that are many: bodies that trickle, and no descriptor left to take anyone."""

import concurrent.futures
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from addons.cli.fake_openai.server import Upstream
from addons.proxy.timeouts import BODY_GRACE
from tests.live.test_wire_tls import Http2
from tests.support import live
from tests.support.certificates import Pair, self_signed
from tests.support.live import Live, answer_in, environment, eventually, free_port, started

pytestmark = pytest.mark.alone

CHAT = b"POST /chat HTTP/1.1\r\nHost: x\r\n"
OWN_KEY = b"Authorization: Bearer sk-test-0123456789\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def slow(upstream: Upstream, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Live]]:
    """A relay with relay's own engine and a certificate, and one with mitmproxy's."""
    listen = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    with (
        live.relay(tmp_path_factory.mktemp("fast"), upstream.url, listen=listen) as fast,
        live.relay(tmp_path_factory.mktemp("stock"), upstream.url, engine={"fast": False}) as stock,
    ):
        yield {"fast": fast, "stock": stock}


def trickle(relay: Live, head: bytes, piece: bytes, until: float = BODY_GRACE + 20) -> tuple[bytes, float]:
    """Send a head, and then a piece ten times a second until there is an answer; it, and when it began."""
    with relay.connect() as connection:
        connection.sendall(head)
        began = time.monotonic()
        connection.settimeout(0.1)
        while time.monotonic() - began < until:
            try:
                first = connection.recv(65536)
                answered = time.monotonic() - began
                connection.settimeout(20)
                return first + live.read_all(connection), answered
            except TimeoutError:
                connection.sendall(piece)
    return b"", until


def trickle_http2(relay: Live, pair: Pair) -> tuple[int, bytes, float]:
    """A head over HTTP/2 and no body; status and body of the answer, and when it began."""
    with Http2(relay, pair) as client:
        began = time.monotonic()
        stream = client.begin("POST", "/chat")
        client.socket.settimeout(BODY_GRACE + 20)
        while not stream.ended:
            client.receive()
        return stream.status, bytes(stream.body), time.monotonic() - began


def test_a_body_that_trickles_is_given_up(slow: dict[str, Live], pair: Pair, upstream: Upstream) -> None:
    heads = {
        "a length": (CHAT + b"Content-Length: 60000\r\n\r\n", b" "),
        "chunks": (CHAT + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "nothing at all": (CHAT + b"Content-Length: 1\r\n\r\n", b""),
        "a balance": (b"GET /pro/balance HTTP/1.1\r\nHost: x\r\n" + OWN_KEY + b"Content-Length: 9\r\n\r\n", b""),
        "a session": (b"DELETE /chat/7 HTTP/1.1\r\nHost: x\r\n" + OWN_KEY + b"Content-Length: 9\r\n\r\n", b""),
    }
    upstream.clear()
    with concurrent.futures.ThreadPoolExecutor(2 * len(heads) + 3) as pool:
        asked = {
            (engine, name): pool.submit(trickle, relay, *how)
            for engine, relay in slow.items()
            for name, how in heads.items()
        }
        http2 = pool.submit(trickle_http2, slow["fast"], pair)
        steady = [pool.submit(steady_message, relay) for relay in slow.values()]
        for who, future in asked.items():
            raw, after = future.result()
            answer = answer_in(raw)
            assert (answer.status, answer.json()["code"]) == (200, 408), (who, answer)
            assert answer.headers["connection"] == "close", who
            assert after >= BODY_GRACE - 0.5, who
        status, body, after = http2.result()
        assert (status, json.loads(body)["code"]) == (200, 408)
        assert after >= BODY_GRACE - 0.5
        assert [each.result()["code"] for each in steady] == [200, 200]
    assert len(upstream.seen) == 2, "only the steady ones went up"
    assert all(relay.ask("GET", "/healthz").status == 200 for relay in slow.values())


def steady_message(relay: Live) -> dict[str, object]:
    """One that has come fast enough when it is looked at, and ends in time."""
    message = json.dumps({"apiKey": "sk-test-0123456789", "sessionId": "steady", "content": "hello"}).encode()
    body = b" " * 40_000 + message
    with relay.connect() as connection:
        connection.sendall(CHAT + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:40_000])
        time.sleep(BODY_GRACE + 0.5)
        connection.sendall(body[40_000:])
        said: dict[str, object] = answer_in(live.read_all(connection)).json()
        return said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_without_descriptors_relay_waits_and_says_so_in_a_line(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(yaml.safe_dump({"listen": {"port": port}, "upstreams": [{"name": "up", "url": upstream.url}]}))
    few = ["bash", "-c", 'ulimit -n 64; exec "$@"', "few", sys.executable, "-m", "addons.cli", "start"]
    with started(few, tmp_path, port, environment(RELAY_CONFIG=str(config))) as relay:
        assert eventually(lambda: relay.ask("GET", "/healthz").status == 200)
        began = time.monotonic()
        crowd: list[socket.socket] = []
        for _ in range(150):
            crowd.append(relay.connect())
            crowd[-1].sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n")
        assert eventually(lambda: "no file descriptor left" in relay.log)
        time.sleep(2.5)  # in which asyncio by itself would have printed thousands of lines
        lines = [line for line in relay.log.splitlines() if "no file descriptor left" in line]
        assert 2 <= len(lines) <= time.monotonic() - began + 1
        assert "64 are allowed" in lines[0] and "ulimit -n" in lines[0]
        assert "Traceback" not in relay.log
        for each in crowd:
            each.close()
        assert eventually(lambda: relay.ask("GET", "/healthz").status == 200, 10), "it goes on by itself"
        headers = {"Authorization": "Bearer sk-test-0123456789"}
        assert relay.ask("GET", "/v1/models", headers=headers).status == 200
