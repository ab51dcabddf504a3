import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.chat import Bounds, Incoming, Invalid, completion_request, read, read_bearer, read_key
from addons.core.frozen import freeze

BOUNDS = Bounds(api_key=256, session_id=64, content=1000)
KEY = "sk-0123456789abcdef"
anything = st.text(st.characters(exclude_categories=()))


def body(**changes: object) -> bytes:
    fields = {"apiKey": KEY, "sessionId": "s1", "content": "你是谁?", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def test_the_documented_message_is_read() -> None:
    text = (
        '{"apiKey": "sk-0123456789abcdef", "sessionId": "8d1cb9b0-d535-43a8-b738-4f61b1608579", "content": "你是谁?"}'
    )
    assert read(text.encode(), None, BOUNDS) == Incoming(KEY, "8d1cb9b0-d535-43a8-b738-4f61b1608579", "你是谁?")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'\xef\xbb\xbf{"apiKey":"%s","sessionId":"s","content":"a\\nb"}', id="a byte order mark"),
        pytest.param(b'{"apiKey":"%s","sessionId":"s","content":"a\nb"}', id="a raw newline in a string"),
        pytest.param(b'{"x":[{}],"apiKey":"%s","sessionId":"s","content":"a\\nb"}', id="an unknown field"),
        pytest.param(b'{"apiKey":" %s\\n","sessionId":"s","content":"a\\nb"}', id="blanks around the key"),
    ],
)
def test_what_real_callers_send_is_read(raw: bytes) -> None:
    assert read(raw.replace(b"%s", KEY.encode()), None, BOUNDS) == Incoming(KEY, "s", "a\nb")


@pytest.mark.parametrize(
    "given",
    [pytest.param(..., id="no apiKey"), pytest.param(None, id="apiKey is null")],
)
def test_the_key_may_come_as_bearer(given: object) -> None:
    assert read(body(apiKey=given), "sk-bearer-123456", BOUNDS).api_key == "sk-bearer-123456"


def test_the_key_of_the_body_comes_first() -> None:
    assert read(body(), "sk-bearer-123456", BOUNDS).api_key == KEY


@pytest.mark.parametrize("name", ["apiKey", "sessionId", "content"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(..., id="missing"),
        pytest.param(None, id="null"),
        pytest.param("", id="empty"),
        pytest.param(True, id="true"),
        pytest.param(["x"], id="an array"),
        pytest.param({"x": "y"}, id="an object"),
        pytest.param("x" * 1001, id="too long"),
    ],
)
def test_a_bad_field_is_named(name: str, value: object) -> None:
    with pytest.raises(Invalid) as caught:
        read(body(**{name: value}), None, BOUNDS)
    assert name in caught.value.zh
    assert name in caught.value.en
    assert str(caught.value) == caught.value.en


@pytest.mark.parametrize("name", ["apiKey", "content"])
@pytest.mark.parametrize("number", [7, 1.5])
def test_a_number_is_no_text(name: str, number: float) -> None:
    with pytest.raises(Invalid, match=f"{name} must be a string"):
        read(body(**{name: number}), None, BOUNDS)


def with_id(written: str) -> bytes:
    return b'{"apiKey": "%s", "sessionId": %s, "content": "x"}' % (KEY.encode(), written.encode())


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("1", "1"),
        ("0", "0"),
        ("-7", "-7"),
        ("1700000000000", "1700000000000"),
        ("9" * 64, "9" * 64),
        ('"01"', "01"),
        ("1.0", "1.0"),
        ("1e3", "1e3"),
        ("0.7316842", "0.7316842"),
    ],
)
def test_a_number_is_a_session_s_id_as_its_text(written: str, text: str) -> None:
    assert read(with_id(written), None, BOUNDS).session_id == text


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("true", "sessionId must be a string or a number"),
        ("false", "sessionId must be a string or a number"),
        ("null", "sessionId is missing"),
        ("NaN", "invalid number"),
        ("-Infinity", "invalid number"),
        ("1e999", "invalid number"),
        ("9" * 65, "65 characters, at most 64"),
        ("-" + "9" * 64, "65 characters, at most 64"),
        ("9" * 640, "640 characters, at most 64"),
        ("9" * 60_000, "invalid number"),
    ],
    ids=lambda value: value[:20],
)
def test_nothing_else_is_one(written: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        read(with_id(written), None, BOUNDS)


@pytest.mark.parametrize(("name", "limit"), [("apiKey", 256), ("sessionId", 64), ("content", 1000)])
def test_limits_count_code_points_and_are_within(name: str, limit: int) -> None:
    letter = "k" if name == "apiKey" else "😀"
    assert read(body(**{name: letter * limit}), None, BOUNDS)
    with pytest.raises(Invalid, match=f"{limit + 1} characters, at most {limit}"):
        read(body(**{name: letter * (limit + 1)}), None, BOUNDS)


@pytest.mark.parametrize(
    ("raw", "zh"),
    [
        pytest.param(b"\xff", "UTF-8", id="not UTF-8"),
        pytest.param(b"apiKey=sk-x", "有效的 JSON", id="a form"),
        pytest.param(b"", "有效的 JSON", id="nothing"),
        pytest.param(b"[]", "JSON 对象", id="an array"),
        pytest.param(b"[" * 1000, "嵌套过深", id="nested too deep"),
        pytest.param(b'{"x": NaN}', "数字无效", id="a number that JSON has not"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(raw: bytes, zh: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(raw, None, BOUNDS)
    assert zh in caught.value.zh
    assert "apiKey" in caught.value.en  # what to send instead


@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(["apiKey", "sessionId", "content"]), st.text()))
def test_nothing_but_invalid_is_raised(sent: bytes | Mapping[str, str]) -> None:
    try:
        read(sent if isinstance(sent, bytes) else json.dumps(sent).encode(), None, BOUNDS)
    except Invalid as error:
        assert error.zh and error.en


@given(anything)
def test_a_key_that_is_taken_fits_into_a_header(text: str) -> None:
    try:
        key = read_key(text)
    except Invalid:
        return
    assert key == text.strip()
    assert key.encode("ascii")
    assert not set(key) & set(" \t\r\n\0")


@pytest.mark.parametrize("bad", ["sk-a\r\nX: y", "sk-a b", "sk-é", "“sk-a”", "sk-\ud800", " ", "sk-a\0b"], ids=ascii)
def test_a_key_that_no_header_takes_is_refused(bad: str) -> None:
    with pytest.raises(Invalid, match="apiKey"):
        read_key(bad)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer sk-a", "sk-a"),
        ("bearer   sk-a ", "sk-a"),
        (" BEARER sk-a", "sk-a"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic dTpw", None),
        ("sk-a", None),
        ("", None),
    ],
    ids=repr,
)
def test_a_bearer_is_read(header: str, key: str | None) -> None:
    assert read_bearer(header) == key


def test_the_request_has_our_model_and_messages() -> None:
    params = freeze({"temperature": 0.2, "model": "mine", "messages": [], "stop": ["a"], "x": {"y": [1]}})
    messages = [{"role": "user", "content": "你好"}]
    assert json.loads(completion_request("gpt-3.5-turbo", params, messages)) == {
        "temperature": 0.2,
        "stop": ["a"],
        "x": {"y": [1]},
        "model": "gpt-3.5-turbo",
        "messages": messages,
    }


def test_a_stream_asks_for_its_usage_and_relay_alone_says_so() -> None:
    params = {"stream": True, "stream_options": {}}
    assert "stream" not in json.loads(completion_request("m", params, []))
    streamed = json.loads(completion_request("m", params, [], stream=True))
    assert (streamed["stream"], streamed["stream_options"]) == (True, {"include_usage": True})


def test_flags_are_read() -> None:
    assert not read(body(stream=None), None, BOUNDS).stream
    incoming = read(body(stream=True, reset=True), None, BOUNDS)
    assert (incoming.stream, incoming.reset) == (True, True)


@pytest.mark.parametrize("name", ["stream", "reset"])
@pytest.mark.parametrize("value", ["true", 1, [], {}], ids=repr)
def test_a_flag_is_true_or_false(name: str, value: object) -> None:
    with pytest.raises(Invalid, match=name):
        read(body(**{name: value}), None, BOUNDS)


def test_only_allowed_fields_are_taken_over() -> None:
    sent = body(temperature=0.5, seed=None, n=9, messages=[], model="gpt-4o")
    allowed = ("temperature", "seed", "model", "messages", "content", "apiKey")
    assert read(sent, None, BOUNDS, allowed).options == {"temperature": 0.5, "model": "gpt-4o"}
    assert read(sent, None, BOUNDS).options == {}


@pytest.mark.parametrize("name", ["model", "system"])
@pytest.mark.parametrize("value", ["", 7, [], "x" * 1001], ids=["empty", "a number", "an array", "too long"])
def test_model_and_system_are_texts(name: str, value: object) -> None:
    with pytest.raises(Invalid, match=name):
        read(body(**{name: value}), None, BOUNDS, (name,))


def test_a_lone_surrogate_goes_up_escaped() -> None:
    assert rb"\ud83d!" in completion_request("m", {}, [{"role": "user", "content": "\ud83d!"}])
