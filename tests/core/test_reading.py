import base64
import json
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.cli.fake_openai import chat as talk
from addons.cli.fake_openai.api import PNG
from addons.core.reading import answer, events, form, responses
from addons.core.reading.body import MAX_READ, About, ChatFacts, Timing, UnreadableBody
from addons.core.reading.page import MAX_SHOWN, Page, seconds, size
from addons.core.reading.reader import Writer, read, writer_for

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "你是谁?"}]


def of(value: object) -> bytes:
    return json.dumps(value).encode()


def sent(value: object, path: str = CHAT, **about: object) -> str:
    return read(of(value), About(request=True, path=path, **about))  # type: ignore[arg-type]


def got(value: object, path: str = CHAT, **about: object) -> str:
    return read(of(value), About(path=path, **about))  # type: ignore[arg-type]


def streamed(pieces: list[bytes], path: str = CHAT, **about: object) -> str:
    return read(b"".join(pieces), About(path=path, content_type="text/event-stream", **about))  # type: ignore[arg-type]


def test_a_chat_request_is_a_conversation() -> None:
    tool = {"name": "weather", "description": "天气预报", "parameters": {"properties": {"city": {}, "unit": {}}}}
    text = sent(
        {
            "model": "gpt-4o-mini",
            "temperature": 0.2,
            "stream": True,
            "tools": [{"type": "function", "function": tool}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "你好\n第二行", "name": "bob"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "call_1", "function": {"name": "weather", "arguments": '{"city":"北京"}'}}],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
            ],
        }
    )
    assert text == (
        "model: gpt-4o-mini\n"
        "temperature: 0.2\n"
        "stream: true\n"
        "tools: 1 (130 bytes)\n"
        "  - weather(city, unit): 128 bytes · 天气预报\n"
        "\n"
        "system: |\n  Be brief.\n"
        "\n"
        "user (bob): |\n  你好\n  第二行\n"
        "\n"
        'assistant calls weather (call_1): |\n  {\n    "city": "北京"\n  }\n'
        "\n"
        "tool result of call_1: |\n  晴"
    )


def test_pictures_sounds_and_files_are_placeholders() -> None:
    png = "data:image/png;base64," + encoded(PNG)
    text = sent(
        {
            "model": "gpt-4o",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "看图"},
                        {"type": "image_url", "image_url": {"url": png, "detail": "low"}},
                        {"type": "image_url", "image_url": {"url": "https://pictures.invalid/a.png"}},
                        {"type": "input_audio", "input_audio": {"data": "AAAA" * 100, "format": "wav"}},
                        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:;base64,AAAA"}},
                    ],
                }
            ],
        }
    )
    assert "[image: image/png, 70 bytes, 1×1, detail low]" in text
    assert "[image: https://pictures.invalid/a.png]" in text
    assert "[audio: wav, 300 bytes]" in text
    assert "[file: a.pdf, 3 bytes]" in text


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_stream_is_the_text_it_amounts_to() -> None:
    pieces = list(talk.completion_events("gpt-4o-mini", ASKED, include_usage=True))
    text = streamed(pieces, timing=Timing(310, 2310, len(pieces) - 1))
    events_seen = len(pieces) - 1
    assert text == (
        "model: gpt-4o-mini\n"
        "finish_reason: stop\n"
        "usage: 10 in · 9 out · 19 tokens in all\n"
        f"timing: 0.31 s to the first byte · 2.3 s in all · {events_seen} events"
        f" · {events_seen / 2:.3g} events/s · 4.5 tokens/s\n"
        "\n"
        "assistant: |\n  我是一名人工智能助手。"
    )


def test_what_is_not_known_of_the_timing_is_not_shown() -> None:
    text = streamed(list(talk.completion_events("m", ASKED, include_usage=False)))
    assert "usage" not in text
    assert re.search(r"^timing: \d+ events$", text, re.MULTILINE)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_broken_stream_shows_what_there_is_and_says_so(cut: int) -> None:
    whole = b"".join(talk.completion_events("m", ASKED, include_usage=False))
    end = whole.index("人工".encode()) + cut
    text = streamed([whole[:end]], failure="server closed connection")
    assert "# broke off: server closed connection" in text
    assert "this stream broke off after" in text
    assert "assistant: |\n  我是一名" in text


def test_the_remainder_of_an_unfinished_event_is_shown() -> None:
    text = streamed([b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"del'])
    assert 'its last event is unfinished: {"choices":[{"del' in text
    assert "assistant: |\n  a" in text


def test_a_model_that_finished_without_an_end_mark_did_not_break() -> None:
    pieces = list(talk.completion_events("m", ASKED, include_usage=False))[:-1]
    assert streamed(pieces).startswith("# no end mark came ([DONE]), though the model had finished")


def test_a_record_that_was_cut_did_not_break_and_says_what_was_left_out() -> None:
    whole = b"".join(talk.completion_events("m", ASKED, include_usage=False))
    text = streamed([whole[: len(whole) // 2]], real_size=5 << 20)
    assert text.startswith("# cut in the record: the body had 5 MB, only its start is kept (inspect.max_body)")
    assert "broke" not in text


def test_a_whole_answer_with_tools_thoughts_and_cached_tokens() -> None:
    message = {"role": "assistant", "content": "好", "reasoning_content": "想", "refusal": None}
    message_2 = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "not json"}}], "content": None}
    usage = {"prompt_tokens": 1200, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1024}}
    usage["completion_tokens_details"] = {"reasoning_tokens": 2}
    choices = [
        {"index": 0, "message": message, "finish_reason": "stop"},
        {"index": 1, "message": message_2, "finish_reason": "tool_calls"},
    ]
    text = got({"model": "m", "choices": choices, "usage": usage}, timing=Timing(None, 1500))
    assert text == (
        "model: m\n"
        "finish_reason: stop, tool_calls\n"
        "usage: 1,200 in (1,024 cached) · 3 out (2 reasoning) · 1,203 tokens in all\n"
        "timing: 1.5 s in all · 2 tokens/s\n"
        "\n# --- choice 0\n"
        "\nassistant thinks: |\n  想\n"
        "\nassistant: |\n  好\n"
        "\n# --- choice 1\n"
        "\nassistant calls f (c): |\n  not json"
    )


def test_a_streamed_tool_call_is_put_together() -> None:
    deltas = [
        {"tool_calls": [{"index": 0, "id": "call_9", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"北京"}'}}]},
    ]
    text = streamed(
        [*(talk.event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas), b"data: [DONE]\n\n"]
    )
    assert 'assistant calls weather (call_9): |\n  {\n    "city": "北京"\n  }' in text


def test_a_message_to_chat_stands_apart_from_what_relay_added() -> None:
    messages = [
        {"role": "system", "content": "你是助手。"},
        {"role": "user", "content": "我叫小明"},
        {"role": "assistant", "content": "你好,小明!"},
        {"role": "user", "content": "我叫什么?"},
    ]
    text = sent(
        {"temperature": 0.2, "model": "gpt-3.5-turbo", "messages": messages},
        chat=ChatFacts("4f1c2a9e", "我叫什么?", 1),
    )
    assert text == (
        "# a message to /chat, as the completion request that relay made of it\n"
        "session: 4f1c2a9e\n"
        "model: gpt-3.5-turbo\n"
        "temperature: 0.2\n"
        "\n# --- sent by the app\n"
        "\nuser: |\n  我叫什么?\n"
        "\n# --- added by relay: chat.system of relay.yaml\n"
        "\nsystem: |\n  你是助手。\n"
        "\n# --- added by relay from the session: 1 earlier turn\n"
        "\nuser: |\n  我叫小明\n"
        "\nassistant: |\n  你好,小明!"
    )
    first = sent({"model": "m", "messages": messages[3:]}, chat=ChatFacts("4f", None, 0))
    assert "sent by the app\n\nuser: |\n  我叫什么?" in first
    assert first.endswith("from the session: nothing, this is its first message")


def test_envelopes() -> None:
    chat = {"code": 200, "message": "执行成功", "data": "我是一名人工智能助手。"}
    text = got(chat, chat=ChatFacts("4f1c2a9e"), usage={"prompt_tokens": 12, "completion_tokens": 8})
    assert "session: 4f1c2a9e\ncode: 200\nmessage: 执行成功\nusage: 12 in · 8 out · 20 tokens in all\n" in text
    assert text.endswith("assistant: |\n  我是一名人工智能助手。")
    refused = got({"code": 400, "message": "缺少 content，应为非空字符串。", "data": None}, "/chat", own=True)
    assert refused.endswith("code: 400\nmessage: 缺少 content，应为非空字符串。")
    data = {"total": 18.00, "balance": 17.92, "used": 0.08}
    balance = got({"code": 200, "message": "执行成功", "data": data}, "/pro/balance", own=True)
    assert balance.endswith("total: $18.00\nused: $0.08\nbalance: $17.92")
    with pytest.raises(UnreadableBody):
        got(chat, "/somebody/else")


def test_a_refused_message_shows_no_key() -> None:
    text = sent({"apiKey": "sk-***", "sessionId": "s", "content": "你"}, "/chat")
    assert text == "# a message to /chat\nsession: s\n\nuser: |\n  你"


def test_responses_whole_streamed_and_broken() -> None:
    asked = sent(
        {
            "model": "m",
            "instructions": "简短",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "你好"}]},
                {"type": "function_call", "name": "f", "call_id": "c1", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "晴"},
            ],
        },
        "/v1/responses",
    )
    assert (
        "instructions: |\n  简短\n\nuser: |\n  你好\n\nassistant calls f (c1): |\n  {}\n\ntool result of c1: |\n  晴"
        in asked
    )
    whole = got(talk.response("m", ASKED), "/v1/responses")
    assert "status: completed\nusage: 10 in · 9 out · 19 tokens in all\n" in whole
    pieces = list(talk.response_events("m", ASKED))
    assert "assistant: |\n  我是一名人工智能助手。" in whole
    assert "assistant: |\n  我是一名人工智能助手。" in streamed(pieces, "/v1/responses")
    broken = streamed(pieces[:8], "/v1/responses")
    assert "this stream broke off after 8 events" in broken
    assert "assistant: |\n  我是一名人工智能" in broken


def test_embeddings() -> None:
    asked = sent({"model": "e", "input": ["你好", [1, 2, 3]]}, "/v1/embeddings")
    assert asked == "model: e\ninput: 2 texts\n\ntext 0: |\n  你好\n\ntext 1: |\n  [3 tokens]"
    vectors = [{"index": 0, "embedding": [0.5] * 1536}, {"index": 1, "embedding": "AAAA" * 512}]
    answered = got({"model": "e", "data": vectors, "usage": {"prompt_tokens": 2, "total_tokens": 2}}, "/v1/embeddings")
    assert "embeddings: 2\ndimensions: 384, 1,536\nusage: 2 in · 2 tokens in all\n" in answered


def test_images() -> None:
    assert sent({"model": "i", "prompt": "猫"}, "/v1/images/generations") == "model: i\n\nprompt: |\n  猫"
    data = [{"b64_json": encoded(PNG), "revised_prompt": "一只猫"}, {"url": "https://i.invalid/x.png"}]
    text = got({"created": 1, "data": data}, "/v1/images/generations")
    assert "image: |\n  [image: in the answer, 70 bytes, 1×1]\n  revised prompt: 一只猫" in text
    assert "[image: https://i.invalid/x.png]" in text


def test_audio() -> None:
    assert sent({"model": "t", "voice": "v", "input": "说"}, "/v1/audio/speech").endswith("voice: v\n\ninput: |\n  说")
    sound = read(b"ID3" * 1000, About(path="/v1/audio/speech", content_type="audio/mpeg", timing=Timing(90, 200)))
    assert sound == "type: audio/mpeg\nsize: 2.9 kB\ntiming: 90 ms to the first byte · 0.20 s in all"
    assert got({"text": "听到", "duration": 2.5}, "/v1/audio/transcriptions") == "duration: 2.5\n\ntext: |\n  听到"
    heard = [talk.event({"type": "transcript.text.delta", "delta": "听"})]
    assert "text: |\n  听" in streamed(heard, "/v1/audio/transcriptions")


def test_forms() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + PNG
    )
    about = About(request=True, path="/v1/audio/transcriptions", content_type='multipart/form-data; boundary="B"')
    expected = "model: |\n  whisper-1\n\nfile: |\n  [file: a.png, image/png, 70 bytes, 1×1]"
    assert read(body + b"\r\n--B--\r\n", about) == expected
    assert "# this form ends too early" in read(body, about)
    assert "at least 70 bytes" in read(body, about)


def test_errors() -> None:
    error = {"message": "没钱了", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
    text = got({"error": error}, "/v1/whatever", status=429)
    assert text == "status: 429\nerror type: insufficient_quota\nerror code: insufficient_quota\n\nerror: |\n  没钱了"
    assert "error: |\n  no" in got({"error": "no"}, status=400)
    in_stream = streamed([talk.event({"error": {"message": "overloaded"}})])
    assert "error: |\n  overloaded" in in_stream
    # An error that calls itself an event stream is one all the same.
    assert "没钱了" in got({"error": error}, content_type="text/event-stream")


def test_billing() -> None:
    assert got({"hard_limit_usd": 18.0}, "/dashboard/billing/subscription").startswith("granted: $18.00\n")
    days = [{"timestamp": 1, "line_items": [{"cost": 8.0}]}, {"timestamp": 2, "line_items": []}]
    text = got({"total_usage": 8.0, "daily_costs": days}, "/v1/dashboard/billing/usage")
    assert "used: $0.08\n" in text
    assert "  - 1: $0.0800" in text


def test_other_event_streams_show_their_events() -> None:
    text = streamed([b'id: 7\nevent: thread.run\ndata: {"a":"\xe4\xbd\xa0"}\n\ndata: [DONE]\n\n'], "/v1/threads/runs")
    assert '1 thread.run (id 7): |\n  {\n    "a": "你"\n  }\n\n# [DONE]' in text


@pytest.mark.parametrize(
    ("data", "about"),
    [
        (b"", About(path=CHAT)),
        (b"<html>502</html>", About(path=CHAT, status=502)),
        (b'{"sessionId": 1, "content": 2}', About(request=True, path="/api/other")),
        (b'{"error": "x"}', About(path="/other")),
        (b'{"a": 1}', About(path="/forms/responses")),
        (b'{"role": "user", "content": "x"}', About(request=True, path="/v1/threads/t/messages")),
        (b"GIF89a", About(path="/a.gif", content_type="image/gif")),
    ],
    ids=["nothing", "a page", "another session", "another error", "another path", "an assistant's", "a picture"],
)
def test_what_is_not_ours_is_left_to_others(data: bytes, about: About) -> None:
    assert writer_for(data, about) is None


def test_other_hosts_and_prefixes_are_known_by_path_or_shape() -> None:
    request = of({"model": "m", "messages": [{"role": "user", "content": "x"}]})
    for path in (
        "/chat/completions",
        "/api/paas/v4/chat/completions",
        "/openai/deployments/x/chat/completions",
        "/any",
    ):
        assert writer_for(request, About(request=True, path=path)) is not None, path
    assert writer_for(of(talk.completion("m", ASKED)), About(path="/any")) is answer.whole


def test_reading_stops_at_its_bound_and_says_so() -> None:
    messages = [{"role": "user", "content": f"{number} " + "长" * 1000} for number in range(2000)]
    data = json.dumps({"model": "m", "messages": messages}, ensure_ascii=False).encode()
    text = read(data, About(request=True, path=CHAT))
    assert text.startswith("# a view reads 1 MB: ")
    assert "more left out" in text.partition("\n")[0]
    assert "user: |\n  300 长" in text
    assert len(text) <= MAX_SHOWN * 1.1


def test_reading_stops_when_time_is_up_and_says_so() -> None:
    pieces = list(talk.completion_events("m", [{"role": "user", "content": "长" * 9000}], include_usage=False))
    about = About(path=CHAT, content_type="text/event-stream")
    text = read(b"".join(pieces), about, lambda: True)
    assert text.startswith("# more than a view reads: 827.9 kB of this stream, before its end, left out")
    assert "finish_reason: stop" in text and text.endswith("在此之前我看到 0 条消息。")
    assert "assistant: |\n  你说的是「长长" in text
    messages = [{"role": "user", "content": "x"}] * 109
    text = read(of({"model": "m", "messages": messages}), About(request=True, path=CHAT), lambda: True)
    assert text.startswith("# more than a view reads: the last 9 messages left out")


def test_lone_surrogates_do_not_reach_the_page() -> None:
    text = sent({"model": "m", "messages": [{"role": "user", "content": "\ud83d"}]})
    assert text.encode().endswith("\ufffd".encode())


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1,023 bytes"), (1024, "1 kB"), (12595, "12.3 kB"), (1 << 20, "1 MB")],
)
def test_sizes(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0.2, "0 ms"),
        (42, "42 ms"),
        (310, "0.31 s"),
        (999, "1.0 s"),
        (2400, "2.4 s"),
        (38_000, "38 s"),
        (185_000, "3 min 5 s"),
    ],
)
def test_durations(milliseconds: float, shown: str) -> None:
    assert seconds(milliseconds) == shown


def test_a_page_is_bounded() -> None:
    page = Page(limit=100)
    page.block("user", "x" * 1000)
    page.field("a", "b" * 50)
    assert len(page.text()) < 300
    assert page.text().startswith("# too long to show: ")


PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/images/edits", "/v1/audio/speech", "/chat"]
PATHS += ["/v1/audio/transcriptions", "/v1/dashboard/billing/usage", "/pro/balance", "/v1/files", "/v1/threads"]
_NAMES = """
model messages role content tool_calls function name arguments choices delta message index finish_reason usage
prompt_tokens error type text input output item output_index response status summary data embedding b64_json
url code sessionId apiKey tools parameters properties image_url input_audio file audio total_usage daily_costs
line_items cost total balance reasoning_content refusal detail prompt incomplete_details
"""
NAMES = _NAMES.split()
words = st.sampled_from(
    [*NAMES, "image_url", "input_audio", "function_call", "reasoning", "response.output_text.delta"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | words
    | st.just("data:image/png;base64,iVBORw0KGgo"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=40,
)
abouts = st.builds(
    About,
    request=st.booleans(),
    path=st.sampled_from(PATHS),
    content_type=st.sampled_from(
        ["application/json", "text/event-stream", "multipart/form-data; boundary=B", "audio/mpeg"]
    ),
    status=st.none() | st.integers(100, 599),
    own=st.booleans(),
    real_size=st.none() | st.integers(0, 1 << 40),
    failure=st.none() | st.text(),
    timing=st.builds(
        Timing, st.none() | st.floats(0, 1e9), st.none() | st.floats(0, 1e9), st.none() | st.integers(0, 9)
    ),
    chat=st.none() | st.builds(ChatFacts, st.text(), st.none() | st.text(), st.none() | st.integers(0, 9)),
    usage=values,
)


def reads(data: bytes, about: About, writer: Writer | None = None) -> None:
    try:
        text = read(data, about, writer=writer)
    except UnreadableBody:
        return
    text.encode()
    assert len(text) <= MAX_SHOWN * 1.1


@settings(deadline=None)
@given(values, abouts, st.integers(0, 400))
def test_no_json_makes_it_raise_cut_or_whole(value: object, about: About, cut: int) -> None:
    data = json.dumps(value).encode()
    reads(data, about)
    reads(data[:cut], about)
    for writer in (answer.whole, responses.whole, events.events, form.form):
        reads(data, about, writer)


@settings(deadline=None)
@given(st.lists(values, max_size=5), abouts, st.integers(0, 600))
def test_no_stream_makes_it_raise_cut_or_whole(chunks: list[object], about: About, cut: int) -> None:
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    for writer in (None, answer.stream, responses.stream, events.events):
        reads(data, about, writer)
        reads(data[:cut], about, writer)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"{", b"data: {", b"--B\r\n", b'{"error":{']), abouts)
def test_no_bytes_make_it_raise(data: bytes, start: bytes, about: About) -> None:
    reads(start + data, about)


NASTY: dict[str, Callable[[], bytes]] = {
    "brackets": lambda: b'{"messages":' + b"[" * MAX_READ,
    "backslashes": lambda: b'{"messages":[{"content":"' + b"\\" * MAX_READ,
    "backslashes and a quote": lambda: b'{"a":"' + b"\\" * MAX_READ + b'x","b":"' + b"\\" * 99,
    "quotes": lambda: b'{"messages":["' + b'"' * MAX_READ,
    "small objects": lambda: b'{"messages":[' + b"{}," * (MAX_READ // 3),
    "line ends": lambda: b'{"messages":[{"role":"user","content":"' + b"\\n" * (MAX_READ // 2),
    "digits": lambda: b'{"messages":[' + b"1" * MAX_READ,
    "small events": lambda: b"data: {}\n\n" * (MAX_READ // 10),
    "deltas": lambda: b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * (MAX_READ // 46),
    "calls": lambda: b'data: {"choices":[{"delta":{"tool_calls":[{"index":%d}]}}]}\n\n' * (MAX_READ // 60),
    "indices": lambda: b"".join(
        b'data: {"choices":[{"index":%d,"delta":{"content":"a"}}]}\n\n' % i for i in range(18000)
    ),
    "parts": lambda: b"--B\r\n" * (MAX_READ // 5),
    "base64": lambda: b'{"data":[{"b64_json":"' + b"/9j/" * (MAX_READ // 4),
}


@pytest.mark.parametrize("name", NASTY)
def test_nothing_takes_long(name: str) -> None:
    """Twenty times the view's bound, since the machine may be busy; what is not linear takes minutes."""
    data = NASTY[name]()
    for about in (
        About(request=True, path=CHAT, content_type="application/json"),
        About(path=CHAT, content_type="text/event-stream"),
        About(path="/v1/responses", content_type="text/event-stream"),
        About(path="/v1/images/edits"),
        About(request=True, path="/v1/files", content_type="multipart/form-data; boundary=B"),
    ):
        began = time.monotonic()
        until = began + 0.05

        def expired(until: float = until) -> bool:
            return time.monotonic() > until

        try:
            text = read(data, about, expired)
        except UnreadableBody:
            text = ""
        took = time.monotonic() - began
        assert took < 1, f"{took:.3f} s"
        assert len(text) <= MAX_SHOWN * 2


WIDE = {
    "messages": (CHAT, {"model": "m", "messages": [{"role": "user", "content": "hello"}], "x": [{}] * 60_000}),
    "numbers": ("/v1/embeddings", {"model": "m", "input": "hello", "x": [1] * 60_000}),
}


@pytest.mark.parametrize("name", WIDE)
def test_of_json_with_too_many_values_the_beginning_is_read(name: str) -> None:
    path, value = WIDE[name]
    text = read(of(value), About(request=True, path=path, content_type="application/json"))
    assert "characters left out; the raw view has them" in text.partition("\n")[0]
    assert "hello" in text and "model: m" in text
    assert "ends too early" not in text


def test_prose_full_of_commas_is_read_whole() -> None:
    prose = "one, two: [three], " * 20_000
    text = sent({"model": "m", "messages": [{"role": "user", "content": prose}]})
    assert "left out" not in text and text.count("three") == 20_000


def test_one_event_of_too_many_values_is_left_out_and_said() -> None:
    wide = b"data: " + of({"choices": [{"delta": {"content": "never"}}], "x": [[]] * 30_000}) + b"\n\n"
    told = b"data: " + of({"choices": [{"delta": {"content": "seen"}, "finish_reason": "stop"}]}) + b"\n\n"
    text = read(told + wide + b"data: [DONE]\n\n", About(path=CHAT, content_type="text/event-stream"))
    assert "# 1 event of too many values to read" in text
    assert "seen" in text and "never" not in text


def test_what_has_too_many_values_to_lay_out_stands_on_one_line() -> None:
    arguments = [json.dumps({"a": [number] * 3000}) for number in range(5)]
    calls = [{"function": {"name": f"f{n}", "arguments": each}} for n, each in enumerate(arguments)]
    text = got({"choices": [{"message": {"tool_calls": calls}}]})
    assert text.count('{\n    "a": [\n') == 3
    assert arguments[3] in text and arguments[4] in text


def test_a_page_has_a_bounded_number_of_lines() -> None:
    made = Page()
    for number in range(20_000):
        made.block(f"text {number}", "x")
    assert "left out" in made.text().partition("\n")[0]
    assert "text 4999:" in made.text() and "text 19999:" not in made.text()


def test_a_content_of_too_many_parts() -> None:
    text = sent({"model": "m", "messages": [{"role": "user", "content": ["a"] * 1500}]})
    assert "[500 more parts left out; the raw view has them]" in text
