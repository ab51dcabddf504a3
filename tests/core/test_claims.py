"""The most that a request may use: never too low, whatever its body says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.claims import (
    READ,
    Claimed,
    Unreadable,
    ambiguous,
    ambiguous_in_form,
    claimed,
    estimated_tokens,
    longest_answer,
    of_form,
)
from addons.core.form_fields import Form
from addons.core.generations import Generation, counted_of, generation_of, is_harmless, model_in
from addons.core.top_level import members

CHAT, COMPLETION, RESPONSE = Generation.CHAT, Generation.COMPLETION, Generation.RESPONSE
MESSAGE, EMBEDDING, IMAGE, SPEECH = Generation.MESSAGE, Generation.EMBEDDING, Generation.IMAGE, Generation.SPEECH
TRANSCRIPTION = Generation.TRANSCRIPTION
HELLO = [{"role": "user", "content": "Hello"}]


def claim(kind: Generation, **body: Any) -> Claimed:
    text = json.dumps({"model": "gpt-4o", **body})
    return claimed(kind, members(text), len(text.encode()))


def test_input_is_the_bytes_of_the_body() -> None:
    text = json.dumps({"model": "m", "messages": [{"role": "user", "content": "你好" * 100}]}, ensure_ascii=False)
    assert claimed(CHAT, members(text), len(text.encode())).bound.input == len(text.encode())


OUTPUTS: dict[str, tuple[Generation, dict[str, Any], tuple[int | None, int]]] = {
    "max_tokens": (CHAT, {"max_tokens": 10}, (10, 1)),
    "the larger of two bounds": (CHAT, {"max_tokens": 10, "max_completion_tokens": 500}, (500, 1)),
    "n answers": (CHAT, {"max_tokens": 10, "n": 3}, (10, 3)),
    "no bound": (CHAT, {"max_tokens": None}, (None, 1)),
    "best_of": (COMPLETION, {"max_tokens": 10, "best_of": 5, "n": 2}, (10, 5)),
    "several prompts": (COMPLETION, {"max_tokens": 10, "prompt": ["a", "b", "c"], "n": 2}, (10, 6)),
    "one prompt of tokens": (COMPLETION, {"max_tokens": 10, "prompt": [1, 2, 3]}, (10, 1)),
    "a response": (RESPONSE, {"max_output_tokens": 99}, (99, 1)),
    "a message": (MESSAGE, {"max_tokens": 99}, (99, 1)),
    "thinking beyond the answer": (MESSAGE, {"max_tokens": 99, "thinking": {"budget_tokens": 500}}, (500, 1)),
    "embeddings": (EMBEDDING, {"input": "x"}, (0, 1)),
    "pictures": (IMAGE, {"prompt": "a cat", "n": 4}, (16_384, 4)),
    "speech": (SPEECH, {"input": "Hello" * 100}, (5000, 1)),
    "a word of speech": (SPEECH, {"input": "1"}, (500, 1)),
    "a bound of 0, which some take for none": (CHAT, {"max_tokens": 0}, (None, 1)),
    "a bound under another name, too": (COMPLETION, {"max_tokens": 1, "max_completion_tokens": 900}, (900, 1)),
    "a bound under another name alone": (RESPONSE, {"max_tokens": 5}, (None, 1)),
    "a whole number written with a point": (CHAT, {"max_tokens": 10.0}, (10, 1)),
}


@pytest.mark.parametrize(("kind", "body", "bound"), OUTPUTS.values(), ids=OUTPUTS)
def test_output_is_bounded_by(kind: Generation, body: dict[str, Any], bound: tuple[int | None, int]) -> None:
    found = claim(kind, **body)
    assert (found.output, found.answers) == bound


IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
UNBOUNDED: dict[str, tuple[Generation, dict[str, Any]]] = {
    "an earlier response": (RESPONSE, {"previous_response_id": "resp_1"}),
    "a conversation": (RESPONSE, {"conversation": "conv_1"}),
    "a prompt that is kept upstream": (RESPONSE, {"prompt": {"id": "pmpt_1"}}),
    "a file by its id": (RESPONSE, {"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}),
    "a file in the body": (CHAT, {"messages": [{"content": [{"type": "file", "file": {"file_data": "x"}}]}]}),
    "an item by its id": (RESPONSE, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    "an image by its address": (CHAT, {"messages": [{"content": [{"image_url": {"url": "https://x.com/a.png"}}]}]}),
    "an image of two by its address": (
        CHAT,
        {"messages": [{"content": [IMAGE_PART, {"image_url": {"url": "https://x.com/a.png"}}]}]},
    ),
    "Anthropic's image by its address": (
        MESSAGE,
        {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "https://x.com"}}]}]},
    ),
    "a document": (MESSAGE, {"messages": [{"content": [{"type": "document", "source": {}}]}]}),
    "a tool that upstream runs": (RESPONSE, {"tools": [{"type": "file_search"}]}),
    "Anthropic's tool that it runs": (MESSAGE, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    "other servers": (MESSAGE, {"mcp_servers": [{"url": "https://x.com"}]}),
    "a search": (CHAT, {"web_search_options": {}}),
    "an item without a type": (RESPONSE, {"input": [{"id": "msg_123"}]}),
    "reasoning by its id": (RESPONSE, {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}),
    "a picture by its id": (RESPONSE, {"input": [{"type": "image_generation_call", "id": "ig_1"}]}),
    "a shell of upstream's": (RESPONSE, {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}),
    "a shell somewhere": (RESPONSE, {"tools": [{"type": "shell", "environment": "local"}]}),
    "a search among tools": (RESPONSE, {"tools": [{"type": "tool_search"}]}),
    "a search among tools, said otherwise": (RESPONSE, {"tools": [{"type": "tool_search", "execution": ["client"]}]}),
    "a namespace with a tool of upstream's": (
        RESPONSE,
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}, {"type": "web_search"}]}]},
    ),
    "a namespace in a namespace": (
        RESPONSE,
        {"tools": [{"type": "namespace", "tools": [{"type": "namespace", "tools": []}]}]},
    ),
    "a namespace of nobody knows what": (RESPONSE, {"tools": [{"type": "namespace", "name": "n"}]}),
    "Google's own tool": (CHAT, {"tools": [{"google_search": {}}]}),
    "a search of xAI's": (CHAT, {"search_parameters": {"mode": "auto"}}),
    "a type that is none": (CHAT, {"tools": [{"type": ["function"]}]}),
    "sound by its id": (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
}


@pytest.mark.parametrize(("kind", "body"), UNBOUNDED.values(), ids=UNBOUNDED)
def test_what_the_body_does_not_hold_is_unbounded(kind: Generation, body: dict[str, Any]) -> None:
    assert claim(kind, **body).unbounded
    text = json.dumps({"model": "m", **body}, indent=1)
    assert claimed(kind, members(text), len(text)).unbounded, "however it is laid out"


def test_names_with_hidden_letters_are_unbounded() -> None:
    text = '{"model": "m", "input": [{"type": "input_file", "\\u0066ile_id": "file-1"}]}'.replace("input_file", "x")
    assert claimed(RESPONSE, members(text), len(text)).unbounded


def test_blanks_hide_nothing() -> None:
    for blanks in (0, 18, 99, 100, 5000):
        text = '{"model":"m","input":[{"type"~:~"input_file","file_id"~:~"f"}]}'.replace("~", " " * blanks)
        assert claimed(RESPONSE, members(text), len(text)).unbounded


BOUNDED: dict[str, tuple[Generation, dict[str, Any]]] = {
    "plain messages": (CHAT, {"messages": HELLO}),
    "an image in the body": (CHAT, {"messages": [{"content": [IMAGE_PART]}]}),
    "tools of the client": (CHAT, {"tools": [{"type": "function", "function": {"name": "file_id"}}]}),
    "Codex's tools": (
        RESPONSE,
        {
            "tools": [
                {"type": "tool_search", "execution": "client"},
                {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]},
            ]
        },
    ),
    "Anthropic's tools of the client": (MESSAGE, {"tools": [{"name": "x"}, {"type": "bash_20250124", "name": "bash"}]}),
    "words about files": (CHAT, {"messages": [{"role": "user", "content": 'what is "file_id": "x"?'}]}),
    "items that were said before": (
        RESPONSE,
        {"input": [{"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "x"}]}]},
    ),
    "a shell of the client's": (RESPONSE, {"tools": [{"type": "shell"}, {"type": "local_shell"}]}),
    "a shell that says so": (RESPONSE, {"tools": [{"type": "shell", "environment": {"type": "local", "skills": []}}]}),
    "no search": (CHAT, {"enable_search": False}),
    "nulls": (RESPONSE, {"previous_response_id": None, "conversation": None, "tools": None, "input": "x"}),
    "escapes that hide nothing": (CHAT, {"messages": [{"role": "user", "content": "\u003cb\u003e你"}]}),
}


@pytest.mark.parametrize(("kind", "body"), BOUNDED.values(), ids=BOUNDED)
def test_what_the_body_holds_is_bounded(kind: Generation, body: dict[str, Any]) -> None:
    assert claim(kind, **body).unbounded == ()


def test_images_add_what_the_largest_is_counted_as() -> None:
    one = claim(CHAT, messages=[{"content": [IMAGE_PART]}])
    two = claim(CHAT, messages=[{"content": [IMAGE_PART, IMAGE_PART]}])
    assert one.bound.images and one.bound.input > 16_384 and two.bound.input > 2 * 16_384
    assert claim(CHAT, model="gpt-4o-mini", messages=[{"content": [IMAGE_PART]}]).bound.input > 48_169
    data = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    assert claim(MESSAGE, messages=[{"content": [data, data]}]).bound.input > 2 * 16_384


def test_other_things_that_cost_are_noticed() -> None:
    assert claim(CHAT, modalities=["text", "audio"]).bound.audio
    assert claim(CHAT, messages=[{"content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]).bound.audio
    assert claim(CHAT, prediction={"content": "x" * 100}).extra_output > 100
    assert claim(RESPONSE, tools=[{"type": "web_search"}]).bound.searches == 20
    assert claim(RESPONSE, tools=[{"type": "web_search"}], max_tool_calls=3).bound.searches == 3
    assert claim(CHAT, web_search_options={}, max_tool_calls=0).bound.searches == 20, "a field of the Responses API"
    assert claim(CHAT, search_parameters={"mode": "on"}).bound.searches == 20
    assert claim(CHAT, tools=[{"google_search": {}}]).bound.searches == 20
    others = [{"type": each} for each in ("file_search", "code_interpreter", "mcp", "image_generation", "computer_use")]
    assert claim(RESPONSE, tools=[*others, {"type": "web_search"}]).bound.searches == 20, "behind many others, too"
    cached = {"role": "user", "content": [{"type": "text", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}
    assert claim(MESSAGE, messages=[cached]).bound.hour_long and claim(MESSAGE, messages=[cached]).bound.cache_writes
    assert not claim(MESSAGE, messages=HELLO).bound.cache_writes
    assert claim(CHAT, messages=HELLO).bound.cache_writes, "OpenAI writes to its cache unasked"
    assert claim(CHAT, service_tier="priority").asked == {"service_tier": "priority"}
    assert claim(SPEECH, input="你好").bound.characters == 2
    assert claim(RESPONSE, background=True).background
    assert claim(CHAT, stream=True, stream_options={"include_usage": True}).wants_usage
    assert not claim(CHAT, stream=True, stream_options={"include_usage": False}).wants_usage


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_tokens", "10"), ("max_tokens", -1), ("max_tokens", True), ("max_tokens", 1.5), ("n", []), ("model", 4)),
        *(("stream", 1), ("stream", "true"), ("stream", []), ("stream_options", 5), ("stream_options", [])),
        *(("modalities", 5), ("modalities", True), ("modalities", "audio"), ("modalities", {"audio": 1})),
        *(("modalities", [5]), ("tools", {}), ("tools", "x"), ("tools", ["x"]), ("tools", [None])),
    ],
)
def test_a_field_that_is_none_is_named(name: str, value: object) -> None:
    with pytest.raises(Unreadable, match=name):
        claim(CHAT, **{name: value})


@pytest.mark.parametrize("value", [1, "true", "false", {}, 0])
def test_a_background_that_is_none_is_named(value: object) -> None:
    with pytest.raises(Unreadable, match="background"):
        claim(RESPONSE, background=value)
    assert not claim(IMAGE, background="transparent").background, "of a picture it is something else"


def test_speed_is_a_price_s_where_a_model_answers_and_not_where_it_reads_aloud() -> None:
    assert claim(MESSAGE, max_tokens=5, speed="fast").asked == {"speed": "fast"}
    assert claim(SPEECH, input="hi", speed=1.25).asked == {}
    with pytest.raises(Unreadable, match="service_tier"):
        claim(CHAT, service_tier="x" * 1000)


def test_what_is_cached_among_the_tools_counts() -> None:
    def tools(**control: object) -> Claimed:
        return claim(MESSAGE, max_tokens=5, tools=[{"name": "f", "input_schema": {}, "cache_control": control}])

    assert tools(type="ephemeral").bound.cache_writes and not tools(type="ephemeral").bound.hour_long
    assert tools(type="ephemeral", ttl="1h").bound.hour_long
    assert not tools(type="ephemeral", ttl="5m").bound.hour_long
    schema = {"type": "object", "properties": {"image_url": {"type": "string"}, "file_id": {"type": "string"}}}
    named = claim(CHAT, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert named.unbounded == () and not named.bound.images, "names in a schema are the client's own"


def test_an_hour_can_t_be_hidden() -> None:
    body = '{"model": "c", "max_tokens": 5, "messages": [{"cache_control": {"type": "ephemeral", "ttl": "%s"}}]}'
    for value, hour in (("1h", True), ("\\u0031h", True), ("5m", False)):
        text = body % value
        assert claimed(MESSAGE, members(text), len(text)).bound.hour_long is hour


def test_letters_may_be_hidden_in_escapes_and_signs_not() -> None:
    for text, hidden in (
        ("\\u0060\\u0060", False),
        ("\\u003c\\u0040\\u007b", False),
        ("fil\\u0065_id", True),
        ("\\u005f", True),
    ):
        body = f'{{"model": "m", "messages": [{{"content": "{text}"}}]}}'
        found = claimed(CHAT, members(body), len(body)).unbounded
        assert ("letters written as \\u escapes" in found) is hidden, text
    assert claim(CHAT, messages=[{"content": f"a{' ' * 300}b"}]).unbounded == (), (
        "blanks in a table are none between tokens"
    )


@pytest.mark.parametrize(
    ("part", "images", "unbounded"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, True, False),
        ({"type": "image_url", "image_url": {"detail": "low", "url": "data:image/png;base64,AAAA"}}, True, False),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, True, False),
        ({"type": "image_url", "image_url": {"url": "https://a.test/x.png"}}, True, True),
        ({"type": "image_url", "Image_URL": {"url": "https://a.test/x.png"}}, True, True),
        ({"type": "image", "source": {"type": "base64", "data": "AAAA"}}, True, False),
        ({"type": "image", "source": {"type": "url", "url": "https://a.test"}}, True, True),
        ({"type": "audio_url", "audio_url": {"url": "https://a.test"}}, False, True),
        ({"type": "input_audio", "input_audio": {"data": "https://a.test/x.wav"}}, False, True),
    ],
)
def test_pictures_and_what_stands_elsewhere(part: dict[str, object], images: bool, unbounded: bool) -> None:
    decoy = {"type": "text", "text": "data:image/", "url": "data:image/png"}
    for content in ([part], [part, decoy, decoy]):
        found = claim(CHAT, messages=[{"role": "user", "content": content}])
        assert (found.bound.images, bool(found.unbounded)) == (images, unbounded), content


def test_dear_images_are_known_by_any_name_of_their_model() -> None:
    picture = [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    dear = [claim(CHAT, model=name, messages=picture).bound.input for name in ("gpt-4o-mini", "openai/gpt-4o-mini")]
    assert all(each > 48_169 for each in dear)


@pytest.mark.parametrize("name", ["Fallbacks", "MODELS", "fallbacks ", "USER_CONFIG", "provideroptions"])
def test_routing_fields_are_read_in_any_case(name: str) -> None:
    assert ambiguous([name]) == name
    assert ambiguous(["models", "providerOptions"]) is None, "which are refused as what they are"


@pytest.mark.parametrize("name", ["context_window_fallbacks", "content_policy_fallbacks", "user_config", "fallbacks"])
def test_fields_that_choose_another_model(name: str) -> None:
    assert claim(CHAT, **{name: []}).routing == name


@pytest.mark.parametrize("budget", ["50000", -1, 1.5, True, []])
def test_a_budget_of_thinking_that_is_none(budget: object) -> None:
    with pytest.raises(Unreadable, match="thinking"):
        claim(MESSAGE, max_tokens=5, thinking={"budget_tokens": budget})


def test_flags_may_be_null() -> None:
    found = claim(CHAT, background=None, stream=None, stream_options=None, modalities=None)
    assert not (found.background or found.stream or found.wants_usage)


SEARCHERS = ["gpt-4o-search-preview", "openai/gpt-4o-mini-search-preview-2025-03-11", "gpt-5-search-api", "sonar"]
SEARCHERS += ["sonar-pro", "perplexity/sonar-reasoning", "openai/gpt-4o:online", "llama-3.1-sonar-small-128k-online"]
SEARCHERS += ["o3-deep-research", "Sonar-Deep-Research"]


@pytest.mark.parametrize("model", SEARCHERS)
def test_models_that_always_search_are_held_for_it(model: str) -> None:
    for kind in (CHAT, RESPONSE, MESSAGE):
        assert claim(kind, model=model, messages=HELLO, max_tool_calls=0).bound.searches == 20


@pytest.mark.parametrize("model", ["gpt-4o", "NousResearch/Hermes-4-70B", "gpt-rosalind-research", "researcher-1"])
def test_other_models_search_when_they_are_told_to(model: str) -> None:
    assert claim(CHAT, model=model, messages=HELLO).bound.searches == 0
    assert claim(EMBEDDING, model="text-search-ada-doc-001", input="x").bound.searches == 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["audio", "function", "shell", "\ud800", 1 << 70, 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted({
        "type", "environment", "id", "content", "budget_tokens", "include_usage", "url", "image_url", "x",
    })), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.sampled_from(Generation), st.dictionaries(st.sampled_from(sorted(READ)), _JSON, max_size=6))
def test_any_value_is_claimed_or_named(kind: Generation, body: dict[str, Any]) -> None:
    text = json.dumps(body)
    try:
        found = claimed(kind, members(text), len(text))
    except Unreadable as error:
        assert str(error) in body
        return
    assert isinstance(found, Claimed)
    assert min(found.answers, found.bound.input, found.bound.searches, found.extra_output) >= 0


def test_signs_across_two_slices_are_found() -> None:
    for at in range((1 << 18) - 40, (1 << 18) + 4, 3):
        head = '{"model":"m","input":[{"type":"x","text":"'
        text = head + "a" * (at - len(head)) + '"},{"type":"input_file","file_id":"f"}]}'
        assert claimed(RESPONSE, members(text), len(text)).unbounded


def test_forms() -> None:
    prompt = {"model": "gpt-image-1", "prompt": "x" * 30, "n": "2"}
    picture = of_form(IMAGE, Form(prompt, ("image[]", "image[]")), 5_000_000)
    assert (picture.output, picture.answers) == (16_384, 2)
    assert 2 * 16_384 < picture.bound.input < 2 * 16_384 + 100
    assert of_form(IMAGE, Form({**prompt, "image": "data:image/png;base64,AAAA"}, ()), 9).bound.input > 16_384
    heard = of_form(TRANSCRIPTION, Form({"model": "whisper-1"}, ("file",)), 50_000)
    assert heard.bound.audio and heard.bound.milliseconds == 100_000 and not heard.unbounded
    assert of_form(TRANSCRIPTION, Form({"model": "whisper-1", "url": "https://x/a.mp3"}, ()), 200).unbounded
    assert of_form(IMAGE, Form({"model": "m", "models[]": "o1-pro"}, ()), 1).routing == "models"


@pytest.mark.parametrize("count", ["many", "", "0", " 2", "2 ", "1" * 20, "-1", "1.0", "\u0661"])
def test_a_count_of_a_form_that_is_none(count: str) -> None:
    with pytest.raises(Unreadable, match="n"):
        of_form(IMAGE, Form({"n": count}, ()), 1)


@pytest.mark.parametrize("name", ["n", "model", "stream", "prompt"])
def test_a_file_in_place_of_a_field_that_is_read_is_none(name: str) -> None:
    with pytest.raises(Unreadable, match=name):
        of_form(IMAGE, Form({"model": "gpt-image-1"}, ("image", name)), 1)


def test_a_transcription_in_json_is_held_by_its_bytes() -> None:
    found = claim(TRANSCRIPTION, model="whisper-1", file="x" * 50_000)
    assert found.bound.milliseconds > 100_000 and found.bound.audio and found.output is None
    assert claim(TRANSCRIPTION, model="whisper-1", url="https://x/a.mp3").unbounded


PATHS = {
    ("POST", "/v1/chat/completions"): CHAT,
    ("POST", "/v1/chat/completions?x=1"): CHAT,
    ("POST", "/v1/chat%2Fcompletions"): CHAT,
    ("POST", "/V1/Chat/Completions/"): CHAT,
    ("POST", "/openai/deployments/gpt-4o/chat/completions"): CHAT,
    ("POST", "/v1/completions"): COMPLETION,
    ("POST", "/v1/chat//completions"): CHAT,
    ("POST", "/v1/responses"): RESPONSE,
    ("POST", "/v1/messages"): MESSAGE,
    ("POST", "/v1/embeddings"): EMBEDDING,
    ("POST", "/v1/images/edits"): IMAGE,
    ("POST", "/v1/audio/speech"): SPEECH,
    ("POST", "/v1/audio/translations"): Generation.TRANSCRIPTION,
    ("POST", "/v1/chat/completions%20"): CHAT,
    ("POST", "/v1/chat/completions;x=1"): CHAT,
    ("POST", "/v1/chat/completions;x/moderations"): CHAT,
    ("POST", "/v1/chat;x/completions"): CHAT,
    ("POST", "/v1/chat/completions%23/moderations"): CHAT,
    ("POST", "/v1/chat/completions%3F"): CHAT,
    ("POST", "/v1/chat/completions\\"): CHAT,
    ("POST", "/v1/chat%5Ccompletions"): CHAT,
    ("POST", "/v1/chat/completions%00"): CHAT,
    ("POST", "/v1/chat/completions/%0d%0a"): CHAT,
    ("POST", "/v1/chat/completions%2523"): CHAT,
    ("POST", "/v1/chat%c0%afcompletions"): CHAT,
    ("POST", "/v1/chat/completions/x"): None,
    ("GET", "/v1/responses"): None,
    ("POST", "/v1/responses/resp_1/cancel"): None,
    ("POST", "/v1/threads/t/messages"): None,
    ("POST", "/v1/messages/count_tokens"): None,
    ("POST", "/v1/batches"): None,
    ("POST", "/v1/moderations"): None,
}


@pytest.mark.parametrize(("asked", "kind"), PATHS.items())
def test_generations_are_known_by_their_paths(asked: tuple[str, str], kind: Generation | None) -> None:
    assert generation_of(*asked) == kind
    assert counted_of(*asked) == kind


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_gemini_s_are_counted_and_no_budget_gets_there(method: str) -> None:
    path = f"/v1beta/models/gemini-2.5-pro:{method}"
    assert counted_of("POST", path) is Generation.CONTENT
    assert counted_of("POST", path.replace(":", "%3a")) is Generation.CONTENT
    assert generation_of("POST", path) is None and not is_harmless("POST", path)
    assert counted_of("GET", path) is None
    assert counted_of("POST", "/v1beta/models/gemini-2.5-pro:countTokens") is None


def test_what_is_harmless_is_known_and_nothing_else() -> None:
    for path in ("moderations", "moderations/", "messages/count_tokens", "responses/input_tokens", "tokenize"):
        assert is_harmless("POST", f"/v1/{path}") and is_harmless("POST", f"/compatible-mode/v1/{path}?a=b")
    assert is_harmless("POST", "/openai/deployments/x/moderations") and is_harmless("POST", "/tokenize")
    for path in ("/v1/chat/completions#/moderations", "/v1/chat/completions/moderations", "/v1/videos/moderations"):
        assert not is_harmless("POST", path)
    for path in (
        "/v1/moderations;x",
        "/v1//moderations",
        "/v1/videos%23/v1/moderations",
        "/chat/completions/v1/tokenize",
    ):
        assert not is_harmless("POST", path)
    assert is_harmless("GET", "/v1/models") and is_harmless("GET", "/v1/models/gpt-4o")
    for path in ("batches", "realtime/sessions", "fine_tuning/jobs", "videos", "files", "threads/runs"):
        assert not is_harmless("POST", f"/v1/{path}")
    for path in ("files/f/content", "responses/resp_1", "organization/costs", "chat/completions", "modelsx"):
        assert not is_harmless("GET", f"/v1/{path}")
    assert not is_harmless("DELETE", "/v1/models/ft:x") and not is_harmless("DELETE", "/v1/files/f")


def test_models_in_paths() -> None:
    assert model_in("/azure/openai/deployments/o1-pro/chat/completions?api-version=1") == "o1-pro"
    assert model_in("/v1/engines/o1%2Dpro/completions") == "o1-pro"
    assert model_in("/v1/chat/completions") is None
    for path in (
        "/v1/engines//o1-pro/completions",
        "/v1/Engines/o1-pro/chat/completions",
        "/x/DEPLOYMENTS/o1-pro/responses",
    ):
        assert model_in(path) == "o1-pro"
    assert model_in("/openai/deployments//x/chat//completions") == "x"
    assert model_in("/openai/deployments/gpt-4o/extensions/chat/completions") == "gpt-4o"
    # LiteLLM's path takes all that stands there.
    assert model_in("/engines/gpt-4o-mini/engines/o1-pro/chat/completions") == "gpt-4o-mini/engines/o1-pro"
    assert model_in("/v1/engines/completions") is None


def test_names_that_some_parsers_take_for_others() -> None:
    assert ambiguous(["model", "Model"]) == "Model"
    assert ambiguous(["MAX_TOKENS"]) == "MAX_TOKENS" and ambiguous([" model"]) == " model"
    assert ambiguous(["model", "user", "Temperature"]) is None
    assert ambiguous_in_form(["model", "image[]", "include[]", "timestamp_granularities[]"]) is None
    assert [ambiguous_in_form([name]) for name in ("Model", "n[]", "model[0]")] == ["Model", "n[]", "model[0]"]


def test_models_say_no_more_than_they_can() -> None:
    assert longest_answer("gpt-4o-2024-08-06", 128_000) == 16_384
    assert longest_answer("gpt-4o-2024-05-13", 128_000) == 4096
    assert longest_answer("o3-mini", 200_000) == 100_000
    assert longest_answer("somebody-else", 32_000) == 32_000
    assert longest_answer("somebody-else", None) is None
    assert estimated_tokens(9) == 3


def drawn(kind: Generation, **body: Any) -> int:
    text = json.dumps(body)
    return claimed(kind, members(text), len(text)).drawn_inline


def test_inline_pictures_are_measured() -> None:
    url = "data:image/png;base64," + "A" * 1000
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    most = len(url) - len("data:image/")
    words = {"type": "text", "text": f'of {{"image_url": {{"url": "{url}"}}}}'}
    assert drawn(CHAT, messages=[{"role": "user", "content": [part, words, part]}]) == 2 * most
    shown = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
    assert drawn(RESPONSE, input=[shown]) == most
    assert drawn(RESPONSE, tools=[{"type": "function", "name": "x", "parameters": {"image_url": url}}]) == 0
    hidden = {"type": "local_shell_call", "action": {"env": {"image_url": url}}}
    assert drawn(RESPONSE, input=[shown, hidden]) == 0, "what is in an environment is read as text"
    assert (
        drawn(CHAT, messages=[{"content": [{"type": "image_url", "image_url": 'data:image/png;base64,AA"AAAA'}]}]) < 30
    )
    long = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (1 << 19)}}
    size = len(json.dumps(long["image_url"]))
    assert drawn(CHAT, messages=[{"content": [long] * 3}]) >= 3 * (size - 40)


def test_anthropic_s_pictures_are_measured_where_no_tool_was_called() -> None:
    data = "A" * 1000
    source = {"type": "base64", "media_type": "image/png", "data": data}
    picture = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "what is it"}]}
    assert drawn(MESSAGE, messages=[picture, picture]) == 2 * len(data)
    called = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {"source": source}}],
    }
    assert drawn(MESSAGE, messages=[picture, called]) == 0, "what a tool was called with is read as text"
    thought = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": data}]}
    assert drawn(MESSAGE, messages=[thought]) == 0
    told = {"role": "user", "content": json.dumps({"type": "image", "source": source})}
    assert drawn(MESSAGE, messages=[told]) == 0
