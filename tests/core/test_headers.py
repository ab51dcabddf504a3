import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.headers import Fields, downward, seconds_kept, size, upward

HOP = [b"Connection", b"Keep-Alive", b"Proxy-Authenticate", b"Proxy-Authorization", b"Proxy-Connection", b"TE"]
HOP += [b"Trailer", b"Upgrade"]
EARLIER = [b"Forwarded", b"X-Forwarded-For", b"x-forwarded-proto", b"X-FORWARDED-WHATEVER", b"X-Real-IP", b"Via"]
EARLIER += [b"True-Client-IP", b"CF-Connecting-IP", b"cf-ray"]
KEPT = [b"Authorization", b"Content-Type", b"content-length", b"Transfer-Encoding", b"Accept-Encoding", b"Cookie"]
KEPT += [b"OpenAI-Beta", b"X-Stainless-Lang", b"Origin", b"Host", b"X-Forwarded", b"CFX", b"Expect", b"User-Agent"]


def names(head: Fields) -> set[bytes]:
    return {name.lower() for name, _ in head}


header_names = st.sampled_from(HOP + EARLIER + KEPT)
values = st.sampled_from([b"", b"a", b"close", b"keep-alive, X-Stainless-Lang", b"1, 2", b"\xe4\xbd\xa0"])
fields = st.lists(st.tuples(header_names, values), max_size=12).map(tuple)


def named_by_connection(head: Fields) -> set[bytes]:
    return {
        token.strip().lower() for name, value in head if name.lower() == b"connection" for token in value.split(b",")
    }


def is_subsequence(part: Fields, whole: Fields) -> bool:
    rest = iter(whole)
    return all(field in rest for field in part)


@given(fields)
def test_nothing_of_a_hop_goes_up(head: Fields) -> None:
    gone = {name.lower() for name in HOP + EARLIER}
    assert not names(upward(head, websocket=False).fields) & gone


@given(fields)
def test_what_goes_up_keeps_its_order_its_case_and_its_repetitions(head: Fields) -> None:
    sent = upward(head, websocket=False).fields
    assert is_subsequence(sent, head)
    kept = {name.lower() for name in KEPT} - named_by_connection(head)
    assert [field for field in sent if field[0].lower() in kept] == [
        field for field in head if field[0].lower() in kept
    ]


@given(fields)
def test_what_the_removal_leaves_to_remember(head: Fields) -> None:
    up = upward(head, websocket=False)
    assert up.origin == (b"origin" in names(head))
    assert up.closes == (b"close" in named_by_connection(head))


@given(fields)
def test_what_comes_down_keeps_its_order(head: Fields) -> None:
    got = downward(head, origin=False)
    assert is_subsequence(got, head)
    assert not names(got) & ({name.lower() for name in HOP} - {b"connection"})
    named = {
        token.strip() for name, value in head if name.lower() == b"connection" for token in value.lower().split(b",")
    }
    kept = {name.lower() for name in KEPT + EARLIER} - named
    assert [field for field in got if field[0].lower() in kept] == [field for field in head if field[0].lower() in kept]


def test_headers_that_connection_names_stay_behind_wherever_they_stand() -> None:
    head = ((b"X-Early", b"1"), (b"Connection", b"close, x-early ,X-Late"), (b"x-late", b"2"), (b"X-Other", b"3"))
    assert upward(head, websocket=False).fields == ((b"X-Other", b"3"),)


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"Content-Length", b"Host"])
def test_connection_cannot_take_the_framing_away(name: bytes) -> None:
    head = ((name, b"x"), (b"Connection", name))
    assert upward(head, websocket=False).fields == ((name, b"x"),)


def test_a_websocket_keeps_its_handshake() -> None:
    head = (
        (b"Connection", b"keep-alive, Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Key", b"abc"),
        (b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key.sk-x"),
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"Keep-Alive", b"5"),
    )
    assert upward(head, websocket=True).fields == head[:4]
    assert upward(head[1::-1], websocket=True).fields == head[1::-1]


@pytest.mark.parametrize("origin", [True, False], ids=["from a browser", "from elsewhere"])
def test_cors_of_the_upstream_makes_room_only_where_relay_answers_a_browser(origin: bool) -> None:
    cors: Fields = ((b"Access-Control-Allow-Origin", b"https://a"), (b"access-control-expose-headers", b"x"))
    cors += ((b"Access-Control-Allow-Credentials", b"true"),)
    plain = ((b"X-A", b"1"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))
    assert downward(cors + plain, origin=origin) == (plain if origin else cors + plain)


def test_alt_svc_never_comes_down() -> None:
    head = ((b"Alt-Svc", b'h3=":443"'), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    assert downward(head, origin=False) == ()
    assert downward(head, origin=True, websocket=True) == head[1:]


@pytest.mark.parametrize(("value", "stays"), [(b"close", True), (b"Close", True), (b"keep-alive", False)], ids=repr)
def test_a_close_is_told_to_the_client(value: bytes, stays: bool) -> None:
    head = ((b"Connection", value),)
    assert downward(head, origin=False) == (head if stays else ())


@given(fields)
def test_the_size_is_that_of_the_wire(head: Fields) -> None:
    assert size(head) == len(b"".join(name + b": " + value + b"\r\n" for name, value in head))


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        (b"HTTP/1.1", (), None),
        (b"HTTP/1.0", (), 0.0),
        (b"HTTP/1.0", ((b"Connection", b"Keep-Alive"),), None),
        (b"HTTP/1.1", ((b"connection", b"close"),), 0.0),
        (b"HTTP/1.1", ((b"Connection", b"X-Other, CLOSE"),), 0.0),
        (b"HTTP/1.1", ((b"Connection", b"keep-alive"), (b"Connection", b"close")), 0.0),
        (b"HTTP/1.1", ((b"Keep-Alive", b"timeout=5"),), 4.0),
        (b"HTTP/1.1", ((b"Keep-Alive", b"max=3, Timeout=30"),), 29.0),
        (b"HTTP/1.1", ((b"Keep-Alive", b"timeout=0"),), 0.0),
        (b"HTTP/1.1", ((b"Keep-Alive", b"timeout=soon"),), None),
        (b"HTTP/1.1", ((b"Keep-Alive", b"timeout=9999999999"),), 999_998.0),
        (b"HTTP/1.1", ((b"Content-Length", b"5"), (b"Connectio\xc3\xa4", b"close")), None),
    ],
)
def test_how_long_a_server_keeps_a_connection(version: bytes, fields: Fields, kept: float | None) -> None:
    assert seconds_kept(fields, version) == kept
