"""The official Python SDK before a live relay: every endpoint it shares with the look-alike, and its error classes."""

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from addons.cli.fake_openai.api import PNG
from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support.live import Live, eventually

KEY = "sk-test-0123456789"
MODEL = "gpt-4o-mini"
PATH = "/v1/chat/completions"
HELLO: list = [{"role": "user", "content": "hello, how are you?"}]


@pytest.fixture
def client(relay: Live) -> Iterator[openai.OpenAI]:
    """The SDK as an app sets it up, without retries."""
    with openai.OpenAI(api_key=KEY, base_url=f"{relay.url}/v1", max_retries=0, timeout=10) as made:
        yield made


# Endpoints


def test_a_chat_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0.2)
    assert answer.choices[0].message.content == 'You said: "hello, how are you?". Before that I saw 0 earlier messages.'
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_streamed_chat_completion_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said.startswith("You said:")
    assert chunks[-1].usage is not None


def test_a_stream_that_is_closed_early_closes_upstream(client: openai.OpenAI, upstream: Upstream) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, extra_headers={"x-demo-delay-ms": "100"}
    )
    next(iter(stream))
    seen = upstream.seen[-1]
    stream.close()
    assert eventually(lambda: seen.closed_at is not None, 1)


def test_a_response(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="who are you?")
    assert answer.output_text == "I am an AI assistant, happy to help."


def test_a_streamed_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="who are you?") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "I am an AI assistant, happy to help."


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(one.embedding) for one in answer.data] == [8, 8]


def test_an_image(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="dall-e-3", prompt="a fox", response_format="b64_json")
    assert answer.data is not None
    assert answer.data[0].revised_prompt == "a fox"


def test_speech_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.audio.speech.create(model="tts-1", voice="alloy", input="hello").content
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="hello") as answer:
        streamed = b"".join(answer.iter_bytes())
    assert whole == streamed
    assert whole.startswith(b"ID3")


def test_a_transcription(client: openai.OpenAI) -> None:
    sound = io.BytesIO(bytes(range(256)) * 4000)
    answer = client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", sound))
    assert answer.text == "1024000 bytes of sound named a.mp3."


def test_a_files_life(client: openai.OpenAI) -> None:
    content = PNG * 100
    made = client.files.create(file=("图.png", content), purpose="vision")
    assert (made.filename, made.bytes) == ("图.png", len(content))
    assert made.model_extra == {"sha256": hashlib.sha256(content).hexdigest()}
    assert client.files.retrieve(made.id).id == made.id
    assert made.id in [file.id for file in client.files.list()]
    assert client.files.content(made.id).read() == content
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_models(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


def test_moderations(client: openai.OpenAI) -> None:
    assert client.moderations.create(input="violence").results[0].flagged
    assert not client.moderations.create(input="peace").results[0].flagged


def test_what_the_sdk_does_not_know_goes_through_too(client: openai.OpenAI) -> None:
    answer = client.post("/echo/tomorrow", body={"a": 1}, cast_to=dict[str, object])
    assert answer["target"] == "/v1/echo/tomorrow"


def test_the_asynchronous_sdk(relay: Live) -> None:
    async def streams(client: openai.AsyncOpenAI) -> AsyncIterator[int]:
        async def one() -> int:
            stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            return len([chunk async for chunk in stream])

        for count in await asyncio.gather(*(one() for _ in range(20))):
            yield count

    async def run() -> set[int]:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{relay.url}/v1", max_retries=0, timeout=20) as client:
            return {count async for count in streams(client)}

    counts = asyncio.run(run())
    assert len(counts) == 1
    assert counts.pop() > 10


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (413, openai.APIStatusError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (502, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_upstreams_errors_keep_their_class_and_their_words(
    client: openai.OpenAI, upstream: Upstream, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    said = b'{"error": {"message": "as upstream says", "type": "t", "param": "p", "code": "c"}}'
    headers = [("content-type", "application/json"), ("x-request-id", "req_upstream")]
    upstream.script(PATH, Behaviour(status=status, headers=headers, body=said))
    with pytest.raises(kind) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    error = raised.value
    assert error.status_code == status
    assert (error.type, error.param, error.code) == ("t", "p", "c")
    assert "as upstream says" in str(error)
    assert error.request_id == "req_upstream"


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        ("sk-bad-0123456789", openai.AuthenticationError, "invalid_api_key"),
        ("sk-403-0123456789", openai.PermissionDeniedError, "unsupported_country_region_territory"),
        ("sk-quota-0123456789", openai.RateLimitError, "insufficient_quota"),
        ("sk-rate-0123456789", openai.RateLimitError, "rate_limit_exceeded"),
    ],
)
def test_refused_keys(client: openai.OpenAI, key: str, kind: type[openai.APIStatusError], code: str) -> None:
    with pytest.raises(kind) as raised:
        client.with_options(api_key=key).models.list()
    assert raised.value.code == code


def test_a_model_that_does_not_exist(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert raised.value.code == "model_not_found"


def test_relays_own_refusal_has_a_class_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.with_options(base_url=str(client.base_url).replace("/v1", "/v9")).models.list()
    assert raised.value.code == "unknown_path"


@pytest.mark.parametrize("header", [("retry-after", "1"), ("retry-after-ms", "1000")])
def test_retry_after_is_honoured(client: openai.OpenAI, upstream: Upstream, header: tuple[str, str]) -> None:
    before = len(upstream.seen)
    upstream.script(PATH, Behaviour(status=429, headers=[header], body=b"{}"))
    begin = time.monotonic()
    answer = client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices
    assert 0.95 < time.monotonic() - begin < 3
    assert [seen.header("x-stainless-retry-count") for seen in upstream.seen[before:]] == ["0", "1"]


def test_x_should_retry_is_heard(client: openai.OpenAI, upstream: Upstream) -> None:
    before = len(upstream.seen)
    upstream.script(PATH, Behaviour(status=503, headers=[("x-should-retry", "false")], body=b"{}"))
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=HELLO)
    assert len(upstream.seen) == before + 1


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_upstream_that_breaks_off_before_the_answer_is_retried(
    client: openai.OpenAI, upstream: Upstream, reset: bool
) -> None:
    upstream.script(PATH, Behaviour(close_without_answer=True, reset=reset))
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert (raised.value.status_code, raised.value.code) == (502, "upstream_failed")
    upstream.script(PATH, Behaviour(close_without_answer=True, reset=reset))
    assert client.with_options(max_retries=1).chat.completions.create(model=MODEL, messages=HELLO).choices


def test_a_stream_that_breaks_is_an_error_and_no_end(client: openai.OpenAI, upstream: Upstream) -> None:
    event = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
    headers = [("content-type", "text/event-stream")]
    upstream.script(PATH, Behaviour(headers=headers, chunks=[(event, 0.05)] * 3, break_after=len(event) * 2))
    arrived = 0
    with pytest.raises(Exception, match=r"peer closed connection|incomplete chunked read|Connection error"):
        for _ in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
            arrived += 1
    assert arrived == 2


def test_an_error_inside_a_stream_passes(client: openai.OpenAI, upstream: Upstream) -> None:
    event = b'data: {"error": {"message": "overloaded", "type": "server_error", "code": null, "param": null}}\n\n'
    upstream.script(PATH, Behaviour(headers=[("content-type", "text/event-stream")], chunks=[(event, 0)]))
    with pytest.raises(openai.APIError, match="overloaded"):
        list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))


@pytest.mark.parametrize("suffix", ["/v1/", "//v1", "/v1/v1"])
def test_a_base_url_joined_carelessly(relay: Live, suffix: str) -> None:
    with openai.OpenAI(api_key=KEY, base_url=relay.url + suffix, max_retries=0, timeout=10) as client:
        assert client.models.list().data


def test_nothing_of_all_this_left_a_traceback_or_a_key(relay: Live) -> None:
    assert "Traceback" not in relay.log
    assert KEY not in relay.log
