"""Which path upstream is asked for, on the wire: careless joins, versions, and bytes that no path may hold."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Live, answer_in

KEY = "sk-test-0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
OK = Behaviour(status=200, body=b'{"ok": true}')
TALK = b'{"apiKey": "sk-test-0123456789", "sessionId": "paths", "content": "hello"}'


@pytest.fixture(scope="module")
def joined(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay before one upstream under three addresses: as it is, with a version of its own, with `/v1`."""
    upstreams = [
        {"name": "plain", "url": upstream.url},
        {"name": "glm", "url": f"{upstream.url}/api/paas/v4"},
        {"name": "groq", "url": f"{upstream.url}/openai/v1/"},
    ]
    routes = [{"path": "/glm", "upstream": "glm"}, {"path": "/groq", "upstream": "groq"}]
    with live.relay(tmp_path_factory.mktemp("joined"), upstreams, routes=routes) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ("/v1//batches?limit=2", "/v1/batches?limit=2"),
        ("//v1//v1/batches", "/v1/batches"),
        ("/batches/b%2F1//x?y=//", "/v1/batches/b%2F1//x?y=//"),
        ("/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1"),
        ("/glm/v1/batches", "/api/paas/v4/batches"),
        ("/glm//v1//batches", "/api/paas/v4/batches"),
        ("/glm/batches", "/api/paas/v4/batches"),
        ("/glm/v1/dashboard/billing/usage", "/api/paas/v4/dashboard/billing/usage"),
        ("/groq/v1/batches", "/openai/v1/batches"),
        ("/groq/batches", "/openai/v1/batches"),
        ("/groq/user/balance", "/openai/user/balance"),
    ],
)
def test_a_path_arrives_where_the_upstream_has_it(joined: Live, upstream: Upstream, sent: str, asked: str) -> None:
    upstream.clear()
    upstream.script("*", OK)
    answer = joined.ask("GET", sent, headers=AUTH)
    assert (answer.status, answer.json()) == (200, {"ok": True})
    assert [each.target for each in upstream.seen] == [asked]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/chat/", "/v1/chat/completions"),
        ("/glm/chat", "/api/paas/v4/chat/completions"),
        ("/glm/pro/chat/completions/", "/api/paas/v4/chat/completions"),
        ("/groq/chat", "/openai/v1/chat/completions"),
    ],
)
def test_a_conversation_asks_below_the_upstreams_version(
    joined: Live, upstream: Upstream, path: str, asked: str
) -> None:
    upstream.clear()
    body = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'
    upstream.script(asked, Behaviour(status=200, body=body, headers=[("content-type", "application/json")]))
    answer = joined.ask("POST", path, TALK)
    assert answer.json()["code"] == 200, answer
    assert [each.target for each in upstream.seen] == [asked]


def test_the_balance_is_asked_below_the_upstreams_version(joined: Live, upstream: Upstream) -> None:
    upstream.clear()
    folder = "/api/paas/v4/dashboard/billing"
    upstream.script(f"{folder}/subscription", Behaviour(status=200, body=b'{"hard_limit_usd": 18}'))
    upstream.script(f"{folder}/usage", Behaviour(status=200, body=b'{"total_usage": 8}'))
    answer = joined.ask("GET", "/glm/pro/balance/", headers=AUTH)
    assert answer.json()["data"] == {"total": 18, "balance": 17.92, "used": 0.08}


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/..\x01/admin HTTP/1.1",
        b"GET /v1/a\x00 HTTP/1.1",
        b"GET /v1/a?b=\x1b[2J HTTP/1.1",
        b"GET /v1/a\x7f HTTP/1.1",
        b"GET http://elsewhere.test/v1/a\x02 HTTP/1.1",
        b"GET /glm/a\x08 HTTP/1.1",
        b"GET /v1/models HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"GET /v1/models HTTP/3.0",
        b"GET /v1/models HTTP/1.2",
        b"GET /v1/models HTTP/0.9",
        b"GET /v1/a b HTTP/1.1",
    ],
)
def test_a_request_line_that_upstreams_may_read_otherwise_is_400(joined: Live, upstream: Upstream, line: bytes) -> None:
    upstream.clear()
    answer = answer_in(joined.raw(line + b"\r\nHost: x\r\n\r\n"))
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not upstream.seen


@pytest.mark.parametrize(
    "line", [b"POST /chat?\x01 HTTP/1.1", b"POST /chat HTTP/2.0", b"GET /pro/balance?apiKey=\x02 HTTP/1.1"]
)
def test_relay_s_own_paths_say_so_in_an_envelope(joined: Live, line: bytes) -> None:
    answer = answer_in(joined.raw(line + b"\r\nHost: x\r\nContent-Length: 0\r\n\r\n"))
    assert (answer.status, answer.json()["code"]) == (200, 400)


@pytest.mark.parametrize(
    "path", ["/v1/..%23/admin", "/v1/..%00/admin", "/batches/..%23/../admin", "/glm/..%5c..%5cadmin", "/glm/v1/.%09./x"]
)
def test_what_may_climb_goes_nowhere(joined: Live, upstream: Upstream, path: str) -> None:
    upstream.clear()
    answer = answer_in(joined.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))
    assert (answer.status, answer.json()["error"]["code"]) == (404, "unknown_path")
    assert not upstream.seen


def test_a_path_with_a_fragment_goes_nowhere(joined: Live, upstream: Upstream) -> None:
    upstream.clear()
    answer = answer_in(joined.raw(b"GET /v1/..#/admin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_path")
    assert not upstream.seen


def test_check_says_whose_version_is_asked(tmp_path: Path) -> None:
    import subprocess
    import sys

    config = tmp_path / "relay.yaml"
    config.write_bytes(b"\xef\xbb\xbfupstreams:\r\n  - name: glm\r\n    url: https://glm.test/api/paas/v4\r\n")
    command = [sys.executable, "-m", "addons.cli", "check"]
    said = subprocess.run(
        command, env=live.environment(RELAY_CONFIG=str(config)), cwd=live.ROOT, capture_output=True, text=True
    )
    assert "forwards to        https://glm.test/api/paas/v4 (in place of /v1)" in said.stdout, said
