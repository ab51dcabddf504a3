"""The look-alike upstream keeps what it promises: its bytes seen by raw sockets, its API by OpenAI's own SDK."""

import gzip
import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy.certs import CertStore
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)

from addons.cli.fake_openai.form import Multipart
from addons.cli.fake_openai.server import Behaviour, Upstream

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shared() -> Iterator[Upstream]:
    with Upstream.running() as up:
        yield up


@pytest.fixture
def up(shared: Upstream) -> Upstream:
    shared.clear()
    return shared


def sdk(up: Upstream, key: str = "sk-test") -> openai.OpenAI:
    client = openai.DefaultHttpxClient(trust_env=False)
    once = {"Connection": "close"}  # so that no connection outlives its test
    return openai.OpenAI(api_key=key, base_url=f"{up.url}/v1", max_retries=0, http_client=client, default_headers=once)


def dial(up: Upstream) -> socket.socket:
    sock = socket.create_connection((up.host, up.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def drain(sock: socket.socket) -> bytes:
    """All bytes until the upstream ends the connection."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def ask(up: Upstream, request: bytes) -> bytes:
    with closing(dial(up)) as sock:
        sock.sendall(request)
        return drain(sock)


def get(path: str, *lines: str, method: str = "GET", key: str = "sk-test") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", "Connection: close", *lines]
    return "\r\n".join([*head, "", ""]).encode()


def call(
    up: Upstream, method: str, path: str, body: Any = None, key: str | None = "sk-test", **headers: str
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(up.host, up.port, timeout=10)
    with closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        connection.request(method, path, json.dumps(body) if body is not None else None, named)
        answer = connection.getresponse()
        data = answer.read()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, json.loads(data) if "json" in told.get("content-type", "") and data else data


def say(up: Upstream, *texts: str) -> str:
    answer = sdk(up).chat.completions.create(
        model="gpt-3.5-turbo", messages=[{"role": "user", "content": text} for text in texts]
    )
    return answer.choices[0].message.content or ""


class TestTalk:
    @pytest.mark.parametrize(
        ("texts", "answer"),
        [
            (["我叫小明", "我叫什么?"], "你叫小明。"),
            (["我的名字是小明,请记住", "我叫什么名字"], "你叫小明。"),
            (["我叫小明\uff0c你好", "我叫小红。", "你知道我叫什么吗\uff1f"], "你叫小红。"),
            (["my name is Bob.", "What is my name?"], "Your name is Bob."),
            (["My name is Bob", "what's my name"], "Your name is Bob."),
            (["我叫什么?"], "你还没有告诉我你的名字。"),
            (["What's my name?"], "You have not told me your name yet."),
            (["你好\uff0c我叫小明\uff01"], "你好，小明！我记住了。"),
            (["My name is Bob!"], "Hello, Bob! I will remember that."),
            (["你是谁？"], "我是一名人工智能助手。"),
            (["Who are you?"], "I am an AI assistant, happy to help."),
            (["天气"], "你说的是「天气」。在此之前我看到 0 条消息。"),
            (["a", "b", "c"], 'You said: "c". Before that I saw 2 earlier messages.'),
        ],
    )
    def test_memory_shows_in_the_language_asked(self, up: Upstream, texts: list[str], answer: str) -> None:
        assert say(up, *texts) == answer

    def test_parts_of_a_message_are_read_as_its_text(self, up: Upstream) -> None:
        parts = [{"type": "text", "text": "my name is Bob"}, {"type": "image_url", "image_url": {"url": "x"}}]
        body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
        assert "Bob" in call(up, "POST", CHAT, body)[2]["choices"][0]["message"]["content"]

    def test_usage_is_counted_as_stated(self, up: Upstream) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "12345"}, {"role": "user", "content": "你是谁"}]}
        usage = call(up, "POST", CHAT, body)[2]["usage"]
        assert usage["prompt_tokens"] == (2 + 4) + (3 + 4) + 3
        assert usage["completion_tokens"] == -(-len("我是一名人工智能助手。".encode()) // 4)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_streamed_and_whole_answers_are_the_same(self, up: Upstream) -> None:
        messages: Any = [{"role": "user", "content": "你好, stream"}]
        events = list(
            sdk(up).chat.completions.create(
                model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert text == say(up, "你好, stream")
        assert events[0].choices[0].delta.role == "assistant"
        assert events[-2].choices[0].finish_reason == "stop"
        assert events[-1].usage and events[-1].usage.prompt_tokens == 4 + 4 + 3

    def test_usage_is_streamed_only_where_asked_for(self, up: Upstream) -> None:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        status, headers, data = call(up, "POST", CHAT, body)
        assert status == 200 and headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["transfer-encoding"] == "chunked" and headers["x-request-id"].startswith("req_")
        assert b"usage" not in data and data.endswith(b"\n\ndata: [DONE]\n\n")

    def test_each_event_is_a_chunk(self, up: Upstream) -> None:
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
        raw = ask(up, get(CHAT, f"Content-Length: {len(body)}", method="POST") + body)
        chunks = re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n(data: [^\r]*\n\n)", raw)
        assert len(chunks) == raw.count(b"data: ") and all(int(size, 16) == len(data) for size, data in chunks)

    @pytest.mark.parametrize("by_header", [True, False], ids=["by header", "by body"])
    def test_the_pace_can_be_asked_for(self, up: Upstream, by_header: bool) -> None:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "who are you"}]}
        start = time.monotonic()
        if by_header:
            call(up, "POST", CHAT, body, x_demo_delay_ms="20")
        else:
            call(up, "POST", CHAT, body | {"demo_delay_ms": 20})
        assert time.monotonic() - start > 0.18

    def test_responses(self, up: Upstream) -> None:
        whole = sdk(up).responses.create(model="gpt-4o", input="你是谁？")
        assert whole.output_text == "我是一名人工智能助手。"
        events = list(sdk(up).responses.create(model="gpt-4o", input="你是谁？", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last = events[-1]
        assert last.type == "response.completed" and last.response.output_text == whole.output_text


class TestRefusals:
    @pytest.mark.parametrize(
        ("key", "status", "code"),
        [
            (None, 401, None),
            ("sk-bad-key", 401, "invalid_api_key"),
            ("sk-quota1", 429, "insufficient_quota"),
            ("sk-rate1", 429, "rate_limit_exceeded"),
            ("sk-403x", 403, "unsupported_country_region_territory"),
        ],
    )
    def test_keys(self, up: Upstream, key: str | None, status: int, code: str | None) -> None:
        got, headers, answer = call(up, "GET", "/v1/models", key=key)
        assert got == status and answer["error"]["code"] == code
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert headers.get("retry-after") == ("1" if key == "sk-rate1" else None)

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found"),
            ({"messages": [{"role": "user", "content": "x"}]}, 400, None),
            ({"model": "m", "messages": []}, 400, None),
            ({"model": "m", "messages": ["x"]}, 400, None),
            ([], 400, None),
            (
                {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "x" * 70000}]},
                400,
                "context_length_exceeded",
            ),
        ],
    )
    def test_bodies(self, up: Upstream, body: Any, status: int, code: str | None) -> None:
        got, _, answer = call(up, "POST", CHAT, body)
        assert got == status and answer["error"]["code"] == code

    def test_a_stumble_is_an_answer(self, up: Upstream) -> None:
        assert call(up, "POST", "/v1/responses", {"model": "m", "input": [1]})[0] == 500

    def test_a_wrong_method_is_405(self, up: Upstream) -> None:
        status, headers, _ = call(up, "PUT", CHAT, {})
        assert status == 405 and "POST" in headers["allow"]


class TestOther:
    def test_models(self, up: Upstream) -> None:
        client = sdk(up)
        assert "gpt-3.5-turbo" in {model.id for model in client.models.list()}
        assert client.models.retrieve("gpt-4o").id == "gpt-4o"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no-such-model")

    def test_embeddings_are_the_same_in_both_encodings(self, up: Upstream) -> None:
        client = sdk(up)
        given: Any = {"model": "text-embedding-3-small", "input": ["a", "b"]}
        plain = client.embeddings.create(**given, encoding_format="float")
        packed = client.embeddings.create(**given)  # base64 inside
        assert [one.embedding for one in plain.data] == [one.embedding for one in packed.data]

    def test_pictures_and_sound(self, up: Upstream) -> None:
        client = sdk(up)
        pictures = client.images.generate(model="dall-e-3", prompt="x", response_format="b64_json").data
        assert pictures and pictures[0].b64_json
        assert client.audio.speech.create(model="tts-1", voice="alloy", input="x").content.startswith(b"ID3")
        heard = client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"12345"))
        assert heard.text == "5 bytes of sound named a.mp3."
        assert client.moderations.create(input="violence").results[0].flagged

    def test_a_file_goes_up_comes_back_and_goes(self, up: Upstream) -> None:
        client, data = sdk(up), os.urandom(300_000) + b"\r\n--\r\n"
        file = client.files.create(file=("a.bin", io.BytesIO(data)), purpose="assistants")
        assert file.bytes == len(data) and file.model_extra
        assert file.model_extra["sha256"] == hashlib.sha256(data).hexdigest()
        assert file.id in {one.id for one in client.files.list()}
        assert client.files.content(file.id).content == data
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)

    def test_files_of_any_size_can_be_had(self, up: Upstream) -> None:
        assert len(sdk(up).files.content("file-made-3000001").content) == 3_000_001

    @pytest.mark.parametrize("path", ["/v1/echo/a//b?x=%20&x=2", "/v1/whatever", "/v1/chat/completions/x/y"])
    @pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS"])
    def test_what_is_not_known_is_described(self, up: Upstream, method: str, path: str) -> None:
        status, _, answer = call(up, method, path, {"a": 1})
        assert status == 200 and (answer["method"], answer["target"], answer["length"]) == (method, path, 8)
        assert answer["sha256"] == hashlib.sha256(b'{"a": 1}').hexdigest()

    def test_what_is_not_the_api_is_404(self, up: Upstream) -> None:
        assert call(up, "GET", "/elsewhere")[2]["error"]["type"] == "invalid_request_error"

    def test_all_of_it_lives_under_a_prefix(self) -> None:
        with Upstream.running(prefix="/x/y") as up:
            assert up.url.endswith("/x/y") and list(sdk(up).models.list())
            assert call(up, "GET", "/v1/models")[0] == 404


class TestBilling:
    @pytest.mark.parametrize("prefix", ["", "/v1"])
    def test_granted_and_used(self, up: Upstream, prefix: str) -> None:
        assert call(up, "GET", f"{prefix}/dashboard/billing/subscription")[2]["hard_limit_usd"] == 18.0
        usage = f"{prefix}/dashboard/billing/usage?start_date=2024-01-01&end_date=2024-04-10"
        assert call(up, "GET", usage)[2]["total_usage"] == 8.0
        assert up.seen[-1].query == {"start_date": ["2024-01-01"], "end_date": ["2024-04-10"]}

    @pytest.mark.parametrize(
        ("query", "status"),
        [("", 200), ("?start_date=2024-01-01&end_date=2024-04-11", 400), ("?start_date=x&end_date=y", 400)],
    )
    def test_the_window(self, up: Upstream, query: str, status: int) -> None:
        assert call(up, "GET", f"/dashboard/billing/usage{query}")[0] == status

    def test_keys_decide(self, up: Upstream) -> None:
        subscription, usage = "/dashboard/billing/subscription", "/dashboard/billing/usage"
        assert call(up, "GET", subscription, key="sk-unlimited")[2]["hard_limit_usd"] == 100_000_000
        assert call(up, "GET", subscription, key="sk-a-total5-used12.345")[2]["hard_limit_usd"] == 5
        assert call(up, "GET", usage, key="sk-a-total5-used12.345")[2]["total_usage"] == 12.345
        status, _, answer = call(up, "GET", usage, key="sk-200err")
        assert status == 200 and answer["error"]["message"]
        status, headers, answer = call(up, "GET", subscription, key="sk-html")
        assert status == 502 and headers["content-type"] == "text/html" and b"<h1>" in answer
        assert call(up, "GET", usage, key="sk-bad")[0] == 401


class TestWire:
    def test_what_was_seen_is_as_sent(self, up: Upstream) -> None:
        ask(up, get("/v1/echo?q=1", "X-Odd-CASE:  a b ", "x-odd-case: c"))
        seen = up.seen[-1]
        assert (seen.method, seen.target, seen.path, seen.complete) == ("GET", "/v1/echo?q=1", "/v1/echo", True)
        assert seen.headers[-2:] == [("X-Odd-CASE", "a b"), ("x-odd-case", "c")]
        assert seen.header("x-ODD-case") == "a b" and seen.answered_at and seen.closed_at is None

    def test_chunked_bodies_and_their_trailers(self, up: Upstream) -> None:
        body = b"5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 1\r\n\r\n"
        ask(up, get("/v1/echo", "Transfer-Encoding: chunked", method="POST") + body)
        seen = up.seen[-1]
        assert (seen.body, seen.length, seen.trailers) == (b"hello, world", 12, [("X-Sum", "1")])
        assert [size for _, size in seen.arrived] == [5, 7] and seen.sha256 == hashlib.sha256(seen.body).hexdigest()

    def test_a_body_shows_while_it_comes_and_is_incomplete_when_the_peer_leaves(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/echo", "Content-Length: 10", method="POST") + b"abc")
            seen = up.wait(lambda seen: [one for one in seen if one.length == 3])[0]
            assert not seen.complete
        up.wait(lambda _: seen.closed_at)
        up.wait(lambda _: seen.body == b"abc")
        assert not seen.complete

    def test_a_request_with_its_end_of_file_at_once_is_still_complete(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/echo", "Content-Length: 3", method="POST") + b"abc")
            sock.shutdown(socket.SHUT_WR)
        assert up.wait(lambda seen: seen and seen[-1].complete)

    def test_100_continue(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/echo", "Content-Length: 3", "Expect: 100-continue", method="POST"))
            assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"abc")
            assert drain(sock).startswith(b"HTTP/1.1 200 OK\r\n")

    def test_connections_are_kept(self, up: Upstream) -> None:
        connection = http.client.HTTPConnection(up.host, up.port)
        with closing(connection):
            for method in ("GET", "HEAD", "OPTIONS", "GET"):
                connection.request(method, "/v1/models", headers={"Authorization": "Bearer x"})
                answer = connection.getresponse()
                assert answer.status == 200 and bool(answer.read()) == (method != "HEAD")
                assert int(answer.headers["content-length"]) > 100
        assert len({seen.connection for seen in up.seen}) == 1

    def test_http_1_0_gets_no_chunks(self, up: Upstream) -> None:
        raw = ask(up, b"GET /v1/files/file-made-5/content HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\n")
        assert b"chunked" not in raw and raw.endswith(b"\r\n\r\n" + bytes(range(5)))

    @pytest.mark.parametrize(
        "raw",
        [
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"GET / HTTP/1.1\r\nx: " + b"x" * 300_000 + b"\r\n\r\n",
        ],
        ids=["request line", "header", "length", "chunk size", "head too large"],
    )
    def test_what_is_no_http_is_400(self, up: Upstream, raw: bytes) -> None:
        assert ask(up, raw).startswith(b"HTTP/1.1 400 ")

    def test_64_mib_and_more_go_up_in_constant_memory(self, up: Upstream) -> None:
        block, count = os.urandom(1 << 20), 70
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/echo", f"Content-Length: {count << 20}", method="POST"))
            for _ in range(count):
                sock.sendall(block)
            assert b" 200 OK" in drain(sock)
        seen = up.seen[-1]
        assert seen.complete and seen.length == count << 20 and len(seen.body) == 64 << 20
        up.clear()


class TestBehaviours:
    def test_status_headers_and_body_as_given(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(status=418, reason="Tea", headers=[("X-A", "1"), ("x-a", "2")], body=b"pot"))
        raw = ask(up, get("/v1/models"))
        assert raw == (b"HTTP/1.1 418 Tea\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 3\r\nconnection: close\r\n\r\npot")

    def test_scripts_run_out_in_turn(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(status=500), times=2)
        up.script("*", Behaviour(status=501))
        statuses = [call(up, "GET", "/v1/models")[0] for _ in range(4)]
        assert statuses == [500, 500, 501, 200]

    def test_a_request_can_ask_for_its_own(self, up: Upstream) -> None:
        wish = {"chunks": [["a", 0], [{"base64": "/w=="}, 0]], "trailers": [["x-end", "1"]]}
        raw = ask(up, get("/v1/models", f"x-test: {json.dumps(wish)}"))
        assert raw.endswith(b"\r\n\r\n1\r\na\r\n1\r\n\xff\r\n0\r\nx-end: 1\r\n\r\n")
        assert call(up, "GET", "/v1/models", x_test='{"nonsense": 1}')[0] == 400

    @pytest.mark.parametrize(
        ("behaviour", "end"),
        [
            (Behaviour(chunks=[(b"ab", 0), (b"cd", 0)]), b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"),
            (Behaviour(chunks=[(b"ab", 0), (b"cd", 0)], framing="close"), b"close\r\n\r\nabcd"),
            (
                Behaviour(chunks=[(b"ab", 0), (b"cd", 0)], framing="length"),
                b"content-length: 4\r\nconnection: close\r\n\r\nabcd",
            ),
            (Behaviour(chunks=[(b"ab", 0), (b"cd", 0)], break_after=3), b"\r\n\r\n2\r\nab\r\n2\r\nc"),
            (Behaviour(chunks=[(b"ab", 0), (b"cd", 0)], break_after=2), b"\r\n\r\n2\r\nab\r\n"),
            (Behaviour(body=b"abcd", break_after=0), b"\r\n\r\n"),
            (Behaviour(body=b"abcd", wrong_content_length=9), b"content-length: 9\r\n\r\nabcd"),
            (Behaviour(garbage=b"\x00\x01 nonsense"), b"\x00\x01 nonsense"),
            (Behaviour(close_without_answer=True), b""),
        ],
    )
    def test_bytes_are_exactly_these(self, up: Upstream, behaviour: Behaviour, end: bytes) -> None:
        up.script("/v1/models", behaviour)
        raw = ask(
            up,
            get("/v1/models").replace(b"Connection: close\r\n", b"")
            if behaviour.wrong_content_length
            else get("/v1/models"),
        )
        assert raw.endswith(end) and (end or not raw)

    def test_a_reset_is_a_reset(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(chunks=[(b"abcd", 0)], break_after=2, reset=True))
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/models"))
            assert until(sock, b"4\r\nab")
            with pytest.raises(ConnectionResetError):
                sock.recv(10)

    def test_delays(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(delay_headers=0.1, delay_body=0.1))
        start = time.monotonic()
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/models"))
            sock.recv(1)
            head = time.monotonic() - start
            drain(sock)
        assert 0.09 < head < 0.19 and time.monotonic() - start > 0.19

    def test_pauses_between_pieces(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(chunks=[(b"a", 0.1), (b"b", 0)]))
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/models"))
            until(sock, b"1\r\na\r\n")
            start = time.monotonic()
            assert until(sock, b"b\r\n").startswith(b"1\r\nb\r\n")
        assert time.monotonic() - start > 0.08

    def test_gzip_is_flushed_piece_by_piece(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(chunks=[(b"a" * 100, 0), (b"b", 0)], gzip=True))
        connection = http.client.HTTPConnection(up.host, up.port)
        with closing(connection):
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            assert answer.headers["content-encoding"] == "gzip" and gzip.decompress(answer.read()) == b"a" * 100 + b"b"

    def test_headers_alone_are_added(self, up: Upstream) -> None:
        up.script("/v1/models", Behaviour(headers=[("x-more", "1")]))
        _, headers, answer = call(up, "GET", "/v1/models")
        assert headers["x-more"] == "1" and answer["object"] == "list"

    def test_an_early_answer_does_not_wait_for_the_body(self, up: Upstream) -> None:
        up.script("/v1/echo", Behaviour(status=413, body=b"no", early_answer=True))
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/echo", "Content-Length: 6", method="POST").replace(b"Connection: close\r\n", b""))
            assert until(sock, b"no").startswith(b"HTTP/1.1 413 ")
            sock.sendall(b"abcdef" + get("/v1/models"))
            assert drain(sock).startswith(b"HTTP/1.1 200 OK")
        assert up.seen[0].body == b"abcdef" and up.seen[0].complete

    def test_closing_unannounced(self, up: Upstream) -> None:
        up.script("/v1/echo", Behaviour(close=True))
        raw = ask(up, get("/v1/echo").replace(b"Connection: close\r\n", b""))
        assert raw.endswith(b"}") and b"connection: close" not in raw


class TestLeaving:
    @pytest.mark.parametrize(
        "behaviour",
        [
            Behaviour(never=True),
            Behaviour(delay_read=30),
            Behaviour(delay_headers=30),
            Behaviour(delay_body=30),
            Behaviour(chunks=[(b"x", 0.001)] * 100_000),
            Behaviour(chunks=[(b"x", 30)] * 2),
            Behaviour(body=bytes(50_000_000)),
            Behaviour(never=True, early_answer=True),
        ],
        ids=["never", "reading", "before the head", "before the body", "streaming", "pausing", "blocked", "early"],
    )
    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_it_is_noticed_within_milliseconds(self, up: Upstream, behaviour: Behaviour, how: str) -> None:
        up.script("/v1/models", behaviour)
        with closing(dial(up)) as sock:
            sock.sendall(get("/v1/models"))
            seen = up.wait(lambda seen: seen)[0]
            time.sleep(0.05)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            left = time.monotonic()
        closed = up.wait(lambda _: seen.closed_at)
        assert closed is not None and closed - left < 0.1 and seen.answered_at is None
        up.wait(lambda _: up.open == 0)

    def test_leaving_afterwards_is_not_leaving_early(self, up: Upstream) -> None:
        call(up, "GET", "/v1/models")
        up.wait(lambda _: up.open == 0)
        assert up.seen[-1].closed_at is None and up.seen[-1].answered_at

    def test_many_come_and_go_without_a_word(self, up: Upstream, capfd: pytest.CaptureFixture[str]) -> None:
        def visit(number: int) -> None:
            with closing(dial(up)) as sock:
                sock.sendall(get("/v1/models")[: number * 7 or None])
                if number % 3:
                    sock.settimeout(0.01)
                    with suppress(TimeoutError):
                        sock.recv(10)

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        up.wait(lambda _: up.open == 0)
        assert capfd.readouterr().err == ""


class Talk:
    """A websocket client on a raw socket."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        self._sock = sock
        self._ws = WSConnection(ConnectionType.CLIENT)
        self.send(Request(host="x", target="/v1/realtime?model=m", **options))

    def send(self, event: Event) -> None:
        self._sock.sendall(self._ws.send(event))

    def next(self) -> Event:
        while True:
            for event in self._ws.events():
                return event
            self._ws.receive_data(self._sock.recv(65536) or None)


KEY = [(b"Authorization", b"Bearer sk-test")]


class TestWebsocket:
    def test_an_echo_from_handshake_to_close(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            talk = Talk(sock, subprotocols=["realtime", "other"], extra_headers=KEY)
            accepted = talk.next()
            assert isinstance(accepted, AcceptConnection) and accepted.subprotocol == "realtime"
            for event in (TextMessage("你好"), BytesMessage(b"\0\1")):
                talk.send(event)
                assert getattr(talk.next(), "data", None) == event.data
            talk.send(Ping(b"x"))
            assert getattr(talk.next(), "payload", None) == b"x"
            talk.send(TextMessage("/ping"))
            assert isinstance(talk.next(), Ping)
            talk.send(TextMessage("/fragments"))
            assert [getattr(talk.next(), "data", None) for _ in range(2)] == ["one ", "two"]
            talk.send(TextMessage("/close 4001 enough"))
            closed = talk.next()
            assert isinstance(closed, CloseConnection) and (closed.code, closed.reason) == (4001, "enough")
            talk.send(closed.response())
            assert drain(sock) == b""
        seen = up.seen[-1]
        assert seen.header("upgrade") == "websocket" and seen.query == {"model": ["m"]} and seen.closed_at is None

    def test_the_peers_close_is_answered(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            talk = Talk(sock, subprotocols=["realtime", "openai-insecure-api-key.sk-test"])
            assert isinstance(talk.next(), AcceptConnection)
            talk.send(CloseConnection(4002))
            assert getattr(talk.next(), "code", None) == 4002
        assert up.wait(lambda seen: seen[-1].answered_at)

    def test_a_drop_shows_on_either_side(self, up: Upstream) -> None:
        with closing(dial(up)) as sock:
            talk = Talk(sock, extra_headers=KEY)
            assert isinstance(talk.next(), AcceptConnection)
            talk.send(TextMessage("/drop"))
            assert getattr(talk.next(), "code", None) == 1006
        with closing(dial(up)) as sock:
            assert isinstance(Talk(sock, extra_headers=KEY).next(), AcceptConnection)
        assert up.wait(lambda seen: seen[-1].closed_at)

    @pytest.mark.parametrize(
        ("options", "status"), [({}, 401), ({"extra_headers": [(b"Authorization", b"Bearer sk-403")]}, 403)]
    )
    def test_keys_are_needed(self, up: Upstream, options: Any, status: int) -> None:
        with closing(dial(up)) as sock:
            refused = Talk(sock, **options).next()
            assert isinstance(refused, RejectConnection) and refused.status_code == status

    def test_it_is_nothing_else(self, up: Upstream) -> None:
        assert call(up, "GET", "/v1/realtime")[0] == 426


class TestMultipart:
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_cut_anywhere(self, size: int) -> None:
        raw = (
            b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--XX\r\n'
            b'Content-Disposition: form-data; name="file"; filename="a.b"\r\nContent-Type: text/x\r\n\r\n'
            b"a\r\n--X\r\nb--\r\n\r\n--XX--\r\nafter"
        )
        form = Multipart("XX")
        for at in range(0, len(raw), size):
            form.feed(raw[at : at + size])
        purpose, file = form.parts
        assert form.done and (purpose.name, bytes(purpose.content)) == ("purpose", b"fine-tune")
        assert (file.filename, file.type, bytes(file.content)) == ("a.b", "text/x", b"a\r\n--X\r\nb--\r\n")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context around one throw-away authority."""
    folder = tmp_path_factory.mktemp("tls")
    store = CertStore.from_store(folder, "test", 2048)
    entry = store.get_cert("127.0.0.1", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (folder / "cert.pem").write_bytes(entry.cert.to_pem())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(entry.privatekey.private_bytes(*form))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "test-ca-cert.pem"))


class TestTls:
    def test_it_answers_and_notices_who_leaves(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext], capfd: pytest.CaptureFixture[str]
    ) -> None:
        server, client = tls
        with Upstream.running(ssl_context=server) as up:
            assert up.url == f"https://127.0.0.1:{up.port}"
            with closing(client.wrap_socket(dial(up), server_hostname=up.host)) as sock:
                sock.sendall(get("/v1/models"))
                assert drain(sock).startswith(b"HTTP/1.1 200 OK")
            up.script("*", Behaviour(never=True), Behaviour(chunks=[(b"a", 0.001)] * 100_000), Behaviour(never=True))
            for _ in range(2):
                before = up.accepted
                with closing(client.wrap_socket(dial(up), server_hostname=up.host)) as sock:
                    sock.sendall(get("/v1/models"))
                    up.wait(lambda seen: seen[-1].connection > before)  # noqa: B023  # called at once
                assert up.wait(lambda seen: seen[-1].closed_at)
            staying = client.wrap_socket(dial(up), server_hostname=up.host)
            staying.sendall(get("/v1/models"))
            up.wait(lambda seen: len(seen) == 4)
        staying.close()
        assert capfd.readouterr().err == ""


SERVER = [sys.executable, "-m", "addons.cli.fake_openai.server"]


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_says_where_and_ends_when_told(self, number: signal.Signals) -> None:
        process = subprocess.Popen([*SERVER, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout and process.stderr
        line = process.stdout.readline().decode()
        found = re.fullmatch(r"upstream: listening at http://127\.0\.0\.1:(\d+)\n", line)
        assert found
        with closing(socket.create_connection(("127.0.0.1", int(found[1])))) as sock:
            sock.sendall(get("/v1/models", 'x-test: {"never": true}'))
            time.sleep(0.1)
            process.send_signal(number)
            out, err = process.communicate(timeout=5)
        assert (process.returncode, out, err) == (0, b"", b"")

    def test_a_taken_port_is_said_in_one_line(self, up: Upstream) -> None:
        done = subprocess.run([*SERVER, "--port", str(up.port)], capture_output=True, text=True, timeout=10)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot listen" in done.stderr

    def test_a_taken_port_is_raised(self, up: Upstream) -> None:
        with pytest.raises(OSError), Upstream.running(port=up.port):
            pass
