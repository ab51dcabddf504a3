"""What of a conversation goes upstream, by the tokens that upstream counts, and what happens where that is too much.

The look-alike counts ceil(bytes / 4) + 4 a message and 3 more a conversation; relay, where it has to estimate, counts
ceil(bytes / 3) + 4 a message.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from addons.cli.fake_openai.chat import prompt_tokens, tokens
from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Live, LogWatch, eventually
from tests.support.raw import Client
from tests.support.shapes import chat_error
from tests.support.talking import (
    COMPLETIONS,
    DONE,
    Told,
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

MAX_TOKENS = 600
TOO_LONG = json.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 16385 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }
).encode()
REFUSED = Behaviour(status=400, headers=[("content-type", "application/json")], body=TOO_LONG)


@pytest.fixture(scope="module")
def bounded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay that sends 600 tokens at most, and waits two seconds for an answer."""
    with live.relay(
        tmp_path_factory.mktemp("bounded"),
        upstream.url,
        chat={"timeout": "2s", "context": {"max_tokens": MAX_TOKENS}},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def watch(bounded: Live, upstream: Upstream) -> Iterator[None]:
    """Whatever a test does, the log shows neither a traceback nor a key."""
    upstream.clear()
    watched = LogWatch(bounded)
    yield
    watched.check()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    return request.node.name[-64:]  # type: ignore[no-any-return]


def estimated(text: str) -> int:
    """What relay takes a message for that nobody has counted."""
    return -(-len(text.encode()) // 3) + 4


def answered(words: str) -> Behaviour:
    """An upstream that says this, and counts nothing."""
    return Behaviour(body=completion(words))


def turns_sent(upstream: Upstream, request: int = -1) -> int:
    """How many earlier turns a request carried."""
    return (len(sent(completions(upstream)[request])) - 1) // 2


def fitting(costs: Sequence[int], content: str, max_tokens: int = MAX_TOKENS) -> int:
    """How many of the newest turns fit beside a message, as the README says."""
    left, count = max_tokens - estimated(content), 0
    for cost in reversed(costs):
        left -= cost
        if left < 0:
            break
        count += 1
    return count


def say(relay: Live, session: str, content: str, how: str, **more: Any) -> str:
    """One message, whole or streamed, and its words."""
    if how == "streamed":
        return streamed(relay, message(session, content, **more)).text()
    return succeeded(post(relay, message(session, content, **more)))


# 1. Counted where that can be, estimated elsewhere

LETTERS = "x" * 120  # 30 tokens and 4 by upstream's count, 40 and 4 by the estimate


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_turns_cost_what_upstream_counts(bounded: Live, upstream: Upstream, session: str, how: str) -> None:
    said: list[tuple[str, str]] = []
    counted: list[int] = []
    for _ in range(9):
        words = say(bounded, session, LETTERS, how)
        expected = min(len(said), fitting(counted, LETTERS))
        assert turns_sent(upstream) == expected, (said, counted)
        # The newest turn's message was counted by nobody yet; all before it were told exactly, while none was left out.
        if said and expected == len(said):
            earlier = said[-1]
            counted[-1] = sum(tokens(text) + 4 for text in earlier)
        said.append((LETTERS, words))
        counted.append(estimated(LETTERS) + tokens(words) + 4)
    guess = [sum(estimated(text) for text in turn) for turn in said]
    assert fitting(counted, LETTERS) > fitting(guess, LETTERS), "the test tells counts from estimates"


def test_the_count_of_the_whole_window_is_exact(bounded: Live, upstream: Upstream, session: str) -> None:
    """Messages of different lengths: what a turn's count has too much, its neighbour's has too little."""
    contents = ["a" * 30, "b" * 300, "c" * 90, "d" * 10, "e" * 200]
    for content in contents:
        succeeded(post(bounded, message(session, content)))
        last = completions(upstream)[-1].json()["messages"]
        assert prompt_tokens(last) <= MAX_TOKENS
    assert [turns_sent(upstream, number) for number in range(5)] == [0, 1, 2, 3, 4]


def test_without_counts_turns_are_estimated(bounded: Live, upstream: Upstream, session: str) -> None:
    costs: list[int] = []
    for number in range(11):
        upstream.script(COMPLETIONS, answered("y" * 60))
        succeeded(post(bounded, message(session, LETTERS)))
        assert turns_sent(upstream) == min(number, fitting(costs, LETTERS))
        costs.append(estimated(LETTERS) + estimated("y" * 60))
    assert fitting(costs, LETTERS) < 11, "the window was full"


def test_counts_of_different_models_do_not_mix(bounded: Live, upstream: Upstream, session: str) -> None:
    """Another model counts ten times as much: the difference to the count before says nothing."""

    def counting(prompt: int, answer: int) -> Behaviour:
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return Behaviour(body=completion("ok", usage=usage))

    upstream.script(COMPLETIONS, counting(10, 1), counting(5000, 1), counting(30, 1), counting(50, 1))
    for number, model in enumerate(("gpt-3.5-turbo", "gpt-4o", "gpt-3.5-turbo", "gpt-3.5-turbo")):
        succeeded(post(bounded, message(session, "short", model=model)))
        assert turns_sent(upstream) == number, "no turn was taken for one of 4990 tokens"


@pytest.mark.parametrize("change", [{"system": "x" * 90}, {"temperature": 0.5}], ids=["system", "parameters"])
def test_counts_of_different_prefixes_do_not_mix(
    bounded: Live, upstream: Upstream, session: str, change: dict[str, Any]
) -> None:
    usage = [{"prompt_tokens": prompt, "completion_tokens": 1} for prompt in (10, 5000, 20)]
    upstream.script(COMPLETIONS, *(Behaviour(body=completion("ok", usage=one)) for one in usage))
    for number, options in enumerate(({}, change, {})):
        succeeded(post(bounded, message(session, "short", **options)))
        assert turns_sent(upstream) == number


def test_the_same_prefix_counts_what_a_turn_has_added(bounded: Live, upstream: Upstream, session: str) -> None:
    """The count wins over any estimate: here it says that a short turn is a heavy one."""
    usage = [{"prompt_tokens": prompt, "completion_tokens": 1} for prompt in (10, 5000)]
    upstream.script(COMPLETIONS, *(Behaviour(body=completion("ok", usage=one)) for one in usage))
    for expected in (0, 1, 1):  # of the third message's two turns the first one weighs 4990
        succeeded(post(bounded, message(session, "short")))
        assert turns_sent(upstream) == expected


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "many"},
        {"prompt_tokens": -5, "completion_tokens": -7},
        {"prompt_tokens": 1e300, "completion_tokens": float("inf")},
        {"prompt_tokens": 10**30, "completion_tokens": 10**30},
        {"prompt_tokens": True},
        [1],
        "7",
        {},
    ],
    ids=repr,
)
def test_nonsense_for_usage_is_no_count(bounded: Live, upstream: Upstream, session: str, usage: Any) -> None:
    for number in range(3):
        upstream.script(COMPLETIONS, Behaviour(body=completion("ok", usage=usage)))
        succeeded(post(bounded, message(session, "short")))
        assert turns_sent(upstream) == number


def test_the_system_message_counts_and_is_always_sent(bounded: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, answered("ok"), answered("ok"), answered("ok"))
    succeeded(post(bounded, message(session, "short")))
    succeeded(post(bounded, message(session, "short", system="s" * 1000)))
    assert len(sent(completions(upstream)[-1])) == 4, "334 tokens and 4 leave room for a short turn"
    succeeded(post(bounded, message(session, "長" * 300, system="s" * 1000)))
    assert sent(completions(upstream)[-1]) == ["s" * 1000, "長" * 300], "both go up however long they are"


def test_a_turn_goes_whole_or_not_at_all(bounded: Live, upstream: Upstream, session: str) -> None:
    for content, words in (("a", "b" * 2000), ("c", "d"), ("e", "f")):
        upstream.script(COMPLETIONS, answered(words))
        succeeded(post(bounded, message(session, content)))
    succeeded(post(bounded, message(session, "last")))
    assert sent(completions(upstream)[-1]) == ["c", "d", "e", "f", "last"]
    assert len(history(bounded, session)) == 8, "what is not sent is kept all the same"


# 2. Too long for the upstream


def grown(relay: Live, upstream: Upstream, session: str, count: int) -> list[str]:
    """A session of so many short turns; their contents."""
    upstream.script(COMPLETIONS, *(answered(f"a{number}") for number in range(count)))
    for number in range(count):
        succeeded(post(relay, message(session, f"u{number}")))
    upstream.clear()
    return [text for number in range(count) for text in (f"u{number}", f"a{number}")]


@pytest.mark.parametrize("how", ["whole", "streamed"])
@pytest.mark.parametrize(("count", "left"), [(1, 0), (2, 1), (3, 1), (8, 4)])
def test_what_is_too_long_is_asked_again_with_half(
    bounded: Live, upstream: Upstream, session: str, how: str, count: int, left: int
) -> None:
    turns = grown(bounded, upstream, session, count)
    upstream.script(COMPLETIONS, REFUSED)
    words = say(bounded, session, "new", how, temperature=0.5)
    first, second = completions(upstream)
    assert sent(first) == [*turns, "new"]
    assert sent(second) == [*turns[len(turns) - 2 * left :], "new"]
    ignored = ("messages", "stream", "stream_options")
    asked = [{name: value for name, value in seen.json().items() if name not in ignored} for seen in (first, second)]
    assert asked[0] == asked[1] == {"model": "gpt-3.5-turbo", "temperature": 0.5}
    assert first.header("authorization") == second.header("authorization")
    assert history(bounded, session) == [*turns, "new", words], "no turn is lost over it"


def test_a_retried_stream_comes_in_one_piece(bounded: Live, upstream: Upstream, session: str) -> None:
    grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, REFUSED)
    told = streamed(bounded, message(session, "new"))
    assert (told.reply.status, told.reply.get("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert told.text() and told.deltas == []


MESSAGE_ALONE = b'{"error": {"message": "the input exceeds the maximum context length of this model", "code": null}}'
WAYS = [
    pytest.param(REFUSED, id="as OpenAI says it"),
    pytest.param(Behaviour(status=400, body=MESSAGE_ALONE), id="in words alone"),
    pytest.param(Behaviour(status=413, body=TOO_LONG), id="413"),
    pytest.param(Behaviour(status=422, body=TOO_LONG), id="422"),
    pytest.param(Behaviour(status=400, body=TOO_LONG, gzip=True), id="compressed"),
    pytest.param(Behaviour(status=200, body=TOO_LONG), id="in a 200"),
    pytest.param(streaming(b"data: " + TOO_LONG + b"\n\n", DONE), id="as an event"),
    pytest.param(streaming(b": wait\n\n", chunk("", role="assistant"), b"event: error\ndata: " + TOO_LONG), id="late"),
    pytest.param(streaming(b"event: error\ndata: prompt is too long: 9 > 4\n\n"), id="as an event, in words"),
]


@pytest.mark.parametrize("how", ["whole", "streamed"])
@pytest.mark.parametrize("refusal", WAYS)
def test_it_is_understood_in_any_way(
    bounded: Live, upstream: Upstream, session: str, refusal: Behaviour, how: str
) -> None:
    turns = grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, refusal)
    words = say(bounded, session, "new", how)
    assert len(completions(upstream)) == 2
    assert history(bounded, session) == [*turns, "new", words]


def test_what_was_told_in_part_is_not_asked_again(bounded: Live, upstream: Upstream, session: str) -> None:
    turns = grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, streaming(chunk("some"), b"data: " + TOO_LONG + b"\n\n"))
    told = streamed(bounded, message(session, "lost"))
    assert (told.deltas, told.envelope["code"]) == (["some"], 400)
    assert len(completions(upstream)) == 1
    assert history(bounded, session) == turns


EVENTS = streaming(b"data: " + TOO_LONG + b"\n\n")
ROUNDS = [(4, REFUSED, 2), (4, REFUSED, 4), (9, REFUSED, 3), (4, EVENTS, 3)]


@pytest.mark.parametrize("how", ["whole", "streamed"])
@pytest.mark.parametrize(("count", "refusal", "times"), ROUNDS)
def test_it_is_halved_as_long_as_it_is_too_long(
    bounded: Live, upstream: Upstream, session: str, how: str, count: int, refusal: Behaviour, times: int
) -> None:
    turns = grown(bounded, upstream, session, count)
    upstream.script(COMPLETIONS, *[refusal] * min(times, count.bit_length()))
    words = say(bounded, session, "new", how)
    left = [count >> number for number in range(min(times, count.bit_length()) + 1)]
    assert [turns_sent(upstream, number) for number in range(len(completions(upstream)))] == left
    assert sent(completions(upstream)[-1])[-1] == "new"
    assert history(bounded, session) == [*turns, "new", words]


@pytest.mark.parametrize("how", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize("refusal", [REFUSED, EVENTS], ids=["as a status", "as an event"])
def test_the_message_alone_is_the_last_that_is_asked(
    bounded: Live, upstream: Upstream, session: str, how: dict[str, Any], refusal: Behaviour
) -> None:
    turns = grown(bounded, upstream, session, 4)
    upstream.script(COMPLETIONS, *[refusal] * 9)
    answer = post(bounded, message(session, "lost", **how))
    envelope = json.loads(answer.body.rstrip().removeprefix(b"data: "))
    assert (envelope["code"], "maximum context" in envelope["message"]) == (400, True)
    assert [turns_sent(upstream, number) for number in range(len(completions(upstream)))] == [4, 2, 1, 0]
    assert history(bounded, session) == turns


OPEN = 20.0
"""Seconds that an upstream keeps its connection open: longer than a message has here."""


def lasting(*pieces: bytes, **more: Any) -> Behaviour:
    """An upstream that streams this, asked or not, and keeps its connection open."""
    chunks = [*((piece, 0.01) for piece in pieces[:-1]), (pieces[-1], OPEN)]
    return Behaviour(headers=[("content-type", "text/event-stream")], chunks=chunks, **more)


SECONDS = [
    pytest.param(lasting(chunk("all"), DONE), "all", id="open behind DONE"),
    pytest.param(lasting(chunk("all"), DONE, gzip=True), "all", id="open behind DONE, compressed"),
    pytest.param(lasting(chunk("all", "stop")), "all", id="open behind the finish reason"),
    pytest.param(streaming(chunk("all", "stop"), DONE, break_after=len(chunk("all", "stop")) + 3), "all", id="cut"),
    pytest.param(lasting(chunk("a"), b'data: {"error": {"message": "on fire"}}\n\n'), 502, id="an error"),
    pytest.param(lasting(chunk("a"), b'data: {"choices": [{"del\n\n'), 502, id="unreadable"),
    pytest.param(streaming(chunk("a")), 502, id="broken off"),
]


@pytest.mark.parametrize("how", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize(("second", "expected"), SECONDS)
def test_a_second_answer_ends_as_the_first_does(
    relay: Live, upstream: Upstream, session: str, how: dict[str, Any], second: Behaviour, expected: str | int
) -> None:
    turns = grown(relay, upstream, session, 2)
    upstream.script(COMPLETIONS, REFUSED, second)
    begun = time.monotonic()
    answer = post(relay, message(session, "new", **how))
    assert time.monotonic() - begun < OPEN / 2
    envelope = json.loads(answer.body.rstrip().removeprefix(b"data: "))
    if isinstance(expected, int):
        assert (envelope["code"], envelope["data"]) == (expected, None)
        assert history(relay, session) == turns
    else:
        assert (envelope["code"], envelope["data"]) == (200, expected)
        assert history(relay, session) == [*turns, "new", expected]
    again = completions(upstream)[1]
    lasts = second.chunks is not None and second.chunks[-1][1] == OPEN
    assert not lasts or eventually(lambda: again.closed_at is not None, 5), "the connection is not left open"


def test_without_earlier_turns_there_is_nothing_to_leave_out(bounded: Live, upstream: Upstream, session: str) -> None:
    upstream.script(COMPLETIONS, REFUSED)
    assert "maximum context" in chat_error(post(bounded, message(session, "lost")), 400)
    assert len(completions(upstream)) == 1
    assert history(bounded, session) == []


OTHER = [
    pytest.param(Behaviour(status=400, body=b'{"error": {"message": "bad field"}}'), 400, id="another 400"),
    pytest.param(Behaviour(status=500, body=b'{"error": {"message": "the engine died"}}'), 502, id="500"),
    pytest.param(Behaviour(status=429, body=b'{"error": {"message": "slow down"}}'), 429, id="429"),
]


@pytest.mark.parametrize(("refusal", "code"), OTHER)
def test_other_refusals_are_not_asked_again(
    bounded: Live, upstream: Upstream, session: str, refusal: Behaviour, code: int
) -> None:
    grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, refusal)
    chat_error(post(bounded, message(session, "lost")), code)
    assert len(completions(upstream)) == 1


FAILS = [
    pytest.param(Behaviour(status=500, body=b""), 502, id="500"),
    pytest.param(Behaviour(close_without_answer=True), 502, id="no answer"),
    pytest.param(Behaviour(body=completion("x" * 100), break_after=60), 502, id="a break"),
    pytest.param(Behaviour(body=completion(None, refusal="I can't.")), 403, id="a refusal"),
]


@pytest.mark.parametrize(("behaviour", "code"), FAILS)
def test_a_second_try_that_fails_leaves_the_session(
    bounded: Live, upstream: Upstream, session: str, behaviour: Behaviour, code: int
) -> None:
    turns = grown(bounded, upstream, session, 3)
    upstream.script(COMPLETIONS, REFUSED, behaviour)
    chat_error(post(bounded, message(session, "lost")), code)
    assert history(bounded, session) == turns
    succeeded(post(bounded, message(session, "next")))


LATE = [pytest.param(0.0, id="refused at once"), pytest.param(1.5, id="refused late")]


@pytest.mark.parametrize("late", LATE)
def test_both_tries_together_have_the_time_of_one(bounded: Live, upstream: Upstream, session: str, late: float) -> None:
    turns = grown(bounded, upstream, session, 2)
    refused = Behaviour(status=400, body=TOO_LONG, delay_headers=late)
    upstream.script(COMPLETIONS, refused, Behaviour(never=True))
    begun = time.monotonic()
    chat_error(post(bounded, message(session, "lost")), 408)
    assert 1.8 < time.monotonic() - begun < 2.45
    second = completions(upstream)[1]
    assert eventually(lambda: second.closed_at is not None, 1)
    assert history(bounded, session) == turns


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "refusals", [[REFUSED], [EVENTS], [lasting(b"data: " + TOO_LONG + b"\n\n")], [REFUSED, EVENTS]]
)
def test_a_client_that_leaves_during_a_further_try_frees_its_session(
    bounded: Live, upstream: Upstream, session: str, stream: bool, refusals: list[Behaviour]
) -> None:
    turns = grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, *refusals, Behaviour(never=True))
    with Client(bounded.port) as client:
        begin(client, {**message(session, "lost"), "stream": stream})
        last = at_work(upstream, len(refusals) + 1)
    left = time.monotonic()
    succeeded(post(bounded, message(session, "next")))
    assert time.monotonic() - left < 1
    assert last.closed_at is not None
    assert history(bounded, session)[:-1] == [*turns, "next"]


def test_messages_that_wait_behind_a_second_try_keep_their_order(
    bounded: Live, upstream: Upstream, session: str
) -> None:
    turns = grown(bounded, upstream, session, 2)
    upstream.script(COMPLETIONS, REFUSED, Behaviour(delay_headers=0.3))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, bounded, message(session, "one"))
        at_work(upstream, 2)
        second = pool.submit(post, bounded, message(session, "two"))
        succeeded(first.result())
        succeeded(second.result())
    assert [sent(seen)[-1] for seen in completions(upstream)] == ["one", "one", "two"]
    assert history(bounded, session)[len(turns) :: 2] == ["one", "two"]


def test_counts_go_on_after_a_second_try(bounded: Live, upstream: Upstream, session: str) -> None:
    """The count of the second try is that of half a window, and is not held against that of a whole one."""
    usage = [{"prompt_tokens": prompt, "completion_tokens": 1} for prompt in (10, 20, 15, 900, 40)]
    replies = [Behaviour(body=completion("ok", usage=one)) for one in usage]
    upstream.script(COMPLETIONS, *replies[:2], REFUSED, *replies[2:])
    for expected in (0, 1, 1, 3, 4):
        succeeded(post(bounded, message(session, "short")))
        assert turns_sent(upstream) == expected


def test_a_stream_tells_its_usage_too(bounded: Live, upstream: Upstream, session: str) -> None:
    def counting(prompt: int) -> Behaviour:
        usage = {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 1}}
        return streaming(chunk("ok", "stop"), f"data: {json.dumps(usage)}\n\n".encode(), DONE)

    upstream.script(COMPLETIONS, counting(10), counting(5000))
    for expected in (0, 1, 1):
        told: Told = streamed(bounded, message(session, "short"))
        told.text()
        assert turns_sent(upstream) == expected
