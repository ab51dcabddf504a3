import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core import account_ids
from addons.core.secret_fields import finding
from addons.core.slices import at_once

DEVICE = "8f" * 32
ACCOUNT, SESSION = "2f9d0c1e-5a77-4b1c-9d2e-00aa11bb22cc", "5e6b0f7a-9c41-4f0e-8a55-1234567890ab"


def hidden(body: object, content_type: str = "application/json") -> list[str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [data[start:end].decode() for start, end, _ in at_once(finding(data, content_type))]


def echoed(body: object) -> list[str]:
    data = json.dumps(body).encode()
    return [data[start:end].decode() for start, end, again in at_once(finding(data)) if again]


@pytest.mark.parametrize(
    "name", ["organization_id", "openai-organization", "chatgpt_account_id", "x-codex-installation-id", "deviceId"]
)
def test_a_field_that_names_an_account_is_found(name: str) -> None:
    assert hidden({"model": "m", name: ACCOUNT}) == [ACCOUNT]
    assert hidden({"client_metadata": {name: f"acct_{ACCOUNT}"}}) == [f"acct_{ACCOUNT}"], "as a header has it"


@pytest.mark.parametrize(
    "body",
    [
        {"sessionId": SESSION, "content": "hi"},
        {"previous_response_id": "resp_0123456789abcdef0123456789abcdef", "prompt_cache_key": SESSION},
        {"id": "call_0123456789abcdef01234567", "call_id": "call_0123456789abcdef01234567"},
        {"user_id": 12345, "organization": "a word", "project": "relay"},
        {"thread_id": "thread_0123456789abcdef01234567"},
        {"text": "org-mode files, proj_a, user-agent"},
    ],
)
def test_what_conversations_are_found_by_stays(body: object) -> None:
    assert hidden(body) == []


@pytest.mark.parametrize(
    "user",
    [
        f"user_{DEVICE}_account_{ACCOUNT}_session_{SESSION}",
        json.dumps({"device_id": DEVICE, "account_uuid": ACCOUNT, "session_id": SESSION}),
    ],
)
def test_each_id_that_a_user_id_joins_is_found_by_itself(user: str) -> None:
    body = {"metadata": {"user_id": user}}
    assert set(hidden(body)) == {DEVICE, ACCOUNT, SESSION}
    assert SESSION not in echoed(body), "an agent may call its cache as it calls its session"
    if not user.startswith("{"):
        assert set(echoed(body)) == {DEVICE, ACCOUNT}


@pytest.mark.parametrize("name", ["device_id", "deviceId", "account_uuid", "session_id", "organization", "org_id"])
def test_an_id_in_a_text_that_is_json_is_found(name: str) -> None:
    assert hidden({"metadata": {"user_id": json.dumps({name: "any-0123456789abcdef"})}}) == ["any-0123456789abcdef"]
    assert hidden({"arguments": json.dumps({"a": [{name: "any-0123456789abcdef"}]})}) == ["any-0123456789abcdef"]


def test_an_id_is_known_by_its_looks_in_any_text() -> None:
    org, project, user = "org-Ab0Cd1Ef2Gh3Ij4Kl5Mn6Op7", "proj_Ab0Cd1Ef2Gh3Ij4Kl5Mn", "user-Ab0Cd1Ef2Gh3Ij4Kl5Mn6Op7"
    told = f"Rate limit reached in organization {org} on tokens\n{project} of {user}."
    assert hidden({"error": {"message": told}}) == [org, project, user]
    assert hidden(told.encode(), "text/plain") == [org, project, user]
    far = b"x" * ((1 << 18) - 10) + b" " + org.encode() + b" "
    assert hidden(far, "text/plain") == [org], "across the end of a slice"


def test_of_a_list_of_users_few_are_looked_for_elsewhere() -> None:
    users = [{"user_id": f"u-{number:020d}"} for number in range(500)]
    assert len(hidden(users)) == 500
    assert len(echoed(users)) == account_ids.MOST_ECHOED
    assert echoed({"content": json.dumps(users)}) == []


def test_names_of_headers() -> None:
    for name in ("openai-organization", "openai-project", "chatgpt-account-id", "session_id", "session-id"):
        assert account_ids.names_header(name)
    for name in ("x-claude-code-session-id", "x-account-id", "x-codex-installation-id", "anthropic-organization-id"):
        assert account_ids.names_header(name)
    for name in ("x-request-id", "thread-id", "content-type", "x-relay-request-id", "idempotency-key"):
        assert not account_ids.names_header(name)


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300))
def test_parts_lie_within_their_value(data: bytes, start: int, end: int) -> None:
    start, end = sorted((min(start, len(data)), min(end, len(data))))
    for first, last, _ in account_ids.parts(data, start, end):
        assert start <= first < last <= end
