"""Secrets in text of any kind, told by what is said before them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.secret_fields import finding as finding_fields
from addons.core.secret_text import finding, in_line
from addons.core.slices import at_once

VALUE = "a1b2c3d4e5f6a7b8c9"
SECRETS = [
    f"api_key={VALUE}",
    f"set OPENAI_API_KEY: {VALUE} and go on",
    f"export DB_PASSWORD={VALUE}",
    f"# a comment\nNAME=x\nSECRET_TOKEN={VALUE}\n",
    f"password={VALUE}; other",
    f'{{password: "{VALUE}"}}',
    f"{{clientSecret: '{VALUE}'}}",
    f"const apiKey = `{VALUE}`",
    f"'password' => '{VALUE}'",
    f"params[:api_key] = '{VALUE}'",
    f"auth_token := {VALUE}",
    f"<api_key>{VALUE}</api_key>",
    f"<soap:password>{VALUE}</soap:password>",
    f"Authorization: Basic {VALUE}",
    f"Authorization: Bearer {VALUE}",
    f"我的密码：{VALUE}",
    f"密钥:{VALUE}",
    f"https://host/mcp?token={VALUE}",
    f"https://host/mcp?a=1&X-Amz-Signature={VALUE}&b=2",
    f"https://host/mcp?a=1\\u0026access_token\\u003d{VALUE}",
    f"https://user:{VALUE}@host/path",
    f"https://{VALUE}@host/path",
    f"apiKey%3D{VALUE}%26",
    f'\\"password\\": \\"{VALUE}\\"',
    f"--{VALUE[:5]}\r\nContent-Disposition: form-data; name=password\r\n\r\n{VALUE}\r\n",
    f'Bearer realm="x", token="{VALUE}"',
]
SHORT = [
    ("https://host/mcp?password=hunter", "hunter"),
    ('{password: "hunter"}', "hunter"),
    ("password: hunter2", "hunter2"),
    ("ftp://joe:pw@host", "pw"),
    ("passwd = 'correct-horse9'", "correct-horse9"),
]
HARMLESS = [
    "api_key: required",
    "api_key=settings.api_key",
    'api_key=os.getenv("X")',
    "api_key=your-api-key-here",
    "OPENAI_API_KEY=YOUR_OPENAI_API_KEY",
    "api_key=$OPENAI_API_KEY",
    "password: <password>",
    'password: "string"',
    'password: "your-password-here"',
    "max_tokens=1234567",
    "total_tokens: 1234567890",
    "key_findings: 12345678901234567",
    "Author: JohnSmith1984",
    "the key is: to believe",
    "sort(key=lambda each: each.name)",
    "bearer tokens are kept",
    "https://host/path?page=2&sort_key=name",
    "https://host:8080/a@b",
    "the password: must contain letters",
    "<token>word</token>",
    "signature_version=s3v4version1",
    "password=config.database.password1",
    "user, _, password = b64decode(header)",
    "GET /pro/balance?apiKey=sk-...",
    "<api_key>...</api_key>",
]


def found(text: str) -> list[str]:
    data = text.encode()
    return [data[start:end].decode() for start, end in at_once(finding(data, 1000, json=False))]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_found(text: str) -> None:
    assert VALUE in found(text)


@pytest.mark.parametrize(("text", "value"), SHORT)
def test_a_short_one_is_found_where_nothing_else_can_be_meant(text: str, value: str) -> None:
    assert value in found(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_speaks_of_secrets_is_none(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("text", [text for text in SECRETS if "form-data" not in text])
def test_it_is_found_in_the_text_of_a_message(text: str, escaped: bool) -> None:
    message = {"role": "user", "content": f"Why does this fail? {text}"}
    body = json.dumps({"messages": [message]}, ensure_ascii=escaped).encode()
    spans = at_once(finding_fields(body, "application/json"))
    assert any(VALUE.encode() in body[start:end] for start, end, _ in spans)


def test_a_name_of_json_is_left_to_those_who_read_json() -> None:
    body = b'{"password": {"type": "string", "example": "abc123456"}, "api_key": "abc123456"}'
    assert at_once(finding(body, 100, json=True)) == []
    assert len(at_once(finding(body, 100, json=False))) == 1


def test_a_header_is_looked_through_likewise() -> None:
    value = b'Digest realm="x", nonce="abc", password="a1b2c3"'
    assert [value[start:end] for start, end in in_line(value)] == [b"a1b2c3"]
    assert in_line(b"text/html; charset=utf-8") == []


@given(st.text(alphabet="apikey=:\"\\' <>{}/@%3D&?u003d密码1 \n.", max_size=300))
def test_places_are_in_the_text(text: str) -> None:
    data = text.encode()
    for start, end in at_once(finding(data, 1000, json=False)):
        assert 0 <= start < end <= len(data)
