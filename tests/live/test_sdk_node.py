"""The official SDK for Node, through a live relay: tests/sdk/node/drive.mjs asks, here stands what must come of it.

After a change of package.json: `npm install --package-lock-only --omit-lockfile-registry-resolved=true` beside it.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from addons.cli.fake_openai.server import Seen, Upstream
from tests.support import sdks
from tests.support.live import Live, eventually

pytestmark = pytest.mark.timeout(sdks.TIMEOUT)
NODE = sdks.FOLDER / "node"
LOCKS = (NODE / "package.json", NODE / "package-lock.json")
# What pertains to a registry is the user's own setting; no script of a package is run.
INSTALL = ("npm", "ci", "--ignore-scripts", "--prefer-offline", "--engine-strict=false", "--no-audit", "--no-fund")
OLDEST = 20


@pytest.fixture(scope="module")
def edge(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdks.Edge]:
    """A relay for what the defaults do not show."""
    with sdks.edge(tmp_path_factory.mktemp("edge"), upstream) as running:
        yield running


@pytest.fixture(scope="module")
def sdk() -> Path:
    """Where the SDK is installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"node {version} is older than {OLDEST}")
    return sdks.installed("node", LOCKS, INSTALL)


@pytest.fixture(scope="module")
def results(sdk: Path, relay: Live, edge: sdks.Edge, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of every case."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(NODE / "drive.mjs", folder)
    (folder / "node_modules").symlink_to(sdk / "node_modules")  # a script finds its modules beside itself
    ours = {"RELAY": relay.url, "RELAY_EDGE": edge.https, "NODE_EXTRA_CA_CERTS": str(edge.cert)}
    return sdks.drive(["node", "drive.mjs"], folder, SCRATCH=str(folder), **ours)


def requests(upstream: Upstream, case: str) -> list[Seen]:
    """What the upstream got in this case."""
    return [seen for seen in upstream.seen if seen.header("x-case") == quote(case, safe="!'()*")]


VALUES: dict[str, Any] = {
    "chat": {"content": "你好，小明！我记住了。", "finish": "stop"},
    "chat, gzipped by upstream": {"content": "我是一名人工智能助手。"},
    "headers of an answer": {"id": "req_", "limit": "10000"},
    "stream, gathered by the SDK": {"content": "你好，小红！我记住了。"},
    "stream, gzipped by upstream": {"text": "你好，小红！我记住了。"},
    "stream, left in the middle": {"chunks": 3, "aborted": True},
    "stream, aborted in the middle": {"chunks": 3},
    "responses": {"text": "你好，小明！我记住了。"},
    "responses, streamed": {
        "text": "你好，小明！我记住了。",
        "first": "response.created",
        "last": "response.completed",
    },
    "embeddings": {"sizes": [8, 8], "same": True},
    "images": {"png": "PNG", "prompt": "一只猫"},
    "audio, speech": {"kind": "audio/mpeg", "begin": "ID3", "length": 2560},
    "audio, transcription": {"text": "300000 bytes of sound named 录音.mp3.", "same": True},
    "files": {
        "filename": "data.jsonl",
        "bytes": 300_000,
        "purpose": "batch",
        "listed": True,
        "same": True,
        "deleted": True,
        "gone": 404,
    },
    "models": {"whole": True, "one": "gpt-4o"},
    "moderations": {"flagged": True, "violence": True},
    "https": {"content": "你好，小明！我记住了。"},
    "realtime, key in a header": {"same": True, "protocol": "", "code": 4001, "reason": "bye"},
    "realtime, key in a subprotocol": {"same": True, "protocol": "realtime", "code": 4001, "reason": "bye"},
    "realtime, key refused": {"message": "Unexpected server response: 401"},
    "realtime, without TLS": {"text": "你好", "protocol": "realtime"},
}

ERRORS: dict[str, dict[str, Any]] = {
    "aborted before the first byte": {"class": "APIUserAbortError"},
    "timed out before the first byte": {"class": "APIConnectionTimeoutError"},
    "stream, an error inside": {"class": "APIError", "code": "busy", "type": "server_error"},
    "error 400": {"class": "BadRequestError", "status": 400, "type": "invalid_request_error"},
    "error 401": {"class": "AuthenticationError", "status": 401, "code": "invalid_api_key"},
    "error 403": {"class": "PermissionDeniedError", "status": 403, "code": "unsupported_country_region_territory"},
    "error 404": {"class": "NotFoundError", "status": 404, "code": "model_not_found"},
    "error 404, of relay": {"class": "NotFoundError", "status": 404, "type": "invalid_request_error"},
    "error 409": {"class": "ConflictError", "status": 409, "code": "c409", "requestID": "req_test"},
    "error 413": {"class": "APIError", "status": 413, "code": "c413", "requestID": "req_test"},
    "error 413, of relay": {"class": "APIError", "status": 413, "code": "request_too_large"},
    "error 422": {"class": "UnprocessableEntityError", "status": 422, "code": "c422", "requestID": "req_test"},
    "error 429": {"class": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"},
    "error 429, out of quota": {"class": "RateLimitError", "status": 429, "code": "insufficient_quota"},
    "error 500": {"class": "InternalServerError", "status": 500, "message": "500 refused with 500"},
    "error 502": {"class": "InternalServerError", "status": 502, "message": "502 refused with 502"},
    "error 502, of relay": {"class": "InternalServerError", "status": 502, "code": "upstream_failed"},
    "error 502, a page": {"class": "InternalServerError", "status": 502, "message": "502 <html>"},
}

WATCHED = {
    "stream",
    "stream, broken by upstream",
    "retry-after is waited for",
    "retry-after-ms is waited for",
    "x-should-retry is obeyed",
}
"""Cases with a test of their own."""


@pytest.mark.parametrize("case", VALUES)
def test_an_answer(results: dict[str, Any], case: str) -> None:
    assert results[case] == {"value": VALUES[case]}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error(results: dict[str, Any], case: str) -> None:
    error = results[case]["error"]
    assert {name: error.get(name) for name in ERRORS[case]} == ERRORS[case], error


def test_a_stream_comes_piece_by_piece(results: dict[str, Any]) -> None:
    value = results["stream"]["value"]
    assert value["text"] == 'You said: "hello, how are you today?". Before that I saw 0 earlier messages.'
    assert value["usage"] == 33
    assert value["chunks"] > 10
    assert value["last"] - value["first"] > 400  # of 18 times 40 ms


def test_a_stream_that_upstream_breaks_is_an_error(results: dict[str, Any]) -> None:
    value = results["stream, broken by upstream"]["value"]
    assert value["broken"]
    assert value["chunks"] > 0


@pytest.mark.parametrize(
    "case",
    [
        "stream, left in the middle",
        "stream, aborted in the middle",
        "aborted before the first byte",
        "timed out before the first byte",
    ],
)
def test_who_leaves_closes_upstream(results: dict[str, Any], upstream: Upstream, case: str) -> None:
    assert case in results
    (seen,) = requests(upstream, case)
    assert eventually(lambda: seen.closed_at is not None)
    assert seen.closed_at is not None
    assert seen.closed_at - seen.t < 3


@pytest.mark.parametrize(
    ("case", "seconds"),
    [("retry-after is waited for", 1.0), ("retry-after-ms is waited for", 0.7)],
    ids=["retry-after", "retry-after-ms"],
)
def test_a_retry_comes_when_it_was_asked_for(
    results: dict[str, Any], upstream: Upstream, case: str, seconds: float
) -> None:
    assert results[case]["error"]["class"] == "RateLimitError"
    first, second = requests(upstream, case)
    assert [one.header("x-stainless-retry-count") for one in (first, second)] == ["0", "1"]
    assert second.t - first.t > seconds * 0.95  # unasked it waits half a second at most


def test_x_should_retry_is_obeyed(results: dict[str, Any], upstream: Upstream) -> None:
    assert results["x-should-retry is obeyed"]["error"]["class"] == "InternalServerError"
    assert len(requests(upstream, "x-should-retry is obeyed")) == 1


def test_relays_own_errors_say_what_to_do(results: dict[str, Any], upstream: Upstream) -> None:
    assert "/v1" in results["error 404, of relay"]["error"]["message"]
    assert "this relay's limit" in results["error 413, of relay"]["error"]["message"]
    assert "127.0.0.1" not in results["error 502, of relay"]["error"]["message"]


def test_every_case_is_looked_at(results: dict[str, Any]) -> None:
    assert results.keys() == VALUES.keys() | ERRORS.keys() | WATCHED


def test_nothing_of_all_this_left_a_traceback(results: dict[str, Any], relay: Live, edge: sdks.Edge) -> None:
    assert results
    assert "Traceback" not in relay.log + edge.running.log
    assert "sk-test" not in relay.log + edge.running.log


def test_the_lock_names_no_registry() -> None:
    assert "://" not in LOCKS[1].read_text()
