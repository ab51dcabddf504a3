"""Clients that leave a stream: with its last event, as most do, or before. Seen from mitmweb, from upstream and in what
is recorded; and messages to /chat as mitmweb shows them, which is whole."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader

from addons.cli.fake_openai.answer import Framing
from addons.cli.fake_openai.server import Behaviour, Upstream
from addons.config.settings import Settings
from addons.core.summary import FAILED
from addons.replay import flow_file
from tests.core.test_ending import BOTH, CHUNK, COMPLETED, STOP, USAGE
from tests.live.test_wire_tls import Http2
from tests.support import live
from tests.support import web as pages
from tests.support.certificates import self_signed
from tests.support.live import Live, eventually
from tests.support.raw import Client, Reply
from tests.support.talking import COMPLETIONS, DONE, KEY, SSE, Told, begin, chunk, message, streamed, streaming

HEADERS = [("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json")]
BODY = json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": []}).encode()
LEFT = "Client disconnected."
MARK = "⚠"


@pytest.fixture(scope="module")
def web(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Web]:
    with pages.mitmweb(tmp_path_factory.mktemp("web"), upstream.url) as running:
        yield running


@pytest.fixture(autouse=True)
def clean(upstream: Upstream, web: pages.Web) -> Iterator[None]:
    """Each test sees its own exchanges; the log has no crash in it."""
    upstream.clear()
    begun = len(web.live.log)
    web.post("/clear")
    yield
    assert "Traceback" not in web.live.log[begun:], web.live.log[begun:]


def last(web: pages.Web) -> dict[str, Any]:
    """The flow of a test, once it has ended."""
    return web.wait(1)[-1]


def body(web: pages.Web, flow: dict[str, Any], view: str | None = None, side: str = "response") -> str:
    """A body of a flow: raw, or as a view shows it."""
    name = f"/flows/{flow['id']}/{side}/content"
    if view is None:
        return web.get(name + ".data").decode()
    return str(json.loads(web.get(f"{name}/{view}.json"))["text"])


def read_until(client: Client, reply: Reply, end: bytes) -> bytes:
    """The stream so far, when `end` has come."""
    read, pieces = b"", client.pieces(reply)
    while end not in read:
        read += next(pieces)
    return read


def leave(relay: Live, end: bytes, *, path: str = COMPLETIONS, reset: bool = False) -> bytes:
    """Ask for a stream, read until `end` has come, and close."""
    with Client(relay.port) as client:
        framed = [*HEADERS, ("Content-Length", str(len(BODY)))]
        lines = [f"POST {path} HTTP/1.1", "Host: relay.test", *(f"{name}: {value}" for name, value in framed)]
        client.send("\r\n".join([*lines, "", ""]).encode() + BODY)
        read = read_until(client, client.head(), end)
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return read


# 1. With the last event

ENDS = {
    "[DONE]": (COMPLETIONS, [CHUNK, DONE]),
    "response.completed": ("/v1/responses", [b"event: response.created\ndata: {}\n\n", COMPLETED]),
    "response.failed": ("/v1/responses", [COMPLETED.replace(b"completed", b"failed")]),
    "message_stop": ("/v1/messages", [b'event: message_stop\ndata: {"type":"message_stop"}\n\n']),
    "a finish reason, and usage behind it": (COMPLETIONS, [CHUNK, STOP, USAGE]),
    "both in one": (COMPLETIONS, [CHUNK, BOTH]),
}


@pytest.mark.parametrize(("path", "events"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_who_leaves_with_the_last_event_has_finished(
    web: pages.Web, upstream: Upstream, path: str, events: list[bytes], reset: bool
) -> None:
    behaviour = Behaviour(headers=[("content-type", SSE)], chunks=[*((each, 0.0) for each in events), (b"", 0.3)])
    upstream.script(path, behaviour)
    assert leave(web.live, events[-1].strip(), path=path, reset=reset)
    flow = last(web)
    assert (flow.get("error"), flow["marked"]) == (None, "")
    assert "disconnected" not in flow["comment"]
    assert "broke off" not in body(web, flow, "auto")
    assert body(web, flow) == b"".join(events).decode()


@pytest.mark.parametrize("headers", [[], [("content-type", "text/plain")]], ids=["no type", "another type"])
def test_so_it_is_with_a_stream_that_is_not_called_one(
    web: pages.Web, upstream: Upstream, headers: list[tuple[str, str]]
) -> None:
    chunks = [(CHUNK, 0.0), (DONE, 0.0), (b"", 0.3)]
    upstream.script(COMPLETIONS, Behaviour(status=200, headers=headers, chunks=chunks))
    leave(web.live, b"[DONE]\n")
    flow = last(web)
    assert (flow.get("error"), flow["marked"]) == (None, "")


@pytest.mark.parametrize("cut", [1, 5, 13, 17])
def test_a_last_event_may_be_cut(web: pages.Web, upstream: Upstream, cut: int) -> None:
    stream = CHUNK + DONE
    upstream.script(COMPLETIONS, streaming(stream[:-cut], stream[-cut:], pause=0.05))
    leave(web.live, b"[DONE]\n")
    assert (last(web).get("error"), last(web)["marked"]) == (None, "")


def test_one_that_is_compressed_is_judged_by_what_is_inside(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(CHUNK, DONE, pause=0.2, gzip=True))
    with Client(web.live.port) as client:
        client.send(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" % COMPLETIONS.encode())
        pieces = client.pieces(client.head())
        next(pieces)
        next(pieces)
    flow = last(web)
    assert (flow.get("error"), flow["marked"]) == (None, "")


def test_what_upstream_says_in_the_moment_after_is_kept(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(CHUNK, STOP + USAGE, b": a word more\n\n" + DONE, pause=0.15))
    leave(web.live, b"completion_tokens")
    flow = last(web)
    assert body(web, flow) == (CHUNK + STOP + USAGE + b": a word more\n\n" + DONE).decode()
    assert (flow.get("error"), flow["marked"]) == (None, "")
    assert "1→2 tok" in flow["comment"]


def test_upstream_has_a_moment_and_no_more(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(CHUNK, DONE, *[b": ping\n\n"] * 200, pause=0.05))
    leave(web.live, b"[DONE]")
    left = time.monotonic()
    [seen] = upstream.seen
    assert eventually(lambda: seen.closed_at is not None, 5)
    assert time.monotonic() - left < 4
    flow = last(web)
    assert (flow.get("error"), flow["marked"]) == (None, "")
    assert body(web, flow).startswith((CHUNK + DONE).decode())


def test_the_openai_sdk_leaves_at_done(web: pages.Web) -> None:
    with openai.OpenAI(api_key=KEY, base_url=f"{web.live.url}/v1", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
        with client.responses.create(model="gpt-4o-mini", input="hello", stream=True) as events:
            for event in events:
                if event.type == "response.completed":
                    break
    for flow in web.wait(2):
        assert (flow.get("error"), flow["marked"]) == (None, ""), flow["comment"]


# 2. Before it


@pytest.mark.parametrize("events", [[CHUNK], [CHUNK, STOP], [CHUNK, b"data: [DON"]], ids=["a chunk", "a reason", "cut"])
def test_who_leaves_earlier_is_told_as_such(web: pages.Web, upstream: Upstream, events: list[bytes]) -> None:
    upstream.script(COMPLETIONS, streaming(b"".join(events), *[b": ping\n\n"] * 100, pause=0.1))
    leave(web.live, events[-1].strip())
    left = time.monotonic()
    [seen] = upstream.seen
    assert eventually(lambda: seen.closed_at is not None)
    assert time.monotonic() - left < 0.9, "upstream is closed at once"
    flow = last(web)
    assert flow["error"]["msg"] == LEFT
    assert flow["marked"] == MARK
    assert LEFT in flow["comment"]
    assert "broke off" in body(web, flow, "auto")


# 3. In what is recorded


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_who_leaves_with_all_of_an_answer_has_finished_however_long_its_record_takes(
    web: pages.Web, upstream: Upstream, framing: Framing
) -> None:
    """The record of a long request is cleaned in turns; the client has its answer by then, and closes."""
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "long " * 40_000}]}
    json_type = [("Content-Type", "application/json")]
    for _ in range(3):
        upstream.script(COMPLETIONS, Behaviour(status=200, body=b'{"id": "x"}', headers=json_type, framing=framing))
        assert web.live.ask("POST", COMPLETIONS, asked, dict(HEADERS)).body == b'{"id": "x"}'
    for flow in web.wait(3):
        assert flow.get("error") is None and LEFT not in flow["comment"] and not flow["marked"]


def test_a_recording_of_it_is_whole(upstream: Upstream, tmp_path: Path) -> None:
    events = [CHUNK, STOP + USAGE, DONE]
    upstream.script(COMPLETIONS, streaming(*events, pause=0.1))
    file = tmp_path / "made.flow"
    with live.relay(tmp_path, upstream.url, ["-w", str(file)]) as relay:
        leave(relay, b"completion_tokens")
        assert eventually(lambda: file.exists() and file.stat().st_size > 500)
    found = flow_file.read(file, Settings.model_validate({"upstreams": [{"name": "test", "url": upstream.url}]}))
    [record] = found.records
    assert (record.body, record.broken) == (b"".join(events), False)
    assert found.left_out == {}


def test_a_client_of_http_2_goes_on_after_it(upstream: Upstream, tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    upstream.script(
        COMPLETIONS,
        streaming(CHUNK, DONE, b": behind it\n\n", *[b": ping\n\n"] * 100, pause=0.1),
        streaming(CHUNK, *[b": ping\n\n"] * 100, pause=0.1),
    )
    file = tmp_path / "made.flow"
    tls = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
    with live.relay(tmp_path, upstream.url, ["-w", str(file)], listen=tls) as relay, Http2(relay, pair) as client:
        for end in (b"[DONE]", b"hi"):
            stream = client.send("POST", COMPLETIONS, [("content-type", "application/json")], BODY)
            while end not in stream.body:
                client.receive()
            client.cancel(stream)
            assert eventually(lambda: upstream.seen[-1].closed_at is not None)
        assert client.ask("GET", "/v1/models").status == 200
        assert eventually(lambda: relay.log.count("/v1/models") > 0)
        assert "Traceback" not in relay.log, relay.log
    with file.open("rb") as saved:
        flows = [each for each in FlowReader(saved).stream() if isinstance(each, http.HTTPFlow)]
    told = {each.error.msg[:22] if each.error else None: each for each in flows if each.request.method == "POST"}
    assert list(told) == [None, "stream reset by client"]
    finished = told[None].response
    assert finished is not None and b": behind it" in (finished.raw_content or b"")
    assert [each.marked for each in told.values()] == ["", FAILED]


# 4. Messages to /chat


@pytest.mark.parametrize("path", ["/chat", "/pro/chat/completions", "/chat?from=php"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_message_is_read_whole(web: pages.Web, upstream: Upstream, path: str, stream: bool) -> None:
    session = f"{path} {stream}"
    web.live.chat("我叫小明", key=KEY, session=session)
    web.post("/clear")
    asked = message(session, "我叫什么名字?", stream=stream)
    told = web.live.ask("POST", path, asked).body.decode()
    flow = last(web)
    assert flow["request"]["path"] == path
    assert (flow.get("error"), flow["marked"]) == (None, "")
    request = body(web, flow, "auto", "request")
    assert "sent to: /v1/chat/completions" in request
    assert "我叫什么名字?" in request and "added by relay from the session: 1 earlier turn" in request
    assert body(web, flow) == told
    answered = body(web, flow, "auto")
    assert "你叫小明。" in answered and "what the app got" in answered and "broke off" not in answered
    assert KEY not in json.dumps(flow) + request + answered


def test_a_streamed_message_is_told_piece_by_piece_in_the_record_too(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(chunk("你"), chunk("好", "stop"), DONE, pause=0.05))
    told = streamed(web.live, message("pieces", "hi"))
    assert told.text() == "你好"
    flow = last(web)
    assert body(web, flow).encode() == told.body
    shown = body(web, flow, "auto")
    assert "pieces: 2" in shown and "code: 200" in shown and "你好" in shown


def test_a_streamed_message_that_breaks_shows_what_was_told(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(chunk("half"), b"x" * 50, break_after=len(chunk("half")), pause=0.05))
    assert streamed(web.live, message("breaks", "hi")).broken
    flow = last(web)
    assert flow["marked"] == MARK and flow["error"]
    assert flow["request"]["path"] == "/chat"
    assert "half" in body(web, flow) and "broke off" in body(web, flow, "auto")


def test_who_leaves_a_streamed_message_is_told_as_such(web: pages.Web, upstream: Upstream) -> None:
    upstream.script(COMPLETIONS, streaming(*(chunk(f"{number} ") for number in range(200)), pause=0.05))
    with Client(web.live.port) as client:
        begin(client, message("left", "hi"))
        told = Told(client.head())
        next(client.pieces(told.reply))
    [seen] = upstream.seen
    assert eventually(lambda: seen.closed_at is not None, 2)
    flow = last(web)
    assert (flow["error"]["msg"], flow["marked"], flow["request"]["path"]) == (LEFT, MARK, "/chat")


def test_who_leaves_while_relay_asks_again_is_told_as_such(web: pages.Web, upstream: Upstream) -> None:
    web.live.chat("one", key=KEY, session="again and again")
    web.post("/clear")
    upstream.clear()
    too_long = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}}).encode()
    upstream.script(COMPLETIONS, Behaviour(status=400, body=too_long), Behaviour(never=True))
    asked = json.dumps(message("again and again", "two")).encode()
    with Client(web.live.port) as client:
        client.send(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(asked), asked))
        upstream.wait(lambda seen: len(seen) == 2)
    assert eventually(lambda: any(each.get("error") and each["comment"] for each in web.flows()))
    flow = next(each for each in web.flows() if each["request"]["path"] == "/chat")
    assert (flow["error"]["msg"], flow["marked"]) == (LEFT, MARK)
    assert LEFT in flow["comment"]


def test_a_refusal_is_seen_as_one_under_status_200(web: pages.Web) -> None:
    answer = web.live.ask("POST", "/chat", {"apiKey": KEY, "sessionId": "refused"})
    assert (answer.status, answer.json()["code"]) == (200, 400)
    flow = last(web)
    assert (flow["response"]["status_code"], flow["marked"]) == (200, MARK)
    assert "400 bad_request: content is missing" in flow["comment"]
    assert flow["request"]["path"] == "/chat"


def test_a_number_and_its_text_are_one_session(web: pages.Web) -> None:
    for session in (20231, "20231"):
        answer = web.live.ask("POST", "/chat", {"apiKey": KEY, "sessionId": session, "content": f"from {session!r}"})
        assert answer.json()["code"] == 200
    told = web.live.ask("GET", "/chat/20231", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [each["content"] for each in told[::2]] == ["from 20231", "from '20231'"]


def test_a_message_sent_again_goes_where_it_went(web: pages.Web, upstream: Upstream) -> None:
    web.live.chat("hello", key=KEY, session="again")
    flow = last(web)
    upstream.clear()
    web.command("relay.replay", f"~u {flow['request']['path']}", KEY)
    [seen] = upstream.wait(lambda seen: seen)
    assert (seen.path, seen.json()["messages"][-1]["content"]) == (COMPLETIONS, "hello")
    upstream.clear()
    web.post(f"/flows/{flow['id']}/replay")
    [seen] = upstream.wait(lambda seen: seen)
    assert seen.path == COMPLETIONS
