"""What a person reads of agents' bodies, dialect by dialect."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from addons.core.reading import anthropic, anthropic_answer, batches, gemini, gemini_answer, realtime, responses
from addons.core.reading.body import MAX_READ, About, Body, UnreadableBody
from addons.core.reading.page import MAX_SHOWN, Page, folded
from addons.core.reading.reader import read, writer_for
from tests.core.test_reading import NASTY
from tests.support import dialects
from tests.support.dialects import GEMINI, MESSAGES, RESPONSES

SSE = "text/event-stream"


def of(value: object) -> bytes:
    return json.dumps(value).encode()


def sent(value: object, path: str, **about: Any) -> str:
    return read(of(value), About(request=True, path=path, **about))


def got(value: object, path: str, **about: Any) -> str:
    return read(of(value), About(path=path, **about))


def streamed(data: bytes, path: str, **about: Any) -> str:
    return read(data, About(path=path, content_type=SSE, **about))


def in_order(text: str, *pieces: str) -> None:
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        assert at >= 0, f"{piece!r} is not there, or too early:\n{text}"
        at += len(piece)


def nothing_raw(text: str) -> None:
    """No base64 that anybody would have to scroll past."""
    assert dialects.PNG[:80] not in text and dialects.SOUND[:80] not in text


# Anthropic


def test_a_messages_request_is_a_conversation() -> None:
    text = sent(dialects.messages_request(), MESSAGES)
    in_order(
        text,
        "model: claude-sonnet-4-5-20250929\nmax_tokens: 32000\n",
        "tools: 3 (",
        "  - Bash(command, why): 320 bytes · Runs a command. Be careful.\n",
        "  - Read(file_path): 269 bytes · cached up to here · Reads a file.\n",
        '  - web_search: 63 bytes · {"max_uses": 5}\n',
        "\nsystem: |\n  You are an agent for the terminal.\n",
        "\nsystem [cached up to here, for 1h]: |\n  You are a careful agent.\n",
        " kB folded; the raw view has all of it …\n",
        "user: |\n  What is in src?\n  [image: image/png, 3 kB, 640×480]\n",
        "assistant thinks: |\n  I should look first.\n",
        "assistant: |\n  I look.\n",
        'assistant calls Bash (toolu_01A): |\n  {\n    "command": "ls src"\n  }\n',
        "tool result of toolu_01A: |\n  src/module_0.py: 0 lines\n",
        " kB folded",
        "  src/module_899.py: 33263 lines\n",
        "user: |\n  And count them: ls src\n  [cached up to here]",
    )
    nothing_raw(text)
    assert text.count("\n") < 150, "828 lines of JSON are none"


@pytest.mark.parametrize("whole", [False, True])
def test_an_answer_of_messages_is_put_together(whole: bool) -> None:
    if whole:
        text = got(dialects.messages_answer(), MESSAGES)
    else:
        text = streamed(dialects.sse(dialects.messages_events(), named=True), MESSAGES)
        assert "timing: 22 events" in text
    in_order(
        text,
        "model: claude-sonnet-4-5-20250929\nstop_reason: tool_use\n",
        "usage: 18,259 in (18,000 cached, 250 written to the cache) · 87 out · 18,346 tokens in all\n",
        "assistant thinks: |\n  Counting is easy.\n",
        "assistant: |\n  I count them.\n",
        'assistant calls Bash (toolu_01B): |\n  {\n    "command": "ls src",\n    "why": "to count"\n  }',
    )


def test_a_stream_of_messages_that_broke_says_so_and_keeps_its_pieces() -> None:
    text = streamed(dialects.sse(dialects.messages_events()[:17]), MESSAGES, own=True)
    assert text.startswith("# this stream broke off after 17 events: its end mark never came\n")
    assert 'assistant calls Bash (toolu_01B): |\n  {"command"' in text


def test_counts_errors_and_blocks_of_other_kinds() -> None:
    assert got({"input_tokens": 2095}, f"{MESSAGES}/count_tokens") == "input_tokens: 2095"
    assert sent({"model": "m", "messages": [{"role": "user", "content": "x"}]}, f"{MESSAGES}/count_tokens").endswith(
        "user: |\n  x"
    )
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert got(error, MESSAGES, status=529) == "status: 529\nerror type: overloaded_error\n\nerror: |\n  Overloaded"
    broke = dialects.sse([*dialects.messages_events()[:9], error], named=True)
    assert "error: |\n  Overloaded\n" in streamed(broke, MESSAGES)
    found = {"type": "web_search_result", "title": "T", "url": "https://x", "encrypted_content": "Eo" * 300}
    blocks = [
        {"type": "redacted_thinking", "data": "x" * 2048},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
        {"type": "mcp_tool_use", "id": "m1", "name": "look", "server_name": "files", "input": {}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": dialects.PNG}},
        {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [{"type": "image", "source": {}}]},
        {"type": "newer_than_this", "data": dialects.SOUND},
    ]
    text = sent({"model": "m", "messages": [{"role": "user", "content": blocks}]}, MESSAGES)
    in_order(text, "(encrypted: 2 kB)", "calls web_search (srvtoolu_1)", "[found: T, https://x]", "files.look (m1)")
    in_order(
        text, "[document: application/pdf, 3 kB]", "tool result of t (an error): |\n  [image: ?]", "newer_than_this: "
    )
    nothing_raw(text)
    assert "EoEoEo" not in text


# Responses


def test_a_responses_request_shows_items_and_what_namespaces_hold() -> None:
    text = sent(dialects.responses_request(), RESPONSES)
    in_order(
        text,
        "previous_response_id: resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9\n",
        "prompt_cache_key: 0199aa00-1111-7222-8333-444455556666\n",
        "tools: 6 (3.4 kB)\n  - shell(command, workdir): 351 bytes · Runs a command.\n",
        "  - multi_agent_v1: 1.8 kB · holds 2 tools · Other agents.\n",
        "  - multi_agent_v1.spawn_agent(message, agent_type): 1.5 kB · Starts an agent.",
        "  - multi_agent_v1.wait_agent(ids): 240 bytes · Waits for agents.\n",
        "instructions: |\n",
        " kB folded",
        "developer: |\n",
        " kB folded",
        "[image: image/png, 3 kB, 640×480]\n",
        "assistant thinks: |\n  **Looking** first\n",
        "assistant calls shell (call_0a1b2c3d4e5f60718293a4b5): |\n",
        "tool result of call_0a1b2c3d4e5f60718293a4b5: |\n",
        " kB folded",
        "user: |\n  And count them: ls src",
    )
    nothing_raw(text)


def test_a_responses_stream_is_whole_however_its_events_repeat_the_tools() -> None:
    data = dialects.sse(dialects.responses_events(), named=True)
    assert len(data) > 60_000
    text = read(data, About(path=RESPONSES, content_type=SSE), lambda: True)  # no time at all
    in_order(
        text,
        "model: gpt-5-codex\nstatus: completed\n",
        "usage: 12,000 in (11,000 cached) · 90 out (40 reasoning) · 12,090 tokens in all\n",
        "timing: 18 events",
        "assistant thinks: |\n  **Counting** the lines\n",
        "assistant calls web search (ws_1): |\n  how to count\n",
        "assistant: |\n  I count them.\n",
        'assistant calls multi_agent_v1.spawn_agent (call_1): |\n  {\n    "command": "ls src"\n  }',
    )
    assert not text.startswith("#")


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_the_last_event_is_found_whatever_its_lines_end_in(ends: bytes) -> None:
    line = ends[: len(ends) // 2]
    data = dialects.sse(dialects.responses_events(), named=True).replace(b"\n", line)
    assert "assistant: |\n  I count them.\n" in streamed(data, RESPONSES)


def test_a_responses_stream_that_broke_is_read_from_its_pieces() -> None:
    text = streamed(dialects.sse(dialects.responses_events()[:-5]), RESPONSES)
    assert text.startswith("# this stream broke off after 13 events")
    in_order(text, "I count them.", '"command": "ls src"')


def test_items_of_other_kinds() -> None:
    items = [
        {"type": "local_shell_call", "call_id": "c1", "action": {"type": "exec", "command": ["ls", "-l"]}},
        {"type": "local_shell_call_output", "call_id": "c1", "output": "x" * 9000},
        {"type": "mcp_list_tools", "server_label": "files", "tools": [{"name": "look", "input_schema": {}}]},
        {"type": "mcp_call", "id": "m1", "server_label": "files", "name": "look", "arguments": "{}", "output": "seen"},
        {"type": "code_interpreter_call", "id": "ci", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {
            "type": "computer_call_output",
            "call_id": "c2",
            "output": {"type": "input_image", "image_url": "data:image/png;base64," + dialects.PNG},
        },
        {"type": "image_generation_call", "result": dialects.PNG},
        {"type": "compaction", "encrypted_content": "gAAA" * 512},
        {"type": "tool_search_output", "call_id": "c3", "tools": [{"type": "function", "name": "found_it"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA" * 256},
        {"type": "newer_than_this", "blob": dialects.SOUND},
    ]
    text = sent({"model": "m", "input": items}, RESPONSES)
    in_order(
        text, "calls shell (c1): |\n  ls -l\n", "kB folded", "tools of the server files", "look: ", "files.look (m1)"
    )
    in_order(text, "seen", "calls code interpreter (ci)", "1+1", "2", "[image: image/png, 3 kB, 640×480]")
    in_order(text, "assistant draws: |\n  [image: 3 kB]", "compaction of what was said before: |\n  (encrypted: 2 kB)")
    in_order(text, "tools found by c3", "found_it", "(kept to itself, encrypted: 1 kB)", "newer_than_this")
    nothing_raw(text)
    assert got({"object": "response.input_tokens", "input_tokens": 11}, f"{RESPONSES}/input_tokens").endswith(
        "tokens: 11"
    )


# Gemini


@pytest.mark.parametrize("underscored", [False, True])
def test_a_gemini_request_is_a_conversation(underscored: bool) -> None:
    body = json.dumps(dialects.gemini_request())
    if underscored:
        for name in ("systemInstruction", "inlineData", "mimeType", "functionCall", "functionResponse"):
            body = body.replace(f'"{name}"', '"' + "".join(f"_{c.lower()}" if c.isupper() else c for c in name) + '"')
    text = read(body.encode(), About(request=True, path=f"/gemini{GEMINI}"))
    in_order(
        text,
        "model: gemini-2.5-pro\n",
        "temperature: 0\n",
        "tools: 3 (519 bytes)\n  - run_shell_command(command): 249 bytes · Runs a command.\n",
        "  - read_file(path): 220 bytes · Reads a file.\n  - googleSearch: 19 bytes\n",
        "system: |\n  You are a careful agent.\n",
        " kB folded",
        "user: |\n  What is in src?\n  [image: image/png, 3 kB, 640×480]\n",
        "model thinks: |\n  I should look first.\n",
        'model calls run_shell_command: |\n  {\n    "command": "ls src"\n  }\n',
        "tool result of run_shell_command: |\n  src/module_0.py: 0 lines\n",
        " kB folded",
        "user: |\n  And count them: ls src",
    )
    nothing_raw(text)


@pytest.mark.parametrize("how", ["events", "array", "cut array"])
def test_a_gemini_stream_is_put_together(how: str) -> None:
    pieces = dialects.gemini_pieces()
    if how == "events":
        text = streamed(dialects.sse(pieces), GEMINI)
    elif how == "array":
        text = read(of(pieces), About(path=GEMINI, content_type="application/json"))
    else:
        text = read(of(pieces)[:-3], About(path=GEMINI, real_size=10_000))
    in_order(
        text,
        "model: gemini-2.5-pro\n",
        "usage: 12,000 in (9,000 cached) · 100 out (60 reasoning) · 12,100 tokens in all\n",
        "model thinks: |\n  Counting is easy.\n",
        "model: |\n  I count them.\n",
        'model calls run_shell_command: |\n  {\n    "command": "ls src"\n  }',
    )


def test_whole_answers_counts_and_embeddings_of_gemini() -> None:
    path = "/v1beta/models/gemini-2.5-pro"
    assert "model: |\n  I count \n\n" not in got(dialects.gemini_pieces()[2], f"{path}:generateContent")
    assert got(dialects.gemini_pieces()[2], f"{path}:generateContent").endswith("model: |\n  I count ")
    assert got({"totalTokens": 31}, f"{path}:countTokens") == "total_tokens: 31"
    inner = {"generateContentRequest": {"model": "models/x", **dialects.gemini_request()}}
    assert "And count them: ls src" in sent(inner, f"{path}:countTokens")
    assert "I count" in got({"response": dialects.gemini_pieces()[2]}, "/v1internal:generateContent")
    error = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}
    assert "error: |\n  Quota exceeded" in got(error, f"{path}:generateContent", status=429)
    assert "blocked: SAFETY" in got({"promptFeedback": {"blockReason": "SAFETY"}}, f"{path}:generateContent")
    embed = "/v1beta/models/gemini-embedding-001"
    assert "text: |\n  hello" in sent({"content": {"parts": [{"text": "hello"}]}}, f"{embed}:embedContent")
    assert "dimensions: 3" in got({"embedding": {"values": [1, 2, 3]}}, f"{embed}:embedContent")
    many = {"requests": [{"content": {"parts": [{"text": "你好"}]}}]}
    assert "text 0: |\n  你好" in sent(many, f"{embed}:batchEmbedContents")


# Realtime


def test_a_realtime_conversation_is_folded() -> None:
    page = Page()
    realtime.conversation(page, [(from_client, of(event)) for from_client, event in dialects.realtime_events()], 3)
    text = page.text()
    assert text.startswith("# 3 older messages left out\n")
    in_order(
        text,
        "voice: marin\ntools: 1 (215 bytes)\n",
        "instructions: |\n  Be brief.\n",
        "user speaks: |\n  [audio: 2.0 s, 93.8 kB]\n",
        "user, as heard: |\n  How many?\n",
        "assistant: |\n  There are nine. [audio: 2.0 s, 93.8 kB]\n",
        'assistant calls shell (call_1): |\n  {\n    "command": "ls src"\n  }\n',
        "status: completed\nusage: 30 in · 20 out · 50 tokens in all",
    )
    assert text.count("voice: marin") == 1, "what the server says again is not written again"
    nothing_raw(text)


def test_a_realtime_answer_that_is_not_done_is_shown_as_far_as_it_came() -> None:
    page = Page()
    realtime.conversation(page, [(each, of(event)) for each, event in dialects.realtime_events()[:-1]])
    in_order(page.text(), "has not come to its end", "assistant calls: |\n  ls src", "speaks: |\n  There are nine.")


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"type": "input_audio_buffer.append", "audio": dialects.SOUND}, "# input_audio_buffer.append: [audio: 2.0 s,"),
        ({"type": "response.output_text.delta", "delta": "Hel\nlo"}, "# response.output_text.delta: Hel lo"),
        ({"type": "error", "error": {"message": "no", "code": "x"}}, "# error\nerror code: x\n\nerror: |\n  no"),
        ({"type": "input_audio_buffer.commit", "event_id": "e"}, "# input_audio_buffer.commit"),
        ({"type": "response.create", "model": "m", "input": "hi"}, "# response.create\nmodel: m\n"),
        (dialects.responses_events()[-1], "# response.completed\nmodel: gpt-5-codex\nstatus: completed\n"),
    ],
)
def test_an_event_is_a_line_or_what_it_holds(event: object, shown: str) -> None:
    page = Page()
    realtime.message(Body(of(event)), page)
    assert page.text().startswith(shown)


def test_sounds_of_telephones_have_their_own_rate() -> None:
    page = Page()
    events = [
        {"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}},
        {"type": "input_audio_buffer.append", "audio": dialects.SOUND},
    ]
    realtime.conversation(page, [(True, of(event)) for event in events])
    assert "[audio: 12.0 s, 93.8 kB]" in page.text()


# Batches


def test_the_lines_of_a_batch() -> None:
    form = b'--B\r\nContent-Disposition: form-data; name="file"; filename="b.jsonl"\r\n\r\n%s\r\n--B--\r\n'
    about = About(request=True, path="/v1/files", content_type="multipart/form-data; boundary=B")
    text = read(form % dialects.batch_lines(), about)
    in_order(
        text, "[file: b.jsonl, ", "lines: 3\n", "--- a-0\n", "path: /v1/chat/completions\nmodel: gpt-4o-mini\n", "a-2"
    )
    text = read(
        dialects.batch_results(), About(path="/v1/files/file-1/content", content_type="application/octet-stream")
    )
    in_order(text, "--- a-0\nstatus: 200\nusage: 3 in · 4 out", "assistant: |\n  ls src\n", "--- a-1\n", "too late")
    whole = {"custom_id": "b", "params": dialects.messages_request()}
    text = sent({"requests": [whole] * 3}, f"{MESSAGES}/batches")
    in_order(text, "requests: 3\n", "--- b\nmodel: claude-sonnet-4-5-20250929\n", "folded", "And count them")
    result = {"custom_id": "b", "result": {"type": "succeeded", "message": dialects.messages_answer()}}
    text = read(
        of(result) + b"\n", About(path=f"{MESSAGES}/batches/msgbatch_1/results", content_type="application/x-jsonl")
    )
    in_order(text, "--- b\nresult: succeeded\n", "usage: 18,259 in", "assistant calls Bash (toolu_01B)")
    told = {"id": "batch_1", "object": "batch", "status": "completed", "request_counts": {"total": 3, "failed": 1}}
    in_order(got(told, "/v1/batches/batch_1"), "status: completed", '"failed": 1')
    assert "batch_1: completed" in got({"object": "list", "data": [told]}, "/v1/batches")


# What is new


@pytest.mark.parametrize(
    ("body", "path", "known", "noun"),
    [
        (dialects.messages_request(), MESSAGES, 2, "message"),
        (dialects.responses_request(), RESPONSES, 5, "item"),
        (dialects.gemini_request(), GEMINI, 3, "content"),
        (
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": dialects.PROMPT},
                    {"role": "user", "content": "What is in src?"},
                    {"role": "user", "content": "And count them: ls src"},
                ],
            },
            "/v1/chat/completions",
            2,
            "message",
        ),
    ],
    ids=["messages", "responses", "gemini", "chat"],
)
def test_what_is_new_comes_first(body: object, path: str, known: int, noun: str) -> None:
    text = sent(body, path, known=known)
    in_order(
        text,
        f"# --- new since the previous request of this thread: 1 {noun}\n",
        "And count them: ls src",
        "# --- sent with each request\n",
        f"# --- earlier: {known} {noun}s of the previous request and its answer, folded\n",
        "What is in src?",
    )
    assert sent(body, path, known=99) == sent(body, path, known=None) == sent(body, path, known=0)


def test_earlier_turns_are_folded_short() -> None:
    messages = [{"role": "user", "content": f"{number} " + "word " * 500} for number in range(4)]
    text = sent({"model": "m", "messages": messages}, "/v1/chat/completions", known=3)
    new, _, earlier = text.partition("# --- earlier")
    assert "folded" not in new and earlier.count("kB folded") == 3


# Bounds


def test_a_stream_that_is_too_much_keeps_its_end() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6},
    }
    for number in (5_000, 14_000, 40_000):
        data = dialects.sse([chunk] * number + [last], done=True)
        text = streamed(data, "/v1/chat/completions")
        assert "finish_reason: length\nusage: 5 in · 6 out" in text
        assert ("left out" in text.partition("\n")[0]) == (number > 5_000)
        assert "broke off" not in text


def test_folding_keeps_beginning_and_end() -> None:
    text = "".join(f"line {number}\n" for number in range(2000))
    short = folded(text)
    assert len(short) < 2000 and short.startswith("line 0\n") and short.endswith("line 1999\n")
    assert "\n… 17.0 kB folded; the raw view has all of it …\n" in short or " kB folded" in short
    assert folded("x" * 4096) == "x" * 4096
    assert " 8.5 kB folded" in folded("x" * 10_300)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"see data:image/png;base64,{dialects.PNG} here", "see [image/png, 3 kB] here"),
        (f"raw {dialects.PNG}.", "raw [base64, 3 kB]."),
        ("x" * 5000, "x" * 5000),
        ("a1B2" * 100, "a1B2" * 100),
    ],
)
def test_base64_in_a_text_is_a_placeholder(text: str, left: str) -> None:
    page = Page()
    page.block("user", text)
    assert page.text() == f"user: |\n  {left}"


_NAMES = [
    "type",
    "role",
    "content",
    "text",
    "thinking",
    "signature",
    "data",
    "source",
    "media_type",
    "tool_use_id",
    "name",
    "input",
    "id",
    "tool_use",
    "tool_result",
    "system",
    "tools",
    "messages",
    "model",
    "cache_control",
    "ttl",
    "usage",
    "input_tokens",
    "output_tokens",
    "index",
    "delta",
    "content_block",
    "partial_json",
    "contents",
    "parts",
    "role",
    "functionCall",
    "functionResponse",
    "response",
    "args",
    "inlineData",
    "mimeType",
    "candidates",
    "usageMetadata",
    "totalTokens",
    "promptTokenCount",
    "systemInstruction",
    "generationConfig",
    "thought",
    "finishReason",
    "item",
    "output",
    "session",
    "audio",
    "transcript",
    "custom_id",
    "params",
    "body",
    "result",
    "requests",
    "error",
    "message",
    "status_code",
    "embedding",
    "values",
    "action",
    "command",
    "summary",
    "call_id",
    "arguments",
    "pieces",
    "description",
    "parameters",
    "properties",
    "functionDeclarations",
    "format",
    "rate",
    "response_id",
]
_KINDS = [
    "text",
    "image",
    "document",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "message_start",
    "content_block_start",
    "content_block_delta",
    "message_delta",
    "text_delta",
    "input_json_delta",
    "message_stop",
    "error",
    "function_call",
    "function_call_output",
    "reasoning",
    "mcp_call",
    "local_shell_call",
    "web_search_call",
    "session.update",
    "response.done",
    "response.create",
    "response.audio.delta",
    "conversation.item.create",
    "input_audio_buffer.append",
    "response.completed",
    "namespace",
    "compaction",
    "additional_tools",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(_KINDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=8),
    max_leaves=40,
)
_PATHS = (MESSAGES, f"{MESSAGES}/count_tokens", f"{MESSAGES}/batches", RESPONSES, GEMINI, "/v1/batches", "/v1/realtime")
abouts = st.builds(
    About,
    request=st.booleans(),
    path=st.sampled_from(_PATHS),
    content_type=st.sampled_from(["application/json", SSE]),
    own=st.booleans(),
    real_size=st.none() | st.integers(0, 1 << 40),
    known=st.none() | st.integers(0, 5),
)
WRITERS = (
    anthropic.request,
    anthropic_answer.whole,
    anthropic_answer.stream,
    responses.request,
    responses.stream,
    gemini.request,
    gemini_answer.whole,
    gemini_answer.stream,
    batches.status,
    batches.requests,
    batches.lines,
    realtime.message,
)


@settings(deadline=None)
@example([{"type": []}], About(path=RESPONSES, content_type=SSE), 0)
@given(st.lists(values, max_size=4), abouts, st.integers(0, 500))
def test_no_body_makes_a_view_raise(chunks: list[object], about: About, cut: int) -> None:
    whole = json.dumps(chunks[0] if chunks else {}).encode()
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    for data in (whole, whole[:cut], stream, stream[:cut], b'{"messages": ' + whole + b"}"):
        for writer in (None, *WRITERS):
            try:
                text = read(data, about, writer=writer)
            except UnreadableBody as error:
                # A shape that nobody has thought of would be shown as it is; none is known.
                assert "unexpected shape" not in str(error), error
                continue
            text.encode()
            assert len(text) <= MAX_SHOWN * 1.1
    page = Page()
    realtime.conversation(page, [(bool(number % 2), json.dumps(chunk).encode()) for number, chunk in enumerate(chunks)])
    page.text().encode()


SAYING = b'{"model":"m","messages":[{"role":"user","content":"'
WORST: dict[str, Callable[[], bytes]] = {
    **NASTY,
    "pieces": lambda: dialects.sse(dialects.messages_events()[7:10]) * (MAX_READ // 300),
    "blocks": lambda: b'data: {"type":"content_block_start","index":1,"content_block":{}}\n\n' * (MAX_READ // 70),
    "gemini": lambda: dialects.sse(dialects.gemini_pieces()) * (MAX_READ // 1600),
    "namespaces": lambda: b'{"tools":[' + b'{"type":"namespace","tools":[{}]},' * 9000 + b'{}],"input":"x"}',
    "results": lambda: b'{"messages":[' + b'{"content":[{"type":"tool_result","content":"a"}]},' * 9000 + b"{}]}",
    "runs": lambda: SAYING + (b"aB1" * 200 + b".") * (MAX_READ // 601) + b'"}]}',
    "addresses": lambda: SAYING + b"data:;a=a;" * (MAX_READ // 10) + b'"}]}',
    "contents": lambda: b'{"contents":[' + b'{"parts":[{"text":"a"}]},' * 9000 + b"{}]}",
    "lines": lambda: b'{"custom_id":1}\n' * (MAX_READ // 16),
}


@pytest.mark.parametrize("name", WORST)
def test_bytes_and_values_alone_bound_what_a_view_takes(name: str) -> None:
    """No clock stops these: the processor's time is measured, ten times what the worst of them takes."""
    data = WORST[name]()
    for about in (
        *(About(request=True, path=path) for path in (MESSAGES, RESPONSES, GEMINI, f"{MESSAGES}/batches")),
        *(About(path=path, content_type=SSE, own=True) for path in (MESSAGES, RESPONSES, GEMINI)),
        About(path="/v1/files/f/content"),
    ):
        began = time.thread_time()
        try:
            text = read(data, about)
        except UnreadableBody:
            text = ""
        took = time.thread_time() - began
        assert took < 1, f"{about.path}: {took:.3f} s"
        assert len(text) <= MAX_SHOWN * 2


def test_whose_writer_is_whose() -> None:
    error = {"error": {"message": "No such File object", "type": "invalid_request_error"}}
    assert "error: |\n  No such File object" in got(error, "/v1/files/file-1/content", status=404)
    assert writer_for(b'{"messages": []}', About(request=True, path=MESSAGES)) is anthropic.request
    assert writer_for(b'{"contents": []}', About(request=True, path=f"/g{GEMINI}")) is gemini.request
    assert writer_for(b'{"content": "x", "role": "user"}', About(request=True, path="/v1/threads/t/messages")) is None
    threads = b'{"object": "thread.message", "type": "message"}'
    assert writer_for(threads, About(path="/v1/threads/t/messages")) is None
