"""SIGTERM lets what is under way come to its end."""

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import h2.events
import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_tls import Http2
from tests.support import certificates, crew, live, raw
from tests.support.live import eventually

BOTH = "2 workers serve"
AUTH = {"Authorization": "Bearer sk-test-0123456789"}
STREAM = [("Content-Type", "text/event-stream")]


@pytest.fixture(autouse=True)
def slow(upstream: Upstream) -> None:
    for name, count in (("slow", 40), ("endless", 900)):
        chunks = [(b"data: %d\n\n" % number, 0.1) for number in range(count)]
        upstream.script(f"/v1/{name}", Behaviour(headers=STREAM, chunks=chunks))


@contextlib.contextmanager
def begun(relay: live.Live, path: str) -> Iterator[tuple[raw.Client, raw.Reply]]:
    """A client whose stream has begun."""
    with raw.Client(relay.port, timeout=20) as client:
        client.send(raw.request("GET", path, AUTH.items()))
        yield client, client.head()


def all_serve(relay: live.Live, workers: int) -> None:
    assert workers == 1 or eventually(lambda: BOTH in relay.log, 60)


def refused(relay: live.Live) -> bool:
    try:
        relay.connect(1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_that_is_under_way_comes_to_its_end(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with live.relay(tmp_path, upstream.url, workers=workers) as relay:
        all_serve(relay, workers)  # which may take longer than the stream
        with begun(relay, "/v1/slow") as (client, reply):
            relay.process.send_signal(signal.SIGTERM)
            assert eventually(lambda: refused(relay)), "nobody else is taken"
            assert b"".join(client.pieces(reply)).count(b"data: ") == 40
        assert relay.process.wait(15) == 0
    assert "Traceback" not in relay.log


def test_a_signal_to_all_processes_at_once_breaks_nothing_off(tmp_path: Path, upstream: Upstream) -> None:
    """As systemd ends a service (KillMode=control-group)."""
    with live.relay(tmp_path, upstream.url, workers=2) as relay:
        all_serve(relay, 2)
        with begun(relay, "/v1/slow") as (client, reply):
            for pid in (*crew.children(relay.process.pid), relay.process.pid):
                os.kill(pid, signal.SIGTERM)
            assert b"".join(client.pieces(reply)).count(b"data: ") == 40
        assert relay.process.wait(15) == 0
    assert "Traceback" not in relay.log


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_does_not_end_is_broken_off_in_time(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    limits = {"drain": "1s"}
    with (
        live.relay(tmp_path, upstream.url, workers=workers, limits=limits) as relay,
        begun(relay, "/v1/endless") as (client, reply),
    ):
        all_serve(relay, workers)
        begin = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        with pytest.raises((raw.Broken, ConnectionError)):
            list(client.pieces(reply))
        assert relay.process.wait(25) == 0
        assert 0.9 < time.monotonic() - begin < 20


def test_a_worker_ends_in_time_by_itself(tmp_path: Path, upstream: Upstream) -> None:
    """Its parent has told it to leave, and says nothing more."""
    with live.relay(tmp_path, upstream.url, workers=2, limits={"drain": "1s"}) as relay:
        all_serve(relay, 2)
        with begun(relay, "/v1/endless") as (client, reply):
            relay.process.send_signal(signal.SIGTERM)
            assert eventually(lambda: refused(relay))
            relay.process.send_signal(signal.SIGSTOP)
            try:
                client.socket.settimeout(10)
                begin = time.monotonic()
                with pytest.raises((raw.Broken, ConnectionError)):
                    for _ in client.pieces(reply):
                        assert time.monotonic() - begin < 8
            finally:
                relay.process.send_signal(signal.SIGCONT)
        assert relay.process.wait(25) == 0


def test_who_watches_hears_of_it_before(tmp_path: Path, upstream: Upstream) -> None:
    with live.relay(tmp_path, upstream.url) as relay, begun(relay, "/v1/slow") as (client, reply):
        assert relay.ask("GET", "/readyz").status == 200
        relay.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: relay.ask("GET", "/readyz").status == 503)
        assert relay.ask("GET", "/v1/models", headers=AUTH).status == 200, "others are still served"
        assert relay.ask("GET", "/readyz").status == 503
        assert eventually(lambda: refused(relay))
        assert b"".join(client.pieces(reply)).count(b"data: ") == 40
        assert relay.process.wait(15) == 0


def test_a_client_that_has_nothing_under_way_is_sent_away(tmp_path: Path, upstream: Upstream) -> None:
    with live.relay(tmp_path, upstream.url) as relay:
        idle = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=10)
        idle.request("GET", "/v1/models", headers=AUTH)
        assert idle.getresponse().read()
        begin = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(15) == 0 and time.monotonic() - begin < 10
        idle.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    with live.relay(tmp_path, upstream.url, workers=workers) as relay, begun(relay, "/v1/endless"):
        all_serve(relay, workers)
        relay.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: refused(relay))
        begin = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(10) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("how", ["Ctrl-C", "drain: 0"])
def test_what_does_not_wait(tmp_path: Path, upstream: Upstream, how: str) -> None:
    limits = {"drain": "0" if how == "drain: 0" else "30s"}
    with live.relay(tmp_path, upstream.url, limits=limits) as relay, begun(relay, "/v1/endless"):
        begin = time.monotonic()
        relay.process.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)
        assert relay.process.wait(10) == 0 and time.monotonic() - begin < 8


def test_a_client_of_http2_hears_goaway_and_its_streams_end(tmp_path: Path, upstream: Upstream) -> None:
    pair = certificates.self_signed(tmp_path)
    listen = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    with live.relay(tmp_path, upstream.url, listen=listen) as relay, Http2(relay, pair) as client:
        stream = client.send("GET", "/v1/slow")
        while not stream.fields:
            client.receive()
        relay.process.send_signal(signal.SIGTERM)
        rest, ended = bytearray(), 0
        while data := client.socket.recv(1 << 16):
            rest += data
        for event in client.h2.receive_data(bytes(rest)):
            if isinstance(event, h2.events.DataReceived):
                stream.body += event.data or b""
            elif isinstance(event, h2.events.StreamEnded):
                ended += 1
            elif isinstance(event, h2.events.ConnectionTerminated):
                assert ended == 1, "GOAWAY comes behind the last stream"
                assert (event.error_code, event.last_stream_id) == (0, (1 << 31) - 1)
                ended += 1
        assert stream.body.count(b"data: ") == 40 and ended == 2
        assert relay.process.wait(15) == 0
