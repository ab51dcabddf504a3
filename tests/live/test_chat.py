"""/chat and /pro/balance as their callers meet them, through a real mitmdump."""

import gzip
import itertools
import json
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from tests.support import live
from tests.support.live import Answer, Live, LogWatch, answer_in, eventually, read_answer
from tests.support.shapes import JSON, balance_error, chat_error, names_none_of

KEY = "sk-test-chat-0123456789"
COMPLETIONS = "/v1/chat/completions"
SUBSCRIPTION = "/v1/dashboard/billing/subscription"
USAGE = "/v1/dashboard/billing/usage"
PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
KIB = 1024


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Upstream]:
    """Another upstream, all of it under a path."""
    with Upstream.running(prefix="/x/y") as running:
        yield running


@pytest.fixture(scope="module")
def tuned(upstream: Upstream, prefixed: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay with settings of its own, and routes."""
    with live.relay(
        tmp_path_factory.mktemp("tuned"),
        [
            {"name": "test", "url": upstream.url},
            {"name": "deepseek", "url": f"{prefixed.url}/v1", "model": "deepseek-chat"},
            {"name": "gone", "url": upstream.url, "model": "no-such-model", "balance": None},
        ],
        routes=[{"path": "/deepseek", "upstream": "deepseek"}, {"path": "/gone", "upstream": "gone"}],
        chat={
            "model": "gpt-4o-mini",
            "system": "你是一只猫。",
            "params": {"temperature": 0.2, "user": "relay"},
            "timeout": "1s",
            "max_waiting": 2,
            "context": {"max_turns": 2},
        },
        balance={"timeout": "1s", "window_days": 30},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def brief(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay that forgets after a second, and sends little of a conversation."""
    with live.relay(
        tmp_path_factory.mktemp("brief"), upstream.url, chat={"session_ttl": "1s", "context": {"max_tokens": 60}}
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def watch(relay: Live, tuned: Live, upstream: Upstream, prefixed: Upstream) -> Iterator[None]:
    """Whatever a test does, the log shows neither a traceback nor a key."""
    upstream.clear()
    prefixed.clear()
    watched = [LogWatch(relay), LogWatch(tuned)]
    yield
    for each in watched:
        each.check()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For clients that ask at the same time."""
    with ThreadPoolExecutor(8) as running:
        yield running


def message(session: str, content: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"apiKey": KEY, "sessionId": session, "content": content, **more}


def post(relay: Live, body: bytes | str | Mapping[str, Any], path: str = "/chat", **headers: str) -> Answer:
    data = json.dumps(body).encode() if isinstance(body, Mapping) else body
    return relay.ask("POST", path, data, {name.replace("_", "-"): value for name, value in headers.items()})


def succeeded(answer: Answer) -> str:
    """The words of the model."""
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    body = answer.json()
    assert list(body) == ["code", "message", "data"], body
    assert (body["code"], body["message"]) == (200, "执行成功"), body
    assert isinstance(body["data"], str)
    return str(body["data"])


def completions(upstream: Upstream) -> list[Seen]:
    return [seen for seen in upstream.seen if seen.path.endswith(COMPLETIONS)]


def sent(seen: Seen) -> list[tuple[str, str]]:
    """The conversation in a request that upstream got, as (role, content)."""
    return [(one["role"], one["content"]) for one in seen.json()["messages"]]


def completion(content: Any = "ok", **more: Any) -> bytes:
    """What an upstream may answer."""
    told = {"role": "assistant", "content": content, **more}
    return json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": told}]}).encode()


def at_work(upstream: Upstream, count: int = 1) -> None:
    """Wait until so many messages have come to the upstream."""
    upstream.wait(lambda _: len(completions(upstream)) >= count)


# 1. What is read


def test_a_message_becomes_a_completion_request(relay: Live, upstream: Upstream) -> None:
    headers = {"User-Agent": "axios", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Accept": "*/*"}
    succeeded(relay.ask("POST", "/chat", message("first", "你好"), headers))
    [seen] = upstream.seen
    assert (seen.method, seen.target, seen.version) == ("POST", COMPLETIONS, "HTTP/1.1")
    assert seen.header("authorization") == f"Bearer {KEY}"
    assert seen.header("host") == f"127.0.0.1:{upstream.port}"
    assert seen.json() == {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "你好"}]}
    assert not {"user-agent", "cookie", "x-forwarded-for"} & {name.lower() for name, _ in seen.headers}


LENIENT = [
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":"a\nb"}', "a\nb", id="raw newline"),
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":"a\r\nb"}', "a\r\nb", id="raw CRLF"),
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":"a\tb"}', "a\tb", id="raw tab"),
    pytest.param(b'\xef\xbb\xbf{"apiKey":"%s","sessionId":"%s","content":"a"}', "a", id="BOM"),
    pytest.param(b'\r\n {"apiKey":"%s" ,\n"sessionId":"%s",\t"content":"a"}\r\n', "a", id="blanks around"),
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":"\\u4f60\\ud83d\\ude00"}', "你😀", id="escapes"),
    pytest.param('{"apiKey":"%s","sessionId":"%s","content":"你😀"}'.encode(), "你😀", id="UTF-8"),
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":"a","n":2,"messages":[],"z":{}}', "a", id="unknown"),
    pytest.param(b'{"apiKey":" %s\\n","sessionId":"%s","content":"a"}', "a", id="blanks around the key"),
    pytest.param(b'{"apiKey":"%s","sessionId":"%s","content":" "}', " ", id="a blank"),
]


@pytest.mark.parametrize(("body", "content"), LENIENT)
def test_a_body_is_read_leniently(
    relay: Live, upstream: Upstream, body: bytes, content: str, request: pytest.FixtureRequest
) -> None:
    succeeded(post(relay, body % (KEY.encode(), request.node.callspec.id.encode())))
    [seen] = upstream.seen
    assert sent(seen) == [("user", content)]
    assert set(seen.json()) == {"model", "messages"}
    assert seen.header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "?",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=gbk",
        "multipart/form-data",
    ],
)
def test_any_content_type_will_do(relay: Live, kind: str) -> None:
    succeeded(post(relay, message("kind " + kind), Content_Type=kind))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_read(relay: Live, upstream: Upstream, encoding: str) -> None:
    body = json.dumps(message("packed " + encoding)).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    succeeded(post(relay, packed, Content_Encoding=encoding))
    assert upstream.seen[-1].header("content-encoding") is None


def test_a_body_that_is_not_what_it_says_is_400(relay: Live, upstream: Upstream) -> None:
    chat_error(post(relay, b"\x1f\x8b broken", Content_Encoding="gzip"), 400)
    assert not upstream.seen


def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(relay: Live, upstream: Upstream) -> None:
    bomb = gzip.compress(b'{"content":"' + b" " * 60_000_000 + b'"}')
    assert len(bomb) < 64 * KIB
    before = relay.memory()
    body = post(relay, bomb, Content_Encoding="gzip").json()
    assert body["code"] in (400, 413)
    assert relay.memory() - before < 20 * KIB * KIB
    assert not upstream.seen


FIELDS = [
    pytest.param({"apiKey": None}, "apiKey", id="no key"),
    pytest.param({"sessionId": None}, "sessionId", id="no session"),
    pytest.param({"content": None}, "content", id="no content"),
    pytest.param({"apiKey": ""}, "apiKey", id="empty key"),
    pytest.param({"apiKey": "   "}, "apiKey", id="blank key"),
    pytest.param({"sessionId": ""}, "sessionId", id="empty session"),
    pytest.param({"content": ""}, "content", id="empty content"),
    pytest.param({"apiKey": 5}, "apiKey", id="a number for the key"),
    pytest.param({"sessionId": True}, "sessionId", id="true for the session"),
    pytest.param({"content": ["a"]}, "content", id="an array for the content"),
    pytest.param({"content": {"text": "a"}}, "content", id="an object for the content"),
    pytest.param({"content": 0}, "content", id="zero for the content"),
    pytest.param({"content": "长" * 1001}, "content", id="content too long"),
    pytest.param({"sessionId": "s" * 65}, "sessionId", id="session too long"),
    pytest.param({"apiKey": "sk-" + "k" * 254}, "apiKey", id="key too long"),
    pytest.param({"apiKey": "sk-test 0123456789"}, "apiKey", id="a blank in the key"),
    pytest.param({"apiKey": "sk-test\r\nX-Evil: 1"}, "apiKey", id="a header in the key"),
    pytest.param({"apiKey": "sk-请填写你的key"}, "apiKey", id="Chinese in the key"),
]


@pytest.mark.parametrize(("change", "name"), FIELDS)
def test_a_field_that_is_wrong_is_named(relay: Live, upstream: Upstream, change: dict[str, Any], name: str) -> None:
    fields = {key: value for key, value in (message("fields") | change).items() if value is not None}
    assert name in chat_error(post(relay, fields), 400)
    assert not upstream.seen


@pytest.mark.parametrize("name", ["apiKey", "sessionId", "content"])
def test_null_is_like_missing(relay: Live, name: str) -> None:
    assert name in chat_error(post(relay, message("fields") | {name: None}), 400)


NO_MESSAGES = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"hello", id="a word"),
    pytest.param(b"apiKey=sk-test&sessionId=1&content=hi", id="a form"),
    pytest.param(b"[1]", id="an array"),
    pytest.param(b'"text"', id="a string"),
    pytest.param(b"null", id="null"),
    pytest.param(b'{"apiKey":"k","sessionId":"s","content":"a"', id="no end"),
    pytest.param(b'{"apiKey":"k","sessionId":"s","content":"a"} x', id="more behind"),
    pytest.param(b"{'apiKey':'k'}", id="single quotes"),
    pytest.param('{"content":"你好"}'.encode("gbk"), id="GBK"),
    pytest.param(b'{"content":"\xff"}', id="not UTF-8"),
    pytest.param(b'{"a":' + b"[" * 30_000, id="deeply nested"),
    pytest.param(b'{"a":' + b"9" * 60_000 + b"}", id="a long number"),
    pytest.param(b'{"a":NaN}', id="NaN"),
]


@pytest.mark.parametrize("body", NO_MESSAGES)
def test_what_is_no_message_is_400(relay: Live, upstream: Upstream, body: bytes) -> None:
    chat_error(post(relay, body), 400)
    assert not upstream.seen


def test_fields_at_their_limits_pass(relay: Live, upstream: Upstream) -> None:
    key = "sk-test-" + "k" * 248
    body = {"apiKey": key, "sessionId": "会" * 64, "content": "😀" * 1000}
    succeeded(post(relay, body))
    assert sent(upstream.seen[-1]) == [("user", "😀" * 1000)]
    assert upstream.seen[-1].header("authorization") == f"Bearer {key}"


@pytest.mark.parametrize("content", ["\\ud800", "\\u0000", "\\u2028", "\x7f", "\\ud800\\ud800"])
def test_odd_letters_do_no_harm(relay: Live, content: str) -> None:
    for _ in range(2):  # the second time they are part of the conversation
        answer = post(relay, f'{{"apiKey":"{KEY}","sessionId":"odd {ord(content[-1])}","content":"{content}"}}')
        assert answer.status == 200
        answer.body.decode("utf-8")
        assert answer.json()["code"] in (200, 400)


def padded(session: str, size: int) -> bytes:
    """A good message of so many bytes."""
    body = json.dumps(message(session, pad="")).encode()
    return body.replace(b'"pad": ""', b'"pad": "' + b"x" * (size - len(body)) + b'"')


def in_chunks(body: bytes, size: int = 8192) -> bytes:
    """A request with its body in chunks."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + framed + b"0\r\n\r\n"


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_413(relay: Live, upstream: Upstream) -> None:
    succeeded(post(relay, padded("64k", 64 * KIB)))
    upstream.clear()
    chat_error(post(relay, padded("64k", 64 * KIB + 1)), 413)
    assert not upstream.seen


def test_so_it_is_in_chunks(relay: Live, upstream: Upstream) -> None:
    succeeded(answer_in(relay.raw(in_chunks(padded("chunks", 64 * KIB)))))
    upstream.clear()
    chat_error(answer_in(relay.raw(in_chunks(padded("chunks", 64 * KIB + 1)))), 413)
    assert not upstream.seen


def test_chunks_without_end_are_not_held(relay: Live, upstream: Upstream) -> None:
    before = relay.memory()
    with relay.connect() as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                connection.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
        except OSError:
            pass
    assert relay.memory() - before < 20 * KIB * KIB
    assert not upstream.seen


def test_the_key_may_come_as_bearer(relay: Live, upstream: Upstream) -> None:
    body = {"sessionId": "bearer", "content": "hello"}
    succeeded(post(relay, body, Authorization=f"Bearer {KEY}"))
    succeeded(post(relay, body, Authorization=f"bearer  {KEY} "))
    assert [seen.header("authorization") for seen in upstream.seen] == [f"Bearer {KEY}"] * 2
    assert len(sent(upstream.seen[-1])) == 3, "one session"


def test_the_key_of_the_body_goes_first(relay: Live, upstream: Upstream) -> None:
    succeeded(post(relay, message("both"), Authorization="Bearer sk-test-another-key"))
    assert upstream.seen[-1].header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize("authorization", ["Basic c2stdGVzdA==", "Bearer", "Bearer ", KEY])
def test_what_is_no_bearer_is_no_key(relay: Live, upstream: Upstream, authorization: str) -> None:
    assert "apiKey" in chat_error(post(relay, {"sessionId": "s", "content": "x"}, Authorization=authorization), 400)
    assert not upstream.seen


# 2. What is answered


def test_the_answer_is_exact(relay: Live) -> None:
    answer = post(relay, message("exact", "你是谁?"))
    assert answer.body == '{"code": 200, "message": "执行成功", "data": "我是一名人工智能助手。"}'.encode()
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["content-length"] == str(len(answer.body))


def test_an_error_is_exact(relay: Live) -> None:
    body = post(relay, b"").body
    assert body.startswith(b'{"code": 400, "message": "') and body.endswith(b'", "data": null}')


TEXTS = ["a\nb\r\n\tc", 'quotes " and \\ and /', "😀👩‍👩‍👧", "\u2028\u2029", "\0\x1b", "</script>", " 好 "]
TEXTS += ["x" * 300_000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_models_words_arrive_unchanged_on_one_line(relay: Live, upstream: Upstream, text: str) -> None:
    upstream.script(COMPLETIONS, Behaviour(body=completion(text)))
    answer = post(relay, message("words"))
    assert succeeded(answer) == text
    assert b"\n" not in answer.body and b"\r" not in answer.body


def test_an_answer_in_parts_is_joined(relay: Live, upstream: Upstream) -> None:
    upstream.script(
        COMPLETIONS, Behaviour(body=completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
    )
    assert succeeded(post(relay, message("parts"))) == "ab"


@pytest.mark.parametrize("behaviour", [Behaviour(gzip=True), Behaviour(framing="chunked"), Behaviour(framing="close")])
def test_an_answer_may_come_in_any_way(relay: Live, upstream: Upstream, behaviour: Behaviour) -> None:
    upstream.script(COMPLETIONS, behaviour)
    succeeded(post(relay, message("any way")))


def test_one_connection_serves_one_message_after_the_other(relay: Live, upstream: Upstream) -> None:
    body = json.dumps(message("keep-alive")).encode()
    request = b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    bad = b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    with relay.connect() as connection:
        for each, code in ((request, 200), (bad, 400), (request, 200)):
            connection.sendall(each)
            assert read_answer(connection).json()["code"] == code
    assert len(sent(completions(upstream)[-1])) == 3


def test_a_browser_may_read_it(relay: Live) -> None:
    answer = post(relay, message("browser"), Origin="https://page.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    answer = post(relay, b"", Origin="https://page.example")
    assert answer.headers["access-control-allow-origin"] == "*"


# 3. What upstream refuses

REFUSED = [
    pytest.param("sk-bad-0123456789", 401, ("Incorrect API key",), id="401"),
    pytest.param("sk-403-0123456789", 403, ("Country",), id="403"),
    pytest.param("sk-rate-0123456789", 429, ("频繁", "Rate limit"), id="429 too fast"),
    pytest.param("sk-quota-0123456789", 429, ("额度", "quota"), id="429 out of quota"),
]


@pytest.mark.parametrize(("key", "code", "words"), REFUSED)
def test_a_refused_key_is_told(relay: Live, key: str, code: int, words: tuple[str, ...]) -> None:
    answer = post(relay, message("refused", apiKey=key))
    told = chat_error(answer, code)
    assert all(word in told for word in words), told
    names_none_of(answer, key, "127.0.0.1")


def test_too_fast_and_out_of_quota_are_told_apart(relay: Live) -> None:
    fast = chat_error(post(relay, message("apart", apiKey="sk-rate-0123456789")), 429)
    empty = chat_error(post(relay, message("apart", apiKey="sk-quota-0123456789")), 429)
    assert "额度" not in fast and "频繁" not in empty


def test_a_model_that_is_not_there_is_named_and_the_log_says_where_to_change_it(tuned: Live) -> None:
    told = chat_error(post(tuned, message("model"), "/gone/chat"), 404)
    assert "no-such-model" in told and "relay.yaml" not in told and "upstreams[]" not in told
    assert eventually(lambda: "model_not_found: callers ask for a model" in tuned.log)
    assert "upstreams[].model" in tuned.log


def error_body(text: str, code: str | None = None, kind: str = "invalid_request_error") -> bytes:
    return json.dumps({"error": {"message": text, "type": kind, "param": None, "code": code}}).encode()


STATUSES = [
    (400, error_body("maximum context length is 16385 tokens", "context_length_exceeded"), 400, "maximum context"),
    (402, error_body("Insufficient Balance"), 429, "Insufficient Balance"),
    (404, error_body("The model `x` does not exist", "model_not_found"), 404, "gpt-3.5-turbo"),
    (413, b"", 413, ""),
    (422, error_body("bad field"), 400, "bad field"),
    (500, error_body("The server had an error"), 502, "The server had an error"),
    (502, PAGE, 502, ""),
    (503, b"no healthy upstream", 502, ""),
    (504, PAGE, 408, ""),
    (418, b"{}", 400, ""),
    (301, b"", 502, ""),
    (204, None, 502, ""),
    (200, PAGE, 502, ""),
    (200, b"", 502, ""),
    (200, b"[]", 502, ""),
    (200, b"{}", 502, ""),
    (200, b'{"choices": []}', 502, ""),
    (200, b'{"choices": [{"message": null}]}', 502, ""),
    (200, completion(None), 502, ""),
    (200, b"[" * 100_000, 502, ""),
    (200, error_body("Incorrect API key provided", "invalid_api_key"), 401, "Incorrect API key"),
    (200, error_body("当前分组负载已饱和", kind="one_api_error"), 502, "负载已饱和"),
    (200, completion(None, refusal="I can't help with that."), 403, "I can't help with that."),
    (200, completion(None, tool_calls=[{"id": "1", "type": "function"}]), 502, "tool"),
]


@pytest.mark.parametrize(("status", "body", "code", "words"), STATUSES)
def test_what_upstream_answers_instead(
    relay: Live, upstream: Upstream, status: int, body: bytes, code: int, words: str
) -> None:
    headers = [("content-type", "text/html" if body == PAGE else "application/json"), ("location", "http://x.invalid/")]
    upstream.script(COMPLETIONS, Behaviour(status=status, headers=headers, body=body))
    answer = post(relay, message(f"instead {status}"))
    told = chat_error(answer, code)
    assert words in told
    names_none_of(answer, "<h1>", "x.invalid", "127.0.0.1", KEY)
    # The session is free, and the failed turn is not in it.
    succeeded(post(relay, message(f"instead {status}", "again")))
    assert sent(upstream.seen[-1])[-1] == ("user", "again")
    assert ("user", "hello") not in sent(upstream.seen[-1])


def test_a_context_that_is_too_long_is_told(relay: Live, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, Behaviour(status=400, body=error_body("x" * 5000)))
    assert len(post(relay, message("long words")).body) < 3000


@pytest.mark.parametrize("key", [KEY, "fk198277-AbCdEfGh0123456789", "0123456789abcdef0123456789abcdef"])
def test_no_key_is_carried_along(relay: Live, upstream: Upstream, key: str) -> None:
    told = error_body(f"Incorrect API key provided: {key}. Find yours at https://x.test, or use {key[:-1]}!")
    upstream.script(COMPLETIONS, Behaviour(status=401, body=told), Behaviour(body=told))
    for _ in range(2):
        answer = post(relay, message("carried", apiKey=key))
        assert "Incorrect API key" in chat_error(answer, 401)
        names_none_of(answer, key)
    assert key not in relay.log


# 4. Sessions


def test_both_paths_share_sessions(relay: Live) -> None:
    succeeded(post(relay, message("alias", "我叫小明"), "/chat"))
    assert succeeded(post(relay, message("alias", "我叫什么名字?"), "/pro/chat/completions")) == "你叫小明。"
    succeeded(post(relay, message("alias", "我叫小红"), "/pro/chat/completions"))
    assert succeeded(post(relay, message("alias", "我叫什么名字?"), "/chat")) == "你叫小红。"


def test_sessions_do_not_mix(relay: Live, upstream: Upstream) -> None:
    for session in ("mix", "mix ", "Mix", "mi", "x"):
        succeeded(post(relay, message(session, "我叫小明")))
        assert len(sent(upstream.seen[-1])) == 1, session
    succeeded(post(relay, message("mix", apiKey=KEY + "x")))
    succeeded(post(relay, {"apiKey": KEY + "m", "sessionId": "ix", "content": "x"}))
    assert [len(sent(seen)) for seen in upstream.seen[-2:]] == [1, 1]


def test_settings_shape_the_request(tuned: Live, upstream: Upstream) -> None:
    for number in range(4):
        succeeded(post(tuned, message("window", f"message {number}")))
    body = upstream.seen[-1].json()
    assert (body["model"], body["temperature"], body["user"]) == ("gpt-4o-mini", 0.2, "relay")
    roles = [role for role, _ in sent(upstream.seen[-1])]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    said = [content for role, content in sent(upstream.seen[-1]) if role != "assistant"]
    assert said == ["你是一只猫。", "message 1", "message 2", "message 3"]


def test_tokens_bound_what_is_sent(brief: Live, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, Behaviour(body=completion("ok")), times=4)
    for number in range(4):
        succeeded(post(brief, message("tokens", f"{number}" * 30)))
    said = [content[0] for role, content in sent(upstream.seen[-1]) if role == "user"]
    assert said == ["1", "2", "3"], "of about 19 tokens a turn and 14 of the new message, 60 hold two turns"
    succeeded(post(brief, message("tokens", "长" * 1000)))
    assert sent(upstream.seen[-1]) == [("user", "长" * 1000)], "a new message goes up however long it is"


def test_a_session_is_forgotten_when_its_time_is_over(brief: Live, upstream: Upstream) -> None:
    succeeded(post(brief, message("ttl", "a")))
    time.sleep(0.6)
    succeeded(post(brief, message("ttl", "b")))
    assert len(sent(upstream.seen[-1])) == 3
    time.sleep(0.6)
    succeeded(post(brief, message("ttl", "c")))
    assert len(sent(upstream.seen[-1])) > 1, "its time runs from the last message"
    time.sleep(1.2)
    succeeded(post(brief, message("ttl", "d")))
    assert sent(upstream.seen[-1]) == [("user", "d")]


def test_a_restart_keeps_sessions_and_no_key(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(tmp_path, upstream.url) as first:
        succeeded(post(first, message("restart", "我叫小明")))
    with live.relay(tmp_path, upstream.url) as second:
        assert succeeded(post(second, message("restart", "我叫什么名字?"))) == "你叫小明。"
        for file in (tmp_path / ".relay").iterdir():
            assert KEY.encode() not in file.read_bytes(), file
            assert b"restart" not in file.read_bytes(), file


# 5. Several at a time


def test_two_messages_of_a_session_follow_one_another(
    relay: Live, upstream: Upstream, pool: ThreadPoolExecutor
) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.4))
    ended: dict[str, float] = {}

    def say(content: str) -> str:
        words = succeeded(post(relay, message("two", content)))
        ended[content] = time.monotonic()
        return words

    first = pool.submit(say, "我叫小明")
    at_work(upstream)
    second = pool.submit(say, "我叫什么名字?")
    assert second.result() == "你叫小明。"
    assert "小明" in first.result()
    assert ended["我叫小明"] <= ended["我叫什么名字?"] + 0.05
    one, two = completions(upstream)
    assert two.t >= (one.answered_at or 0)
    assert len(sent(two)) == 3


def test_many_messages_of_a_session_lose_no_turn(relay: Live, upstream: Upstream, pool: ThreadPoolExecutor) -> None:
    said = [f"message {number}" for number in range(8)]
    for each in [pool.submit(post, relay, message("many", content)) for content in said]:
        succeeded(each.result())
    succeeded(post(relay, message("many", "last")))
    turns = [content for role, content in sent(completions(upstream)[-1]) if role == "user"]
    assert sorted(turns[:-1]) == said
    assert [len(sent(seen)) for seen in completions(upstream)] == list(range(1, 18, 2))


def test_other_sessions_do_not_wait(relay: Live, upstream: Upstream, pool: ThreadPoolExecutor) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=1))
    slow = pool.submit(post, relay, message("slow"))
    at_work(upstream)
    begin = time.monotonic()
    succeeded(post(relay, message("quick")))
    assert time.monotonic() - begin < 0.7
    succeeded(slow.result())


def leaving(relay: Live, body: Mapping[str, Any], upstream: Upstream, count: int | None) -> None:
    """Send a message and leave: as soon as upstream has seen `count` requests, or after a moment."""
    data = json.dumps(body).encode()
    with relay.connect() as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        if count is not None:
            at_work(upstream, count)
        else:
            time.sleep(0.15)


def test_a_client_that_leaves_frees_its_session_and_the_upstream(relay: Live, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, Behaviour(never=True))
    leaving(relay, message("leaves", "lost"), upstream, 1)
    left = time.monotonic()
    [seen] = completions(upstream)
    assert eventually(lambda: seen.closed_at is not None)
    succeeded(post(relay, message("leaves", "next")))
    assert time.monotonic() - left < 1
    assert sent(completions(upstream)[-1]) == [("user", "next")]


def test_a_client_that_leaves_in_the_middle_of_an_answer_is_no_turn(relay: Live, upstream: Upstream) -> None:
    slowly = [(completion("a" * 50)[:60], 5.0), (completion("a" * 50)[60:], 0)]
    upstream.script(COMPLETIONS, Behaviour(chunks=slowly))
    leaving(relay, message("middle", "lost"), upstream, 1)
    assert eventually(lambda: completions(upstream)[0].closed_at is not None)
    succeeded(post(relay, message("middle", "next")))
    assert sent(completions(upstream)[-1]) == [("user", "next")]


def test_a_client_that_leaves_while_it_waits_is_passed_over(
    relay: Live, upstream: Upstream, pool: ThreadPoolExecutor
) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.8))
    first = pool.submit(post, relay, message("passed", "first"))
    at_work(upstream)
    leaving(relay, message("passed", "lost"), upstream, None)
    third = pool.submit(post, relay, message("passed", "third"))
    succeeded(first.result())
    succeeded(third.result())
    assert [sent(seen)[-1][1] for seen in completions(upstream)] == ["first", "third"]
    begin = time.monotonic()
    succeeded(post(relay, message("passed", "fourth")))
    assert time.monotonic() - begin < 0.5


def test_a_client_that_leaves_just_as_its_turn_comes(relay: Live, upstream: Upstream, pool: ThreadPoolExecutor) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.3), Behaviour(delay_headers=5))
    first = pool.submit(post, relay, message("just", "first"))
    at_work(upstream)
    leaving(relay, message("just", "lost"), upstream, 2)
    succeeded(first.result())
    begin = time.monotonic()
    succeeded(post(relay, message("just", "next")))
    assert time.monotonic() - begin < 1
    assert "lost" not in [content for _, content in sent(completions(upstream)[-1])]


def test_too_many_waiting_is_409(tuned: Live, upstream: Upstream, pool: ThreadPoolExecutor) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.6))
    waiting: list[Future[Answer]] = [pool.submit(post, tuned, message("busy"))]
    at_work(upstream)
    waiting += [pool.submit(post, tuned, message("busy")) for _ in range(2)]
    time.sleep(0.2)
    begin = time.monotonic()
    chat_error(post(tuned, message("busy")), 409)
    assert time.monotonic() - begin < 0.3
    succeeded(post(tuned, message("idle")))
    for each in waiting:
        succeeded(each.result())
    succeeded(post(tuned, message("busy")))


SLOW = [
    pytest.param(Behaviour(never=True), id="says nothing"),
    pytest.param(Behaviour(chunks=[(b" ", 0.2)] * 20), id="trickles"),
    pytest.param(Behaviour(body=completion(), delay_body=5), id="sends a head alone"),
]


@pytest.mark.parametrize("behaviour", SLOW)
def test_an_upstream_that_is_too_slow_is_408(
    tuned: Live, upstream: Upstream, behaviour: Behaviour, request: pytest.FixtureRequest
) -> None:
    session = request.node.callspec.id
    upstream.script(COMPLETIONS, behaviour)
    begin = time.monotonic()
    answer = post(tuned, message(session, "lost"))
    told = chat_error(answer, 408)
    assert 0.8 < time.monotonic() - begin < 2
    assert "1" in told
    [seen] = completions(upstream)
    assert eventually(lambda: seen.closed_at is not None, 1)
    succeeded(post(tuned, message(session, "next")))
    assert "lost" not in [content for _, content in sent(completions(upstream)[-1])]


# 6. The balance


FRESH = itertools.count()


def ask_balance(relay: Live, key: str = "", path: str = "/pro/balance", **headers: str) -> Answer:
    """Ask with a key, by default one that nobody has asked with: of others an answer is known."""
    key = key or f"{KEY}{next(FRESH)}"
    return relay.ask("GET", f"{path}?apiKey={key}", headers=headers)


def test_the_balance_is_exact(relay: Live) -> None:
    answer = ask_balance(relay)
    expected = (
        '{"code": 200, "message": "执行成功", "data": {"total": 18.00, "balance": 17.92, "used": 0.08}, "detail": {'
    )
    assert answer.status == 200 and answer.body.startswith(expected.encode())
    detail = answer.json()["detail"]
    assert list(detail) == ["currency", "source", "as_of"] and detail["source"] == "billing"
    assert abs(datetime.fromisoformat(detail["as_of"]).timestamp() - time.time()) < 60
    assert answer.headers["content-type"] == JSON


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("sk-test-total12.345-used34.5", {"total": 12.35, "balance": 12.0, "used": 0.35}),
        ("sk-test-total5-used0", {"total": 5.0, "balance": 5.0, "used": 0.0}),
        ("sk-test-total1-used250", {"total": 1.0, "balance": -1.5, "used": 2.5}),
        ("sk-test-total0.1-used0.4", {"total": 0.1, "balance": 0.1, "used": 0.0}),
    ],
)
def test_amounts_are_rounded_half_up_and_add_up(relay: Live, key: str, data: dict[str, float]) -> None:
    told = ask_balance(relay, key).json()
    assert (told["code"], told["data"]) == (200, data)


@pytest.mark.parametrize(("name", "days"), [("relay", 90), ("tuned", 30)])
def test_the_window_ends_tomorrow(name: str, days: int, upstream: Upstream, request: pytest.FixtureRequest) -> None:
    running: Live = request.getfixturevalue(name)
    before = datetime.now(UTC).date()
    key = f"sk-window-0123456789-{name}"  # of others the answer is known already
    assert ask_balance(running, key).json()["code"] == 200
    after = datetime.now(UTC).date()
    assert sorted(seen.path for seen in upstream.seen) == [SUBSCRIPTION, USAGE]
    [usage] = [seen for seen in upstream.seen if seen.path == USAGE]
    end = date.fromisoformat(usage.query["end_date"][0])
    assert end in (before + timedelta(1), after + timedelta(1))
    assert date.fromisoformat(usage.query["start_date"][0]) == end - timedelta(days + 1)
    assert [seen.header("authorization") for seen in upstream.seen] == [f"Bearer {key}"] * 2
    assert {seen.method for seen in upstream.seen} == {"GET"}


def test_the_balances_key_may_come_as_bearer(relay: Live, upstream: Upstream) -> None:
    bearer = "Bearer sk-bearer-0123456789"
    answer = relay.ask("GET", "/pro/balance", headers={"Authorization": bearer})
    assert answer.json()["data"]["total"] == 18.0
    assert upstream.seen[-1].header("authorization") == bearer


def test_a_key_without_a_limit_says_so_beside_data(relay: Live) -> None:
    body = ask_balance(relay, "sk-unlimited-0123456789").json()
    assert list(body) == ["code", "message", "data", "detail"]
    assert set(body["data"]) == {"total", "balance", "used"}
    assert body["detail"]["unlimited"] is True


@pytest.mark.parametrize("query", ["", "?", "?apiKey=", "?apiKey=%20", "?apikey=" + KEY, "?key=x"])
def test_without_a_key_it_is_400(relay: Live, upstream: Upstream, query: str) -> None:
    assert "apiKey" in balance_error(relay.ask("GET", "/pro/balance" + query), 400)
    assert not upstream.seen


@pytest.mark.parametrize("key", ["sk-" + "k" * 300, "sk-%0d%0aX-Evil:%201", "%E4%BD%A0%E5%A5%BD", "%ff%ff%ff%ff"])
def test_a_key_that_is_none_is_400(relay: Live, upstream: Upstream, key: str) -> None:
    assert "apiKey" in balance_error(ask_balance(relay, key), 400)
    assert not upstream.seen


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        ("sk-bad-0123456789", 401, "Incorrect API key"),
        ("sk-403-0123456789", 403, "Country"),
        ("sk-rate-0123456789", 429, "频繁"),
        ("sk-quota-0123456789", 429, "额度"),
        ("sk-html-0123456789", 502, ""),
        ("sk-200err-0123456789", 401, "无效的令牌"),
    ],
)
def test_a_refused_question_has_no_data(relay: Live, key: str, code: int, words: str) -> None:
    answer = ask_balance(relay, key)
    assert words in balance_error(answer, code)
    names_none_of(answer, key, "127.0.0.1", "<h1>")


def test_an_upstream_that_tells_none_is_501(tuned: Live, upstream: Upstream) -> None:
    balance_error(ask_balance(tuned, path="/gone/pro/balance"), 501)
    assert not upstream.seen


UNTOLD = [
    pytest.param(Behaviour(status=404, body=error_body("Invalid URL (GET /v1/dashboard)")), 501, id="404"),
    pytest.param(Behaviour(status=405, body=b""), 501, id="405"),
    pytest.param(Behaviour(status=404, body=PAGE), 501, id="404 in HTML"),
    pytest.param(Behaviour(status=500, body=error_body("oops")), 502, id="500"),
    pytest.param(Behaviour(status=200, body=PAGE), 502, id="a page"),
    pytest.param(Behaviour(status=200, body=b""), 502, id="nothing"),
    pytest.param(Behaviour(status=200, body=b"[]"), 502, id="an array"),
    pytest.param(Behaviour(status=200, body=b"{}"), 502, id="no amounts"),
    pytest.param(Behaviour(status=200, body=b'{"hard_limit_usd": null, "total_usage": null}'), 502, id="null"),
    pytest.param(Behaviour(status=200, body=b'{"hard_limit_usd": "18", "total_usage": "8"}'), 502, id="strings"),
    pytest.param(Behaviour(status=200, body=b'{"hard_limit_usd": NaN, "total_usage": 1e999}'), 502, id="NaN"),
    pytest.param(Behaviour(status=302, headers=[("location", "http://x.invalid/")], body=b""), 502, id="elsewhere"),
    pytest.param(Behaviour(close_without_answer=True), 502, id="no answer"),
]


@pytest.mark.parametrize(("behaviour", "code"), UNTOLD)
@pytest.mark.parametrize("path", [SUBSCRIPTION, USAGE])
def test_half_a_balance_is_none(relay: Live, upstream: Upstream, behaviour: Behaviour, code: int, path: str) -> None:
    upstream.script(path, behaviour)
    answer = ask_balance(relay)
    balance_error(answer, code)
    names_none_of(answer, KEY, "127.0.0.1", "x.invalid", "<h1>")
    # The other half may still be on its way, and would be told what the next test has in store.
    eventually(lambda: {SUBSCRIPTION, USAGE} <= {each.path.partition("?")[0] for each in upstream.seen}, 1)


@pytest.mark.parametrize("path", [SUBSCRIPTION, USAGE])
@pytest.mark.parametrize("behaviour", SLOW)
def test_a_slow_balance_is_408(tuned: Live, upstream: Upstream, behaviour: Behaviour, path: str) -> None:
    upstream.script(path, behaviour)
    begin = time.monotonic()
    balance_error(ask_balance(tuned), 408)
    assert time.monotonic() - begin < 2
    [seen] = [one for one in upstream.seen if one.path == path]
    assert eventually(lambda: seen.closed_at is not None, 1)


def test_a_client_that_leaves_asks_no_more(relay: Live, upstream: Upstream) -> None:
    upstream.script(USAGE, Behaviour(never=True))
    with relay.connect() as connection:
        connection.sendall(f"GET /pro/balance?apiKey={KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        found = upstream.wait(lambda all_seen: [seen for seen in all_seen if seen.path == USAGE])
    assert eventually(lambda: found[0].closed_at is not None, 1)


def test_no_key_is_carried_along_with_a_balance(relay: Live, upstream: Upstream) -> None:
    key = "fk198277-AbCdEfGh0123456789"
    upstream.script("*", Behaviour(status=401, body=error_body(f"Incorrect API key provided: {key}")), times=2)
    answer = ask_balance(relay, key)
    balance_error(answer, 401)
    names_none_of(answer, key)
    assert key not in relay.log


# 7. Routes


def test_a_route_has_its_own_chat(tuned: Live, upstream: Upstream, prefixed: Upstream) -> None:
    for path in ("/deepseek/chat", "/deepseek/pro/chat/completions"):
        succeeded(post(tuned, message("route"), path))
    assert [seen.target for seen in prefixed.seen] == ["/x/y/v1/chat/completions"] * 2
    assert prefixed.seen[0].json()["model"] == "deepseek-chat"
    assert prefixed.seen[0].header("host") == f"127.0.0.1:{prefixed.port}"
    # A question behind a balance may still come of a test before.
    assert not [seen for seen in upstream.seen if seen.method == "POST"]


def test_a_route_has_its_own_balance(tuned: Live, upstream: Upstream, prefixed: Upstream) -> None:
    assert ask_balance(tuned, path="/deepseek/pro/balance").json()["data"]["total"] == 18.0
    assert {seen.path for seen in prefixed.seen} == {"/x/y" + SUBSCRIPTION, "/x/y" + USAGE}
    assert not upstream.seen


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("/deepseek/v1/models", "/x/y/v1/models"),
        ("/deepseek/v1/v1/models?a=%2F&b", "/x/y/v1/models?a=%2F&b"),
        ("//deepseek//v1/models", "/x/y/v1/models"),
        ("/deepseek/user/balance", "/x/y/user/balance"),
        ("/deepseek/any/thing?x=1", "/x/y/any/thing?x=1"),
        ("/deepseek", "/x/y/"),
        ("/deepseek?x", "/x/y/?x"),
    ],
)
def test_under_a_route_any_path_passes(tuned: Live, prefixed: Upstream, asked: str, got: str) -> None:
    tuned.ask("GET", asked, headers={"Authorization": f"Bearer {KEY}"})
    assert [seen.target for seen in prefixed.seen] == [got]


@pytest.mark.parametrize("path", ["/deepseekx/v1/models", "/Deepseek/v1/models", "/deepseek/../v1/models", "/deepsee"])
def test_what_is_no_route_is_404(tuned: Live, upstream: Upstream, prefixed: Upstream, path: str) -> None:
    assert tuned.ask("GET", path, headers={"Authorization": f"Bearer {KEY}"}).status == 404
    assert not upstream.seen and not prefixed.seen
