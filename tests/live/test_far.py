"""An upstream that is far away: what a new client waits for, in round trips that are measured beside it."""

import contextlib
import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.support import certificates, far, live, marking_upstream, raw
from tests.support.connect_proxy import listening, serve
from tests.support.live import eventually
from tests.support.marking_upstream import MarkingUpstream

pytestmark = pytest.mark.alone

ROUND_TRIP = 0.1
"""Seconds. `./run.sh bench --only far` has 50 ms; here a busy machine's own delays must not count for much."""
AUTH = [("Authorization", "Bearer sk-test-0123456789")]
SAMPLES = 9
_marks = itertools.count()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> certificates.Pair:
    return certificates.self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def marking(pair: certificates.Pair) -> Iterator[MarkingUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with marking_upstream.running(context) as running:
        yield running


def new_client(port: int, prefix: str = "") -> float:
    """Seconds until one that connects has its whole answer."""
    mark = f"mark{next(_marks)}"
    began = time.perf_counter()
    with raw.Client(port) as client:
        reply, body = client.ask("GET", f"{prefix}/v1/plain/{mark}", AUTH)
        took = time.perf_counter() - began
    assert (reply.status, body) == (200, mark.encode())
    return took


def round_trip(kept: socket.socket) -> float:
    """Seconds that an answer takes on a connection that is there already."""
    began = time.perf_counter()
    kept.sendall(raw.request("GET", "/v1/plain/kept", AUTH))
    assert live.read_answer(kept).body == b"kept"
    return time.perf_counter() - began


@contextlib.contextmanager
def connected(port: int, pair: certificates.Pair) -> Iterator[socket.socket]:
    """A client of TLS."""
    context = ssl.create_default_context(cafile=str(pair.cert))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        yield secured


def test_a_new_client_waits_for_one_round_trip_where_a_connection_is_warm(
    tmp_path: Path, marking: MarkingUpstream, pair: certificates.Pair
) -> None:
    with far.running(marking.port, ROUND_TRIP) as port, connected(port, pair) as kept:
        common = {"ca": str(pair.cert)}
        upstreams: list[dict[str, Any]] = [
            {"name": "warm", "url": f"https://127.0.0.1:{port}", "warm": 2, **common},
            {"name": "cold", "url": f"https://localhost:{port}", **common},
        ]
        with live.relay(tmp_path, upstreams, routes=[{"path": "/cold", "upstream": "cold"}]) as relay:
            assert eventually(lambda: marking.open == 3)
            time.sleep(3 * ROUND_TRIP)
            first, cold = new_client(relay.port), new_client(relay.port, "/cold")
            pairs = [(new_client(relay.port), round_trip(kept)) for _ in range(SAMPLES)]
    warm, one = (median(each) for each in zip(*pairs, strict=True))
    assert one >= ROUND_TRIP
    assert warm <= 1.3 * one
    assert first < 2 * one, "what nobody has used yet serves the first request of all"
    assert cold > 2.8 * one, "TCP, TLS and the request"
    assert marking.connections <= 6, "while one is used another may be made ready"


def test_the_network_of_these_tests_takes_its_time_and_changes_nothing() -> None:
    def echo(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)
            client.sendall(b"the end")

    sent = bytes(range(256)) * 4000
    with listening() as listener:
        serve(listener, echo)
        port = listener.getsockname()[1]
        with far.running(port, ROUND_TRIP) as distant, socket.create_connection(("127.0.0.1", distant), 10) as client:
            times = []
            for _ in range(3):
                began = time.perf_counter()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                times.append((time.perf_counter() - began) / ROUND_TRIP)
            assert 1.98 <= times[0] <= 3 and 0.98 <= min(times[1:]) <= 2, times
            began = time.perf_counter()
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert live.read_all(client) == sent + b"the end"
            assert time.perf_counter() - began >= 0.98 * ROUND_TRIP
