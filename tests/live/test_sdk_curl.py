"""curl, through a live relay: what people paste from the API's documentation, and what curl adds by itself."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Seen, Upstream
from tests.support import sdks
from tests.support.live import Live, answer_in, environment, eventually

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
KEY = "sk-test-0123456789"
DATA = bytes(range(256)) * 8192
"""2 MB: from 1 MB on curl sends Expect by itself."""
SSE_END = "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def edge(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdks.Edge]:
    """A relay for what the defaults do not show."""
    with sdks.edge(tmp_path_factory.mktemp("edge"), upstream) as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of 2 MB."""
    file = tmp_path / "data.bin"
    file.write_bytes(DATA)
    return file


@dataclass(frozen=True)
class Told:
    """What curl made of it."""

    code: int
    """Its exit code; 0 is well."""
    output: bytes
    log: str
    """What -v shows: `> ` sent, `< ` received."""

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode()


def command(*arguments: str, key: str | None = KEY) -> list[str]:
    """curl as a command line, without the user's settings."""
    bearer = ["-H", f"Authorization: Bearer {key}"] if key else []
    return ["curl", "-q", "-sS", "-v", "-m", "20", *bearer, *arguments]


def curl(*arguments: str, key: str | None = KEY, given: bytes = b"", environ: Mapping[str, str] | None = None) -> Told:
    """Run it; `given` is its standard input."""
    asking = command(*arguments, key=key)
    done = subprocess.run(asking, env=environment(**(environ or {})), input=given, capture_output=True, timeout=30)
    return Told(done.returncode, done.stdout, done.stderr.decode(errors="replace").replace("\r\n", "\n"))


def said(content: str, **more: object) -> tuple[str, ...]:
    """The arguments of a chat completion."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **more}
    return "-H", "Content-Type: application/json", "-d", json.dumps(body, ensure_ascii=False)


def newest(upstream: Upstream, target: str) -> Seen:
    """The newest request for this target."""
    return next(seen for seen in reversed(upstream.seen) if seen.target == target)


# Answers


VERSIONS = [
    pytest.param("--http1.0", id="HTTP 1.0"),
    pytest.param("--http1.1", id="HTTP 1.1"),
    pytest.param("--http2", id="HTTP 2 where it can be had"),
]


@pytest.mark.parametrize("version", VERSIONS)
def test_chat(relay: Live, version: str) -> None:
    told = curl(version, *said("我叫小明"), f"{relay.url}/v1/chat/completions")
    assert told.code == 0, told.log
    assert json.loads(told.output)["choices"][0]["message"]["content"] == "你好，小明！我记住了。"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stream_ends_well(relay: Live, version: str) -> None:
    told = curl(version, "-N", *said("我叫小明", stream=True), f"{relay.url}/v1/chat/completions")
    assert told.code == 0, told.log
    assert told.text.endswith(SSE_END)
    assert told.text.startswith('data: {"id"')  # framed or not, no chunk's size is in it


def test_a_stream_comes_piece_by_piece(relay: Live) -> None:
    asking = command(
        "-N", "-H", "x-demo-delay-ms: 40", *said("hello, how are you?", stream=True), f"{relay.url}/v1/chat/completions"
    )
    arrivals = []
    with subprocess.Popen(asking, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        while chunk := os.read(running.stdout.fileno(), 65536):
            arrivals.append((time.monotonic(), chunk))
    assert running.returncode == 0
    assert b"".join(chunk for _, chunk in arrivals).endswith(SSE_END.encode())
    assert len(arrivals) > 5
    assert arrivals[-1][0] - arrivals[0][0] > 0.3  # of 16 times 40 ms


def test_a_stream_that_upstream_breaks_is_an_error(relay: Live) -> None:
    broken = 'x-test: {"break_after": 600}'
    told = curl("-N", "-H", broken, *said("hi", stream=True), f"{relay.url}/v1/chat/completions")
    assert told.code in (18, 56), told.log  # a part of a file, a failure to receive
    assert told.text.startswith('data: {"id"')
    assert "[DONE]" not in told.text


def test_ctrl_c_closes_upstream(relay: Live, upstream: Upstream) -> None:
    target = "/v1/chat/completions?interrupted"
    asking = command("-N", "-H", "x-demo-delay-ms: 200", *said("word " * 50, stream=True), f"{relay.url}{target}")
    with subprocess.Popen(asking, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        assert running.stdout.read(10)
        running.terminate()
    seen = newest(upstream, target)
    assert eventually(lambda: seen.closed_at is not None)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_compressed_answers_are_unpacked(relay: Live, stream: bool) -> None:
    asked = ("--compressed", "-H", 'x-test: {"gzip": true}')
    told = curl(*asked, *said("我叫小明", stream=stream), f"{relay.url}/v1/chat/completions")
    assert told.code == 0, told.log
    assert "content-encoding: gzip" in told.log.lower()
    assert told.text.endswith(SSE_END) if stream else "小明" in told.text


def test_head(relay: Live) -> None:
    told = curl("-I", f"{relay.url}/v1/models")
    assert told.code == 0, told.log
    assert answer_in(told.output, "HEAD").status == 200


def test_several_requests_share_a_connection(relay: Live) -> None:
    told = curl(f"{relay.url}/v1/models", f"{relay.url}/v1/models/gpt-4o")
    assert told.code == 0, told.log
    assert "Re-using existing" in told.log or "Reusing existing" in told.log


# Files


def test_a_file_goes_up_and_comes_back(relay: Live, upstream: Upstream, data: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    told = curl("-F", "purpose=batch", "-F", f"file=@{data}", f"{relay.url}/v1/files")
    assert told.code == 0, told.log
    assert "\n> Expect: 100-continue\n" in told.log
    assert "\n< HTTP/1.1 100 Continue\n" in told.log
    assert time.monotonic() - begin < 5
    seen = newest(upstream, "/v1/files")
    assert seen.header("expect") is None
    file = json.loads(told.output)
    assert (file["filename"], file["bytes"]) == ("data.bin", len(DATA))
    assert file["sha256"] == hashlib.sha256(DATA).hexdigest()

    back = tmp_path / "back.bin"
    assert curl("-o", str(back), f"{relay.url}/v1/files/{file['id']}/content").code == 0
    assert back.read_bytes() == DATA
    assert json.loads(curl("-X", "DELETE", f"{relay.url}/v1/files/{file['id']}").output)["deleted"]
    assert curl("-f", f"{relay.url}/v1/files/{file['id']}").code == 22


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"], ids=["HTTP 1.0", "HTTP 1.1"])
def test_a_large_download_is_whole(relay: Live, version: str) -> None:
    told = curl(version, f"{relay.url}/v1/files/file-made-5000000/content")
    assert (told.code, len(told.output)) == (0, 5_000_000), told.log


def test_an_upload_without_a_length(relay: Live, upstream: Upstream) -> None:
    told = curl("-T", "-", f"{relay.url}/v1/echo/put", given=DATA)
    assert told.code == 0, told.log
    echo = json.loads(told.output)
    assert (echo["method"], echo["sha256"]) == ("PUT", hashlib.sha256(DATA).hexdigest())
    assert newest(upstream, "/v1/echo/put").header("transfer-encoding") == "chunked"


# Errors


def refused(told: Told) -> tuple[int, str, str]:
    """Status, content type and the error's code or type, of what -i shows."""
    answer = answer_in(told.output)
    error = answer.json()["error"]
    assert error["message"]
    return answer.status, answer.headers["content-type"], error["code"] or error["type"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk-bad-0123456789", (401, "invalid_api_key")),
        (None, (401, "invalid_request_error")),
        ("sk-403-0123456789", (403, "unsupported_country_region_territory")),
        ("sk-rate-0123456789", (429, "rate_limit_exceeded")),
    ],
    ids=["wrong key", "no key", "forbidden", "too fast"],
)
def test_what_upstream_refuses(relay: Live, key: str | None, expected: tuple[int, str]) -> None:
    told = curl("-i", f"{relay.url}/v1/models", key=key)
    status, _, code = refused(told)
    assert (told.code, status, code) == (0, *expected)
    assert ("retry-after: 1" in told.log.lower()) == (status == 429)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/nowhere", (404, "unknown_path")), ("/down/v1/models", (502, "upstream_failed"))],
    ids=["no such path", "upstream is down"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_relay_refuses(edge: sdks.Edge, path: str, expected: tuple[int, str], version: str) -> None:
    told = curl("-i", version, f"{edge.url}{path}")
    status, kind, code = refused(told)
    assert (told.code, status, kind, code) == (0, expected[0], "application/json; charset=utf-8", expected[1])


def test_an_upload_over_the_limit_is_not_even_begun(edge: sdks.Edge, data: Path) -> None:
    told = curl("-i", "-F", "purpose=batch", "-F", f"file=@{data}", f"{edge.url}/v1/files")
    assert refused(told) == (413, "application/json; charset=utf-8", "request_too_large")
    assert "\n> Expect: 100-continue\n" in told.log
    assert "100 Continue" not in told.log


def test_an_upload_over_the_limit_is_refused_where_curl_does_not_wait(edge: sdks.Edge, data: Path) -> None:
    told = curl("-i", "-H", "Expect:", "--data-binary", f"@{data}", f"{edge.url}/v1/files")
    assert refused(told) == (413, "application/json; charset=utf-8", "request_too_large")


def test_fail_with_body_shows_the_error(relay: Live) -> None:
    told = curl("--fail-with-body", f"{relay.url}/v1/models", key="sk-bad-0123456789")
    assert told.code == 22
    assert json.loads(told.output)["error"]["code"] == "invalid_api_key"


# Proxies and TLS


@pytest.mark.parametrize("how", ["--noproxy", "no_proxy"])
def test_a_proxy_for_everything_else_is_not_asked(relay: Live, how: str) -> None:
    nobody = "http://127.0.0.1:9"
    proxies = {"http_proxy": nobody, "all_proxy": nobody}
    if how == "--noproxy":
        told = curl("--noproxy", "127.0.0.1", f"{relay.url}/v1/models", environ=proxies)
    else:
        told = curl(f"{relay.url}/v1/models", environ={"no_proxy": "127.0.0.1", **proxies})
    assert told.code == 0, told.log
    assert json.loads(told.output)["object"] == "list"


def test_relay_taken_for_a_proxy_asks_no_stranger(relay: Live, upstream: Upstream) -> None:
    asked_of = "http://stranger.invalid/v1/models?asked-of-a-stranger"
    told = curl("-i", asked_of, environ={"http_proxy": relay.url})
    assert told.code == 0, told.log
    assert answer_in(told.output).json()["object"] == "list"
    seen = newest(upstream, "/v1/models?asked-of-a-stranger")
    assert seen.header("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"], ids=["HTTP 1.1", "HTTP 2"])
def test_tls(edge: sdks.Edge, version: str) -> None:
    told = curl(
        version, "--cacert", str(edge.cert), "-N", *said("hi", stream=True), f"{edge.https}/v1/chat/completions"
    )
    assert told.code == 0, told.log
    assert told.text.endswith(SSE_END)
    assert f"\n< {'HTTP/2 200' if version == '--http2' else 'HTTP/1.1 200 OK'}" in told.log


def test_nothing_of_all_this_left_a_traceback(relay: Live, edge: sdks.Edge) -> None:
    assert "Traceback" not in relay.log + edge.running.log
    assert "sk-test" not in relay.log + edge.running.log
