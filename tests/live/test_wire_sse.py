"""Server-sent events pass as they come: every byte, every boundary, every break, and the client's own leaving."""

import json
import socket
import statistics
import struct
import time
from collections.abc import Sequence

import pytest

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from addons.cli.fake_openai.wire import Headers
from tests.support.live import Live, eventually
from tests.support.raw import Broken, Client, Reply, request

AUTH = ("Authorization", "Bearer sk-test-0123456789")
SSE = [("content-type", "text/event-stream; charset=utf-8")]
PATH = "/v1/chat/completions"
CHAT = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "w " * 50}]}).encode()


def opened(relay: Live, path: str = PATH, headers: Headers | None = None, body: bytes = CHAT) -> Client:
    """A connection on which a stream has been asked for."""
    client = Client(relay.port)
    client.send(request("POST", path, [AUTH, *(headers or [])], body))
    return client


def events(relay: Live, upstream: Upstream, pieces: Sequence[tuple[bytes, float]]) -> tuple[Reply, list[bytes]]:
    """What arrives of a stream that upstream sends in these pieces."""
    upstream.script(PATH, Behaviour(headers=SSE, chunks=pieces))
    with opened(relay) as client:
        reply = client.head()
        return reply, list(client.pieces(reply))


def newest(upstream: Upstream, path: str = PATH) -> Seen:
    """The newest request for this path, waited for."""
    return upstream.wait(lambda seen: [one for one in reversed(seen) if one.path == path])[0]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"], id="LF"),
        pytest.param([b"data: 1\r\rdata: 2\r", b"\r"], id="CR"),
        pytest.param([b"data: 1\r\n\r", b"\ndata: 2\r\n", b"\r\n"], id="CRLF, cut between CR and LF"),
        pytest.param([b": OPENROUTER PROCESSING\n\n", b":\n\n", b"data: x\n\n", b": bye\n"], id="comments"),
        pytest.param([b"event: a\nid: 7\nretry: 10\ndata:1\ndata:2\n\n"], id="other fields"),
        pytest.param([b"\xef\xbb\xbfdata: bom\n\n"], id="a byte order mark"),
        pytest.param(["data: 汉字😀\n\n".encode()[:n] for n in (7, 8)], id="a character never finished"),
        pytest.param([b"data: \xff\xfe\x00\n\n"], id="no UTF-8 at all"),
        pytest.param([b"data: no end"], id="an event without an end"),
        pytest.param([b"data: x\n\n" * 500], id="many events in one packet"),
        pytest.param([], id="nothing"),
    ],
)
def test_a_stream_passes_as_it_is_cut_and_nothing_is_added(
    relay: Live, upstream: Upstream, pieces: list[bytes]
) -> None:
    _, arrived = events(relay, upstream, [(piece, 0.01) for piece in pieces])
    assert arrived == pieces


def test_a_character_cut_across_packets_is_not_joined_nor_replaced(relay: Live, upstream: Upstream) -> None:
    whole = 'data: {"content":"你好😀"}\n\n'.encode()
    pieces = [whole[:21], whole[21:22], whole[22:25], whole[25:26], whole[26:]]
    assert events(relay, upstream, [(piece, 0.02) for piece in pieces])[1] == pieces


def test_one_byte_at_a_time(relay: Live, upstream: Upstream) -> None:
    whole = "data: 你好\r\n\r\ndata: [DONE]\n\n".encode()
    pieces = [whole[at : at + 1] for at in range(len(whole))]
    assert events(relay, upstream, [(piece, 0) for piece in pieces])[1] == pieces


def test_an_event_of_eight_megabytes(relay: Live, upstream: Upstream) -> None:
    whole = b'data: {"b64_json":"' + b"A" * (8 << 20) + b'"}\n\n'
    begin = time.monotonic()
    _, arrived = events(relay, upstream, [(whole, 0), (b"data: [DONE]\n\n", 0)])
    assert b"".join(arrived) == whole + b"data: [DONE]\n\n"
    assert time.monotonic() - begin < 5


def test_proxies_behind_are_told_not_to_hold_it_back(relay: Live, upstream: Upstream) -> None:
    reply, _ = events(relay, upstream, [(b"data: 1\n\n", 0)])
    assert reply.all("x-accel-buffering") == ["no"]
    assert reply.all("cache-control") == ["no-cache"]


def test_upstreams_own_cache_control_stays(relay: Live, upstream: Upstream) -> None:
    headers = [*SSE, ("cache-control", "no-store"), ("x-accel-buffering", "yes")]
    upstream.script(PATH, Behaviour(headers=headers, chunks=[(b"data: 1\n\n", 0)]))
    with opened(relay) as client:
        reply = client.head()
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("x-accel-buffering") == ["no"]


def test_other_answers_are_not_marked_so(relay: Live) -> None:
    with Client(relay.port) as client:
        reply, _ = client.ask("GET", "/v1/models", [AUTH])
    assert reply.get("x-accel-buffering") is None


# Time


def test_headers_go_out_when_upstreams_are_in(relay: Live, upstream: Upstream) -> None:
    upstream.script(PATH, Behaviour(headers=SSE, chunks=[(b"data: late\n\n", 0)], delay_body=1.0))
    begin = time.monotonic()
    with opened(relay) as client:
        reply = client.head()
        assert time.monotonic() - begin < 0.5
        assert list(client.pieces(reply)) == [b"data: late\n\n"]
    assert time.monotonic() - begin > 0.9


def test_each_event_comes_within_milliseconds_of_upstreams(relay: Live, upstream: Upstream) -> None:
    straight, relayed = _delays(upstream, upstream.port), _delays(upstream, relay.port)
    assert statistics.median(relayed) - statistics.median(straight) < 0.03
    assert max(relayed) - max(straight) < 0.2


def _delays(upstream: Upstream, port: int) -> list[float]:
    """How late each of ten events, 50 ms apart, came after the moment it was due."""
    pause, found = 0.05, []
    upstream.script(PATH, Behaviour(headers=SSE, chunks=[(b"data: %d\n\n" % n, pause) for n in range(10)]))
    with Client(port) as client:
        client.send(request("POST", PATH, [AUTH], CHAT))
        reply = client.head()
        times = [at for _, at in client.timed(reply)]
    assert len(times) == 10
    begin = newest(upstream).t
    for number, at in enumerate(times):
        found.append(at - begin - number * pause)
    return found


def test_silence_in_the_middle_is_no_end(relay: Live, upstream: Upstream) -> None:
    _, arrived = events(relay, upstream, [(b"data: 1\n\n", 1.5), (b"data: 2\n\n", 0)])
    assert arrived == [b"data: 1\n\n", b"data: 2\n\n"]


# Breaks


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "after", [pytest.param(9, id="between two chunks"), pytest.param(13, id="in the middle of a chunk")]
)
def test_a_break_reaches_the_client_as_a_break(relay: Live, upstream: Upstream, after: int, reset: bool) -> None:
    pieces = [(b"data: 1\n\n", 0.05), (b"data: 2\n\n", 0.05), (b"data: [DONE]\n\n", 0)]
    upstream.script(PATH, Behaviour(headers=SSE, chunks=pieces, break_after=after, reset=reset))
    arrived = []
    with opened(relay) as client:
        reply = client.head()
        assert reply.status == 200
        with pytest.raises((Broken, ConnectionResetError)):
            for piece in client.pieces(reply):
                arrived.append(piece)
    joined = b"".join(arrived)
    assert joined.startswith(b"data: 1\n\n")
    assert b"DONE" not in joined
    assert b"error" not in joined


def test_a_break_short_of_the_length_is_a_break(relay: Live, upstream: Upstream) -> None:
    upstream.script(PATH, Behaviour(headers=SSE, body=b"data: 1\n\n" * 100, break_after=50))
    with opened(relay) as client:
        reply = client.head()
        with pytest.raises((Broken, ConnectionResetError)):
            list(client.pieces(reply))


def test_a_break_before_the_answer_is_an_error_in_json(relay: Live, upstream: Upstream) -> None:
    upstream.script(PATH, Behaviour(close_without_answer=True))
    with opened(relay) as client:
        reply = client.head()
        error = json.loads(b"".join(client.pieces(reply)))["error"]
    assert reply.status == 502
    assert reply.get("content-type") == "application/json; charset=utf-8"
    assert str(upstream.port) not in error["message"]


# The client leaves


@pytest.mark.parametrize("how", ["closes", "resets", "shuts down its sending half"])
def test_a_client_that_leaves_before_the_first_byte_closes_upstream(relay: Live, upstream: Upstream, how: str) -> None:
    before = len(upstream.seen)
    upstream.script(PATH, Behaviour(never=True))
    with opened(relay) as client:
        upstream.wait(lambda seen: len(seen) > before and seen[-1].complete)
        seen, left = newest(upstream), time.monotonic()
        _leave(client, how)
        assert eventually(lambda: seen.closed_at is not None)
    assert (seen.closed_at or 0) - left < 0.5


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_in_the_middle_closes_upstream(relay: Live, upstream: Upstream, how: str) -> None:
    upstream.script(PATH, Behaviour(headers=SSE, chunks=[(b"data: x\n\n", 0.1)] * 100))
    with opened(relay) as client:
        assert next(client.pieces(client.head())) == b"data: x\n\n"
        seen, left = newest(upstream), time.monotonic()
        _leave(client, how)
        assert eventually(lambda: seen.closed_at is not None)
    assert (seen.closed_at or 0) - left < 0.5


def test_a_client_that_leaves_while_upstream_is_silent_closes_it(relay: Live, upstream: Upstream) -> None:
    upstream.script(PATH, Behaviour(headers=SSE, chunks=[(b"data: x\n\n", 60)]))
    with opened(relay) as client:
        assert next(client.pieces(client.head())) == b"data: x\n\n"
        seen = newest(upstream)
    left = time.monotonic()
    assert eventually(lambda: seen.closed_at is not None)
    assert (seen.closed_at or 0) - left < 0.5


def test_a_client_that_leaves_in_the_middle_of_its_upload_closes_upstream(relay: Live, upstream: Upstream) -> None:
    with Client(relay.port) as client:
        client.send(request("POST", "/v1/files?leaves", [AUTH, ("Content-Length", "1000000")]) + b"x" * 1000)
        upstream.wait(lambda seen: any(one.target == "/v1/files?leaves" and one.length for one in seen))
    seen, left = newest(upstream, "/v1/files"), time.monotonic()
    assert eventually(lambda: seen.closed_at is not None)
    assert (seen.closed_at or 0) - left < 0.5
    assert not seen.complete


def test_a_client_that_does_not_read_holds_upstream_back(relay: Live, upstream: Upstream) -> None:
    before = relay.memory()
    upstream.script(PATH, Behaviour(headers=SSE, chunks=[(b"data: " + b"x" * 65000 + b"\n\n", 0)] * 2000))
    with opened(relay) as client:
        time.sleep(2)
        grown = relay.memory() - before
        seen = newest(upstream)
        assert seen.answered_at is None
        assert grown < 30 << 20
        client.socket.close()
        assert eventually(lambda: seen.closed_at is not None)


def test_nothing_of_all_this_left_a_traceback(relay: Live) -> None:
    assert "Traceback" not in relay.log


def _leave(client: Client, how: str) -> None:
    if how == "resets":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "shuts down its sending half":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        client.socket.close()
