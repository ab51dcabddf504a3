"""Secret fields in bodies of every kind, whole and broken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import secret_fields
from addons.core.secret_fields import finding
from addons.core.secrets import TooManySecrets
from addons.core.slices import at_once

MARK = "Zq01Opaque-Mark_WmLkJh"
FORM = "application/x-www-form-urlencoded"


def values(body: str | bytes, content_type: str = "") -> set[str]:
    raw = body if isinstance(body, bytes) else body.encode()
    return {raw[start:end].decode() for start, end, _ in at_once(finding(raw, content_type))}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"api_key": "%s"}', id="a field"),
        pytest.param('[1, [{"a": {"b": [{"refreshToken": "%s"}]}}]]', id="deep down"),
        pytest.param('{"api\\u005fkey":"%s"}', id="an escape in the name"),
        pytest.param('{"\\u0061pi_key" :\n\t"%s"}', id="an escape and blanks"),
        pytest.param('{"key": "%s"}', id="a bare key"),
        pytest.param('{"client_secret": {"value": "%s", "expires_at": 1}}', id="an object under a name"),
        pytest.param('{"api_keys": ["a", "%s"]}', id="a list under a name"),
        pytest.param('{"keys": ["short", "%s"]}', id="a list under a name that may mean it"),
        pytest.param('{"api_keys": {"openai": {"prod": ["%s"]}}}', id="objects and lists under a name"),
        pytest.param('{"name": "Authorization", "value": "Bearer %s"}', id="a name and a value"),
        pytest.param('{"value": "Bearer %s", "comment": "", "name": "Cookie"}', id="a value and a name"),
        pytest.param('{"Key": "api_key", "Value": ["%s"]}', id="a name and values"),
        pytest.param('[{"key": "token", "value": "%s", "type": "text"}]', id="what may be a name and a value"),
        pytest.param('{"headers": [["Host", "x"], ["Authorization", "Bearer %s"]]}', id="headers in pairs"),
        pytest.param('{"rawHeaders": ["Host", "x", "X-Api-Key", "%s"]}', id="headers in turns"),
        pytest.param('{"api_key_prod": "%s"}', id="a tail"),
        pytest.param('{"%s_apiKey": "%%s"}' % ("x" * 500), id="a very long name"),
        pytest.param('{"\u5bc6\u94a5": "%s"}', id="Chinese"),
        pytest.param('{"properties": {"api_key": {"type": "string", "default": "%s"}}}', id="a schema's default"),
        pytest.param('{"properties": {"api_key": {"value": "%s"}}}', id="properties that are no schema"),
        pytest.param('{"credentials": {"password": "%s and more"}}', id="a name under a name"),
        pytest.param('{"object": "organization.admin_api_key", "value": "%s"}', id="an object that is a key"),
        pytest.param('{"value": "%s", "object": "organization.admin_api_key"}', id="which it says last"),
        pytest.param('{"a": "x", "password": "%s', id="a string that never ends"),
        pytest.param('}}]]{"password": "%s"}', id="closed more often than opened"),
        pytest.param('\ufeff  {"token": "%s"}', id="a BOM"),
        pytest.param('data: {"x": "\n\ndata: {"secret": "%s"}\n\n', id="an event behind a broken one"),
        pytest.param('event: a\r\ndata: {"secret":\r\ndata: "%s"}\r\n\r\n', id="an event of two lines"),
        pytest.param('{"arguments": "{\\"password\\": \\"%s\\"}"}', id="JSON in a string"),
        pytest.param('"{\\\\\\"api_key\\\\\\":\\\\\\"%s\\\\\\"}"', id="twice in a string"),
        pytest.param("{'password': '%s'}", id="single quotes"),
        pytest.param("{apiKey: %s}", id="no quotes"),
        pytest.param("a=b&token=%s&c=d", id="a form"),
        pytest.param("api%%5Fkey=%s", id="a form with an encoded name"),
        pytest.param('--B\r\nContent-Disposition: form-data; name="secret"\r\n\r\n%s\r\n--B--\r\n', id="parts"),
        pytest.param('x\r\nContent-Disposition: form-data; name="secret"\r\n\r\n%s\r\n--B--\r\n', id="parts, cut"),
        pytest.param("prose that says api_key=%s and goes on", id="prose"),
    ],
)
def test_a_secret_is_found(body: str) -> None:
    assert any(MARK in value for value in values(body % MARK))


@pytest.mark.parametrize(
    "body",
    [
        '{"max_tokens": 16, "total_tokens": "0123456789abcdef"}',
        '{"key_findings": "0123456789abcdefgh"}',
        '{"key": "short", "token": " a long text with blanks"}',
        '{"choices": [{"logprobs": {"content": [{"token": "Hello", "logprob": -0.1}]}}]}',
        '{"usage": {"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 0}}}',
        '{"prompt_cache_key": "0123456789abcdefgh", "content": "my password is what it is"}',
        '{"properties": {"api_key": {"type": "string", "description": "the key that you have"}}}',
        '{"password": null, "secret": true}',
        '{"api_key_id": "key_abc0123456789def", "password_policy": "at-least-12-of-each"}',
        '{"logprobs": {"content": [{"token": "internationalization", "bytes": [1], "top_logprobs": []}]}}',
        '{"logprobs": {"content": [{"token": "----------------------------------------------------------"}]}}',
        '{"logprobs": {"tokens": [" secret", "://www.example.com/"], "top_logprobs": [{" password": -1.25}]}}',
        '{"tokens": [15496, 11, 995], "cookies": 3, "secret_score": 0.98125}',
        '{"properties": {"auth": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}}}',
        '{"properties": {"password": {"type": "string", "pattern": "^[A-Za-z0-9]{16,64}$", "description": "a-Z0-9"}}}',
        '{"properties": {"secret": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/SecretV2_of_x"}], "title": "S"}}}',
        '{"properties": {"secret": "string"}, "required": ["api_key", "v2_configuration_of_it"]}',
        '{"auth": "none", "x_auth": "Bearer", "authorization": "required"}',
        '{"securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "bearer_format": "JWT"}}}',
        '{"name": "temperature", "value": "0123456789abcdefgh"}',
        '{"name": "api_key", "type": "string"}',
        '{"stop": ["api_key", "password", "token"], "input": ["my secret", "words and 0123456789abcdefgh"]}',
        "max_tokens=5&keyword=0123456789abcdefgh",
        "client = OpenAI(api_key=os.getenv('X')); the api_key: required",
        'data: {"choices":[{"delta":{"content":"key"}}]}\n\ndata: [DONE]\n\n',
    ],
)
def test_what_is_none_stays(body: str) -> None:
    assert values(body) == set()


@pytest.mark.parametrize(
    ("body", "hidden"),
    [
        ('{"api_keys": ["abc", "def", ""], "b": ["ghi"]}', {"abc", "def"}),
        ('{"api_keys": {"prod": "abc", "dev": {"eu": ["def"]}}, "b": "ghi"}', {"abc", "def"}),
        ('{"passwords": [["abc"], {"value": "def", "type": "x", "created_at": 1700000000}]}', {"abc", "def"}),
        ('{"client_secret": {"value": "abc", "expires_at": 1700000000, "object": "x"}}', {"abc"}),
        ('{"cookies": [{"name": "sid", "value": "abc", "path": "/", "httpOnly": true}]}', {"abc"}),
        ('{"command": "npx", "args": ["-y", "--api-key", "abc", "--max-tokens", "5"]}', {"abc"}),
        ('{"args": ["--token", "short", "--token", "0123456789abcdefgh", "--secret"]}', {"0123456789abcdefgh"}),
        ('{"credentials": {"token_uri": "https://x", "client_id": "a", "private_key": "abc"}}', {"abc"}),
        ('{"pins": [1234], "passwords": [123456, null], "password": 98765}', {"123456, null", "98765"}),
        ('data: {"secrets": ["abc"\n\ndata: {"a": "def"}\n\n', {"abc"}),
        ('{"headers": [{"name": "Cookie", "value": "a=b"}, {"name": "Host", "value": "x"}]}', {"a=b"}),
    ],
)
def test_all_that_stands_under_a_sure_name_is_hidden(body: str, hidden: set[str]) -> None:
    assert values(body) == hidden


def test_what_stands_around_a_secret_is_not_looked_for_elsewhere() -> None:
    body = b'{"credentials": {"zone": "eu-west1", "extra": "0123456789abcdefgh"}}'
    assert [(body[start:end], echoed) for start, end, echoed in at_once(finding(body))] == [
        (b"eu-west1", False),
        (b"0123456789abcdefgh", True),
    ]


def test_a_signature_is_hidden_and_not_looked_for_elsewhere() -> None:
    body = b'{"type": "thinking", "signature": "EqQBCkYIBhgC", "password": "hunter22"}'
    assert [(body[start:end], echoed) for start, end, echoed in at_once(finding(body))] == [
        (b"EqQBCkYIBhgC", False),
        (b"hunter22", True),
    ]


def told(value: object, times: int) -> str:
    for number in range(times):
        value = {"n": number, "arguments": json.dumps(value, ensure_ascii=number % 2 == 0), "é\n": "\t"}
    return json.dumps(value)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ({"headers": [{"name": "Authorization", "value": "Bearer abc"}], "a": "b"}, {"Bearer abc"}),
        ([{"é": "\n", "key": "api_key", "value": "abc"}, "\u4e2d"], {"abc"}),
        ({"a\n": "\t", "api_keys": ["abc", "d"], "z": "y"}, {"abc", "d"}),
        ({"rawHeaders": ["X-Api-Key", MARK, "Host", "x"]}, {MARK}),
        ({"parameters": {"properties": {"api_key": {"type": "string", "pattern": "[a-z0-9]{32}"}}}}, set()),
        ({"max_tokens": 5, "key": "short", "content": "my password"}, set()),
    ],
)
def test_json_in_strings_is_read_like_any_other(value: object, hidden: set[str], times: int) -> None:
    assert values(told(value, times)) == hidden
    assert values(f"data: {told(value, times)}\n\n") == hidden


def test_a_text_that_never_ends_is_read_as_far_as_it_goes() -> None:
    begun = '{"arguments": "{\\"x\\": 1, \\"api_keys\\": [\\"'
    assert MARK in values(begun + MARK + '\\", \\"b')
    assert values('{"arguments": "{\\"api_keys\\": [\\') == set()


JSON = st.recursive(
    st.text(alphabet='",:[]{}\\ k中') | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON, st.booleans(), st.sampled_from(["api_key", "secret", "x-api-key", "password"]))
def test_whatever_stands_around_it(before: object, after: object, escaped: bool, name: str) -> None:
    body = json.dumps([before, {"a": before, name: MARK, "b": after}], ensure_ascii=escaped)
    assert MARK in values(body)
    assert MARK in values(f"data: {body}\n\n", "text/event-stream")


@given(st.binary(max_size=300), st.sampled_from(["", "application/json", "multipart/form-data; boundary=B", FORM]))
def test_nothing_that_comes_raises(body: bytes, content_type: str) -> None:
    for start, end, _ in at_once(finding(body, content_type)):
        assert 0 <= start <= end <= len(body)


@given(st.text(alphabet='{}[]":,\\ab \n', max_size=200))
def test_no_jumble_of_marks_hides_a_field_for_ever(jumble: str) -> None:
    assert MARK in values(f'data: {{"x":{jumble}\n\ndata: {{"api_key": "{MARK}"}}\n\n', "text/event-stream")


def test_a_text_that_is_made_to_be_slow_is_not_read_to_its_end() -> None:
    with pytest.raises(TooManySecrets):
        values("[" + "{}," * 400_000)
    chunk = '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
    assert values(f"data: {chunk}\n\n" * 5000) == set()


def test_too_many_are_not_told_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_fields, "MOST", 10)
    for body in ('{"secret": "x"},' * 11, "secret=x&" * 11, "apiKey=x12345, " * 11):
        with pytest.raises(TooManySecrets):
            values(body)


def test_what_stands_in_a_part_is_read_too() -> None:
    parts = ['{"api_key": "%s"}', '{"a": 1}\n{"b": {"password": "%s"}}']
    for part in parts:
        head = '--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        assert MARK in values(f"{head}{part % MARK}\r\n--B--\r\n", "multipart/form-data; boundary=B")


def test_a_form_may_begin_as_json_does() -> None:
    assert MARK in values(f"[a]=1&[api_key]={MARK}&b=2", "application/x-www-form-urlencoded")
