"""Models by other names (`upstreams[].models`), as apps meet them: the SDK, curl, relay keys, `/chat`, websockets."""

import gzip
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import brotli
import openai
import pytest
import zstandard

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_keys import bearer, rows, settled
from tests.live.test_wire_uploads import BLOCK, BOUNDARY, MB, Peak, multipart_head, newest, whole
from tests.live.test_wire_websocket import Refused, Socket
from tests.support import live
from tests.support.live import Live, eventually
from tests.support.raw import Client, chunk, request

KEY = "sk-test-0123456789"
REAL = "sk-real-MARKx-0123456789abcdef"
ALICE = "rk-alice-MARKx-0123456789abcdef"
NAMED = "rk-named-MARKx-0123456789abcdef"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
AUTH = ("Authorization", f"Bearer {KEY}")


@pytest.fixture(scope="module")
def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """gpt-4o is gpt-3.5-turbo there, and fast is gpt-4o-mini; below /plain nothing has another name."""
    mapped = {
        "name": "mapped",
        "url": upstream.url,
        "keys": [REAL],
        "model": "fast",
        "models": {"gpt-4o": "gpt-3.5-turbo", "fast": "gpt-4o-mini"},
    }
    listed = [
        {"name": "alice", "key": ALICE, "budget": {"amount": 5}},
        {"name": "named", "key": NAMED, "models": ["gpt-4o", "whisper-1"]},
    ]
    with live.relay(
        tmp_path_factory.mktemp("relay"),
        [mapped, {"name": "plain", "url": upstream.url}],
        routes=[{"path": "/plain", "upstream": "plain"}],
        keys={"open": True, "list": listed},
        store={"path": "store"},
        limits={"json": "2m"},
    ) as running:
        yield running


@pytest.fixture
def client(relay: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{relay.url}/v1", max_retries=0, timeout=10) as made:
        yield made


def sent(upstream: Upstream) -> Any:
    return upstream.seen[-1].json()


# Callers with keys of their own


def test_the_sdk_asks_by_one_name_and_upstream_hears_the_other(client: openai.OpenAI, upstream: Upstream) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, temperature=0.5)
    assert answer.choices[0].message.content
    assert sent(upstream) == {"model": "gpt-3.5-turbo", "messages": HELLO, "temperature": 0.5}
    assert upstream.seen[-1].header("authorization") == f"Bearer {KEY}"
    assert answer.model == "gpt-3.5-turbo", "the answer is upstream's"
    with client.chat.completions.create(model="fast", messages=HELLO, stream=True) as stream:
        assert [chunk.model for chunk in stream][-1] == "gpt-4o-mini"
    assert "stream_options" not in sent(upstream), "and nothing else is changed for them"


def test_no_other_byte_is_changed(relay: Live, upstream: Upstream) -> None:
    text = '\ufeff {"messages" : [{"content":"\\u4f60好","role":"user"}],\r\n\t"model" :"gpt\\u002d4o" , "n":1 }\n'
    body = text.encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    relay.ask("POST", "/v1/echo/names", body, headers)
    seen = upstream.seen[-1]
    assert seen.body == body.replace(b'"gpt\\u002d4o"', b'"gpt-3.5-turbo"')
    assert seen.header("content-length") == str(len(seen.body)) and seen.header("transfer-encoding") is None


def test_other_names_and_other_upstreams_are_left_alone(relay: Live, upstream: Upstream) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    for path, body in (
        ("/v1/echo/names", b'{ "model":"gpt-4o-mini" , "x":01 }'),
        ("/plain/v1/echo/names", b'{"model":"gpt-4o","model":"gpt-4o"'),
        ("/v1/echo/names", b'["gpt-4o"]'),
    ):
        assert relay.ask("POST", path, body, headers).status == 200
        assert upstream.seen[-1].body == body


def test_a_body_in_chunks(relay: Live, upstream: Upstream) -> None:
    with Client(relay.port) as raw:
        headers = [AUTH, ("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")]
        raw.send(request("POST", "/v1/echo/chunks", headers))
        for piece in (b'{"mod', b'el": "gpt', b'-4o", "x": 1}', b""):
            raw.send(chunk(piece))
        assert whole(raw)[0].status == 200
    assert newest(upstream, "/v1/echo/chunks").body == b'{"model": "gpt-3.5-turbo", "x": 1}'


PACKED = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("encoding", PACKED)
def test_a_compressed_body_goes_up_unpacked_where_it_was_changed(
    relay: Live, upstream: Upstream, encoding: str
) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Content-Encoding": encoding}
    mapped, other = (json.dumps({"model": name, "messages": HELLO}).encode() for name in ("gpt-4o", "o3"))
    assert relay.ask("POST", "/v1/echo/packed", PACKED[encoding](mapped), headers).status == 200
    seen = upstream.seen[-1]
    assert seen.header("content-encoding") is None and seen.json()["model"] == "gpt-3.5-turbo"
    packed = PACKED[encoding](other)
    assert relay.ask("POST", "/v1/echo/packed", packed, headers).status == 200
    seen = upstream.seen[-1]
    assert (seen.header("content-encoding"), seen.body) == (encoding, packed)
    bomb = PACKED[encoding](b'{"model":"gpt-4o","x":"' + b"x" * 3 * MB + b'"}')
    answer = relay.ask("POST", "/v1/echo/packed", bomb, headers)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_what_is_refused_reaches_the_sdk_as_an_error_of_its_own(client: openai.OpenAI, upstream: Upstream) -> None:
    asked = len(upstream.seen)
    with pytest.raises(openai.BadRequestError, match=r"表单.*forms.*write gpt-3\.5-turbo") as caught:
        client.audio.transcriptions.create(model="gpt-4o", file=("a.mp3", io.BytesIO(b"sound")))
    assert (caught.value.code, caught.value.param) == ("model_not_mapped", "model")
    with pytest.raises(openai.BadRequestError, match=r"路径.*paths"):
        client.models.retrieve("gpt-4o")
    with pytest.raises(openai.BadRequestError, match="stands twice"):
        client.post("/chat/completions", cast_to=object, content=b'{"model":"a","model":"b"}')
    assert len(upstream.seen) == asked, "none of them went up"
    assert client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", io.BytesIO(b"sound"))).text


def test_a_websocket_names_its_model_in_its_address(relay: Live, upstream: Upstream) -> None:
    with pytest.raises(Refused) as caught:
        Socket(relay, target="/v1/realtime?model=gpt-4o")
    assert caught.value.status == 400 and json.loads(caught.value.body)["error"]["code"] == "model_not_mapped"
    with Socket(relay, target="/v1/realtime?model=gpt-realtime"):
        assert upstream.seen[-1].target == "/v1/realtime?model=gpt-realtime"


# Size


@pytest.mark.parametrize("path", ["/plain/v1/large", "/v1/files"])
def test_an_upload_of_100_mb_streams_where_nothing_has_to_be_read(relay: Live, upstream: Upstream, path: str) -> None:
    head, tail, length = multipart_head(100 * MB)
    kind = f"multipart/form-data; boundary={BOUNDARY}" if path == "/v1/files" else "application/json"
    target = path.removeprefix("/plain")
    upstream.script("/v1/large", Behaviour(body=b"{}"))
    for _ in range(2):  # what the first uploads take and keep is not this one's
        assert relay.ask("POST", "/plain/v1/echo/warm", BLOCK * 4, dict([AUTH])).status == 200
    hashed = hashlib.sha256()
    for block in (head, *([BLOCK] * 100), tail):
        hashed.update(block)
    with Client(relay.port, 30) as raw, Peak(relay) as peak:
        raw.send(request("POST", path, [AUTH, ("Content-Type", kind), ("Content-Length", str(length))]))
        raw.send(head)
        seen = newest(upstream, target)
        assert not seen.complete, "it goes up while it comes"
        for _ in range(100):
            raw.send(BLOCK)
        raw.send(tail)
        assert whole(raw)[0].status == 200
    assert (seen.length, seen.sha256) == (length, hashed.hexdigest())
    assert peak.grown <= 20 * MB


@pytest.mark.parametrize("framing", ["a length", "chunks"])
def test_a_body_over_limits_json_is_413(relay: Live, upstream: Upstream, framing: str) -> None:
    asked = len(upstream.seen)
    with Client(relay.port) as raw:
        if framing == "a length":
            raw.send(request("POST", CHAT, [AUTH, ("Content-Length", str(3 * MB))]))
        else:
            raw.send(request("POST", CHAT, [AUTH, ("Transfer-Encoding", "chunked")]))
            for _ in range(3):
                raw.send(chunk(BLOCK))
        reply, body = whole(raw)
    assert (reply.status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    assert len(upstream.seen) == asked


def test_bodies_together_are_bounded_and_a_place_is_free_again(upstream: Upstream, tmp_path: Any) -> None:
    mapped = {"name": "mapped", "url": upstream.url, "models": {"gpt-4o": "gpt-3.5-turbo"}}
    with live.relay(tmp_path, [mapped], limits={"held": "3m"}) as tight:
        headers = [AUTH, ("Content-Type", "application/json"), ("Content-Length", str(2 * MB + 30))]
        body = b'{"model":"gpt-4o","x":"' + b"x" * 2 * MB
        for _ in range(3):  # what a start takes is over then
            assert tight.ask("POST", "/v1/echo/warm", body + b'"}').status == 200
        with Client(tight.port) as first, Client(tight.port) as second:
            first.send(request("POST", "/v1/echo/first", headers) + body)
            time.sleep(1)
            threading.Thread(
                target=lambda: second.send(request("POST", "/v1/echo/second", headers) + body), daemon=True
            ).start()
            reply, refused = whole(second)
            assert (reply.status, json.loads(refused)["error"]["code"]) == (503, "relay_unavailable")
            assert (reply.get("retry-after"), reply.get("x-should-retry")) == ("1", "true")
            first.send(b'"}'.rjust(2 * MB + 30 - len(body)))
            assert whole(first)[0].status == 200
        assert newest(upstream, "/v1/echo/first").json()["model"] == "gpt-3.5-turbo"
        assert tight.ask("POST", "/v1/echo/third", body + b'"}').status == 200


# Relay keys


def test_what_is_priced_and_reported_is_what_went_up(relay: Live, upstream: Upstream) -> None:
    body = {"model": "fast", "messages": HELLO, "max_tokens": 20}
    answer = relay.ask("POST", CHAT, body, bearer(ALICE))
    assert answer.status == 200 and sent(upstream)["model"] == "gpt-4o-mini"
    row, usage = settled(relay, answer.headers["x-relay-request-id"]), answer.json()["usage"]
    assert row["model"] == "gpt-4o-mini"
    assert row["amount"] == usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
    stream = relay.ask("POST", CHAT, {**body, "stream": True}, bearer(ALICE))
    assert stream.status == 200 and sent(upstream)["stream_options"] == {"include_usage": True}
    assert settled(relay, stream.headers["x-relay-request-id"])["model"] == "gpt-4o-mini"


def test_callers_own_keys_are_counted_by_what_went_up(relay: Live, upstream: Upstream) -> None:
    upstream.script(CHAT, Behaviour(body=b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'))
    answer = relay.ask("POST", CHAT, {"model": "gpt-4o", "messages": HELLO}, bearer(KEY))
    assert settled(relay, answer.headers["x-relay-request-id"])["model"] == "gpt-3.5-turbo"


def test_a_list_of_models_has_the_names_that_callers_write(relay: Live, upstream: Upstream) -> None:
    body = {"model": "gpt-4o", "messages": HELLO}
    assert relay.ask("POST", CHAT, body, bearer(NAMED)).status == 200
    assert sent(upstream)["model"] == "gpt-3.5-turbo"
    refused = relay.ask("POST", CHAT, {**body, "model": "gpt-3.5-turbo"}, bearer(NAMED))
    assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    models = relay.ask("GET", "/v1/models", headers=bearer(NAMED)).json()["data"]
    assert sorted(each["id"] for each in models) == ["gpt-4o", "whisper-1"]


def test_a_form_of_a_relay_key_is_refused_and_holds_nothing(relay: Live) -> None:
    with openai.OpenAI(api_key=NAMED, base_url=f"{relay.url}/v1", max_retries=0) as sdk:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.audio.transcriptions.create(model="gpt-4o", file=("a.mp3", io.BytesIO(b"sound")))
        assert caught.value.code == "model_not_mapped"
        assert sdk.audio.transcriptions.create(model="whisper-1", file=("a.mp3", io.BytesIO(b"sound"))).text


def test_what_is_no_generation_is_mapped_too(relay: Live, upstream: Upstream) -> None:
    body = {"model": "gpt-4o", "input": "peace"}
    for key in (KEY, ALICE):
        assert relay.ask("POST", "/v1/moderations", body, bearer(key)).status == 200
        assert sent(upstream)["model"] == "gpt-3.5-turbo"


# Conversations


@pytest.mark.parametrize("key", [KEY, ALICE])
def test_a_conversation_asks_by_its_own_names(relay: Live, upstream: Upstream, key: str) -> None:
    for more, expected in (({}, "gpt-4o-mini"), ({"model": "gpt-4o"}, "gpt-3.5-turbo"), ({"model": "gpt-4"}, "gpt-4")):
        envelope = relay.chat("Hello", key=key, session=f"names {more}", **more)
        assert envelope["code"] == 200 and sent(upstream)["model"] == expected
    named = relay.chat("Hello", key=NAMED, session="named", model="gpt-4o")
    assert named["code"] == 200 and sent(upstream)["model"] == "gpt-3.5-turbo"
    assert relay.chat("Hello", key=NAMED, session="named", model="gpt-3.5-turbo")["code"] == 403
    assert eventually(lambda: {"gpt-4o-mini", "gpt-3.5-turbo"} <= {row["model"] for row in rows(relay)})


def test_a_conversation_that_is_too_long_is_asked_again_by_the_same_name(relay: Live, upstream: Upstream) -> None:
    assert relay.chat("Hello", session="long")["code"] == 200
    too_long = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    upstream.script(CHAT, Behaviour(status=400, body=json.dumps(too_long).encode()))
    assert relay.chat("Hello again", session="long")["code"] == 200
    assert [seen.json()["model"] for seen in list(upstream.seen)[-2:]] == ["gpt-4o-mini"] * 2
