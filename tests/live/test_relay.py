"""The three jobs, through a real mitmdump."""

import time

import openai
import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support.live import Live, eventually

KEY = "sk-test-0123456789"
MODEL = "gpt-3.5-turbo"


@pytest.fixture
def client(relay: Live) -> openai.OpenAI:
    return openai.OpenAI(api_key=KEY, base_url=f"{relay.url}/v1", max_retries=0, timeout=20)


def test_the_sdk_completes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "我叫小明"}])
    assert "小明" in (answer.choices[0].message.content or "")


def test_the_sdk_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello, how are you today?"}],
        stream=True,
        extra_headers={"x-demo-delay-ms": "50"},
    )
    begin = time.monotonic()
    arrivals = [time.monotonic() - begin for _ in stream]
    assert len(arrivals) > 4
    assert arrivals[0] < arrivals[-1] / 2


def test_two_messages_of_a_session_share_memory(relay: Live) -> None:
    assert relay.chat("我叫小明", session="memory")["code"] == 200
    answer = relay.chat("我叫什么名字?", session="memory")
    assert answer == {"code": 200, "message": "执行成功", "data": "你叫小明。"}


def test_another_key_is_another_conversation(relay: Live) -> None:
    relay.chat("我叫小明", session="shared")
    assert "小明" not in relay.chat("我叫什么名字?", session="shared", key="sk-other-0123456789")["data"]


def test_the_balance_is_told(relay: Live) -> None:
    answer = relay.ask("GET", f"/pro/balance?apiKey={KEY}")
    data = answer.json()["data"]
    assert list(data) == ["total", "balance", "used"]
    assert data["total"] == 18.0


def test_a_client_that_leaves_closes_upstream(relay: Live, upstream: Upstream) -> None:
    body = b'{"model":"gpt-3.5-turbo","stream":true,"messages":[{"role":"user","content":"%s"}]}' % (b"word " * 50)
    with relay.connect() as connection:
        connection.sendall(
            b"POST /v1/chat/completions?leaves HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-leaves-123456\r\n"
            b"x-demo-delay-ms: 200\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert connection.recv(100)
    left = time.monotonic()
    seen = next(seen for seen in upstream.seen if "leaves" in seen.target)
    assert eventually(lambda: seen.closed_at is not None)
    assert time.monotonic() - left < 1
