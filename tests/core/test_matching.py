import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.matching import Ask, Difference, RecordedAnswers, ask, differences, service_path

JSON = "application/json"
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def asked(body: Any, path: str = "/v1/chat/completions", ignore: tuple[str, ...] = ()) -> Ask:
    return ask("POST", path, JSON, body if isinstance(body, bytes) else json.dumps(body).encode(), ignore)


def form(boundary: str, *parts: tuple[str, bytes]) -> Ask:
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), content)
        for head, content in parts
    )
    kind = f"multipart/form-data; boundary={boundary}"
    return ask("POST", "/v1/files", kind, body + b"--%s--\r\n" % boundary.encode())


# -- the same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":[1,2]}', b'{ "b" : [1, 2],\n"a" : 1 }'),
        (b'{"a":1.0}', b'{"a":1}'),
        (b'{"a":"\\u4f60"}', '{"a":"你"}'.encode()),
        (b'{"user":"x","a":1}', b'{"a":1,"user":"y"}'),
        (b'{"a":1}', b'{"seed":7,"a":1}'),
        (b'{"metadata":{"run":1,"b":2}}', b'{"metadata":{"run":2,"b":2}}'),
        (b'{"l":[{"id":1},{"id":2}]}', b'{"l":[{"id":3},{}]}'),
        (b'{"a":"the key sk-abcdefgh12345678"}', b'{"a":"the key sk-***1a2b3c4d"}'),
        (b'{"a":{"signature":"Eq0123"}}', b'{"a":{"signature":"***1a2b3c4d"}}'),
        (b"", b""),
        (b"\xff\x00", b"\xff\x00"),
    ],
    ids=[
        *("order and space", "1.0", "escapes", "user", "seed", "deep", "in lists", "keys"),
        *("a secret field", "empty", "bytes"),
    ],
)
def test_two_bodies_that_are_one_request(one: bytes, other: bytes) -> None:
    ignore = ("user", "seed", "metadata.run", "l.id")
    assert asked(one, ignore=ignore).text == asked(other, ignore=ignore).text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1}', b'{"a":true}'),
        (b'{"a":1}', b'{"a":"1"}'),
        (b'{"a":{}}', b"{}"),
        (b'{"a":null}', b"{}"),
        (b'{"a":[1,2]}', b'{"a":[2,1]}'),
        (b"{}", b""),
        (b"\xff\x00", b"\xff\x01"),
        (b'{"user":1}', b'{"user":2}'),
        (b'{"key":"one"}', b'{"key":"two"}'),
    ],
    ids=lambda body: body.decode("latin-1"),
)
def test_two_bodies_that_are_not(one: bytes, other: bytes) -> None:
    assert asked(one).text != asked(other).text
    assert differences(asked(one), asked(other))


@given(values)
def test_json_is_compared_by_what_it_says(value: Any) -> None:
    shuffled = json.dumps(value, indent=3, ensure_ascii=False)
    assert asked(value).text == asked(shuffled.encode("utf-8", "surrogatepass")).text
    assert not differences(asked(value), asked(value))


@given(st.binary(max_size=200), st.text(max_size=40))
def test_any_body_and_type_can_be_compared(body: bytes, kind: str) -> None:
    one = ask("POST", "/v1/x", kind, body)
    assert one.text == ask("POST", "/v1/x", kind, body).text
    assert not differences(one, one)


def test_hostile_bodies_are_compared_as_bytes() -> None:
    deep = b"[" * 100_000
    assert asked(deep).text == asked(deep).text
    assert asked(b'{"a":' + b"9" * 5000 + b"}").text != asked(b'{"a":' + b"8" * 5000 + b"}").text


def test_methods_and_queries_count_and_keys_do_not() -> None:
    def text(method: str, target: str) -> str:
        return ask(method, target, "", b"").text

    assert text("GET", "/v1/a?x=1&y=2") == text("GET", "/v1/a?y=2&x=1")
    assert text("GET", "/v1/a?x=1&key=abc") == text("GET", "/v1/a?x=1&key=other")
    assert text("GET", "/v1/a?x=1") != text("GET", "/v1/a?x=2")
    assert text("GET", "/v1/a") != text("HEAD", "/v1/a")
    usage = "/v1/dashboard/billing/usage?start_date=2024-01-0{}&end_date=2024-04-0{}"
    assert text("GET", usage.format(1, 2)) == text("GET", usage.format(3, 4))
    assert text("GET", "/v1/a?start_date=1") != text("GET", "/v1/a?start_date=2")


def test_forms_are_compared_without_their_boundary() -> None:
    parts = (('name="purpose"', b"assistants"), ('name="file"; filename="a.bin"', bytes(range(256))))
    assert form("one", *parts).text == form("another----1", *parts).text
    changed = form("one", parts[0], ('name="file"; filename="a.bin"', b"other"))
    [difference] = differences(form("one", *parts), changed)
    assert difference.where == "file"
    assert str(difference.recorded).startswith('"file a.bin, 256 bytes, sha256 ')


def test_equal_names_in_a_form_all_count() -> None:
    assert form("x", ('name="a"', b"1"), ('name="a"', b"2")).text != form("x", ('name="a"', b"2")).text


@pytest.mark.parametrize(
    ("path", "prefixes", "service"),
    [
        ("/v1/models", (), "/v1/models"),
        ("/proxy/v1/models?a=/v1/b", (), "/v1/models?a=/v1/b"),
        ("/x/dashboard/billing/usage", (), "/dashboard/billing/usage"),
        ("/v1/dashboard/billing/usage", (), "/v1/dashboard/billing/usage"),
        ("/proxy/user/balance", ("/proxy", ""), "/user/balance"),
        ("/proxyuser/balance", ("/proxy",), "/proxyuser/balance"),
    ],
)
def test_the_path_behind_an_upstreams_prefix(path: str, prefixes: tuple[str, ...], service: str) -> None:
    assert service_path(path, prefixes) == service


@pytest.mark.parametrize(
    ("path", "version", "service"),
    [
        ("/api/paas/v4/models?a=b", "/api/paas/v4", "/v1/models?a=b"),
        ("/v1/account/openai/models", "/v1/account/openai", "/v1/models"),
        ("/api/v31/models", "/api/v3", "/api/v31/models"),
    ],
)
def test_a_version_that_is_not_v1_counts_as_it(path: str, version: str, service: str) -> None:
    assert service_path(path, (), (version,)) == service


# -- whose turn


def recorded_answers(*bodies: Any) -> RecordedAnswers[int]:
    made: RecordedAnswers[int] = RecordedAnswers()
    for number, body in enumerate(bodies):
        made.add(None, asked(body), number)
    return made


def test_the_same_request_is_answered_in_order_and_then_by_the_last() -> None:
    made = recorded_answers({"a": 1}, {"a": 2}, {"a": 1}, {"a": 1})
    assert [made.find("any", asked({"a": 1})) for _ in range(5)] == [0, 2, 3, 3, 3]
    assert made.find("any", asked({"a": 2})) == 1
    assert made.find("any", asked({"a": 3})) is None


def test_upstreams_are_told_apart_and_a_strangers_record_is_for_all() -> None:
    made: RecordedAnswers[str] = RecordedAnswers()
    for name in ("one", "two", None):
        made.add(name, asked({"a": 1}), str(name))
    made.add(None, asked({"a": 2}), "anyone's")
    assert [made.find(name, asked({"a": 1})) for name in ("one", "two", "three")] == ["one", "two", "None"]
    assert made.find("one", asked({"a": 2})) == "anyone's"
    assert made.nearest("three", asked({"a": 1})) == ("None", [])


def test_a_masked_key_of_no_known_look_stands_for_any_text() -> None:
    made = recorded_answers({"key": "***1a2b3c4d", "a": 1})
    assert made.find(None, asked({"key": "hello", "a": 1})) == 0
    assert made.find(None, asked({"key": "hello", "a": 2})) is None
    made = recorded_answers({"token": "012***1a2b3c4d"})
    assert made.find(None, asked({"token": "0123456789abcdefgh"})) == 0


def test_all_that_is_hidden_by_its_place_stands_for_any_text() -> None:
    shown, sent = "abc***1a2b3c4d", "xyz-another-key-27"
    for body in (
        '{"api_keys": ["%s", {"prod": "%s"}], "a": 1}',
        '{"headers": [{"name": "Authorization", "value": "%s"}], "b": {"value": ["%s"], "key": "api_key"}}',
    ):
        made = recorded_answers(json.loads(body.replace("%s", shown)))
        assert made.find(None, asked(json.loads(body.replace("%s", sent)))) == 0
    made = recorded_answers({"api_keys": {"type": "a"}, "b": {"name": "x", "value": "y"}})
    assert made.find(None, asked({"api_keys": {"type": "b"}, "b": {"name": "x", "value": "y"}})) is None
    assert made.find(None, asked({"api_keys": {"type": "a"}, "b": {"name": "x", "value": "z"}})) is None


# -- what differs


def test_the_nearest_is_of_the_same_path_and_differs_least() -> None:
    made = recorded_answers({"m": "x", "t": 1}, {"m": "x", "t": 2, "u": 1}, {"m": "y", "t": 1})
    made.add(None, asked({"m": "x", "t": 3}, "/v1/embeddings"), 9)
    nearest = made.nearest(None, asked({"m": "x", "t": 3}))
    assert nearest == (0, [Difference("t", "1", "3")])


def test_without_that_path_the_nearest_path_is_named() -> None:
    made = recorded_answers({"a": 1})
    made.add(None, ask("GET", "/v1/models", "", b""), 1)
    nearest = made.nearest(None, ask("GET", "/v1/modles", "", b""))
    assert nearest == (1, [Difference("path", "/v1/models", "/v1/modles")])
    assert RecordedAnswers[int]().nearest(None, asked({})) is None


def test_differences_read_as_sentences() -> None:
    old = asked({"m": [{"c": "Hello"}], "t": 0.2, "n": None}, "/v1/x?a=1")
    new = asked({"m": [{"c": "Hi"}], "p": True, "n": None}, "/v1/x?a=2")
    assert [str(each) for each in differences(old, new)] == [
        '?a: recorded "1", asked "2"',
        'm[0].c: recorded "Hello", asked "Hi"',
        "t: recorded 0.2, not asked",
        "p: not recorded, asked true",
    ]


def test_of_long_texts_the_part_that_differs_is_shown() -> None:
    [difference] = differences(asked({"a": "x" * 500 + "one" + "y" * 500}), asked({"a": "x" * 500 + "two" + "y" * 500}))
    assert difference.recorded is not None and difference.asked is not None
    assert "one" in difference.recorded and "two" in difference.asked
    assert max(len(difference.recorded), len(difference.asked)) < 70


def test_no_key_is_shown() -> None:
    [difference] = differences(asked({"a": "b"}), asked({"a": "sk-abcdefgh12345678"}))
    assert difference.asked == '"sk-***"'


def test_many_hidden_keys_in_one_record_are_matched_at_once() -> None:
    hidden, shown = "***0a1b2c3d" * 40 + "x" * 5, "k" * 40 + "x" * 5
    answers: RecordedAnswers[int] = RecordedAnswers()
    answers.add(None, ask("POST", "/v1/x", "text/plain", hidden.encode()), 1)
    body = json.dumps({"a": " and ".join(["***0a1b2c3d"] * 200)}).encode()
    answers.add(None, ask("POST", "/v1/y", "application/json", body), 2)
    fitting = json.dumps({"a": " and ".join(f"key {n}" for n in range(200))}).encode()
    assert answers.find(None, ask("POST", "/v1/y", "application/json", fitting)) == 2
    assert answers.find(None, ask("POST", "/v1/y", "application/json", fitting[:-3] + b'!"}')) is not None
    assert answers.find(None, ask("POST", "/v1/y", "application/json", fitting.replace(b" and ", b" or ", 1))) is None
    assert answers.find(None, ask("POST", "/v1/x", "text/plain", shown.encode())) is None


def test_wide_and_deep_json_is_compared_as_bytes() -> None:
    for body in (b"[" + b"[]," * 70_000 + b"1]", b"[" * 100 + b"]" * 100):
        assert ask("POST", "/v1/x", "application/json", body).text.count("sha256") == 1


def test_a_form_of_many_parts_or_a_long_heading_is_compared_as_bytes() -> None:
    kind = "multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'
    few = ask("POST", "/v1/files", kind, part * 3 + b"--b--")
    assert few.body == {"a": "x", "a#2": "x", "a#3": "x"}
    many = ask("POST", "/v1/files", kind, part * 1001 + b"--b--")
    long = ask(
        "POST", "/v1/files", kind, b"--b\r\nContent-Disposition: form-data;" + b';"' * 5000 + b"\r\n\r\nx\r\n--b--"
    )
    assert many.body.endswith(tuple("0123456789abcdef")) and "sha256" in many.body and "sha256" in long.body


@pytest.mark.parametrize(
    ("heading", "shown"),
    [
        ('form-data; name="a b"', {"a b": "x"}),
        ("form-data; name=plain", {"plain": "x"}),
        ('form-data; name="a\\"b;c"', {'a"b;c': "x"}),
        ('form-data; NAME = "a" ; other=1', {"a": "x"}),
        ("form-data", {"": "x"}),
    ],
)
def test_the_name_of_a_part(heading: str, shown: dict[str, str]) -> None:
    body = f"--b\r\ncontent-disposition: {heading}\r\n\r\nx\r\n--b--".encode()
    assert ask("POST", "/v1/files", 'multipart/form-data; x=1; boundary="b"', body).body == shown
