import contextlib
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.sessions import Request, Session, Turn, answer_tokens, estimate_tokens, messages, window

anything = st.text(st.characters(exclude_categories=()), max_size=40)  # with lone surrogates
counts = st.none() | st.integers(0, 200)
turns = st.lists(st.builds(Turn, anything, anything, counts), max_size=12)
requests = st.builds(Request, st.sampled_from(["p", "q"]), st.integers(0, 5), counts)


def joined(text: str) -> str:
    """A high and a low surrogate side by side are one character once they went through JSON."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def grown(prompts: Sequence[int | None], prefixes: str = "ppppp") -> Session:
    """A session of turns ("abc", "abc"), one for each request, with its count of the prompt."""
    session = Session()
    for sent, (count, prefix) in enumerate(zip(prompts, prefixes, strict=False)):
        session = session.with_turn(Turn("abc", "abc"), Request(prefix, sent, count), 50)
    return session


def test_the_messages_stand_in_their_order() -> None:
    held = (Turn("我叫小明", "你好"), Turn("hi", "hello"))
    assert messages(held, system="Be kind.", content="我是谁?") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "我叫小明"},
        {"role": "assistant", "content": "你好"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "我是谁?"},
    ]


@pytest.mark.parametrize("system", [None, ""], ids=["no system message", "an empty system message"])
def test_without_a_system_message_none_is_sent(system: str | None) -> None:
    assert messages((), system=system, content="hi") == [{"role": "user", "content": "hi"}]


@given(turns, st.none() | anything, anything, st.integers(0, 15), st.integers(1, 400))
def test_the_newest_whole_turns_go_and_as_many_as_fit(
    held: list[Turn], system: str | None, content: str, max_turns: int, max_tokens: int
) -> None:
    taken = window(Session(tuple(held)), system=system, content=content, max_turns=max_turns, max_tokens=max_tokens)
    fixed = estimate_tokens(content) + (estimate_tokens(system) if system else 0)
    assert list(taken) == held[len(held) - len(taken) :]
    assert len(taken) <= max_turns
    assert not taken or fixed + sum(turn.cost for turn in taken) <= max_tokens
    if len(taken) < min(len(held), max_turns):  # one more would be too much
        assert fixed + sum(turn.cost for turn in held[len(held) - len(taken) - 1 :]) > max_tokens


@pytest.mark.parametrize(
    ("max_tokens", "count"), [(35, 3), (34, 2), (25, 2), (24, 1), (15, 1), (14, 0), (5, 0), (1, 0)], ids=str
)
def test_the_bound_itself_is_within(max_tokens: int, count: int) -> None:
    turn = Turn("abc", "abc")
    assert turn.cost == 10
    assert len(window(Session((turn,) * 3), system=None, content="abc", max_turns=50, max_tokens=max_tokens)) == count


def test_a_turn_that_does_not_fit_hides_what_is_before_it() -> None:
    held = (Turn("a", "b"), Turn("x" * 300, "y"), Turn("c", "d"))
    assert window(Session(held), system=None, content="e", max_turns=50, max_tokens=100) == held[2:]


def test_a_counted_turn_costs_what_upstream_says() -> None:
    assert Turn("x" * 300, "y", 7).cost == 7
    assert Turn("x", "y", 0).cost == 0
    assert answer_tokens("abc", 10) == 5 + 10 + 4
    assert answer_tokens("abc", None) is None


def test_the_next_request_counts_the_turn_before() -> None:
    assert [turn.tokens for turn in grown([10, 25, 47]).turns] == [15, 22, None]


@pytest.mark.parametrize(
    ("prompts", "prefixes"),
    [([None, 25], "pp"), ([10, None], "pp"), ([10, 25], "pq"), ([25, 25], "pp"), ([25, 10], "pp")],
    ids=["no count before", "no count now", "another prefix", "nothing added", "less than before"],
)
def test_counts_that_do_not_compare_are_left_alone(prompts: list[int | None], prefixes: str) -> None:
    assert [turn.tokens for turn in grown(prompts, prefixes).turns] == [None, None]


def test_a_request_that_left_turns_out_counts_nothing() -> None:
    session = grown([10, 25]).with_turn(Turn("abc", "abc"), Request("p", 1, 90), 50)
    assert session.turns[1].tokens is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 4), ("a", 5), ("abc", 5), ("abcd", 6), ("你", 5), ("你好", 6), ("😀", 6), ("\ud800", 5)],
    ids=ascii,
)
def test_tokens_are_estimated_by_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@given(turns, st.builds(Turn, anything, anything), st.none() | requests, requests, st.integers(-2, 15))
def test_a_session_keeps_its_newest_turns(
    held: list[Turn], turn: Turn, last: Request | None, request: Request, keep: int
) -> None:
    before = Session(tuple(held), last)
    after = before.with_turn(turn, request, keep)
    assert (before.turns, before.last) == (tuple(held), last)
    everything = [(each.user, each.assistant) for each in [*held, turn]]
    kept = [(each.user, each.assistant) for each in after.turns]
    assert kept == (everything[max(0, len(everything) - keep) :] if keep > 0 else [])
    assert after.last == request
    assert all(each.tokens is None or each.tokens >= 0 for each in after.turns)


@given(turns, st.none() | requests)
def test_a_session_survives_storage(held: list[Turn], last: Request | None) -> None:
    stored = Session(tuple(held), last).to_json()
    assert stored.isascii()
    read = tuple(Turn(joined(turn.user), joined(turn.assistant), turn.tokens) for turn in held)
    assert Session.from_json(stored) == Session(read, last)


def test_a_lone_surrogate_survives_storage() -> None:
    session = Session((Turn("\ud83d", "\ude00 ok \udfff"),))
    assert Session.from_json(session.to_json()) == session


def stored(turns: str = '[["a","b",null]]', last: str = "null", version: str = "1") -> bytes:
    return f'{{"v":{version},"turns":{turns},"last":{last}}}'.encode()


def test_what_is_stored_is_read() -> None:
    assert Session.from_json(stored('[["a","b",null],["c","d",9]]', '["p",1,12]')) == Session(
        (Turn("a", "b"), Turn("c", "d", 9)), Request("p", 1, 12)
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80\x04]\x94.", id="a pickle"),
        pytest.param(stored()[:-1], id="cut off"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"1", id="a number"),
        pytest.param(b'{"turns":[],"last":null}', id="no version"),
        pytest.param(stored(version="2"), id="a later version"),
        pytest.param(b'{"v":1,"last":null}', id="no turns"),
        pytest.param(b'{"v":1,"turns":[]}', id="no last request"),
        pytest.param(stored("null"), id="turns are null"),
        pytest.param(stored('[["a"]]'), id="half a turn"),
        pytest.param(stored('[["a","b",1,2]]'), id="a turn and a half"),
        pytest.param(stored('[["a",1,null]]'), id="a number for text"),
        pytest.param(stored('[["a",null,null]]'), id="null for text"),
        pytest.param(stored('[[["a"],"b",null]]'), id="an array for text"),
        pytest.param(stored('[["a","b","9"]]'), id="text for a count"),
        pytest.param(stored('[["a","b",true]]'), id="true for a count"),
        pytest.param(stored(last="[]"), id="an empty last request"),
        pytest.param(stored(last="7"), id="a number for the last request"),
        pytest.param(stored("[" * 100_000), id="nested without end"),
    ],
)
def test_what_is_no_session_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Session.from_json(text)


junk = st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=8).map(json.dumps)


@given(st.binary(max_size=60) | st.builds(stored, junk, junk))
def test_nothing_but_value_error_is_raised(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        Session.from_json(text)
