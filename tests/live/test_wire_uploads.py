"""Uploads and large answers: streamed in constant memory, bounded by `limits.body`, answered early without harm."""

import contextlib
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from tests.support.live import Live, eventually
from tests.support.live import relay as start_relay
from tests.support.raw import Broken, Client, Reply, chunk, request

AUTH = ("Authorization", "Bearer sk-test-0123456789")
MB = 1 << 20
BLOCK = bytes(range(256)) * 4096
LIMIT = 3 * MB
BOUNDARY = "relay-test-boundary"


@pytest.fixture(scope="module")
def bounded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay that takes bodies of 3 MB at most."""
    with start_relay(tmp_path_factory.mktemp("bounded"), upstream.url, limits={"body": "3m"}) as running:
        yield running


class Peak:
    """The most memory a relay takes while the block runs, over what it took before, in bytes."""

    def __init__(self, relay: Live) -> None:
        self.relay = relay
        self.before = relay.memory()
        self.grown = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.grown = max(self.grown, self.relay.memory() - self.before)


def multipart_head(size: int) -> tuple[bytes, bytes, int]:
    """What stands before and after a file of a multipart form, and the length of all."""
    head = (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()
    return head, tail, len(head) + size + len(tail)


def newest(upstream: Upstream, target: str) -> Seen:
    """The newest request for this target, waited for."""
    return upstream.wait(lambda seen: [one for one in reversed(seen) if one.target == target])[0]


def assert_too_large(reply: Reply, body: bytes) -> None:
    """A 413 as OpenAI's clients read it."""
    assert reply.status == 413
    assert reply.get("content-type") == "application/json; charset=utf-8"
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_too_large")
    assert "this relay's limit" in error["message"]


def whole(client: Client) -> tuple[Reply, bytes]:
    """The next answer."""
    reply = client.head()
    return reply, b"".join(client.pieces(reply))


# Memory


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
def test_an_upload_of_200_mb_is_not_held(relay: Live, upstream: Upstream, chunked: bool) -> None:
    head, tail, length = multipart_head(200 * MB)
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(length))
    headers = [AUTH, ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}"), framing]
    hashed = hashlib.sha256()
    _warm(relay)
    with Client(relay.port, 30) as client, Peak(relay) as peak:
        client.send(request("POST", "/v1/files", headers))
        client.send(chunk(head) if chunked else head)
        block = chunk(BLOCK) if chunked else BLOCK
        for _ in range(200):
            hashed.update(BLOCK)
            client.send(block)
        client.send(chunk(tail) + chunk(b"") if chunked else tail)
        reply, body = whole(client)
    assert reply.status == 200
    assert json.loads(body)["sha256"] == hashed.hexdigest()
    assert newest(upstream, "/v1/files").length == length
    assert peak.grown <= 20 * MB


def test_an_answer_of_200_mb_is_not_held(relay: Live) -> None:
    count = 0
    with Client(relay.port, 30) as client, Peak(relay) as peak:
        client.send(request("GET", f"/v1/files/file-made-{200 * MB}/content", [AUTH]))
        for piece in client.pieces(client.head()):
            count += len(piece)
    assert count == 200 * MB
    assert peak.grown <= 20 * MB


def test_an_upload_waits_for_an_upstream_that_reads_slowly(relay: Live, upstream: Upstream) -> None:
    upstream.script("/v1/slow", Behaviour(delay_read=2.0))
    size = 60 * MB
    with Client(relay.port, 30) as client, Peak(relay) as peak:
        client.send(request("POST", "/v1/slow", [AUTH, ("Content-Length", str(size))]))
        for _ in range(size // len(BLOCK)):
            client.send(BLOCK)
        assert whole(client)[0].status == 200
    assert peak.grown <= 20 * MB


def _warm(relay: Live) -> None:
    """What the first uploads take and keep is not theirs alone."""
    with Client(relay.port) as client:
        assert client.ask("POST", "/v1/echo/warm", [AUTH], BLOCK * 4)[0].status == 200


# Forms


def test_a_multipart_form_arrives_byte_for_byte(relay: Live, upstream: Upstream) -> None:
    head, tail, _ = multipart_head(0)
    form = head + BLOCK + b"\r\n--almost--\r\n" + BLOCK + tail
    kind = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    with Client(relay.port) as client:
        reply, body = client.ask("POST", "/v1/audio/transcriptions", [AUTH, kind], form)
    assert reply.status == 200
    assert json.loads(body)["text"] == f"{len(BLOCK) * 2 + 14} bytes of sound named large.bin."
    assert newest(upstream, "/v1/audio/transcriptions").body == form


# Expect: 100-continue


def test_curl_is_told_to_go_on_and_its_body_arrives(relay: Live, upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BLOCK * 2)
    begin = time.monotonic()
    shown = _curl(relay, "/v1/echo/curl", file, "-H", "Expect: 100-continue", "--expect100-timeout", "10")
    assert time.monotonic() - begin < 5
    assert b"HTTP/1.1 100" in shown
    assert b"HTTP/1.1 200" in shown
    seen = newest(upstream, "/v1/echo/curl")
    assert seen.sha256 == hashlib.sha256(BLOCK * 2).hexdigest()
    assert seen.header("expect") is None


def test_curl_is_refused_before_it_sends_its_body(bounded: Live, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BLOCK * 4)
    shown = _curl(bounded, "/v1/files", file, "-H", "Expect: 100-continue", "--expect100-timeout", "10")
    assert b"HTTP/1.1 413" in shown
    assert b"HTTP/1.1 100" not in shown
    assert b"request_too_large" in shown


def _curl(relay: Live, path: str, file: Path, *arguments: str) -> bytes:
    command = ["curl", "-sS", "-i", "--noproxy", "*", "--data-binary", f"@{file}", "-m", "20", *arguments]
    command += ["-H", f"{AUTH[0]}: {AUTH[1]}", f"{relay.url}{path}"]
    return subprocess.run(command, capture_output=True, check=True).stdout


# The limit


def test_a_declared_length_over_the_limit_is_refused_before_it_is_read(bounded: Live, upstream: Upstream) -> None:
    before, accepted = len(upstream.seen), upstream.accepted
    with Client(bounded.port) as client:
        client.send(request("POST", "/v1/files", [AUTH, ("Content-Length", str(LIMIT + 1))]))
        assert_too_large(*whole(client))
    assert (len(upstream.seen), upstream.accepted) == (before, accepted)


def test_whoever_sends_all_of_it_anyway_reads_the_413(bounded: Live) -> None:
    with Client(bounded.port) as client:
        client.send(request("POST", "/v1/files", [AUTH, ("Content-Length", str(8 * MB))]))
        for _ in range(8):
            client.send(BLOCK)
        assert_too_large(*whole(client))


@pytest.mark.parametrize("declared", ["99999999999999999999999999", str(1 << 62)])
def test_an_absurd_length_is_refused(bounded: Live, declared: str) -> None:
    with Client(bounded.port) as client:
        client.send(request("POST", "/v1/files", [AUTH, ("Content-Length", declared)]))
        assert_too_large(*whole(client))


def test_counted_bytes_over_the_limit_cut_upstream_off_without_a_false_end(bounded: Live, upstream: Upstream) -> None:
    with Client(bounded.port) as client:
        client.send(request("POST", "/v1/counted", [AUTH, ("Transfer-Encoding", "chunked")]))
        client.send(chunk(BLOCK) * 3)
        upstream.wait(lambda seen: any(one.target == "/v1/counted" and one.length == LIMIT for one in seen))
        client.send(chunk(b"one more"))
        assert_too_large(*whole(client))
        assert client.closed
    seen = newest(upstream, "/v1/counted")
    assert eventually(lambda: seen.closed_at is not None)
    assert not seen.complete
    assert seen.length <= LIMIT


def test_a_client_that_goes_on_writing_is_told_or_reset_and_nothing_is_held(bounded: Live) -> None:
    with Client(bounded.port) as client, Peak(bounded) as peak:
        client.send(request("POST", "/v1/counted-on", [AUTH, ("Transfer-Encoding", "chunked")]))
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                client.send(chunk(BLOCK))
        with contextlib.suppress(Broken, ConnectionError):
            assert_too_large(*whole(client))
        assert time.monotonic() - begin < 7
    assert peak.grown <= 20 * MB


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
def test_a_body_at_the_limit_passes(bounded: Live, size: int, chunked: bool) -> None:
    body = (BLOCK * 3)[:size]
    with Client(bounded.port) as client:
        if chunked:
            framed = request("POST", "/v1/at-limit", [AUTH, ("Transfer-Encoding", "chunked")])
            client.send(framed + chunk(body) + chunk(b""))
        else:
            client.send(request("POST", "/v1/at-limit", [AUTH], body))
        reply, answer = whole(client)
    assert (reply.status, json.loads(answer)["length"]) == (200, size)


def test_the_limit_does_not_bound_answers(bounded: Live) -> None:
    with Client(bounded.port) as client:
        _, body = client.ask("GET", f"/v1/files/file-made-{5 * MB}/content", [AUTH])
    assert len(body) == 5 * MB


# Upstream answers before the upload ends


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_early_answer_reaches_a_client_that_reads_while_it_writes(
    relay: Live, upstream: Upstream, framing: str
) -> None:
    target = f"/v1/early/{framing}"
    upstream.script(target, Behaviour(status=401, body=b'{"error":{}}', early_answer=True))
    header = ("Content-Length", str(2 * MB)) if framing == "length" else ("Transfer-Encoding", "chunked")
    with Client(relay.port) as client:
        first = BLOCK[:1000] if framing == "length" else chunk(BLOCK[:1000])
        client.send(request("POST", target, [AUTH, header]) + first)
        assert whole(client)[0].status == 401
        assert eventually(lambda: newest(upstream, target).answered_at is not None)


def test_the_rest_of_the_upload_goes_up_after_an_early_answer(relay: Live, upstream: Upstream) -> None:
    upstream.script("/v1/early/rest", Behaviour(status=200, body=b"{}", early_answer=True))
    with Client(relay.port) as client:
        client.send(request("POST", "/v1/early/rest", [AUTH, ("Content-Length", str(2 * MB))]) + BLOCK[:1000])
        assert whole(client)[0].status == 200
        client.send((BLOCK * 2)[1000:])
        assert newest(upstream, "/v1/early/rest")
        assert eventually(lambda: newest(upstream, "/v1/early/rest").complete)
        assert client.ask("GET", "/v1/models", [AUTH])[0].status == 200


def test_an_early_refusal_that_closes_still_reaches_the_client(relay: Live, upstream: Upstream) -> None:
    refusal = Behaviour(
        status=413, body=b'{"error":{"message":"too large for upstream"}}', early_answer=True, close=True
    )
    upstream.script("/v1/early/closing", refusal)
    with Client(relay.port) as client:
        client.send(request("POST", "/v1/early/closing", [AUTH, ("Content-Length", str(20 * MB))]) + BLOCK)
        reply, body = whole(client)
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for _ in range(19):
                client.send(BLOCK)
        with contextlib.suppress(Broken, ConnectionError, TimeoutError):
            client.ask("GET", "/v1/models", [AUTH])
    assert (reply.status, json.loads(body)["error"]["message"]) == (413, "too large for upstream")
    assert time.monotonic() - begin < 7


def test_nothing_of_all_this_left_a_traceback(relay: Live, bounded: Live) -> None:
    assert "Traceback" not in relay.log + bounded.log
