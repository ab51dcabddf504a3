import gzip
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http

from addons import redact
from addons.core.secrets import fingerprint
from addons.exchange import Kind
from addons.redact import Redact, suspicious
from tests import flows

SECRET = b"0" * 32
KEY = "sk-proj-0123456789abcdef"
PLAIN = "0a1b2c3d4e5f60718293"  # as Azure has them: nothing tells that it is a key
SHOWN = fingerprint(KEY, SECRET)


def record(flow: http.HTTPFlow) -> str:
    """All that the record of a flow shows."""
    parts = [flow.request.path, flow.request.pretty_url, str(flow.request.headers.fields)]
    parts.append((flow.request.get_content(strict=False) or b"").decode("utf-8", "replace"))
    if flow.response is not None:
        parts += [str(flow.response.headers.fields)]
        parts.append((flow.response.get_content(strict=False) or b"").decode("utf-8", "replace"))
    return "\n".join([*parts, flow.error.msg if flow.error else ""])


def clean(flow: http.HTTPFlow, hook: str = "response", **inspect: object) -> http.HTTPFlow:
    getattr(Redact(flows.settings(inspect=inspect), SECRET), hook)(flow)
    return flow


def test_two_flows_of_one_key_can_be_told_to_belong_together() -> None:
    first, second, other = (
        clean(flows.request("GET", "/v1/models", {"Authorization": f"Bearer {key}"})) for key in (KEY, KEY, KEY + "x")
    )
    assert first.request.headers["Authorization"] == f"Bearer {SHOWN}"
    assert second.request.headers == first.request.headers
    assert other.request.headers != first.request.headers


@pytest.mark.parametrize("key", [KEY, PLAIN], ids=["a key like OpenAI's", "a key like any text"])
@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        pytest.param("/v1/x", {"Authorization": "Bearer {}"}, "", id="bearer"),
        pytest.param("/v1/x", {"authorization": "bearer  {} "}, "", id="bearer written otherwise"),
        pytest.param("/v1/x", {"Authorization": "{}"}, "", id="no scheme"),
        pytest.param("/v1/x", {"api-key": "{}"}, "", id="api-key"),
        pytest.param("/v1/x", {"X-Api-Key": "{}"}, "", id="x-api-key"),
        pytest.param("/pro/balance?apiKey={}&x=1", {}, "", id="the query"),
        pytest.param("/v1/x?key={}", {}, "", id="another name in the query"),
        pytest.param("/chat", {}, '{{"apiKey": "{}", "content": "x"}}', id="the body of a message"),
        pytest.param("/chat", {}, '\ufeff{{"apiKey":" {} "}}'.replace("\ufeff", ""), id="blanks around it"),
        pytest.param(
            "/v1/realtime",
            {"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.{}"},
            "",
            id="a websocket of a browser",
        ),
    ],
)
def test_a_key_is_found_wherever_it_is_sent(key: str, path: str, headers: dict[str, str], body: str) -> None:
    filled = {name: value.format(key) for name, value in headers.items()}
    flow = flows.request("POST", path.format(key), filled, body.format(key).encode())
    flows.respond(flow, 401, {"error": {"message": f"Incorrect API key: {key}"}}, {"X-Echo": key})
    flows.fail(flow, f"refused {key}")
    shown = record(clean(flow))
    assert key not in shown
    assert "***" in shown
    assert flows.answer_of(flow).status_code == 401


@pytest.mark.parametrize("hook", ["response", "error"])
def test_both_ends_are_cleaned(hook: str) -> None:
    flow = clean(flows.request("GET", "/v1/x", {"Authorization": f"Bearer {KEY}"}), hook)
    assert KEY not in record(flow)


def test_a_key_that_is_encoded_in_the_query_is_found() -> None:
    key = "odd+key/with=signs"
    flow = clean(flows.request("GET", f"/pro/balance?apiKey={quote(key, safe='')}&again={key}"))
    assert key not in flow.request.path
    assert quote(key, safe="") not in flow.request.path


def test_a_compressed_body_is_looked_into() -> None:
    body = gzip.compress(json.dumps({"apiKey": PLAIN}).encode())
    flow = flows.request("POST", "/chat", {"Content-Encoding": "gzip"}, body)
    flows.respond(flow, 200, gzip.compress(f"you said {PLAIN}, {KEY}".encode()), {"Content-Encoding": "gzip"})
    shown = record(clean(flow))
    assert PLAIN not in shown
    assert KEY not in shown
    assert "you said" in shown


def test_cookies_are_not_shown() -> None:
    flow = flows.request("GET", "/v1/x", {"Cookie": "session=topsecretvalue"})
    flows.respond(flow, 200, b"", {"Set-Cookie": "session=topsecretvalue; Path=/"})
    assert "topsecretvalue" not in record(clean(flow))


def test_a_body_without_a_key_stays_as_it_was() -> None:
    body = gzip.compress("你好".encode())
    flow = flows.request("POST", "/v1/x", {"Content-Encoding": "gzip", "X-A": "ü"}, body)
    flows.respond(flow, 200, b"\xff\x00 binary")
    before = (flow.request.headers.fields, flow.request.raw_content)
    clean(flow)
    assert (flow.request.headers.fields, flow.request.raw_content) == before
    assert flows.answer_of(flow).raw_content == b"\xff\x00 binary"


def test_bytes_beside_a_key_stay_as_they_were() -> None:
    flow = clean(flows.request("POST", "/v1/x", {}, b"\xff\x00" + KEY.encode() + b"\xfe"))
    raw = flow.request.raw_content or b""
    assert raw.startswith(b"\xff\x00sk-") and raw.endswith(b"\xfe")
    assert KEY.encode() not in raw


def test_an_answer_that_is_still_to_be_sent_stays_whole_on_the_wire() -> None:
    flow, exchange = flows.attached(Kind.CHAT)
    flow.request.headers["Authorization"] = f"Bearer {KEY}"
    flows.respond(flow, 200, f"you said {KEY}".encode())
    original = flows.answer_of(flow)
    clean(flow)
    assert exchange.wire is original
    assert original.raw_content == f"you said {KEY}".encode()
    assert KEY not in record(flow)
    assert "you said" in record(flow)


def test_an_answer_that_was_sent_is_cleaned_in_place() -> None:
    flow, exchange = flows.attached(Kind.PASS, sent=True)
    flows.respond(flow, 200, KEY.encode())
    clean(flow)
    assert exchange.wire is None
    assert KEY not in record(flow)


def test_redaction_can_be_switched_off() -> None:
    flow = clean(flows.request("GET", "/v1/x", {"Authorization": f"Bearer {KEY}"}), redact=False)
    assert KEY in record(flow)


def test_a_record_that_cannot_be_cleaned_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr(redact, "mask", broken)
    flow = flows.request("POST", f"/v1/x?key={KEY}", {"Authorization": f"Bearer {KEY}"}, KEY.encode())
    with pytest.raises(RuntimeError):
        clean(flow)
    assert KEY not in record(flow)


@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=60),
    st.text(max_size=20),
)
def test_no_key_is_left_in_any_record(key: str, text: str) -> None:
    shown = fingerprint(key, SECRET)
    if key in shown or "***" in key:
        return
    flow = flows.request("POST", "/v1/x", {"Authorization": f"Bearer {key}"}, f"{text}{key}{text}".encode())
    flows.respond(flow, 200, f"{text}{key}".encode(), {"X-Echo": key})
    assert key not in record(clean(flow))


def test_a_quick_look_overlooks_no_key() -> None:
    assert suspicious(b"x SK-abc", [])
    assert suspicious(b"x bearer abc", [])
    assert suspicious(b"x " + PLAIN.encode(), [PLAIN])
    assert not suspicious("你好, world".encode(), [PLAIN])
