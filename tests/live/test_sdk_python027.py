"""openai-python 0.27, through a live relay: tests/sdk/python027/drive.py asks, here stands what must come of it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import sdks
from tests.support.live import Live, eventually

pytestmark = pytest.mark.timeout(sdks.TIMEOUT)
PYTHON027 = sdks.FOLDER / "python027"
LOCK = PYTHON027 / "requirements.txt"
# Which index is asked is the user's own setting; nothing is built, so no code of a package runs here.
INSTALL = [sys.executable, "-m", "pip", "install", "--target", ".", "--require-hashes", "--no-deps"]
INSTALL += ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet", "-r", LOCK.name]


@pytest.fixture(scope="module")
def edge(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdks.Edge]:
    """A relay for what the defaults do not show."""
    with sdks.edge(tmp_path_factory.mktemp("edge"), upstream) as running:
        yield running


@pytest.fixture(scope="module")
def sdk() -> Path:
    """Where the SDK is installed."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    return sdks.installed(f"python027-{sys.implementation.cache_tag}", [LOCK], INSTALL)


@pytest.fixture(scope="module")
def results(sdk: Path, relay: Live, edge: sdks.Edge, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of every case."""
    # -S and -P: neither this environment's packages nor the script's folder come before or after the SDK's.
    command = [sys.executable, "-S", "-P", str(PYTHON027 / "drive.py")]
    ours = {"PYTHONPATH": str(sdk), "PYTHONIOENCODING": "utf-8"}
    folder = tmp_path_factory.mktemp("python027")
    return sdks.drive(command, folder, RELAY=relay.url, RELAY_EDGE=edge.url, **ours)


VALUES: dict[str, Any] = {
    "version": "0.27.10",
    "chat": {"content": "你好，小明！我记住了。", "finish": "stop"},
    "chat, gzipped by upstream": {"content": "你好，小明！我记住了。"},
    "chat, awaited": {"content": "你好，小明！我记住了。"},
    "stream, awaited": {"text": "你好，小红！我记住了。"},
    "stream, left in the middle": {"chunks": 3},
    "embeddings": {"sizes": [8, 8]},
    "images": {"prompt": "一只猫"},
    "audio, transcription": {"text": "301200 bytes of sound named sound.mp3.", "same": True},
    "files": {
        "filename": "data.jsonl",
        "bytes": 301_200,
        "purpose": "batch",
        "listed": True,
        "same": True,
        "deleted": True,
    },
    "models": {"whole": True, "one": "gpt-4o"},
    "moderations": {"flagged": True},
}

ERRORS: dict[str, dict[str, Any]] = {
    "error 400": {"class": "InvalidRequestError", "http_status": 400},
    "error 401": {"class": "AuthenticationError", "http_status": 401},
    "error 403": {"class": "PermissionError", "http_status": 403},
    "error 404": {"class": "InvalidRequestError", "http_status": 404, "code": "model_not_found"},
    "error 404, streaming": {"class": "InvalidRequestError", "http_status": 404, "code": "model_not_found"},
    "error 404, of relay": {"class": "InvalidRequestError", "http_status": 404},
    "error 409": {"class": "TryAgain", "http_status": 409},
    "error 413": {"class": "APIError", "http_status": 413},
    "error 413, of relay": {"class": "APIError", "http_status": 413},
    "error 429": {"class": "RateLimitError", "http_status": 429, "retry_after": "1"},
    "error 500": {"class": "APIError", "http_status": 500},
    "error 502": {"class": "APIError", "http_status": 502},
    "error 502, of relay": {"class": "APIError", "http_status": 502},
    "error 503": {"class": "ServiceUnavailableError", "http_status": 503},
}

WATCHED = {"stream", "stream, broken by upstream"}
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
    assert value["chunks"] > 10
    assert value["last"] - value["first"] > 0.4  # of 17 times 40 ms


def test_a_stream_that_upstream_breaks_is_an_error(results: dict[str, Any]) -> None:
    value = results["stream, broken by upstream"]["value"]
    assert value["broken"]
    assert value["chunks"] > 0


def test_who_leaves_closes_upstream(results: dict[str, Any], upstream: Upstream) -> None:
    assert "value" in results["stream, left in the middle"]
    (seen,) = [seen for seen in upstream.seen if seen.header("x-case") == "left"]
    assert eventually(lambda: seen.closed_at is not None)
    assert seen.closed_at is not None
    assert seen.closed_at - seen.t < 3


def test_relays_own_errors_say_what_to_do(results: dict[str, Any]) -> None:
    assert "/v1" in results["error 404, of relay"]["error"]["message"]
    assert "this relay's limit" in results["error 413, of relay"]["error"]["message"]
    assert "127.0.0.1" not in results["error 502, of relay"]["error"]["message"]


def test_every_case_is_looked_at(results: dict[str, Any]) -> None:
    assert results.keys() == VALUES.keys() | ERRORS.keys() | WATCHED


def test_nothing_of_all_this_left_a_traceback(results: dict[str, Any], relay: Live, edge: sdks.Edge) -> None:
    assert results
    assert "Traceback" not in relay.log + edge.running.log
    assert "sk-test" not in relay.log + edge.running.log


def test_the_lock_names_no_index() -> None:
    assert "://" not in LOCK.read_text()
