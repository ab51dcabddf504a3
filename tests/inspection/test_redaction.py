import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http, websocket
from wsproto.frame_protocol import Opcode

from addons.core.known_secrets import KnownSecrets
from addons.core.secrets import fingerprint
from addons.exchange import Kind, StreamState, original_message, secrets_of
from addons.inspection import redaction as redact
from addons.inspection.redaction import NOT_DECODED, Noting, Redaction
from tests.support import dialects, flows

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
    if (rest := getattr(Redaction(flows.settings(inspect=inspect), SECRET), hook)(flow)) is not None:
        asyncio.run(rest)
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


@pytest.mark.parametrize("value", ["{} foo", "{} (mine)", "ApiKey {}", "Bearer\t{}", "Whatever {}"])
def test_nothing_before_a_blank_is_shown_but_a_scheme(value: str) -> None:
    flow = flows.request("GET", "/v1/x", {"Authorization": value.format(PLAIN)}, f"again {PLAIN}".encode())
    shown = record(clean(flow))
    assert PLAIN not in shown.replace(f"again {PLAIN}", "") and "***" in shown


def test_a_word_under_a_secret_name_is_not_hidden_elsewhere() -> None:
    body = json.dumps({"password": "password", "content": "choose a password; os.getenv; api_key=os.getenv"}).encode()
    shown = record(clean(flows.request("POST", "/v1/x", {}, body)))
    assert "choose a password; os.getenv; api_key=os.getenv" in shown


def test_a_cookie_that_an_answer_sets_is_not_shown() -> None:
    flow = flows.request("GET", "/v1/x")
    flows.respond(flow, 200, b"", {"Set-Cookie": "session=topsecretvalue; Path=/"})
    assert "topsecretvalue" not in record(clean(flow))


def test_cookies_are_hidden_one_by_one() -> None:
    flow = flows.request("GET", "/v1/x", {"Cookie": f"theme=dark; sid={PLAIN}; {KEY}"})
    flows.respond(flow, 200, b"", {"Set-Cookie": "token=topsecretvalue; Path=/; HttpOnly"})
    clean(flow)
    dark, top = (fingerprint(value, SECRET) for value in ("dark", "topsecretvalue"))
    assert flow.request.headers["Cookie"] == f"theme={dark}; sid={fingerprint(PLAIN, SECRET)}; {SHOWN}"
    assert flows.answer_of(flow).headers["Set-Cookie"] == f"token={top}; Path=/; HttpOnly"


def test_cookies_are_hidden_together_where_there_are_many() -> None:
    flow = clean(flows.request("GET", "/v1/x", {"Cookie": "a=secretvalue1; " * 1000}))
    assert "secretvalue1" not in record(flow) and len(flow.request.headers["Cookie"]) < 50


def test_what_an_answer_s_head_names_is_looked_for_in_its_body() -> None:
    flow = flows.request("GET", "/v1/x", {}, b"session id is topsecretvalue")
    told = {"cookie": PLAIN, "session": "short-token-7", "location": "0123opaque4567"}
    headers = {"Set-Cookie": f"a={told['cookie']}; Path=/plain", "X-Session-Token": told["session"]}
    headers["Location"] = f"https://x/?access_token={told['location']}"
    body = {"said": [*told.values(), "/plain", "dark-mode", "required-not"]}
    flows.respond(flow, 200, json.dumps(body).encode(), headers)
    flows.answer_of(flow).headers.add("Set-Cookie", "theme=dark-mode")
    flows.answer_of(flow).headers.add("Set-Cookie", "sid=topsecretvalue")
    flows.answer_of(flow).headers.add("X-Auth", "required-not")
    shown = record(clean(flow))
    assert not [value for value in told.values() if value in shown]
    assert "topsecretvalue" not in shown
    left = json.loads(flows.answer_of(flow).content or b"")["said"]
    assert left[3:] == ["/plain", "dark-mode", "required-not"]


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_key_in_an_address_within_an_address_is_found(times: int) -> None:
    address = f"https://x/?access_token={PLAIN}&scope=all"
    for _ in range(times):
        address = f"https://a.example/login?next={quote(address, safe='')}"
    form = f"lang=en&next={quote(address, safe='')}".encode()
    kind = "application/x-www-form-urlencoded"
    headers = {"Referer": address, "Content-Type": kind, "X-Link": quote(address)}
    flow = flows.request("POST", f"/v1/x?next={quote(address, safe='')}&again={PLAIN}", headers, form)
    flows.respond(flow, 302, f"moved to {quote(address)}".encode(), {"Location": address})
    shown = record(clean(flow))
    assert PLAIN not in shown
    assert shown.count("scope") >= 4 and "lang=en" in shown
    other = flows.request("POST", "/v1/x", {"Content-Type": kind}, form)
    assert PLAIN not in record(clean(other)) and "scope" in record(other)


@pytest.mark.parametrize("part", ["a=1&", "a%3D1%26", "api_key=secretvalue1&"])
def test_an_address_of_very_many_parts_is_not_shown(part: str) -> None:
    flow = flows.request("GET", f"/v1/x?{part * 5000}access_token={PLAIN}", {"Referer": f"https://x/?{part * 5000}"})
    flows.respond(flow, 200, PLAIN.encode())
    shown = record(clean(flow))
    assert flow.request.path == f"/v1/x?({redact.NOT_KEPT.decode()})"
    assert PLAIN not in shown and "secretvalue1" not in shown and part * 10 not in shown


def test_headers_in_a_body_are_hidden_as_headers_are() -> None:
    sent = [{"name": "Authorization", "value": "Bearer abc"}, {"name": "Accept", "value": "text/html"}]
    body = {"log": {"entries": [{"request": {"headers": sent, "queryString": [{"name": "api_key", "value": "def"}]}}]}}
    flow = clean(flows.request("POST", "/v1/x", {"Content-Type": "application/json"}, json.dumps(body).encode()))
    left = json.loads(flow.request.content or b"")["log"]["entries"][0]["request"]
    assert left["headers"][0] == {"name": "Authorization", "value": f"Bearer {fingerprint('abc', SECRET)}"}
    assert left["headers"][1] == sent[1]
    assert left["queryString"] == [{"name": "api_key", "value": fingerprint("def", SECRET)}]


def test_long_names_of_headers_are_not_remembered() -> None:
    before = redact._known_header.cache_info().currsize
    for number in range(50):
        flow = clean(flows.request("GET", "/v1/x", {f"X-{'x' * 500}-{number}-Api-Key": PLAIN}))
        assert PLAIN not in record(flow)
    assert redact._known_header.cache_info().currsize <= before + 5


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
    assert exchange.record.wire is original
    assert original.raw_content == f"you said {KEY}".encode()
    assert KEY not in record(flow)
    assert "you said" in record(flow)


def test_an_answer_that_was_sent_is_cleaned_in_place() -> None:
    flow, exchange = flows.attached(Kind.PASS, stream=StreamState(sent=True))
    flows.respond(flow, 200, KEY.encode())
    clean(flow)
    assert exchange.record.wire is None
    assert KEY not in record(flow)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({}, '{{"apiKey": "{}"', id="a body that breaks off"),
        pytest.param({}, "apiKey={}&sessionId=1", id="a form"),
        pytest.param({}, 'name="apiKey"\r\n\r\n{}\r\n--b--', id="a form in parts"),
        pytest.param({"X-Auth-Token": "{}"}, "", id="a header of another name"),
        pytest.param({"Proxy-Authorization": "Bearer {}"}, "", id="a header that goes no further"),
        pytest.param({"Cookie": "a=1; session={}"}, "", id="a cookie"),
    ],
)
def test_a_key_like_any_text_is_found_in_odd_places(headers: dict[str, str], body: str) -> None:
    filled = {name: value.format(PLAIN) for name, value in headers.items()}
    flow = flows.request("POST", "/v1/x", filled, body.format(PLAIN).encode())
    flows.respond(flow, 200, f"you said {PLAIN}".encode())
    assert PLAIN not in record(clean(flow))


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: "".join(f"\\u{ord(one):04x}" for one in key),
        lambda key: "".join(f"\\\\u{ord(one):04X}" for one in key),
        lambda key: "".join(f"%{ord(one):02x}" for one in key),
    ],
    ids=["escaped", "escaped twice", "percent-encoded"],
)
def test_a_key_is_found_however_it_is_spelt(spell: Callable[[str], str]) -> None:
    flow = flows.request("GET", f"/v1/x?again={quote(PLAIN)}", {"api-key": PLAIN})
    flows.respond(flow, 200, f"before {spell(PLAIN)} after".encode())
    assert flows.answer_of(clean(flow)).raw_content == f"before {fingerprint(PLAIN, SECRET)} after".encode()


def test_a_key_in_pieces_of_a_stream_is_found() -> None:
    pieces = ["my key is 0a1b2c", "3d4e5f6071", "8293, you know"]
    body = b"".join(b"data: %s\n\n" % json.dumps({"delta": {"content": piece}}).encode() for piece in pieces)
    flow = flows.request("GET", "/v1/x", {"api-key": PLAIN})
    flows.respond(flow, 200, body, {"Content-Type": "text/event-stream"})
    left = (flows.answer_of(clean(flow)).raw_content or b"").decode()
    said = "".join(json.loads(line[6:])["delta"]["content"] for line in left.split("\n\n") if line)
    assert said == f"my key is {fingerprint(PLAIN, SECRET)}, you know"


def test_what_is_no_secret_stays() -> None:
    headers = {"Idempotency-Key": "stainless-retry-0123", "Sec-WebSocket-Key": "dGhlIHNhbXBsZQ==", "X-Trace": "abc"}
    flow = flows.request("GET", "/v1/x?keyword=tokens&max_tokens=5&limit=20", headers, b'{"max_tokens": 5}')
    before = record(flow)
    assert record(clean(flow)) == before


def test_the_reason_phrase_the_comment_and_the_metadata_are_cleaned() -> None:
    flow = flows.request("GET", "/v1/x", {"api-key": PLAIN})
    flows.respond(flow, 401)
    flows.answer_of(flow).reason = f"no {PLAIN}"
    flow.comment = f"why: {PLAIN}"
    heard = {"status": 401, "headers": [[b"X", PLAIN.encode()]], "body": PLAIN.encode(), "chunks": [[1, 2]]}
    flow.metadata |= {"relay.heard": heard, "relay.model": PLAIN}
    clean(flow)
    assert PLAIN not in str(flow.get_state())
    assert flow.metadata["relay.heard"]["chunks"] == [[1, 2]]


def test_what_a_flow_was_before_a_replay_is_not_kept() -> None:
    flow = flows.request("GET", "/v1/x", {"api-key": PLAIN})
    flow.backup()
    assert PLAIN in str(flow.get_state()["backup"])
    assert PLAIN not in str(clean(flow).get_state())


def test_the_request_is_clean_once_an_answer_has_begun() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.request.headers["Authorization"] = f"Bearer {KEY}"
    redact_it = Redaction(flows.settings(), SECRET)
    Noting(redact_it).requestheaders(flow)
    assert flow.request.headers["Authorization"] == f"Bearer {KEY}"
    flows.respond(flow, 200)
    redact_it.responseheaders(flow)
    assert flow.request.headers["Authorization"] == f"Bearer {SHOWN}"


def test_a_message_of_a_websocket_is_cleaned_beside_what_is_sent() -> None:
    flow, _ = flows.attached(Kind.PASS)
    flow.request.headers["api-key"] = PLAIN
    redact_it = Redaction(flows.settings(), SECRET)
    Noting(redact_it).requestheaders(flow)
    message = websocket.WebSocketMessage(Opcode.TEXT, True, f"say {PLAIN}".encode())
    flow.websocket = websocket.WebSocketData(messages=[message], close_reason=f"bye {PLAIN}")
    redact_it.websocket_message(flow)
    redact_it.websocket_end(flow)
    assert message.content == f"say {fingerprint(PLAIN, SECRET)}".encode()
    assert original_message(message) == f"say {PLAIN}".encode()
    assert PLAIN not in str(flow.websocket.get_state())


@pytest.mark.parametrize("from_client", [True, False])
def test_what_messages_say_in_pieces_or_too_early_is_cleaned_at_the_end(from_client: bool) -> None:
    flow, _ = flows.attached(Kind.PASS)
    redact_it = Redaction(flows.settings(), SECRET)
    Noting(redact_it).requestheaders(flow)
    texts = [
        json.dumps({"error": f"bad {PLAIN}"}),
        json.dumps({"error": f"bad {PLAIN}"}, indent=2),
        *(json.dumps({"type": "response.text.delta", "delta": PLAIN[at : at + 5]}) for at in range(0, len(PLAIN), 5)),
        json.dumps({"client_secret": {"value": PLAIN}}),
    ]
    messages = [websocket.WebSocketMessage(Opcode.TEXT, from_client, text.encode()) for text in texts]
    flow.websocket = websocket.WebSocketData(messages=[])
    for message in messages:
        flow.websocket.messages.append(message)
        redact_it.websocket_message(flow)
    assert PLAIN.encode() in messages[0].content  # nobody can know
    redact_it.websocket_end(flow)
    assert PLAIN not in str(flow.websocket.get_state())
    said = "".join(json.loads(message.content)["delta"] for message in messages[2:-1])
    assert said == fingerprint(PLAIN, SECRET)


def test_what_begins_a_secret_at_a_cut_is_hidden() -> None:
    flow = flows.request("GET", "/v1/x", {"Authorization": f"Bearer {KEY}"})
    flows.respond(flow, 200, b"x" * 5000 + b" bad " + KEY.encode()[:-3], {"content-type": "text/plain"})
    assert KEY[:-3] not in record(clean(flow))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-portkey-config", f'{{"provider": "x", "api_key": "{PLAIN}"}}'),
        ("Location", f"https://joe:{PLAIN}@host/?a=b"),
        ("X-Project-Key", PLAIN),
        ("Referer", f"https://host/?next=https://joe:{PLAIN}@other/"),
    ],
)
def test_a_header_that_holds_one_is_cleaned(name: str, value: str) -> None:
    flow = flows.request("GET", "/v1/x", {name: value})
    flows.respond(flow, 200, b"{}", {name: value})
    assert PLAIN not in record(clean(flow))


def test_a_head_of_too_many_secrets_still_says_how_the_connection_goes_on() -> None:
    query = "&".join(f"key{number}={'a' * 100}{number}" for number in range(200))
    flow = flows.request("GET", f"/v1/x?{query}", {"Connection": "close"})
    flows.respond(flow, 200, b"{}", {"Connection": "close", "X-Other": "1"})
    cleaned = clean(flow)
    assert cleaned.response is not None and cleaned.response.headers["Connection"] == "close"
    assert "X-Other" not in cleaned.response.headers


def test_a_body_that_no_record_keeps_is_not_searched() -> None:
    body = json.dumps({"messages": [], "apiKey": PLAIN})
    for watched in (True, False):
        flow = flows.opened("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body.encode())
        flows.exchange(flow).record.watched = watched
        clean(flow, "request")
        known = secrets_of(flow, SECRET)
        assert (known.mask(f"said {PLAIN}") != f"said {PLAIN}") is watched


def test_redaction_can_be_switched_off() -> None:
    flow = clean(flows.request("GET", "/v1/x", {"Authorization": f"Bearer {KEY}"}), redact=False)
    assert KEY in record(flow)


def test_a_record_that_cannot_be_cleaned_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr(KnownSecrets, "mask", broken)
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


@pytest.mark.parametrize(
    ("text", "may"), [("x SK-abc", True), ("x bearer a", True), (f"x {PLAIN}", True), ("你好", False)]
)
def test_a_quick_look_overlooks_no_key(text: str, may: bool) -> None:
    known = KnownSecrets(SECRET)
    known.add(PLAIN.encode())
    assert known.may_stand_in(text.encode()) is may


def test_what_was_heard_for_a_message_is_cleaned_in_turns_with_others() -> None:
    flow = flows.request("GET", "/v1/x")
    flow.metadata["relay.heard"] = {
        "headers": [["a", "b"]],
        "body": b"a " * 100_000 + KEY.encode(),
        "chunks": [[1, 2]],
    }
    rest: Any = Redaction(flows.settings(), SECRET).response(flow)
    assert rest is not None
    asyncio.run(rest)
    kept = flow.metadata["relay.heard"]["body"]
    assert kept.startswith(b"a a ") and b"***" in kept[-20:] and KEY.encode() not in kept


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
SECRET_JSON = json.dumps({"apiKey": PLAIN}).encode()


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda encode: encode(b"a" * 99) + SECRET_JSON, id="bytes after it"),
        pytest.param(lambda encode: encode(b"a" * 99)[:-3] + SECRET_JSON, id="broken in the middle"),
        pytest.param(lambda encode: encode(b"a" * 99) + b"\0" + KEY.encode(), id="a key after it"),
        pytest.param(lambda encode: b"\1\2" + SECRET_JSON, id="no such encoding"),
    ],
)
def test_what_cannot_be_decoded_is_not_kept(encoding: str, spoil: Callable[[Any], bytes]) -> None:
    flow = flows.request("POST", "/v1/x", {"Content-Encoding": encoding}, spoil(ENCODERS[encoding]))
    raw = clean(flow).request.raw_content or b""
    assert PLAIN.encode() not in raw and KEY.encode() not in raw
    assert raw.endswith(NOT_DECODED) and "content-encoding" not in flow.request.headers


def test_a_second_member_of_a_gzip_is_cleaned() -> None:
    body = gzip.compress(b'{"a": 1}\n') + gzip.compress(SECRET_JSON)
    flow = clean(flows.request("POST", "/v1/x", {"Content-Encoding": "gzip"}, body))
    assert (flow.request.raw_content or b"").startswith(b'{"a": 1}\n{"apiKey": "')
    assert PLAIN not in record(flow)


def test_a_key_beside_what_is_compressed_is_not_kept() -> None:
    body = b"\x1f\x8b\x08\x10" + bytes(6) + KEY.encode() + b"\0" + gzip.compress(b"hello")[10:]
    assert gzip.decompress(body) == b"hello"
    flow = clean(flows.request("POST", "/v1/x", {"Content-Encoding": "gzip"}, body))
    assert flow.request.raw_content == b"hello"


def test_a_compressed_answer_that_breaks_off_is_kept_as_far_as_it_goes() -> None:
    flow = flows.request("GET", "/v1/x")
    flows.respond(flow, 200, gzip.compress(b"so far " * 99)[:-9], {"Content-Encoding": "gzip"})
    assert (flows.answer_of(clean(flow)).raw_content or b"").startswith(b"so far so far")


@pytest.mark.parametrize("encoding", ["utf-8", "foo", "gzip"])
def test_json_under_an_encoding_that_it_has_not_is_read_as_it_is(encoding: str) -> None:
    flow = clean(flows.request("POST", "/v1/x", {"Content-Encoding": encoding}, b'{"a": 1, ' + SECRET_JSON[1:]))
    assert (flow.request.raw_content or b"").startswith(b'{"a": 1, "apiKey": "') and PLAIN not in record(flow)


def test_many_numbers_are_kept() -> None:
    data = [{"object": "embedding", "index": n, "embedding": [0.1 + n] * 3072} for n in range(170)]
    answer = json.dumps({"object": "list", "data": data}, indent=1).encode()
    ids = json.dumps({"model": "m", "input": [[n % 10 for n in range(100_000)]] * 3}, separators=(",", ":")).encode()
    flow = flows.request("POST", "/v1/embeddings", {}, ids)
    flows.respond(flow, 200, answer)
    clean(flow)
    assert (flow.request.raw_content, flows.answer_of(flow).raw_content) == (ids, answer)
    assert len(answer) > 5_000_000


def test_trailers_are_cleaned() -> None:
    flow = flows.request("POST", "/v1/x", {"api-key": PLAIN})
    flow.request.trailers = http.Headers(x_api_key=KEY, grpc_status="0")
    flows.respond(flow, 200)
    flows.answer_of(flow).trailers = http.Headers(x_echo=f"of {PLAIN}", set_cookie="s=topsecretvalue", x_sum="1")
    clean(flow)
    answer = flows.answer_of(flow)
    assert KEY not in str(flow.get_state()) and PLAIN not in str(flow.get_state())
    assert flow.request.trailers["grpc-status"] == "0"
    assert answer.trailers is not None and answer.trailers["x-sum"] == "1"
    assert "topsecret" not in str(answer.trailers)


ANSWER = {"WWW-Authenticate": f'Bearer realm="x", token="{PLAIN}"'}


@pytest.mark.parametrize(
    "headers",
    [
        {"Referer": f"https://app/x?api_key={PLAIN}"},
        {"X-Original-URL": f"/v1/x?token={PLAIN}"},
        {"X-Forwarded-Uri": f"/v1/x?a=1&access_token={PLAIN}"},
        {"Authorization": f"AWS4-HMAC-SHA256 Credential=A/20261127, SignedHeaders=host, Signature={PLAIN}"},
        {"Authorization": f'Digest username="joe", realm="x", response="{PLAIN}"'},
    ],
    ids=str,
)
def test_what_a_header_tells_is_hidden_there_and_wherever_it_is_repeated(headers: dict[str, str]) -> None:
    flow = flows.request("POST", "/v1/x", headers, b'{"input": "hello"}')
    flows.respond(flow, 400, f"what is {PLAIN}?".encode(), {"Content-Type": "text/plain"})
    assert PLAIN not in record(clean(flow))


def test_so_it_is_with_what_an_answer_s_header_tells() -> None:
    flow = flows.request("GET", "/v1/x")
    flows.respond(flow, 401, f"what is {PLAIN}?".encode(), ANSWER)
    assert PLAIN not in record(clean(flow))


def test_a_query_with_json_in_it_is_hidden_where_that_has_a_secret() -> None:
    harmless, telling = (quote(json.dumps({name: PLAIN})) for name in ("model", "password"))
    flow = clean(flows.request("GET", f"/v1/x?a={harmless}&b={telling}"))
    assert flow.request.path.startswith(f"/v1/x?a={harmless}&b=") and PLAIN not in flow.request.path.partition("&b=")[2]


def test_json_in_a_form_is_looked_into() -> None:
    body = f"model=x&payload={quote(json.dumps({'name': 'n', 'password': PLAIN}))}&b=2"
    flow = clean(flows.request("POST", "/v1/x", {"Content-Type": "application/x-www-form-urlencoded"}, body.encode()))
    shown = (flow.request.content or b"").decode()
    assert PLAIN not in shown and shown.startswith("model=x&payload=%7B%22name%22") and shown.endswith("%22%7D&b=2")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("value", [PLAIN, "harmless"])
def test_json_in_utf_16_is_looked_into(encoding: str, value: str) -> None:
    name = "password" if value == PLAIN else "model"
    body = json.dumps({name: value, "input": "你好"}, ensure_ascii=False).encode(encoding)
    flow = clean(flows.request("POST", "/v1/x", {"Content-Type": "application/json"}, body))
    if value == PLAIN:
        assert PLAIN.encode() not in (flow.request.raw_content or b"").replace(b"\0", b"")
        assert "你好" in (flow.request.raw_content or b"").decode()
    else:
        assert flow.request.raw_content == body


def test_a_gzip_that_nobody_announced_is_looked_into() -> None:
    body = gzip.compress(json.dumps({"password": PLAIN}).encode())
    shown = clean(flows.request("POST", "/v1/x", {"Content-Type": "application/json"}, body)).request.raw_content
    assert shown is not None and shown.startswith(b'{"password": "') and PLAIN.encode() not in shown
    harmless = gzip.compress(b"a log of something")
    assert clean(flows.request("POST", "/v1/files", {}, harmless)).request.raw_content == harmless
    no_gzip = b"\x1f\x8b\xff what only begins like one"
    assert clean(flows.request("POST", "/v1/files", {}, no_gzip)).request.raw_content == no_gzip


def test_texts_in_a_list_are_no_names_of_secrets() -> None:
    body = json.dumps({"input": ["password reset", "https://host/a1b2c3d4e5f6g7h8"]}).encode()
    assert clean(flows.request("POST", "/v1/embeddings", {}, body)).request.content == body


def as_shown(value: str) -> str:
    return fingerprint(value, SECRET)


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "as JSON"])
def test_ids_of_accounts_are_hidden_in_heads_and_bodies_each_under_one_hash(joined: bool) -> None:
    who = dialects.WHO
    asked = dialects.responses_request()
    asked["metadata"] = {"user_id": who.joined() if joined else who.nested()}
    told = {"error": {"message": f"Rate limit of {who.organization} in {who.project}", "account_id": who.account}}
    flow = flows.request("POST", "/v1/responses", {**who.headers(), "Authorization": f"Bearer {KEY}"})
    flow.request.text = json.dumps(asked)
    flows.respond(flow, 429, told, {"openai-organization": who.organization})
    shown = record(clean(flow))
    for each in who.all():
        assert each not in shown and as_shown(each) in shown
    assert shown.count(as_shown(who.organization)) == 3
    assert shown.count(as_shown(who.account)) == 3
    assert shown.count(as_shown(who.installation)) == 2


def test_what_conversations_are_found_by_stays_readable() -> None:
    one = "0199aa00-1111-7222-8333-444455556666"
    body = {
        "previous_response_id": "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "prompt_cache_key": one,
        "input": [{"type": "function_call", "id": "fc_0123456789abcdef01", "call_id": "call_0123456789abcdef0123"}],
    }
    flow = flows.request("POST", "/v1/responses", {"session_id": one, "session-id": one})
    flow.request.text = json.dumps(body)
    flows.respond(flow, 200, {"id": "resp_1a1b2c3d4e5f60718293a4b5c6d7e8f9"})
    clean(flow)
    assert json.loads(flow.request.text) == body
    assert flow.request.headers["session_id"] == flow.request.headers["session-id"] == as_shown(one)
    assert flow.response is not None and flow.response.json() == {"id": "resp_1a1b2c3d4e5f60718293a4b5c6d7e8f9"}
    chat = flows.request("POST", "/chat")
    chat.request.text = json.dumps({"apiKey": KEY, "sessionId": one, "content": "hi"})
    assert one in record(clean(chat))


def test_a_long_list_of_users_hides_them_and_stays() -> None:
    users = [{"user_id": f"u-{number:020d}", "name": "x"} for number in range(1000)]
    flow = flows.request("GET", "/v1/organization/users")
    flows.respond(flow, 200, {"data": users})
    assert flow.response is not None
    shown = clean(flow).response
    assert shown is not None and len(shown.json()["data"]) == 1000 and b"u-0000" not in (shown.content or b"")
