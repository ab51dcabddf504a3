"""What /chat does for those who want more, through a real mitmdump: streams, options, `reset`, sessions shown and
forgotten."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zstandard

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_tls import Http2
from tests.support import live
from tests.support.certificates import Pair, self_signed
from tests.support.live import Live, LogWatch, eventually
from tests.support.raw import Client
from tests.support.shapes import chat_error
from tests.support.talking import (
    COMPLETIONS,
    DONE,
    KEY,
    SSE,
    Told,
    ask_session,
    at_work,
    begin,
    chunk,
    completion,
    completions,
    history,
    message,
    post,
    sent,
    streamed,
    streaming,
    succeeded,
)

HELLO = (chunk("", role="assistant"), chunk("你"), chunk("好"), chunk(None, "stop"), DONE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate for localhost."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tight(upstream: Upstream, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay with narrow bounds, a system message, few options allowed, and TLS beside plain HTTP."""
    with live.relay(
        tmp_path_factory.mktemp("tight"),
        upstream.url,
        listen={"tls": {"cert": str(pair.cert), "key": str(pair.key)}},
        chat={
            "timeout": "1s",
            "max_answer": "20k",
            "max_waiting": 1,
            "system": "你是一只猫。",
            "params": {"temperature": 0.2, "user": "relay"},
            "allow": ["temperature", "messages", "stream_options", "apiKey", "content"],
        },
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def watch(relay: Live, tight: Live, upstream: Upstream) -> Iterator[None]:
    """Whatever a test does, the log shows neither a traceback nor a key."""
    upstream.clear()
    watched = [LogWatch(relay), LogWatch(tight)]
    yield
    for each in watched:
        each.check()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For clients that ask at the same time."""
    with ThreadPoolExecutor(4) as running:
        yield running


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    return request.node.name[-64:]  # type: ignore[no-any-return]


def unchanged(relay: Live, upstream: Upstream, session: str, *turns: str) -> None:
    """The session is free at once, and holds these turns and nothing else."""
    begin = time.monotonic()
    assert history(relay, session) == list(turns)
    succeeded(post(relay, message(session, "next")))
    assert time.monotonic() - begin < 2
    assert sent(completions(upstream)[-1])[-len(turns) - 1 :] == [*turns, "next"]


# 1. A stream


def test_pieces_arrive_as_they_come(relay: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, streaming(*HELLO, pause=0.15))
    told = streamed(relay, message(session, "hi"))
    assert told.body.decode() == (
        'data: {"delta": "你"}\n\ndata: {"delta": "好"}\n\n'
        'data: {"code": 200, "message": "执行成功", "data": "你好"}\n\n'
    )
    assert told.at[1] - told.at[0] > 0.1
    assert told.ended - told.at[0] > 0.4, "the first piece was there long before the end"
    reply = told.reply
    assert (reply.status, reply.get("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert (reply.get("x-accel-buffering"), reply.get("cache-control")) == ("no", "no-cache")
    assert reply.chunked and reply.get("content-length") is None
    assert reply.get("x-relay-request-id")
    asked = completions(upstream)[0].json()
    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})


def test_the_session_is_updated_at_the_end_of_a_stream(relay: Live, upstream: Upstream, session: str) -> None:
    for content, words in (("我叫小明", "你好，小明！我记住了。"), ("我叫什么名字？", "你叫小明。")):
        told = streamed(relay, message(session, content))
        assert told.text() == words == "".join(told.deltas)
    assert history(relay, session) == ["我叫小明", "你好，小明！我记住了。", "我叫什么名字？", "你叫小明。"]
    assert succeeded(post(relay, message(session, "我叫什么名字？"))) == "你叫小明。"
    assert len(sent(completions(upstream)[-1])) == 5


def test_the_next_message_waits_for_the_end_of_a_stream(
    relay: Live, upstream: Upstream, session: str, pool: ThreadPoolExecutor
) -> None:
    pieces = [(piece, 0.1) for piece in HELLO[:-1]]
    upstream.script(COMPLETIONS, Behaviour(headers=[("content-type", SSE)], chunks=[*pieces, (DONE, 0)]))
    first = pool.submit(streamed, relay, message(session, "first"))
    begun = at_work(upstream)
    succeeded(post(relay, message(session, "second")))
    assert first.result().text() == "你好"
    second = completions(upstream)[1]
    assert sent(second) == ["first", "你好", "second"]
    assert begun.answered_at is not None and second.t >= begun.answered_at


def test_a_connection_goes_on_after_a_stream(relay: Live, upstream: Upstream, session: str) -> None:
    with Client(relay.port) as client:
        for number in (1, 3, 5):
            begin(client, message(session))
            told = Told(client.head())
            told.read(client.pieces(told.reply))
            told.text()
            assert len(sent(completions(upstream)[-1])) == number


def test_a_browser_may_read_a_stream(relay: Live, session: str) -> None:
    told = streamed(relay, message(session), [("Origin", "https://page.example")])
    told.text()
    assert told.reply.get("access-control-allow-origin") == "*"


ENDS = [
    pytest.param((chunk("ok"), chunk(None, "stop"), DONE), id="both marks"),
    pytest.param((chunk("ok"), chunk(None, "stop")), id="finish_reason alone"),
    pytest.param((chunk("ok"), DONE), id="DONE alone"),
    pytest.param((chunk("o"), chunk("k", "length"), DONE), id="cut off for its length: kept"),
    pytest.param((chunk("ok", "stop") + DONE,), id="in one piece"),
    pytest.param(((chunk("ok", "stop") + DONE).replace(b"\n", b"\r\n"),), id="CRLF"),
    pytest.param((b": wait\n\n", chunk("ok", "stop"), b": wait\n\n", DONE), id="comments"),
    pytest.param((chunk("ok", "stop"), b"data: {nonsense\n\n", b'data: ["x"]\n\n', DONE), id="nonsense between"),
    pytest.param((chunk("ok", "stop"), b"data: " + b"[" * 9000 + b"\n\n", DONE), id="deep nesting between"),
]


@pytest.mark.parametrize("pieces", ENDS)
def test_a_stream_that_upstream_ended_is_kept(
    relay: Live, upstream: Upstream, session: str, pieces: tuple[bytes, ...]
) -> None:
    upstream.script(COMPLETIONS, streaming(*pieces))
    assert streamed(relay, message(session, "hi")).text() == "ok"
    unchanged(relay, upstream, session, "hi", "ok")


def test_an_answer_cut_off_for_its_length_is_kept_unstreamed_too(relay: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, Behaviour(body=completion("half a", finish="length")))
    assert succeeded(post(relay, message(session, "hi"))) == "half a"
    unchanged(relay, upstream, session, "hi", "half a")


def test_letters_cut_across_packets_stay_whole(relay: Live, upstream: Upstream, session: str) -> None:
    whole = chunk("你好😀é") + chunk("\u2028末", "stop") + DONE
    upstream.script(COMPLETIONS, streaming(*(whole[at : at + 1] for at in range(len(whole)))))
    told = streamed(relay, message(session, "hi"))
    assert told.text() == "你好😀é\u2028末" == "".join(told.deltas)


def test_a_lone_surrogate_in_a_stream_does_no_harm(relay: Live, upstream: Upstream, session: str) -> None:
    odd = chunk("X").replace(b"X", b"a\\ud83d")
    upstream.script(COMPLETIONS, streaming(odd, chunk("b", "stop"), DONE))
    told = streamed(relay, message(session, "hi"))
    assert told.text() == "a\ud83db"
    told.body.decode("utf-8")
    assert history(relay, session) == ["hi", "a\ud83db"]


WHOLE = [
    pytest.param(Behaviour(gzip=True), id="gzip"),
    pytest.param(Behaviour(body=completion("x" * 30)), id="JSON, though a stream was asked for"),
]


@pytest.mark.parametrize("behaviour", WHOLE)
def test_what_cannot_be_retold_is_answered_in_one_piece(
    relay: Live, upstream: Upstream, session: str, behaviour: Behaviour
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    told = streamed(relay, message(session, "hi"))
    assert (told.reply.status, told.reply.get("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert told.deltas == []
    unchanged(relay, upstream, session, "hi", told.text())


def test_a_compressed_stream_that_breaks_off_is_no_turn(relay: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, streaming(chunk("half"), gzip=True))
    chat_error(post(relay, message(session, "lost", stream=True)), 502)
    unchanged(relay, upstream, session)


# 1b. An end is an end, whatever the connection does

OPEN = 20.0
"""Seconds that an upstream keeps its connection open behind the end: longer than a test waits."""
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}\n\n'
OVERLOADED = b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'


def lingering(*pieces: bytes, **more: Any) -> Behaviour:
    """An upstream that says this and then keeps the connection open."""
    headers = more.pop("headers", [("content-type", SSE)])
    *first, last = pieces
    return Behaviour(headers=headers, chunks=[*((piece, 0.01) for piece in first), (last, OPEN)], **more)


def cut(*pieces: bytes, **more: Any) -> Behaviour:
    """An upstream that says this and then closes the connection without the last chunk."""
    return streaming(*pieces, b": never sent\n\n", break_after=sum(map(len, pieces)), **more)


LASTING = [
    pytest.param(lingering(*HELLO), id="open"),
    pytest.param(lingering(b"".join(HELLO)), id="open, all in one piece"),
    pytest.param(lingering(b"".join(HELLO), framing="close"), id="open, without chunks"),
    pytest.param(lingering(*HELLO[:-1], USAGE, DONE), id="open, usage before DONE"),
    pytest.param(lingering(b"".join(HELLO) + chunk("later") + OVERLOADED), id="more behind DONE"),
    pytest.param(lingering(*HELLO[:-1]), id="open behind the finish reason"),
    pytest.param(lingering(*HELLO[:-1], USAGE), id="open behind the usage"),
    pytest.param(lingering(*HELLO[:-2], b"data: [DONE]\n"), id="open behind DONE without a blank line"),
    pytest.param(streaming(*HELLO[:-2], b"data: [DONE]\n"), id="DONE without a blank line"),
    pytest.param(streaming(*HELLO[:-2], b"data: [DONE]", framing="close"), id="DONE without a line's end"),
    pytest.param(cut(*HELLO), id="cut"),
    pytest.param(cut(*HELLO, reset=True), id="cut by a reset"),
    pytest.param(cut(*HELLO[:-1]), id="cut behind the finish reason"),
]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("behaviour", LASTING)
def test_an_answer_ends_where_upstream_says_so(
    relay: Live, upstream: Upstream, session: str, behaviour: Behaviour, version: str
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    begun = time.monotonic()
    told = streamed(relay, message(session, "hi"), version=version)
    assert told.text() == "你好" == "".join(told.deltas)
    assert told.ended - begun < OPEN / 2
    unchanged(relay, upstream, session, "hi", "你好")


@pytest.mark.parametrize(
    "behaviour",
    [pytest.param(lingering(chunk("a"), OVERLOADED), id="open"), pytest.param(cut(chunk("a"), OVERLOADED), id="cut")],
)
def test_an_error_ends_a_stream_at_once(relay: Live, upstream: Upstream, session: str, behaviour: Behaviour) -> None:
    upstream.script(COMPLETIONS, behaviour)
    begun = time.monotonic()
    told = streamed(relay, message(session, "hi"))
    assert (told.broken, told.envelope["code"]) == (False, 502)
    assert "overloaded" in told.envelope["message"]
    assert told.ended - begun < OPEN / 2
    unchanged(relay, upstream, session)


def test_the_upstream_connection_is_closed_and_nothing_of_it_enters_the_next_answer(
    relay: Live, upstream: Upstream, session: str
) -> None:
    upstream.script(COMPLETIONS, lingering(*HELLO))
    with Client(relay.port) as client:
        for _ in range(3):
            begin(client, message(session))
            told = Told(client.head())
            told.read(client.pieces(told.reply))
            told.text()
    first = completions(upstream)[0]
    assert eventually(lambda: first.closed_at is not None, 5)
    assert len(history(relay, session)) == 6


def zstandard_of(*pieces: bytes) -> list[bytes]:
    """Pieces of one frame that does not end."""
    frame = zstandard.ZstdCompressor().compressobj()
    return [frame.compress(piece) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces]


ZSTD = [("content-type", SSE), ("content-encoding", "zstd")]
WHOLE_READ = [
    pytest.param({}, lingering(*zstandard_of(*HELLO), headers=ZSTD), id="zstd"),
    pytest.param({"stream": True}, lingering(*zstandard_of(*HELLO[:-1]), headers=ZSTD), id="a stream, zstd, no DONE"),
    pytest.param({}, lingering(*HELLO), id="events, though no stream was asked for"),
    pytest.param({}, cut(*HELLO), id="the same, cut"),
    pytest.param({}, lingering(*HELLO[:-1]), id="open behind the finish reason"),
    pytest.param({}, lingering(*HELLO[:-1], gzip=True), id="open behind the finish reason, compressed"),
    pytest.param({}, streaming(*HELLO[:-2], b"data: [DONE]\n"), id="DONE without a blank line"),
    pytest.param({}, lingering(*HELLO, headers=[]), id="without a content type"),
    pytest.param({}, lingering(*HELLO, gzip=True), id="compressed"),
    pytest.param({"stream": True}, lingering(*HELLO, gzip=True), id="a stream, compressed"),
    pytest.param({"stream": True}, lingering(*HELLO, headers=[]), id="a stream without its content type"),
    pytest.param({"stream": True}, lingering(*HELLO, headers=[("content-type", "text/plain")]), id="a stream as text"),
]


@pytest.mark.parametrize(("asked", "behaviour"), WHOLE_READ)
def test_events_that_are_read_whole_end_likewise(
    relay: Live, upstream: Upstream, session: str, asked: dict[str, Any], behaviour: Behaviour
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    begun = time.monotonic()
    answer = post(relay, message(session, "hi", **asked))
    assert time.monotonic() - begun < OPEN / 2
    body = answer.body.removeprefix(b"data: ") if asked else answer.body
    assert json.loads(body)["data"] == "你好"
    unchanged(relay, upstream, session, "hi", "你好")


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [201, 203, 206])
def test_success_is_2xx(relay: Live, upstream: Upstream, session: str, asked: dict[str, Any], status: int) -> None:
    behaviour = streaming(*HELLO, status=status) if asked else Behaviour(status=status, body=completion("你好"))
    upstream.script(COMPLETIONS, behaviour)
    answer = post(relay, message(session, "hi", **asked))
    assert answer.status == 200
    assert json.loads(answer.body.rstrip().splitlines()[-1].removeprefix(b"data: "))["data"] == "你好"


# 2. Streams that fail

EARLY = [
    pytest.param(Behaviour(status=401, body=b'{"error":{"message":"Incorrect API key"}}'), 401, id="401"),
    pytest.param(Behaviour(status=429, body=b'{"error":{"message":"slow down"}}'), 429, id="429"),
    pytest.param(Behaviour(status=500, headers=[("content-type", SSE)], body=b"data: x\n\n"), 502, id="500 as SSE"),
    pytest.param(Behaviour(status=200, body=b'{"error":{"message":"invalid api key"}}'), 401, id="error in a 200"),
    pytest.param(Behaviour(status=200, body=b'{"code":1210,"msg":"x","data":null}'), 502, id="a code beside data"),
    pytest.param(
        Behaviour(body=b'{"Response":{"Error":{"Code":"x","Message":"invalid api key"}}}'), 401, id="a wrapped error"
    ),
    pytest.param(Behaviour(status=200, body=b"<html>"), 502, id="a page"),
    pytest.param(
        Behaviour(headers=[("content-encoding", "gzip, gzip, gzip, gzip, gzip")], body=b"x"), 502, id="many encodings"
    ),
    pytest.param(Behaviour(headers=[("content-encoding", "gzip")], body=b"{}"), 502, id="not what it says"),
    pytest.param(Behaviour(close_without_answer=True), 502, id="no answer"),
    pytest.param(Behaviour(garbage=b"\0\1\2\r\n\r\n"), 502, id="garbage"),
]


@pytest.mark.parametrize("asked", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_a_sentence_in_place_of_an_answer_is_carried_along(
    relay: Live, upstream: Upstream, session: str, asked: dict[str, Any]
) -> None:
    said = f"Service temporarily unavailable, {KEY}. " + "Come back. " * 100
    upstream.script(COMPLETIONS, Behaviour(status=200, headers=[("content-type", "text/plain")], body=said.encode()))
    told = chat_error(post(relay, message(session, "lost", **asked)), 502)
    assert "Service temporarily unavailable" in told and KEY not in told and len(told) < 800
    unchanged(relay, upstream, session)


@pytest.mark.parametrize(("behaviour", "code"), EARLY)
def test_an_error_before_the_stream_is_a_plain_envelope(
    relay: Live, upstream: Upstream, session: str, behaviour: Behaviour, code: int
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    chat_error(post(relay, message(session, "lost", stream=True)), code)
    unchanged(relay, upstream, session)


@pytest.mark.parametrize("change", [{"content": ""}, {"stream": "yes"}, {"apiKey": 1}], ids=str)
def test_bad_input_is_a_plain_envelope(relay: Live, upstream: Upstream, change: dict[str, Any]) -> None:
    chat_error(post(relay, message("s", stream=True) | change), 400)
    assert not upstream.seen


INSIDE = b'data: {"error": {"message": "The server is overloaded", "type": "server_error"}}\n\n'


@pytest.mark.parametrize("ended", [True, False], ids=["then DONE", "then nothing"])
@pytest.mark.parametrize("before", [(), ("a", "b")], ids=["at once", "after two pieces"])
def test_an_error_inside_a_stream_is_its_last_event(
    relay: Live, upstream: Upstream, session: str, before: tuple[str, ...], ended: bool
) -> None:
    pieces = [*(chunk(text) for text in before), INSIDE, *([DONE] if ended else [])]
    upstream.script(COMPLETIONS, streaming(*pieces, pause=0.02))
    told = streamed(relay, message(session, "lost"))
    assert not told.broken
    assert "".join(told.deltas) == "".join(before)
    assert (told.envelope["code"], told.envelope["data"]) == (502, None)
    assert "overloaded" in told.envelope["message"]
    unchanged(relay, upstream, session)


WITHIN_200 = b'{"error": {"message": "invalid api key", "code": "invalid_api_key"}}'
NO_EVENTS = [
    pytest.param(WITHIN_200, 401, id="an error"),
    pytest.param(b"\n[" + WITHIN_200 + b"]\n", 401, id="an error in a list"),
    pytest.param(b'{"detail": "no such thing"}', 502, id="a detail"),
    pytest.param(b"error: " + WITHIN_200[10:-1] + b"\n\n", 401, id="an error's line"),
    pytest.param(b'error: {"code": 503, "message": "Loading model"}\n\n', 502, id="llama.cpp's"),
    pytest.param(b"{broken}", 502, id="broken"),
]


@pytest.mark.parametrize("behaviour", [streaming, lingering], ids=["closed", "open"])
@pytest.mark.parametrize(("body", "code"), NO_EVENTS)
def test_what_is_called_a_stream_and_is_none_is_told(
    relay: Live, upstream: Upstream, session: str, body: bytes, code: int, behaviour: Any
) -> None:
    upstream.script(COMPLETIONS, behaviour(body[:9], body[9:]))
    begun = time.monotonic()
    told = streamed(relay, message(session, "lost"))
    assert time.monotonic() - begun < OPEN / 2
    assert not told.broken and not told.deltas
    assert (told.envelope["code"], told.envelope["data"]) == (code, None)
    unchanged(relay, upstream, session)


@pytest.mark.parametrize(("body", "code"), NO_EVENTS)
def test_so_it_is_compressed(relay: Live, upstream: Upstream, session: str, body: bytes, code: int) -> None:
    upstream.script(COMPLETIONS, streaming(body[:9], body[9:], gzip=True))
    chat_error(post(relay, message(session, "lost", stream=True)), code)
    unchanged(relay, upstream, session)


@pytest.mark.parametrize("behaviour", [streaming, lingering], ids=["closed", "open"])
def test_a_whole_completion_that_is_called_a_stream_is_an_answer(
    relay: Live, upstream: Upstream, session: str, behaviour: Any
) -> None:
    body = completion("你好")
    upstream.script(COMPLETIONS, behaviour(body[:30], body[30:]))
    begun = time.monotonic()
    told = streamed(relay, message(session, "hi"))
    assert time.monotonic() - begun < OPEN / 2
    assert told.text() == "你好" == "".join(told.deltas)
    unchanged(relay, upstream, session, "hi", "你好")


LOST = [
    pytest.param(chunk("lost")[:-5] + b"\n\n", id="cut off"),
    pytest.param(chunk("lost").replace(b"data: {", b"data: "), id="its start is lost"),
    pytest.param(b'data: {"a": ' + b"[" * 900 + b"]" * 900 + b"}\n\n", id="nested too deep"),
]


@pytest.mark.parametrize("how", [{}, {"gzip": True}, {"asked": False}], ids=["retold", "compressed", "not asked for"])
@pytest.mark.parametrize("piece", LOST)
def test_an_event_that_cannot_be_read_is_told(
    relay: Live, upstream: Upstream, session: str, piece: bytes, how: dict[str, Any]
) -> None:
    asked = how.get("asked", True)
    upstream.script(COMPLETIONS, streaming(chunk("one "), piece, *HELLO, gzip="gzip" in how, pause=0.02))
    answer = post(relay, message(session, "lost", stream=asked))
    envelope = json.loads(answer.body.rstrip().splitlines()[-1].removeprefix(b"data: "))
    assert (envelope["code"], envelope["data"]) == (502, None)
    assert "could not be read" in envelope["message"]
    unchanged(relay, upstream, session)


WORDLESS = [
    pytest.param((chunk(None, refusal="I can't."), chunk(None, "stop"), DONE), 403, "I can't.", id="a refusal"),
    pytest.param((chunk(None, tool_calls=[{"index": 0}]), chunk(None, "tool_calls"), DONE), 502, "tool", id="a tool"),
    pytest.param((chunk(None, "content_filter"), DONE), 403, "filter", id="filtered"),
    pytest.param((chunk(None, "length"), DONE), 502, "max_tokens", id="no word before the limit"),
    pytest.param((chunk(""), chunk(None, "stop"), DONE), 502, "without any text", id="empty"),
    pytest.param((DONE,), 502, "without any text", id="DONE alone"),
]


@pytest.mark.parametrize(("pieces", "code", "words"), WORDLESS)
def test_a_stream_without_words_says_why(
    relay: Live, upstream: Upstream, session: str, pieces: tuple[bytes, ...], code: int, words: str
) -> None:
    upstream.script(COMPLETIONS, streaming(*pieces))
    told = streamed(relay, message(session, "lost"))
    assert (told.broken, told.deltas) == (False, [])
    assert (told.envelope["code"], told.envelope["data"]) == (code, None)
    assert words in told.envelope["message"]
    unchanged(relay, upstream, session)


BREAKS = [
    pytest.param(streaming(chunk("one"), chunk("two"), pause=0.05, break_after=len(chunk("one")) + 20), id="FIN"),
    pytest.param(
        streaming(chunk("one"), chunk("two"), pause=0.05, break_after=len(chunk("one")) + 20, reset=True), id="RST"
    ),
    pytest.param(streaming(chunk("one"), pause=0.05), id="a clean end in chunks"),
    pytest.param(streaming(chunk("one"), pause=0.05, framing="close"), id="a clean end by closing"),
    pytest.param(streaming(chunk("one"), pause=0.05, framing="length"), id="a clean end by length"),
    pytest.param(streaming(chunk("one"), chunk("two", "stop")[:-2], pause=0.05), id="an end inside the last event"),
    pytest.param(streaming(), id="no event at all"),
]


@pytest.mark.parametrize("behaviour", BREAKS)
def test_a_stream_that_breaks_is_a_break(relay: Live, upstream: Upstream, session: str, behaviour: Behaviour) -> None:
    succeeded(post(relay, message(session, "kept")))
    kept = history(relay, session)
    upstream.script(COMPLETIONS, behaviour)
    told = streamed(relay, message(session, "lost"))
    assert told.broken, "the client saw a proper end"
    assert told.deltas == (["one"] if behaviour.chunks else [])
    assert told.envelope is None
    unchanged(relay, upstream, session, *kept)


def test_a_client_that_leaves_a_stream_frees_session_and_upstream(
    relay: Live, upstream: Upstream, session: str
) -> None:
    endless = streaming(*(chunk(f"{number} ") for number in range(200)), pause=0.05)
    for reset in (False, True):
        upstream.clear()
        upstream.script(COMPLETIONS, endless)
        with Client(relay.port) as client:
            begin(client, message(session, "lost"))
            told = Told(client.head())
            next(client.pieces(told.reply))
            if reset:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        [seen] = completions(upstream)
        assert eventually(lambda seen=seen: seen.closed_at is not None, 2)
        assert history(relay, session) == []
    unchanged(relay, upstream, session)


def test_a_stream_has_its_time(tight: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, streaming(*(chunk("x") for _ in range(100)), pause=0.1))
    begun = time.monotonic()
    told = streamed(tight, message(session, "lost"))
    assert 0.8 < time.monotonic() - begun < 2.5
    assert told.broken and told.envelope is None and told.deltas
    [seen] = completions(upstream)
    assert eventually(lambda: seen.closed_at is not None, 1)
    assert history(tight, session) == []
    succeeded(post(tight, message(session, "next")))


HUGE = [
    pytest.param(streaming(*(chunk("x" * 1000) for _ in range(60)), pause=0.005), id="in many pieces"),
    pytest.param(streaming(chunk("x" * 60_000), chunk("y", "stop"), DONE, pause=0.05), id="in one event"),
    pytest.param(streaming(b"data: " + b"x" * 60_000, *[b"x" * 60_000] * 40, pause=0.01), id="an event without end"),
]


@pytest.mark.parametrize("behaviour", HUGE)
def test_a_stream_over_its_bound_is_cut_off(
    tight: Live, upstream: Upstream, session: str, behaviour: Behaviour
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    told = streamed(tight, message(session, "lost"))
    assert told.broken and told.envelope is None
    assert len("".join(told.deltas)) <= 20 << 10
    assert history(tight, session) == []
    succeeded(post(tight, message(session, "next")))


@pytest.mark.parametrize("stream", [True, False], ids=["asked for as a stream", "asked for whole"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_whole_answer_over_its_bound_is_told(
    tight: Live, upstream: Upstream, session: str, stream: bool, framing: Any
) -> None:
    upstream.script(COMPLETIONS, Behaviour(body=completion("x" * 3_000_000), framing=framing))
    chat_error(post(tight, message(session, "lost", stream=stream)), 502)
    assert history(tight, session) == []
    succeeded(post(tight, message(session, "next")))


# 3. Streams for other clients


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "close"])
def test_a_client_of_http_1_0_reads_to_the_end(
    relay: Live, upstream: Upstream, session: str, framing: Any, keep: bool
) -> None:
    upstream.script(COMPLETIONS, streaming(*HELLO, pause=0.02, framing=framing))
    told = streamed(relay, message(session, "hi"), [("Connection", "keep-alive")] if keep else [], version="1.0")
    assert not told.reply.chunked and told.reply.get("content-length") is None
    assert (told.reply.get("connection") or "close").lower() == "close"
    assert told.text() == "你好"
    unchanged(relay, upstream, session, "hi", "你好")


def test_a_client_of_http_2_reads_a_stream(tight: Live, pair: Pair, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, streaming(*HELLO, pause=0.05))
    with Http2(tight, pair) as client:
        body = json.dumps(message(session, "hi", stream=True)).encode()
        answer = client.ask("POST", "/chat", [("content-length", str(len(body)))], body)
    fields = dict(answer.fields)
    assert (answer.status, fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert "transfer-encoding" not in fields
    assert bytes(answer.body).decode() == (
        'data: {"delta": "你"}\n\ndata: {"delta": "好"}\n\n'
        'data: {"code": 200, "message": "执行成功", "data": "你好"}\n\n'
    )
    assert history(tight, session) == ["hi", "你好"]


@pytest.mark.parametrize("behaviour", LASTING)
def test_an_answer_ends_for_a_client_of_http_2_too(
    tight: Live, pair: Pair, upstream: Upstream, session: str, behaviour: Behaviour
) -> None:
    upstream.script(COMPLETIONS, behaviour)
    with Http2(tight, pair) as client:
        body = json.dumps(message(session, "hi", stream=True)).encode()
        for _ in range(2):
            answer = client.ask("POST", "/chat", [("content-length", str(len(body)))], body)
            assert answer.status == 200 and not answer.reset
            assert b'"code": 200' in answer.body
    assert len(history(tight, session)) == 4


def test_a_broken_stream_is_a_reset_in_http_2(tight: Live, pair: Pair, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, streaming(chunk("one"), pause=0.05))
    with Http2(tight, pair) as client:
        body = json.dumps(message(session, "lost", stream=True)).encode()
        broken = client.ask("POST", "/chat", [("content-length", str(len(body)))], body)
        assert broken.reset and b"code" not in broken.body
        whole = client.ask("POST", "/chat", [("content-length", str(len(body)))], body)
        assert whole.status == 200 and b'"code": 200' in whole.body
    assert len(history(tight, session)) == 2


# 4. Options of a message


def test_allowed_options_go_up_for_this_message_alone(relay: Live, upstream: Upstream, session: str) -> None:
    options = {
        "model": "gpt-4o",
        "system": "Be kind.",
        "temperature": 0.5,
        "top_p": 0,
        "max_tokens": 7,
        "stop": ["a", "b"],
        "seed": 1 << 70,
        "response_format": {"type": "json_object"},
    }
    succeeded(post(relay, message(session, "one", **options)))
    succeeded(post(relay, message(session, "two")))
    first, second = (seen.json() for seen in completions(upstream))
    assert first == {
        **{name: value for name, value in options.items() if name != "system"},
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one"}],
    }
    assert set(second) == {"model", "messages"}
    assert second["model"] == "gpt-3.5-turbo"
    assert [one["role"] for one in second["messages"]] == ["user", "assistant", "user"]


def test_other_fields_are_ignored(relay: Live, upstream: Upstream, session: str) -> None:
    other = {"n": 9, "tools": [1], "logit_bias": {}, "messages": [{}], "stream_options": {}, "user": "x", "role": None}
    succeeded(post(relay, message(session, **other)))
    assert set(completions(upstream)[0].json()) == {"model", "messages"}


def test_null_is_like_missing(relay: Live, upstream: Upstream, session: str) -> None:
    nothing = dict.fromkeys(["model", "system", "temperature", "stop", "stream", "reset"])
    succeeded(post(relay, message(session, **nothing)))
    assert set(completions(upstream)[0].json()) == {"model", "messages"}


def test_what_relay_yaml_does_not_allow_is_ignored(tight: Live, upstream: Upstream, session: str) -> None:
    told = {"model": "gpt-4o", "system": 7, "top_p": 1, "temperature": 0.9, "messages": [], "stream_options": {"x": 1}}
    succeeded(post(tight, message(session, "hi", **told)))
    asked = completions(upstream)[0].json()
    assert asked == {
        "model": "gpt-3.5-turbo",
        "temperature": 0.9,
        "user": "relay",
        "messages": [{"role": "system", "content": "你是一只猫。"}, {"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize("name", ["model", "system"])
@pytest.mark.parametrize("value", ["", 7, ["x"], "长" * 1001], ids=["empty", "a number", "an array", "too long"])
def test_an_option_that_is_wrong_is_named(relay: Live, upstream: Upstream, name: str, value: object) -> None:
    assert name in chat_error(post(relay, message("s", **{name: value})), 400)
    assert not upstream.seen


def test_a_model_that_is_not_there_is_told_and_leaves_the_session(
    relay: Live, upstream: Upstream, session: str
) -> None:
    told = chat_error(post(relay, message(session, "lost", model="no-such-model")), 404)
    assert "no-such-model" in told
    unchanged(relay, upstream, session)


# 5. Reset


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_reset_starts_over(relay: Live, upstream: Upstream, session: str, stream: bool) -> None:
    succeeded(post(relay, message(session, "我叫小明")))
    if stream:
        streamed(relay, message(session, "我叫什么名字？", reset=True)).text()
    else:
        succeeded(post(relay, message(session, "我叫什么名字？", reset=True)))
    assert sent(completions(upstream)[-1]) == ["我叫什么名字？"]
    assert len(history(relay, session)) == 2


def test_a_reset_that_fails_forgets_nothing(relay: Live, upstream: Upstream, session: str) -> None:
    succeeded(post(relay, message(session, "kept")))
    kept = history(relay, session)
    upstream.script(COMPLETIONS, Behaviour(status=500, body=b""), streaming(chunk("half")))
    chat_error(post(relay, message(session, "lost", reset=True)), 502)
    assert streamed(relay, message(session, "lost", reset=True)).broken
    unchanged(relay, upstream, session, *kept)


# 6. Sessions shown and forgotten

NAMES = ["plain", "a/b", "/", "//", "..", "a/../b", "会话 一", "100%", "%2F", "a+b", "a?b=c#d", "😀", "\n\0", "a;b"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_session_is_shown_and_forgotten(relay: Live, upstream: Upstream, name: str) -> None:
    succeeded(post(relay, message(name, "我叫小明")))
    assert history(relay, name) == ["我叫小明", "你好，小明！我记住了。"]
    answer = ask_session(relay, "DELETE", name)
    assert answer.body.decode() == '{"code": 200, "message": "执行成功", "data": null}'
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert history(relay, name) == []
    succeeded(post(relay, message(name, "我叫什么名字？")))
    assert sent(completions(upstream)[-1]) == ["我叫什么名字？"]


def test_the_answer_is_exact(relay: Live, upstream: Upstream) -> None:
    succeeded(post(relay, message("exact/1", "你是谁？")))
    expected = (
        '{"code": 200, "message": "执行成功", "data": [{"role": "user", "content": "你是谁？"}, '
        '{"role": "assistant", "content": "我是一名人工智能助手。"}]}'
    )
    assert ask_session(relay, "GET", "exact/1").body == expected.encode()
    with Client(relay.port) as client:
        auth = ("Authorization", f"Bearer {KEY}")
        assert client.ask("GET", "/chat/exact%2F1?x=/y", [auth])[1] == expected.encode()
        assert client.ask("GET", "/pro/chat/completions/exact%2f1", [auth])[1] == expected.encode()
    assert len(upstream.seen) == 1, "nothing of it goes upstream"


@pytest.mark.parametrize(("target", "status"), [("/chat/head", 200), ("/chat", 405), ("/chat/%FF", 200)])
def test_an_answer_to_head_has_no_body(relay: Live, target: str, status: int) -> None:
    with Client(relay.port) as client:
        auth = ("Authorization", f"Bearer {KEY}")
        for _ in range(2):  # the connection stays in step
            assert client.ask("HEAD", target, [auth])[0].status == status


def test_another_key_sees_and_forgets_nothing(relay: Live) -> None:
    succeeded(post(relay, message("mine", "secret")))
    other = "sk-test-another-0123456789"
    assert history(relay, "mine", other) == []
    assert ask_session(relay, "DELETE", "mine", other).json()["code"] == 200
    assert history(relay, "mine")[0] == "secret"


def test_what_was_never_said_is_an_empty_session(relay: Live) -> None:
    assert history(relay, "never") == []
    assert ask_session(relay, "DELETE", "never").json() == {"code": 200, "message": "执行成功", "data": None}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic eA==", KEY], ids=str)
def test_without_a_bearer_it_is_401(relay: Live, method: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    assert "Bearer" in chat_error(relay.ask(method, f"/chat/s?apiKey={KEY}", headers=headers), 401)


BAD_NAMES = ["%FF", "%E4%BD", "s" * 65, "%E4%BD%A0" * 65]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=["no UTF-8", "cut UTF-8", "too long", "too long in Chinese"])
def test_a_name_that_is_wrong_is_400(relay: Live, method: str, name: str) -> None:
    answer = relay.ask(method, f"/chat/{name}", headers={"Authorization": f"Bearer {KEY}"})
    assert "sessionId" in chat_error(answer, 400)


@pytest.mark.parametrize("key", ["sk-" + "k" * 300, "sk-a b", "sk-\x7f"], ids=["too long", "a blank", "DEL"])
def test_a_key_that_is_none_is_400(relay: Live, key: str) -> None:
    assert "apiKey" in chat_error(ask_session(relay, "GET", "s", key), 400)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS"])
def test_another_method_is_405(relay: Live, upstream: Upstream, method: str) -> None:
    answer = relay.ask(method, "/chat/s", b"x" * 1000, {"Authorization": f"Bearer {KEY}"})
    chat_error(answer, 405, status=405)
    assert answer.headers["allow"] == "GET, DELETE"
    assert not upstream.seen


def test_forgetting_waits_for_the_message_under_way(
    relay: Live, upstream: Upstream, session: str, pool: ThreadPoolExecutor
) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.5))
    slow = pool.submit(post, relay, message(session, "slow"))
    seen = at_work(upstream)
    assert history(relay, session) == [], "reading waits for nobody"
    answer = ask_session(relay, "DELETE", session)
    assert answer.json()["code"] == 200
    assert seen.answered_at is not None
    succeeded(slow.result())
    assert history(relay, session) == []


def test_forgetting_may_wait_no_more_than_messages(
    tight: Live, upstream: Upstream, session: str, pool: ThreadPoolExecutor
) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.5))
    slow = pool.submit(post, tight, message(session, "slow"))
    at_work(upstream)
    waits = pool.submit(post, tight, message(session, "waits"))
    time.sleep(0.15)
    chat_error(ask_session(tight, "DELETE", session), 409)
    succeeded(slow.result())
    succeeded(waits.result())


def test_who_leaves_while_forgetting_forgets_nothing(
    relay: Live, upstream: Upstream, session: str, pool: ThreadPoolExecutor
) -> None:
    upstream.script(COMPLETIONS, Behaviour(delay_headers=0.5))
    slow = pool.submit(post, relay, message(session, "slow"))
    at_work(upstream)
    with Client(relay.port) as client:
        name = session.replace(" ", "%20")
        client.send(f"DELETE /chat/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        time.sleep(0.15)
    succeeded(slow.result())
    assert history(relay, session)[0] == "slow"
