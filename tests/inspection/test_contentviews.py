import gzip
import itertools
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mitmproxy import contentviews, flow, http
from mitmproxy.addons import dumper
from mitmproxy.contentviews import ContentviewResult, Metadata
from mitmproxy.test import taddons, tflow, tutils
from mitmproxy.websocket import WebSocketData, WebSocketMessage
from wsproto.frame_protocol import Opcode

from addons.cli.fake_openai import chat as talk
from addons.exchange import secrets_of
from addons.inspection import contentviews as views
from tests.support import dialects

ASKED = [{"role": "user", "content": "你是谁?"}]
STREAM = b"".join(talk.completion_events("gpt-4o-mini", ASKED, include_usage=True))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(contentviews.registry)
    views.register()
    with taddons.context():
        yield
    views.unregister()
    assert dict(contentviews.registry) == before


def exchange(
    request: object = None,
    answer: bytes = b"",
    content_type: str = "application/json",
    path: str = "/v1/chat/completions",
    **headers: str,
) -> http.HTTPFlow:
    body = json.dumps(request).encode() if request is not None else b""
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asked = tutils.treq(path=path.encode(), content=body, headers=http.Headers(content_type="application/json"))
    answered = tutils.tresp(content=answer, headers=http.Headers([(b"content-type", content_type.encode()), *extra]))
    return tflow.tflow(req=asked, resp=answered)


def shown(message: http.Message | None, of: flow.Flow, view: str = "auto") -> ContentviewResult:
    assert message is not None
    return contentviews.prettify_message(message, of, view)


def test_a_streamed_answer_wins_over_the_raw_view() -> None:
    one = exchange(
        {"model": "gpt-4o-mini", "messages": ASKED, "stream": True}, STREAM, "text/event-stream; charset=utf-8"
    )
    one.metadata |= {"relay.first_byte_ms": 310.4, "relay.duration_ms": 2400, "relay.events": 20}
    asked, answered = shown(one.request, one), shown(one.response, one)
    assert (asked.view_name, asked.syntax_highlight) == ("OpenAI", "yaml")
    assert asked.text.endswith("user: |\n  你是谁?")
    assert answered.view_name == "OpenAI"
    assert "timing: 0.31 s to the first byte · 2.4 s in all · 20 events" in answered.text
    assert answered.text.endswith("assistant: |\n  我是一名人工智能助手。")


def test_the_raw_body_and_the_events_stay_one_click_away() -> None:
    one = exchange({}, STREAM, "text/event-stream")
    assert shown(one.response, one, "raw").text == STREAM.decode()
    assert shown(one.response, one, "events").text.startswith("1 message: |\n")
    assert {"openai", "events"} <= set(contentviews.registry.available_views())


def test_a_message_to_chat_and_its_envelope() -> None:
    messages = [{"role": "user", "content": "我叫小明"}, {"role": "assistant", "content": "你好"}, *ASKED]
    envelope = json.dumps({"code": 200, "message": "执行成功", "data": "我是…"}, ensure_ascii=False).encode()
    one = exchange({"model": "gpt-3.5-turbo", "messages": messages}, envelope)
    one.metadata["relay.chat"] = {"session": "4f1c2a9e", "content": "你是谁?", "turns": 1}
    asked, answered = shown(one.request, one), shown(one.response, one)
    assert "# --- sent by the app\n\nuser: |\n  你是谁?\n" in asked.text
    assert "# --- added by relay from the session: 1 earlier turn\n\nuser: |\n  我叫小明\n" in asked.text
    assert "session: 4f1c2a9e\ncode: 200\nmessage: 执行成功\n" in answered.text


def test_metadata_of_other_types_is_ignored() -> None:
    one = exchange({"messages": ASKED}, STREAM, "text/event-stream")
    for name in ("first_byte_ms", "duration_ms", "events", "chat", "usage", "answer_bytes", "upload_bytes"):
        one.metadata[f"relay.{name}"] = ["x"]
    one.metadata["relay.duration_ms"] = float("nan")
    assert "timing: " in shown(one.response, one).text
    assert shown(one.request, one).view_name == "OpenAI"
    one.metadata["relay.chat"] = {"session": None, "content": 1, "turns": "x"}
    assert "sent by the app" in shown(one.request, one).text


def test_a_cut_record_says_so_even_where_it_was_compressed() -> None:
    whole = gzip.compress(STREAM)
    one = exchange({}, b"", "text/event-stream", content_encoding="gzip")
    assert one.response is not None
    one.response.raw_content = whole[: len(whole) * 3 // 4]
    one.metadata["relay.answer_bytes"] = len(whole)
    text = shown(one.response, one).text
    assert text.startswith("# cut in the record: the body had ")
    assert "assistant: |\n  我" in text


def test_a_broken_exchange_says_so() -> None:
    one = exchange({}, STREAM[: len(STREAM) // 2], "text/event-stream")
    one.error = flow.Error("peer closed connection")
    assert shown(one.response, one).text.startswith(
        "# broke off: peer closed connection\n# this stream broke off after"
    )


def test_relays_own_answers_are_known_by_their_id() -> None:
    envelope = b'{"code": 401, "message": "apiKey", "data": null}'
    one = exchange(None, envelope, path="/pro/chat/completions", x_relay_request_id="req_1")
    assert "code: 401" in shown(one.response, one).text
    other = exchange(None, envelope, path="/elsewhere")
    assert shown(other.response, other).view_name == "JSON"


@pytest.mark.parametrize(
    ("body", "content_type", "view"),
    [
        (b"<html><body>502</body></html>", "text/html", "XML/HTML"),
        (b'{"a": 1}', "application/json", "JSON"),
        (b"event: ping\ndata: x\n\n", "text/event-stream", "Events"),
    ],
)
def test_others_keep_what_is_theirs(body: bytes, content_type: str, view: str) -> None:
    one = exchange(None, body, content_type, path="/elsewhere")
    assert shown(one.response, one).view_name == view


def test_asked_for_by_name_it_shows_anything() -> None:
    one = exchange(None, b"hello \xff", "text/plain", path="/elsewhere")
    result = shown(one.response, one, "openai")
    assert result.syntax_highlight == "yaml"
    assert result.text.startswith("# shown as it is: not a body of an API that relay knows\n\nhello")


def test_registering_again_leaves_one_of_each() -> None:
    names = list(contentviews.registry)
    views.register()
    assert sorted(contentviews.registry) == sorted(names)
    views.unregister()
    views.unregister()
    assert "openai" not in contentviews.registry
    views.register()


def test_unregistering_leaves_strangers_alone() -> None:
    class OpenAIContentview(contentviews.Contentview):
        def prettify(self, data: bytes, metadata: Metadata) -> str:
            return ""

    contentviews.add(OpenAIContentview())
    views.unregister()
    assert type(contentviews.registry["openai"]) is OpenAIContentview
    del contentviews.registry._by_name["openai"]


def test_flow_detail_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    addon = dumper.Dumper()
    with taddons.context(addon) as context:
        context.configure(addon, flow_detail=4)
        addon.echo_flow(exchange({"model": "gpt-4o-mini", "messages": ASKED}, STREAM, "text/event-stream"))
    out = capsys.readouterr().out
    assert "你是谁?" in out
    assert "我是一名人工智能助手。" in out


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"{", b"data: {", STREAM[:700], b"\x1f\x8b\x08"]),
    st.sampled_from(["application/json", "text/event-stream", "multipart/form-data", "", "audio/mpeg"]),
    st.sampled_from(["", "gzip", "br", "zstd", "nonsense"]),
    st.sampled_from(["/v1/chat/completions", "/v1/responses", "/chat", "/x?apiKey=1", "/v1/files"]),
    st.sampled_from(["auto", "openai", "events"]),
)
def test_nothing_raises(body: bytes, start: bytes, kind: str, encoding: str, path: str, view: str) -> None:
    one = exchange(None, path=path, content_type=kind)
    assert one.response is not None
    for message in (one.request, one.response):
        message.headers["content-type"] = kind
        message.headers["content-encoding"] = encoding
        message.raw_content = start + body
        result = shown(message, one, view)
        assert "failed to parse as OpenAI" not in result.description
        assert "failed to parse as Events" not in result.description
        if view != "auto":
            assert (result.view_name or "").lower() == view
            assert "Couldn't parse" not in result.text
    metadata = Metadata()
    for one_view in views.VIEWS:
        one_view().prettify(body, metadata)
        assert isinstance(one_view().render_priority(body, metadata), float | int)


def socket(events: list[tuple[bool, object]], path: str = "/v1/realtime?model=m") -> http.HTTPFlow:
    """A websocket in which this was said; True is the client."""
    one = exchange(None, b"", path=path)
    messages = [WebSocketMessage(Opcode.TEXT, each, json.dumps(event).encode(), 0.0) for each, event in events]
    one.websocket = WebSocketData(messages)
    return one


def messages_of(one: http.HTTPFlow) -> list[ContentviewResult]:
    assert one.websocket is not None
    return [contentviews.prettify_message(each, one) for each in one.websocket.messages]


def test_a_realtime_socket_shows_its_conversation_and_each_event() -> None:
    events = list(dialects.realtime_events())
    results = messages_of(socket([*events]))
    assert {each.view_name for each in results} == {"OpenAI"}
    first, *others = (each.text for each in results)
    assert first.startswith("# the conversation so far") and "There are nine. [audio: 2.0 s, 93.8 kB]" in first
    assert "--- the first message in the record\n# session.update: " in first
    assert [text.count("\n") for text in others] == [0] * len(others)
    assert not any(dialects.SOUND[:80] in text for text in (first, *others))


def test_a_socket_of_responses_shows_requests_and_answers_whole() -> None:
    asked = {"type": "response.create", **dialects.responses_request()}
    events: list[tuple[bool, object]] = [(True, asked), *((False, each) for each in dialects.responses_events())]
    first, *others, last = (each.text for each in messages_of(socket(events, "/v1/responses")))
    assert first.startswith("# response.create\nmodel: gpt-5-codex\n") and "And count them: ls src" in first
    assert last.startswith("# response.completed\nmodel: gpt-5-codex\nstatus: completed\n") and "I count them." in last
    assert [text.count("\n") for text in others] == [0] * len(others)


def test_other_sockets_keep_what_is_theirs() -> None:
    [result] = messages_of(socket([(True, {"type": "x"})], "/elsewhere"))
    assert result.view_name != "OpenAI"
    [result] = messages_of(socket([(True, "no object")]))
    assert result.view_name != "OpenAI"


def test_a_key_in_pieces_is_hidden_before_its_socket_ends() -> None:
    key = "0a1bQZ7xMARKx7QZ2c3d4e5f"
    pieces = [key[at : at + 3] for at in range(0, len(key), 3)]
    one = socket([(False, {"type": "response.output_text.delta", "delta": piece}) for piece in pieces])
    assert key in messages_of(one)[0].text
    secrets_of(one, b"secret").add(key.encode())
    assert key not in messages_of(one)[0].text and "assistant says: |\n  0a1***" in messages_of(one)[0].text


def test_what_the_previous_request_had_stands_behind_what_is_new() -> None:
    one = exchange(dialects.messages_request(), path=dialects.MESSAGES)
    one.metadata["relay.known"] = 2
    text = shown(one.request, one).text
    assert text.index("# --- new since the previous request") < text.index("And count them") < text.index("tools: 3")
    one.metadata["relay.known"] = "x"
    assert "# --- new" not in shown(one.request, one).text


def test_a_busy_machine_s_clock_takes_nothing_from_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0, 1000)
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    monkeypatch.setattr("time.time", lambda: next(ticks))
    data = dialects.sse(dialects.messages_events("x" * 20_000), named=True)
    one = exchange(dialects.messages_request(), data, "text/event-stream", path=dialects.MESSAGES)
    text = shown(one.response, one).text
    assert not text.startswith("#") and "usage: 18,259 in" in text and "x" * 20_000 in text
